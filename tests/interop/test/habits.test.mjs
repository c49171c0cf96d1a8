// What clients do besides texts, in either Baileys version: typing, presence, profile, groups of their own, lost keys.

import assert from 'node:assert/strict'
import { poll, within } from '../lib/journal.mjs'
import { story } from '../lib/story.mjs'
import { World } from '../lib/world.mjs'

const world = await World.open('50')
const { simulator } = world
const [ida, jens] = [world.client('rc14', 'ida'), world.client('rc6', 'jens')]
const both = [[ida, jens], [jens, ida]]

const then = story('habits of Baileys')

then('both pair and know their push names', async () => {
  await Promise.all([ida, jens].map((client) => client.pair(world.phone())))
  for (const client of [ida, jens]) await poll(`the push name of ${client.name}`, () => client.pushName)
})

for (const [client, other] of both) {
  then.also(`${client.name} (${client.version}) sees typing and presence of ${other.name}`, async () => {
    await within('a subscription', client.sock.presenceSubscribe(other.jid))
    const at = client.presences.entries.length
    await other.sock.sendPresenceUpdate('composing', client.jid)
    await client.presences.find('typing', ({ presence }) => presence === 'composing', { from: at })
    await other.sock.sendPresenceUpdate('paused', client.jid)
    await client.presences.find('the end of typing', ({ presence }) => presence === 'available', { from: at })
    await other.sock.sendPresenceUpdate('unavailable')
    await client.presences.find('absence', ({ presence }) => presence === 'unavailable', { from: at })
    await other.sock.sendPresenceUpdate('available')
  })

  then.also(`${client.name} (${client.version}) asks for a picture, an about text and the settings`, async () => {
    assert.equal(await client.sock.profilePictureUrl(other.jid, 'image').catch((error) => error.data), 404)
    const [about] = await client.sock.fetchStatus(other.jid)
    assert.equal(typeof about.status.status, 'string')
    assert.equal((await client.sock.fetchPrivacySettings(true)).readreceipts, 'all')
    assert.deepEqual(await client.sock.fetchBlocklist(), [])
    assert.ok(await client.sock.getUSyncDevices([other.jid], false, false))
  })

  then.also(`${client.name} (${client.version}) changes its own name, and its other companion is told`, async () => {
    const second = await world.client(client.version, `${client.name}-2`).pair(client.phone)
    await poll('the push name of the second companion', () => second.pushName)
    await within('the change of the name', client.sock.updateProfileName(`New ${client.name}`))
    await second.names.find('the new name on the second companion', (name) => name === `New ${client.name}`)
    await second.logout()
  })

  then.also(`${client.name} (${client.version}) makes a group and leads it`, async () => {
    const { sock } = client
    const group = await within('a new group', sock.groupCreate(`Group of ${client.name}`, [other.jid]))
    assert.equal(group.subject, `Group of ${client.name}`)
    await other.groups.find(`${other.name} to be told of the group`, ({ id }) => id === group.id)
    const id = await client.send(group.id, `welcome by ${client.name}`)
    assert.equal((await other.text(`welcome by ${client.name}`)).id, id)
    await sock.groupUpdateSubject(group.id, 'Renamed')
    await sock.groupUpdateDescription(group.id, 'What it is for')
    const seen = await other.sock.groupMetadata(group.id)
    assert.equal(seen.subject, 'Renamed')
    assert.equal(seen.desc, 'What it is for')
    assert.equal(seen.participants.length, 2)
    assert.equal(typeof (await sock.groupInviteCode(group.id)), 'string')
    assert.ok(group.id in (await other.sock.groupFetchAllParticipating()))
    await sock.groupParticipantsUpdate(group.id, [other.jid], 'remove')
    assert.equal((await sock.groupMetadata(group.id)).participants.length, 1)
    await sock.groupLeave(group.id)
  })

  then.also(`Baileys ${client.version} loses its Signal sessions; texts come through by retry`, async () => {
    const loser = await world.paired(client.version, `${client.version}-loser`)
    // rc.6 cannot answer such a retry: it never replaces a session that it has. So a phone writes, and rc14.
    const friend = world.phone()
    await simulator.account(friend)
    const senders = [[friend, (text) => simulator.say(friend, loser.phone, text), (text) => simulator.heard(friend, text)]]
    if (client.version !== 'rc14') senders.push([ida.phone, (text) => ida.send(loser.phone, text), (text) => ida.text(text)])
    for (const [number, say, hear] of senders) {
      await say(`first words of ${number}`)
      await loser.text(`first words of ${number}`)
      await loser.send(number, `reply to ${number}`)
      await hear(`reply to ${number}`)
      await say(`second words of ${number}`)
      await loser.text(`second words of ${number}`)
    }
    await loser.disconnect()
    assert.ok(loser.forgetSessions() > 0)
    await loser.reconnect()
    for (const [number, say] of senders) {
      const id = await say(`words after the loss of ${number}`)
      assert.equal((await loser.text(`words after the loss of ${number}`)).id, id)
      assert.ok(loser.undecrypted.entries.some((entry) => entry.id === id), 'it was decrypted at once')
    }
    await loser.logout()
  })
}

then.also('signed keys are rotated', async () => {
  await within('the rotation', ida.sock.rotateSignedPreKey())
  const friend = world.phone()
  await simulator.account(friend)
  await simulator.say(friend, ida.phone, 'under the new signed key')
  await ida.text('under the new signed key')
})
