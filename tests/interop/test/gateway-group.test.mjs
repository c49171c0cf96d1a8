// Groups of one gateway session and both Baileys versions, and chats addressed by LID.

import assert from 'node:assert/strict'
import { story } from '../lib/story.mjs'
import { World } from '../lib/world.mjs'

const world = await World.open('40')
const { simulator } = world
const gateway = await world.gateway()
const { receiver } = gateway

for (const lid of [false, true]) {
  const session = lid ? 'club-lid' : 'club'
  const then = story(`group of gateway and Baileys, addressed by ${lid ? 'LID' : 'number'}`)
  const phone = world.phone()
  const clients = [world.client('rc14', `emil-${session}`), world.client('rc6', `fine-${session}`)]
  let group

  then('all pair and become members', async () => {
    await gateway.pair(session, phone)
    for (const client of clients) await client.pair(world.phone())
    group = await simulator.group('Club', [phone, ...clients.map((client) => client.phone)], lid)
  })

  then('the gateway to all, with receipts', async () => {
    for (const text of [`${session} news 1`, `${session} news 2`]) {
      const id = await gateway.send(session, group, text, true)
      for (const client of clients) {
        const heard = await client.text(text)
        assert.equal(heard.id, id)
        assert.equal(heard.chat, group)
        assert.ok([heard.participant, heard.participantAlt].includes(`${phone}@s.whatsapp.net`), JSON.stringify(heard))
        await client.read(heard)
        await simulator.receipt(phone, id, 'read')
      }
    }
  })

  for (const client of clients) {
    then(`Baileys ${client.version} to all`, async () => {
      for (const text of [`${client.name} to the club 1`, `${client.name} to the club 2`]) {
        const id = await client.send(group, text)
        const body = await receiver.message(session, text)
        assert.equal(body.from, group)
        assert.equal(body.id, id)
        assert.equal(body.is_group, true)
        assert.equal(body.participant, client.jid)
        for (const other of clients.filter((one) => one !== client)) {
          assert.equal((await other.text(text)).id, id)
        }
        await client.receipt(id, 'delivered')
      }
    })
  }
}

{
  const then = story('LID-migrated account of the gateway and Baileys')
  const phone = world.phone()
  const clients = [world.client('rc14', 'gerd'), world.client('rc6', 'hans')]

  then('all pair', async () => {
    await simulator.account(phone, { lid_migrated: true })
    await gateway.pair('moved', phone)
    for (const client of clients) {
      const number = world.phone()
      await simulator.account(number, { lid_migrated: true })
      await client.pair(number)
    }
  })

  for (const client of clients) {
    then(`texts both ways with Baileys ${client.version}`, async () => {
      for (const n of [1, 2]) {
        const id = await gateway.send('moved', client.phone, `by LID to ${client.name} ${n}`)
        const heard = await client.text(`by LID to ${client.name} ${n}`)
        assert.equal(heard.id, id)
        assert.ok([heard.chat, heard.chatAlt].includes(`${phone}@s.whatsapp.net`), JSON.stringify(heard))
        // Baileys answers into the chat as it came, so by LID when it was addressed by LID.
        const answer = await client.send(heard.chat, `by LID from ${client.name} ${n}`)
        const body = await receiver.message('moved', `by LID from ${client.name} ${n}`)
        assert.equal(body.id, answer)
        assert.equal(body.from, client.jid)
        await client.receipt(answer, 'delivered')
      }
    })
  }

  then('a phone that writes by LID is told by its number', async () => {
    const friend = world.phone()
    await simulator.account(friend, { lid_migrated: true })
    await simulator.say(friend, phone, 'a migrated phone')
    const body = await receiver.message('moved', 'a migrated phone')
    assert.equal(body.from, `${friend}@s.whatsapp.net`)
    await gateway.send('moved', friend, 'an answer to the migrated phone')
    await simulator.heard(friend, 'an answer to the migrated phone')
  })
}
