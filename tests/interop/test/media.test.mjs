// Attachments in either Baileys version: to each other and to and from phones, with equal bytes.

import assert from 'node:assert/strict'
import { randomBytes } from 'node:crypto'
import { poll } from '../lib/journal.mjs'
import { story } from '../lib/story.mjs'
import { World } from '../lib/world.mjs'

const world = await World.open('60')
const { simulator } = world
const [klaus, lena] = [world.client('rc14', 'klaus'), world.client('rc6', 'lena')]
const both = [[klaus, lena], [lena, klaus]]
const friend = world.phone()

/** What clients send; nobody looks into the files. */
const kinds = {
  image: { mimetype: 'image/jpeg', caption: 'a picture' },
  video: { mimetype: 'video/mp4', caption: 'a film' },
  audio: { mimetype: 'audio/mp4' },
  voice: { mimetype: 'audio/ogg; codecs=opus' },
  document: { mimetype: 'application/pdf', fileName: 'report.pdf', caption: 'a report' },
  sticker: { mimetype: 'image/webp' },
}
/** The member of Baileys' content, and the word in message types. */
const member = (kind) => (kind === 'voice' ? 'audio' : kind)

function file(kind) {
  return randomBytes(kind === 'video' ? 1_500_000 : 20_000)
}

const then = story('attachments of Baileys')

then('both pair', async () => {
  await Promise.all([klaus, lena].map((client) => client.pair(world.phone())))
  await simulator.account(friend)
})

for (const [kind, { mimetype, caption, fileName }] of Object.entries(kinds)) {
  const outgoing = (bytes) => ({
    [member(kind)]: bytes,
    mimetype,
    ...(caption ? { caption } : {}),
    ...(fileName ? { fileName } : {}),
    ...(kind === 'voice' ? { ptt: true } : {}),
  })

  for (const [client, other] of both) {
    then.also(`${kind} from Baileys ${client.version} to Baileys ${other.version}`, async () => {
      const bytes = file(kind)
      const id = await client.sendContent(other.phone, outgoing(bytes))
      const got = await other.attachment(id)
      assert.equal(got.kind, member(kind))
      assert.equal(got.media.mimetype, mimetype)
      if (caption) assert.equal(got.media.caption, caption)
      if (fileName) assert.equal(got.media.fileName, fileName)
      if (kind === 'voice') assert.equal(got.media.ptt, true)
      assert.deepEqual(await other.download(got), bytes)
    })

    then.also(`${kind} from Baileys ${client.version} to a phone and back`, async () => {
      const bytes = file(kind)
      const id = await client.sendContent(friend, outgoing(bytes))
      const heard = await simulator.received(friend, id)
      assert.equal(heard.media.kind, kind)
      assert.equal(heard.media.mimetype, mimetype)
      assert.equal(heard.media.caption ?? undefined, caption)
      assert.equal(heard.media.file_name ?? undefined, fileName)
      assert.deepEqual(await simulator.download(friend, id), bytes)

      const answer = file(kind)
      const back = await simulator.sendMedia(friend, client.phone, { kind, bytes: answer, mimetype, caption, file_name: fileName })
      const got = await client.attachment(back)
      assert.equal(got.kind, member(kind))
      assert.equal(got.media.mimetype, mimetype)
      assert.deepEqual(await client.download(got), answer)
    })
  }
}

for (const client of [klaus, lena]) {
  then.also(`Baileys ${client.version} has its phone upload again what the media hosts have lost`, async () => {
    const bytes = file('image')
    const id = await simulator.sendMedia(friend, client.phone, { kind: 'image', bytes, mimetype: 'image/png' })
    const got = await client.attachment(id)
    await simulator.received(client.phone, id)
    const { forgotten } = await simulator.post('/forget-media', { direct_path: got.media.directPath })
    assert.equal(forgotten, true)
    await assert.rejects(client.download(got))
    assert.deepEqual(await client.download(await client.uploadedAgain(got)), bytes)
  })

  then.also(`Baileys ${client.version} uploads to the second host when the first one fails`, async () => {
    await simulator.post('/fault', { fault: 'refuse_uploads', code: 500, phone: client.phone, count: 1 })
    const bytes = file('image')
    const id = await client.sendContent(friend, { image: bytes, mimetype: 'image/png' })
    await simulator.received(friend, id)
    assert.deepEqual(await simulator.download(friend, id), bytes)
  })

  then.also(`Baileys ${client.version} gets every other kind of message of a phone`, async () => {
    const { Message } = client.lib.proto
    const key = { remoteJid: client.jid, fromMe: true, id: '3EB0' }
    const messages = {
      locationMessage: { degreesLatitude: -6.2, degreesLongitude: 106.8 },
      contactMessage: { displayName: 'Ann', vcard: 'BEGIN:VCARD\nEND:VCARD' },
      pollCreationMessageV3: { name: 'Lunch?', options: [{ optionName: 'yes' }, { optionName: 'no' }], selectableOptionsCount: 1 },
      reactionMessage: { key, text: '👍' },
    }
    for (const [kind, content] of Object.entries(messages)) {
      const id = await simulator.sendMessage(friend, client.phone, Message.encode(Message.fromObject({ [kind]: content })).finish())
      const got = await client.others.find(`${client.name} to get ${kind}`, (entry) => entry.id === id)
      assert.equal(got.kind, kind)
    }
  })

  then.also(`a phone gets every other kind of message of Baileys ${client.version}`, async () => {
    const { Message } = client.lib.proto
    const to = { remoteJid: `${friend}@s.whatsapp.net` }
    const text = await client.send(friend, `first words of ${client.name}`)
    const quoted = { key: { ...to, fromMe: true, id: text }, message: { conversation: `first words of ${client.name}` } }
    const contents = {
      locationMessage: { location: { degreesLatitude: 1.5, degreesLongitude: 2.5 } },
      contactMessage: { contacts: { displayName: 'Ann', contacts: [{ vcard: 'BEGIN:VCARD\nEND:VCARD' }] } },
      pollCreationMessageV3: { poll: { name: 'Lunch?', values: ['yes', 'no'], selectableCount: 1 } },
      reactionMessage: { react: { key: quoted.key, text: '👍' } },
      'protocolMessage edit': { edit: quoted.key, text: 'better words' },
      'protocolMessage revoke': { delete: quoted.key },
    }
    for (const [kind, content] of Object.entries(contents)) {
      const id = await client.sendContent(friend, content)
      const heard = await simulator.received(friend, id)
      const message = Message.toObject(Message.decode(Buffer.from(heard.message, 'base64')))
      const inner = message.editedMessage?.message ?? message
      assert.ok(inner[kind.split(' ')[0]], `${kind}: ${JSON.stringify(Object.keys(message))}`)
    }
  })
}

then('all is acknowledged', async () => {
  for (const client of [klaus, lena]) await simulator.settled(client.phone)
  await poll('the counters', async () => (await simulator.counters()).media_uploads > 0)
})
