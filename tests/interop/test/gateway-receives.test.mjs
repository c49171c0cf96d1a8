// What either Baileys version makes the gateway tell its webhook: every kind of message, and files with equal bytes.

import assert from 'node:assert/strict'
import { randomBytes } from 'node:crypto'
import { FACTS, mp3, mp4, opus, pdf, png } from '../lib/samples.mjs'
import { story } from '../lib/story.mjs'
import { World } from '../lib/world.mjs'

const world = await World.open('85')
const { simulator } = world
const gateway = await world.gateway()
const { receiver } = gateway
const phone = world.phone()
const clients = [world.client('rc14', 'kurt'), world.client('rc6', 'lore')]
const then = story('gateway receives of Baileys')
const session = 'reader'
const NO_MEDIA = { image: null, video: null, document: null, audio: null }
const MEMBERS = ['session', 'from', 'message', 'media', 'id', 'event_id', 'timestamp', 'participant', 'participant_name', 'is_group', 'from_lid', 'type']
let group

/** What is sent with the bytes, and what is told: the member of `media`, names, and the type that is served. */
const kinds = {
  image: { make: () => png(), content: { caption: 'a picture' }, mimetype: 'image/png', extension: 'jpg', served: 'image/jpeg' },
  'image without caption': { kind: 'image', make: () => png(), content: {}, mimetype: 'image/jpeg', extension: 'jpg', served: 'image/jpeg' },
  video: { make: () => mp4(), content: { caption: 'a film', seconds: 2 }, mimetype: 'video/mp4', extension: 'mp4', served: 'video/mp4' },
  audio: { make: () => mp3(), content: { seconds: FACTS.mp3.seconds }, mimetype: 'audio/mpeg', extension: 'mp3', served: 'audio/mpeg' },
  'voice note': { kind: 'audio', make: () => opus(), content: { ptt: true, seconds: FACTS.opus.seconds }, mimetype: 'audio/ogg; codecs=opus', extension: 'mp3', served: 'audio/mpeg' },
  document: { make: () => pdf(), content: { fileName: 'Laporan Q3 é.pdf' }, mimetype: 'application/pdf', extension: 'pdf', served: 'application/pdf' },
  'document with caption': {
    kind: 'document',
    make: () => pdf(),
    content: { fileName: 'a.b.docx', caption: 'as agreed' },
    mimetype: 'application/msword',
    extension: 'docx',
    served: 'application/vnd.openxmlformats-officedocument.wordprocessingml.document',
  },
  'view-once image': { kind: 'image', make: () => png(), content: { caption: 'once', viewOnce: true }, mimetype: 'image/png', extension: 'jpg', served: 'image/jpeg', once: true },
  'view-once video': { kind: 'video', make: () => mp4(9_000), content: { viewOnce: true }, mimetype: 'video/mp4', extension: 'mp4', served: 'video/mp4', once: true },
  sticker: { make: () => Buffer.concat([Buffer.from('RIFF\x20\0\0\0WEBPVP8L', 'latin1'), png()]), content: {}, mimetype: 'image/webp', extension: 'webp', served: 'image/webp' },
}

/** The webhook of a message, once all that does not depend on its kind is checked. */
async function told(client, chat, id) {
  const body = await receiver.event(session, id)
  assert.deepEqual(Object.keys(body).slice(0, MEMBERS.length), MEMBERS)
  assert.deepEqual(Object.keys(body.media), Object.keys(NO_MEDIA))
  assert.equal(body.from, chat.is_group ? group : client.jid)
  assert.equal(body.is_group, chat.is_group)
  assert.equal(body.participant, chat.is_group ? client.jid : null)
  assert.equal(body.media_error, undefined)
  return body
}

async function served(name, type, bytes) {
  const file = await gateway.file(name)
  assert.equal(file.status, 200, name)
  assert.equal(file.type, type, name)
  assert.deepEqual(file.bytes, bytes)
}

/** Checks the webhook of a file, and what is served below `/media`. */
async function toldFile(client, chat, id, wanted, kind, bytes) {
  const { content, mimetype, extension, served: type, once } = wanted
  const body = await told(client, chat, id)
  const isDocument = kind === 'document'
  const name = `${id}.${extension}`
  const media = kind === 'sticker' ? NO_MEDIA : { ...NO_MEDIA, [kind]: isDocument ? id : name }
  assert.deepEqual(body.media, media)
  assert.equal(body.sticker, kind === 'sticker' ? name : undefined)
  assert.equal(body.message, content.caption ?? null)
  assert.equal(body.type, kind)
  assert.equal(body.mimetype, mimetype)
  assert.equal(body.file_name, content.fileName)
  assert.equal(body.size, bytes.length)
  assert.equal(body.view_once, once)
  assert.equal(body.seconds, content.seconds)
  await served(name, type, bytes)
  if (isDocument) await served(id, 'application/octet-stream', bytes)
  return body
}

then('all pair and become members of a group', async () => {
  await gateway.pair(session, phone)
  for (const client of clients) await client.pair(world.phone())
  group = await simulator.group('Writers', [phone, ...clients.map((client) => client.phone)])
})

for (const client of clients) {
  for (const chat of [{ is_group: false }, { is_group: true }]) {
    const of = `of Baileys ${client.version}, ${chat.is_group ? 'in a group' : 'in a chat of two'}`
    const to = () => (chat.is_group ? group : phone)
    const { Message } = client.lib.proto

    for (const [name, wanted] of Object.entries(kinds)) {
      const { kind = name, make, content, mimetype } = wanted
      then.also(`${name} ${of}`, async () => {
        const bytes = make()
        const id = await client.sendContent(to(), { [kind]: bytes, mimetype, ...content })
        await toldFile(client, chat, id, wanted, kind, bytes)
      })
    }

    then.also(`documents, pictures and texts in wrappers ${of}`, async () => {
      const bytes = pdf()
      const wanted = { ...kinds.document, content: { fileName: 'x.pdf', caption: 'wrapped' } }
      const upload = { upload: client.sock.waUploadToServer, logger: client.sock.logger }
      const message = await client.lib.generateWAMessageContent({ document: bytes, mimetype: wanted.mimetype, ...wanted.content }, upload)
      const inner = message.documentWithCaptionMessage?.message ?? message
      const document = await client.relay(to(), Message.fromObject({ documentWithCaptionMessage: { message: inner } }))
      await toldFile(client, chat, document, wanted, 'document', bytes)
      const vanishing = await client.relay(to(), Message.fromObject({ ephemeralMessage: { message: { documentWithCaptionMessage: { message: inner } } } }))
      await toldFile(client, chat, vanishing, wanted, 'document', bytes)

      const picture = png()
      const once = await client.lib.generateWAMessageContent({ image: picture, mimetype: 'image/png' }, upload)
      for (const wrapper of ['viewOnceMessageV2', 'viewOnceMessageV2Extension']) {
        const id = await client.relay(to(), Message.fromObject({ ephemeralMessage: { message: { [wrapper]: { message: once } } } }))
        await toldFile(client, chat, id, { ...kinds['view-once image'], content: {} }, 'image', picture)
      }

      const text = { extendedTextMessage: { text: 'soon gone', contextInfo: { expiration: 86_400 } } }
      const body = await told(client, chat, await client.relay(to(), Message.fromObject({ ephemeralMessage: { message: text } })))
      assert.equal(body.message, 'soon gone')
      assert.equal(body.type, 'text')

      const timed = await client.sendContent(to(), { text: 'gone in a day' }, { ephemeralExpiration: 86_400 })
      assert.equal((await told(client, chat, timed)).message, 'gone in a day')
    })

    then.also(`place, cards and poll ${of}`, async () => {
      const place = { degreesLatitude: -6.2, degreesLongitude: 106.8, name: 'Monas', address: 'Jl. Medan Merdeka' }
      const location = await told(client, chat, await client.sendContent(to(), { location: place }))
      assert.deepEqual([location.type, location.message, location.media], ['location', null, NO_MEDIA])
      assert.deepEqual(location.location, { latitude: -6.2, longitude: 106.8, name: 'Monas', address: 'Jl. Medan Merdeka' })

      const vcard = 'BEGIN:VCARD\nVERSION:3.0\nFN:Ann\nEND:VCARD'
      const one = { displayName: 'Ann', vcard }
      const card = await told(client, chat, await client.sendContent(to(), { contacts: { displayName: 'Ann', contacts: [one] } }))
      assert.deepEqual([card.type, card.message, card.contacts], ['contact', 'Ann', [{ name: 'Ann', vcard }]])
      const two = { displayName: 'Two', contacts: [one, { displayName: 'Ben', vcard }] }
      const cards = await told(client, chat, await client.sendContent(to(), { contacts: two }))
      assert.deepEqual([cards.type, cards.message, cards.contacts.map((each) => each.name)], ['contact', null, ['Ann', 'Ben']])

      const poll = await told(client, chat, await client.sendContent(to(), { poll: { name: 'Lunch?', values: ['yes', 'no'], selectableCount: 1 } }))
      assert.deepEqual([poll.type, poll.message, poll.poll], ['poll', null, { name: 'Lunch?', options: ['yes', 'no'] }])
    })

    then.also(`votes in a poll of the gateway and in its own ${of}`, async () => {
      const poll = { question: 'Dinner?', options: ['soto', 'bakso', 'rawon'] }
      const sent = await gateway.message('send-poll', { session, to: chat.is_group ? group : client.phone, is_group: chat.is_group, max_selections: 2, ...poll })
      const { secret } = await client.other(sent.key.id)
      const asked = { id: sent.key.id, secret, author: `${phone}@s.whatsapp.net` }
      const seen = async (chosen, of = asked) => {
        const body = await told(client, chat, await client.vote(to(), of, chosen))
        assert.deepEqual([body.type, body.message], ['poll_vote', null])
        return body.poll
      }
      const known = { id: asked.id, name: poll.question, options: poll.options }
      assert.deepEqual(await seen(['rawon', 'soto']), { ...known, selected: ['soto', 'rawon'] })
      assert.deepEqual(await seen([]), { ...known, selected: [] })
      // With another secret nothing can be read, and nothing is made up.
      assert.deepEqual(await seen(['soto'], { ...asked, secret: Buffer.alloc(32) }), { id: asked.id })

      const messageSecret = randomBytes(32)
      const own = await client.sendContent(to(), { poll: { name: 'Lunch?', values: ['yes', 'no'], selectableCount: 1, messageSecret } })
      await told(client, chat, own)
      assert.deepEqual(await seen(['no'], { id: own, secret: messageSecret, author: client.jid, fromMe: true }), {
        id: own, name: 'Lunch?', options: ['yes', 'no'], selected: ['no'],
      })
    })

    then.also(`reply, mention, reaction, edit and deletion ${of}`, async () => {
      const first = `first words ${of}`
      const id = await client.send(to(), first)
      assert.equal((await told(client, chat, id)).message, first)
      const key = { remoteJid: to().includes('@') ? to() : `${to()}@s.whatsapp.net`, fromMe: true, id }

      const mine = await gateway.message('send-text', { session, to: chat.is_group ? group : client.phone, is_group: chat.is_group, text: `mine ${of}` })
      const heard = await client.text(`mine ${of}`)
      const quoted = { key: { remoteJid: heard.chat, fromMe: false, id: mine.key.id, participant: `${phone}@s.whatsapp.net` }, message: { conversation: `mine ${of}` } }
      const reply = await client.sendContent(to(), { text: `re ${of}`, mentions: [`${phone}@s.whatsapp.net`] }, { quoted })
      const answer = await told(client, chat, reply)
      assert.equal(answer.message, `re ${of}`)
      assert.deepEqual(answer.mentions, [`${phone}@s.whatsapp.net`])
      assert.deepEqual(answer.quoted, { id: mine.key.id, participant: `${phone}@s.whatsapp.net`, text: `mine ${of}` })

      for (const text of ['👍', '']) {
        const reaction = await told(client, chat, await client.sendContent(to(), { react: { key: quoted.key, text } }))
        assert.deepEqual([reaction.type, reaction.message, reaction.reaction], ['reaction', null, { id: mine.key.id, text }])
      }

      const edit = await told(client, chat, await client.sendContent(to(), { edit: key, text: 'better words' }))
      assert.deepEqual([edit.type, edit.message, edit.edited], ['edit', 'better words', id])

      const revoke = await client.sendContent(to(), { delete: key })
      // Told in order: what comes after it has come says that it was not told.
      await told(client, chat, await client.send(to(), `last words ${of}`))
      assert.deepEqual(receiver.messages.filter((body) => body.id === revoke), [])
    })
  }
}

then('every message came exactly once, and everything was acknowledged', async () => {
  for (const { phone: number } of [{ phone }, ...clients]) await simulator.settled(number)
  const ids = receiver.messages.entries.map((body) => body.event_id)
  assert.equal(new Set(ids).size, ids.length)
})
