// What the gateway's send endpoints make either Baileys version see: files with equal bytes, and every other kind.

import assert from 'node:assert/strict'
import { randomBytes } from 'node:crypto'
import { within } from '../lib/journal.mjs'
import { FACTS, gif, mp3, mp4, opus, pdf, png } from '../lib/samples.mjs'
import { story } from '../lib/story.mjs'
import { World } from '../lib/world.mjs'

const world = await World.open('80')
const { simulator } = world
const gateway = await world.gateway()
const files = await world.files()
const phone = world.phone()
const clients = [world.client('rc14', 'ida'), world.client('rc6', 'jost')]
const numbers = new Map(clients.map((client) => [client, world.phone()]))
const then = story('gateway sends to Baileys')
const session = 'sender'
let group

/** The endpoint of each kind, what is sent, and what must arrive. `extra` goes along, `seen` arrives. */
const kinds = {
  image: { bytes: () => png(), mimetype: 'image/png', extra: { text: 'a picture' }, seen: { caption: 'a picture', width: 40, height: 30 } },
  video: { bytes: () => mp4(), mimetype: 'video/mp4', extra: { text: 'a film' }, seen: { caption: 'a film', ...FACTS.mp4 } },
  document: {
    bytes: () => pdf(),
    mimetype: 'application/pdf',
    extra: { text: 'a report', document_name: 'Laporan Q3 é.pdf' },
    seen: { caption: 'a report', fileName: 'Laporan Q3 é.pdf' },
  },
  audio: { bytes: () => mp3(), mimetype: 'audio/mpeg', extra: {}, seen: { ptt: false, ...FACTS.mp3 } },
  voice: { path: 'audio', bytes: () => opus(), mimetype: 'audio/ogg; codecs=opus', extra: { voice: true }, seen: { ptt: true, ...FACTS.opus } },
}

/** The ways in which a file can come. Each gives what is asked for to `/message/send-<path>`. */
const sources = {
  URL: (path, fields, bytes) => gateway.message(`send-${path}`, { ...fields, [`${path}_url`]: files.offer(bytes) }),
  'data URL': (path, fields, bytes) =>
    gateway.message(`send-${path}`, { ...fields, [`${path}_url`]: `data:application/octet-stream;base64,${bytes.toString('base64')}` }),
  base64: (path, fields, bytes) => gateway.message(`send-${path}`, { ...fields, [`${path}_base64`]: bytes.toString('base64') }),
  multipart: (path, fields, bytes) =>
    gateway.upload(`send-${path}`, fields, { field: path, bytes, type: 'application/octet-stream', name: 'from my disk.bin' }),
}

function same(expected, seen) {
  for (const [name, value] of Object.entries(expected)) assert.equal(seen[name], value, name)
}

/** The attachment as the client got it, once its bytes are compared. */
async function arrived(client, id, kind, bytes) {
  const got = await client.attachment(id)
  assert.equal(got.kind, kind)
  assert.equal(Number(got.media.fileLength), bytes.length)
  assert.deepEqual(await client.download(got), bytes)
  return got
}

then('all pair and become members of a group', async () => {
  await gateway.pair(session, phone)
  for (const client of clients) await client.pair(numbers.get(client))
  group = await simulator.group('Readers', [phone, ...clients.map((client) => client.phone)])
})

for (const [kind, { path = kind, bytes: make, mimetype, extra, seen }] of Object.entries(kinds)) {
  for (const [source, send] of Object.entries(sources)) {
    for (const client of clients) {
      then.also(`${kind} by ${source} to Baileys ${client.version}`, async () => {
        const bytes = make()
        const { key } = await send(path, { session, to: client.phone, ...extra }, bytes)
        const { media } = await arrived(client, key.id, path, bytes)
        same({ mimetype, ...seen }, media)
      })
    }
  }

  then.also(`${kind} to a group of both`, async () => {
    const bytes = make()
    const { key } = await sources.base64(path, { session, to: group, is_group: true, ...extra }, bytes)
    for (const client of clients) {
      const { chat, media } = await arrived(client, key.id, path, bytes)
      assert.equal(chat, group)
      same({ mimetype, ...seen }, media)
    }
  })
}

then.also('stickers, a place, cards and polls to a group of both', async () => {
  const to = { session, to: group, is_group: true }
  const made = await gateway.message('send-sticker', { ...to, image_url: files.offer(png(600, 300), 'image/png') })
  const [first] = await Promise.all(clients.map((client) => client.attachment(made.key.id)))
  const webp = await clients[0].download(first)
  assert.equal(webp.toString('latin1', 0, 4) + webp.toString('latin1', 8, 12), 'RIFFWEBP')
  const still = await gateway.message('send-sticker', { ...to, image_base64: webp.toString('base64') })
  const moving = await gateway.message('send-sticker', { ...to, image_base64: gif().toString('base64') })
  const place = await gateway.message('send-location', { ...to, latitude: -6.2, longitude: 106.8, name: 'Monas' })
  const card = await gateway.message('send-contact', { ...to, contact_name: 'Budi', contact_phone: '+62 811-1' })
  const cards = await gateway.message('send-contact', { ...to, contacts: [{ name: 'Budi', phone: '628111' }, { name: 'Ani', phone: 628112 }] })
  const poll = await gateway.message('send-poll', { ...to, question: 'Lunch?', options: ['yes', 'no'], max_selections: 1 })

  for (const client of clients) {
    for (const { key } of [made, still]) {
      const got = await arrived(client, key.id, 'sticker', webp)
      assert.equal(got.chat, group)
      same({ mimetype: 'image/webp', width: 512, height: 512 }, got.media)
    }
    const animated = await client.attachment(moving.key.id)
    same({ mimetype: 'image/webp', isAnimated: true }, animated.media)
    assert.equal((await client.download(animated)).toString('latin1').split('ANMF').length, 1 + 4)

    const seen = async ({ key }, kind) => {
      const got = await client.other(key.id)
      assert.deepEqual([got.chat, got.kind], [group, kind])
      return got.content
    }
    same({ degreesLatitude: -6.2, degreesLongitude: 106.8, name: 'Monas' }, await seen(place, 'locationMessage'))
    assert.match((await seen(card, 'contactMessage')).vcard, /^BEGIN:VCARD\n[^]*waid=628111:\+628111\nEND:VCARD$/)
    assert.deepEqual((await seen(cards, 'contactsArrayMessage')).contacts.map((one) => one.displayName), ['Budi', 'Ani'])
    const { name, options } = await seen(poll, 'pollCreationMessageV3')
    assert.deepEqual([name, options.map((option) => option.optionName)], ['Lunch?', ['yes', 'no']])
  }
})

for (const client of clients) {
  const to = { session, to: numbers.get(client) }

  then.also(`a sticker made of a picture, then the very same WebP, to Baileys ${client.version}`, async () => {
    for (const [source, send] of Object.entries({
      URL: (bytes) => gateway.message('send-sticker', { ...to, image_url: files.offer(bytes, 'image/png') }),
      base64: (bytes) => gateway.message('send-sticker', { ...to, image_base64: bytes.toString('base64') }),
      multipart: (bytes) => gateway.upload('send-sticker', to, { field: 'sticker', bytes, type: 'image/png', name: 'a.png' }),
    })) {
      const { key } = await send(png(600, 300))
      const got = await client.attachment(key.id)
      assert.equal(got.kind, 'sticker', source)
      same({ mimetype: 'image/webp', width: 512, height: 512 }, got.media)
      const webp = await client.download(got)
      assert.equal(webp.toString('latin1', 0, 4) + webp.toString('latin1', 8, 12), 'RIFFWEBP')
      // To be sent as a picture it has to be decoded.
      const { message } = await gateway.message('send-image', { ...to, text: '', image_base64: webp.toString('base64') })
      same({ width: 512, height: 512 }, message.imageMessage)

      const again = await send(webp)
      await arrived(client, again.key.id, 'sticker', webp)
    }
  })

  then.also(`a moving picture becomes a moving sticker for Baileys ${client.version}`, async () => {
    const { key } = await gateway.message('send-sticker', { ...to, image_base64: gif().toString('base64') })
    const got = await client.attachment(key.id)
    same({ mimetype: 'image/webp', isAnimated: true, width: 512, height: 512 }, got.media)
    const webp = await client.download(got)
    assert.equal(webp.toString('latin1').split('ANMF').length, 1 + 4)
  })

  then.also(`a place, a card, two cards and polls to Baileys ${client.version}`, async () => {
    const place = await gateway.message('send-location', { ...to, latitude: -6.2, longitude: 106.8, name: 'Monas', address: 'Jl. Medan Merdeka' })
    const location = await client.other(place.key.id)
    assert.equal(location.kind, 'locationMessage')
    same({ degreesLatitude: -6.2, degreesLongitude: 106.8, name: 'Monas', address: 'Jl. Medan Merdeka' }, location.content)

    const card = await gateway.message('send-contact', { ...to, contact_name: 'Budi', contact_phone: '+62 811-1' })
    const contact = await client.other(card.key.id)
    assert.equal(contact.kind, 'contactMessage')
    assert.equal(contact.content.displayName, 'Budi')
    assert.match(contact.content.vcard, /^BEGIN:VCARD\n[^]*waid=628111:\+628111\nEND:VCARD$/)

    const cards = await gateway.message('send-contact', { ...to, contacts: [{ name: 'Budi', phone: '628111' }, { name: 'Ani', phone: 628112 }] })
    const array = await client.other(cards.key.id)
    assert.equal(array.kind, 'contactsArrayMessage')
    assert.deepEqual(array.content.contacts.map((one) => one.displayName), ['Budi', 'Ani'])

    for (const [max_selections, kind] of [[1, 'pollCreationMessageV3'], [2, 'pollCreationMessage']]) {
      const sent = await gateway.message('send-poll', { ...to, question: 'Lunch?', options: ['yes', 'no'], max_selections })
      const poll = await client.other(sent.key.id)
      assert.equal(poll.kind, kind)
      same({ name: 'Lunch?', selectableOptionsCount: max_selections }, poll.content)
      assert.deepEqual(poll.content.options.map((option) => option.optionName), ['yes', 'no'])
    }
  })

  for (const where of ['a chat of two', 'a group']) {
    then.also(`reaction, reply, mentions, edit and delete in ${where} with Baileys ${client.version}`, async () => {
      const in_group = where === 'a group'
      const chat = in_group ? { session, to: group, is_group: true } : to
      const author = (field) => (in_group ? { [field]: client.phone } : {})
      const said = await client.send(in_group ? group : phone, `words of ${client.name} in ${where}`)
      await gateway.receiver.event(session, said)

      const reaction = await gateway.message('send-reaction', { ...chat, message_id: said, reaction: '👍', ...author('participant') })
      const seen = await client.other(reaction.key.id)
      assert.equal(seen.kind, 'reactionMessage')
      assert.equal(seen.content.text, '👍')
      // Baileys turns the key to its own view: it is its own message that was reacted to.
      same({ id: said, fromMe: true }, seen.content.key)

      const text = `an answer to ${client.name} in ${where}`
      const reply = await gateway.message('send-text', {
        ...chat, text, reply_to: said, reply_to_text: 'their words', mentions: [client.phone], ...author('reply_to_participant'),
      })
      const { context, id } = await client.text(text)
      assert.equal(id, reply.key.id)
      assert.equal(context.stanzaId, said)
      assert.ok([client.jid, client.lid].includes(context.participant), context.participant)
      assert.equal(context.quotedMessage.conversation, 'their words')
      assert.deepEqual(context.mentionedJid, [client.jid])

      const better = `a better answer to ${client.name} in ${where}`
      await gateway.message('edit', { ...chat, message_id: id, text: better })
      assert.equal((await client.text(better)).id, id)

      const gone = await gateway.message('delete', { ...chat, message_id: id })
      const revoke = await client.other(gone.key.id)
      assert.equal(revoke.kind, 'protocolMessage')
      assert.equal(revoke.content.type, client.lib.proto.Message.ProtocolMessage.Type.REVOKE)
      assert.equal(revoke.content.key.id, id)
    })
  }

  then.also(`the profile of Baileys ${client.version}`, async () => {
    const ask = async (target) => {
      const { status, body } = await gateway.ask('POST', '/profile', { session, target })
      assert.equal(status, 200, JSON.stringify(body))
      return body.data
    }
    assert.equal((await ask(client.jid)).profilePictureUrl, null)
    const bytes = randomBytes(4000)
    await within('a picture', client.sock.query({
      tag: 'iq',
      attrs: { to: 's.whatsapp.net', type: 'set', xmlns: 'w:profile:picture' },
      content: [{ tag: 'picture', attrs: { type: 'image' }, content: bytes }],
    }))
    await within('an about text', client.sock.updateProfileStatus(`I am ${client.name}`))
    const { profilePictureUrl, status } = await ask(client.jid)
    const picture = await fetch(profilePictureUrl, { signal: AbortSignal.timeout(10_000) })
    assert.deepEqual(Buffer.from(await picture.arrayBuffer()), bytes)
    assert.equal(status.length, 1)
    assert.deepEqual(Object.keys(status[0]), ['status', 'id'])
    assert.equal(status[0].status.status, `I am ${client.name}`)
    assert.ok(Math.abs(Date.parse(status[0].status.setAt) - Date.now()) < 120_000, status[0].status.setAt)
    assert.equal(status[0].id, client.jid)
  })
}

then('all is acknowledged', async () => {
  for (const { phone: number } of [{ phone }, ...clients]) await simulator.settled(number)
})
