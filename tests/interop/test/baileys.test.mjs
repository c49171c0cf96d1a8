// The two Baileys versions with one another: texts both ways, receipts, backlog, a group.

import assert from 'node:assert/strict'
import { logTails } from '../lib/journal.mjs'
import { story } from '../lib/story.mjs'
import { World } from '../lib/world.mjs'

const world = await World.open('20')
const { simulator } = world
const then = story('Baileys rc14 and rc6')
const anna = world.client('rc14', 'anna')
const bert = world.client('rc6', 'bert')
const second = world.client('rc14', 'anna-2')
let group

then('both pair', async () => {
  await Promise.all([anna.pair(world.phone()), bert.pair(world.phone())])
})

for (const [from, to] of [[anna, bert], [bert, anna]]) {
  then(`${from.name} to ${to.name}: texts, delivery and read receipts`, async () => {
    for (const text of [`hello from ${from.name}`, `again from ${from.name}`]) {
      const id = await from.send(to.phone, text)
      const heard = await to.text(text)
      assert.equal(heard.id, id)
      assert.ok([heard.chat, heard.chatAlt].includes(from.jid), JSON.stringify(heard))
      await from.receipt(id, 'delivered')
      await to.read(heard)
      await from.receipt(id, 'read')
      // The reader's own phone has it too.
      await simulator.heard(to.phone, text)
    }
  })
}

for (const [from, to] of [[anna, bert], [bert, anna]]) {
  then(`${to.name} hears after a reconnection what ${from.name} said meanwhile`, async () => {
    await to.disconnect()
    // Else the first text may go to the connection that is just closing, be decrypted there and never told of: it then comes
    // last, by a retry.
    await simulator.away(to.phone)
    const texts = ['first', 'second', 'third'].map((word) => `${word} for ${to.name}`)
    for (const text of texts) await from.send(to.phone, text)
    // Baileys sends without waiting for the acknowledgement. What the server has once the reconnection is done comes live,
    // beside the backlog, and may overtake it.
    for (const text of texts) await simulator.heard(to.phone, text)
    await to.reconnect()
    for (const text of texts) await to.text(text)
    const heard = to.texts.entries.map((entry) => entry.text).filter((text) => texts.includes(text))
    assert.deepEqual(heard, texts, `not decrypted at first: ${JSON.stringify(to.undecrypted.entries)}\n${logTails()}`)
  })
}

then('a second companion of the same phone joins and sees both directions', async () => {
  await second.pair(anna.phone)
  const said = await anna.send(bert.phone, 'seen by the second companion')
  const own = await second.ownTexts.find('the own text on the second companion', (entry) => entry.id === said)
  assert.equal(own.text, 'seen by the second companion')
  await bert.text('seen by the second companion')
  // rc.6 keeps device lists for five minutes and ignores the news of a change.
  await bert.disconnect()
  await bert.reconnect()
  await bert.send(anna.phone, 'for both companions')
  await Promise.all([anna.text('for both companions'), second.text('for both companions')])
})

then('a group is made and texts go to all members', async () => {
  group = await simulator.group('Interop', [anna.phone, bert.phone])
  for (const [from, to] of [[anna, bert], [bert, anna], [anna, bert]]) {
    const text = `group text ${from.name} ${from.ownTexts.entries.length}`
    const id = await from.send(group, text)
    const heard = await to.text(text)
    assert.equal(heard.id, id)
    assert.equal(heard.chat, group)
    assert.ok([heard.participant, heard.participantAlt].includes(from.jid), JSON.stringify(heard))
    await from.receipt(id, 'delivered')
    await to.read(heard)
    await from.wasRead(id)
  }
  assert.equal(second.texts.filter((entry) => entry.chat === group).length, 1)
})

then('an unknown number is told as such', async () => {
  const nobody = world.phone()
  const [known] = await anna.sock.onWhatsApp(bert.phone)
  assert.equal(known.exists, true)
  assert.equal(known.jid, bert.jid)
  assert.deepEqual((await anna.sock.onWhatsApp(nobody)).filter((entry) => entry.exists), [])
})

for (const [from, to] of [[anna, bert], [bert, anna]]) {
  then(`${from.name} to ${to.name}, addressed by LID`, async () => {
    for (const text of [`by LID from ${from.name}`, `again by LID from ${from.name}`]) {
      const id = await from.send(to.lid, text)
      const heard = await to.text(text)
      assert.equal(heard.id, id)
      assert.equal(heard.chat, from.lid)
      assert.equal(heard.chatAlt, from.jid)
      await from.receipt(id, 'delivered')
      await to.read(heard)
      await from.receipt(id, 'read')
    }
  })
}

then('a migrated phone writes by LID and is answered by LID', async () => {
  const friend = world.phone()
  await simulator.account(friend, { lid_migrated: true })
  for (const client of [anna, bert]) {
    await simulator.say(friend, client.phone, `by LID to ${client.name}`)
    const heard = await client.text(`by LID to ${client.name}`)
    assert.match(heard.chat, /@lid$/)
    await client.send(heard.chat, `${client.name} answers by LID`)
    await simulator.heard(friend, `${client.name} answers by LID`)
  }
})
