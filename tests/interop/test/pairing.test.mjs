// Each Baileys version by itself: pairs, reconnects, talks with a simulated phone, is unlinked.

import assert from 'node:assert/strict'
import { poll } from '../lib/journal.mjs'
import { story } from '../lib/story.mjs'
import { World } from '../lib/world.mjs'

const world = await World.open('10')
const { simulator } = world

for (const version of ['rc14', 'rc6']) {
  const then = story(`Baileys ${version}`)
  const [own, friend] = [world.phone(), world.phone()]
  const client = world.client(version)

  then('pairs by QR and is connected', async () => {
    await client.pair(own)
    assert.equal(client.jid, `${own}@s.whatsapp.net`)
    assert.match(client.lid, /^\d+@lid$/)
    const devices = await simulator.devices(own)
    assert.equal(devices.length, 1, JSON.stringify(devices))
  })

  then('gets the app state with the push name', async () => {
    const run = await client.appState.find('the app state', () => true)
    assert.deepEqual(run, { done: true })
    await poll('the push name', () => client.pushName)
  })

  then('reconnects with what it stored', async () => {
    await client.disconnect()
    await client.reconnect()
    assert.equal(client.states.filter((s) => s.state === 'qr' && s.attempt > 2).length, 0)
  })

  then('hears a phone, several texts at once', async () => {
    await simulator.account(friend)
    const ids = []
    for (const text of ['one', 'two', 'three']) ids.push(await simulator.say(friend, own, text))
    for (const [n, text] of ['one', 'two', 'three'].entries()) {
      const heard = await client.text(text)
      assert.equal(heard.id, ids[n])
      assert.ok([heard.chat, heard.chatAlt].includes(`${friend}@s.whatsapp.net`), JSON.stringify(heard))
    }
    // Once each; Baileys decrypts what comes at once side by side, and now and then tells the second first.
    assert.deepEqual(client.texts.entries.map((entry) => entry.text).sort(), ['one', 'three', 'two'])
  })

  then('talks to a phone and sees its receipts', async () => {
    for (const text of ['ein', 'zwei', 'drei']) {
      const id = await client.send(friend, text)
      const heard = await simulator.heard(friend, text)
      assert.equal(heard.id, id)
      await client.receipt(id, 'delivered')
      await client.receipt(id, 'sender') // of the own phone, which has its copy
      await simulator.read(friend, own, [id])
      await client.wasRead(id)
    }
  })

  then('hears what was said while it was away', async () => {
    await client.disconnect()
    for (const text of ['away one', 'away two']) await simulator.say(friend, own, text)
    await client.reconnect()
    await client.text('away one')
    await client.text('away two')
  })

  then('is gone from the device list after its logout', async () => {
    await client.logout()
    await poll('the device to be gone', async () => (await simulator.devices(own)).length === 0)
  })
}
