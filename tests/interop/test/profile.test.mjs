// Pictures and about texts, and linking by code, in either Baileys version.

import assert from 'node:assert/strict'
import { randomBytes } from 'node:crypto'
import { within } from '../lib/journal.mjs'
import { story } from '../lib/story.mjs'
import { World } from '../lib/world.mjs'

const world = await World.open('70')
const { simulator } = world

/** Baileys scales pictures by a library that is not part of this suite, so the query is built here. */
function setPicture(client, bytes, target) {
  return within(`${client.name} to set a picture`, client.sock.query({
    tag: 'iq',
    attrs: { to: 's.whatsapp.net', type: 'set', xmlns: 'w:profile:picture', ...(target ? { target } : {}) },
    content: [{ tag: 'picture', attrs: { type: 'image' }, content: bytes }],
  }))
}

async function fetched(url) {
  const answer = await fetch(url, { signal: AbortSignal.timeout(10_000) })
  assert.equal(answer.status, 200)
  return Buffer.from(await answer.arrayBuffer())
}

for (const version of ['rc14', 'rc6']) {
  const then = story(`profiles and codes with Baileys ${version}`)
  const [own, friend] = [world.phone(), world.phone()]
  const client = world.client(version, `${version}-profile`)
  const refusal = (jid) => client.sock.profilePictureUrl(jid, 'image').then(() => 'shown', (error) => error.data)

  then('is linked by a typed code', async () => {
    await simulator.account(friend)
    await client.pairByCode(own)
    assert.equal(client.jid, `${own}@s.whatsapp.net`)
    assert.equal((await simulator.devices(own)).length, 1)
  })

  then('reconnects after that, and texts go both ways', async () => {
    await client.disconnect()
    await client.reconnect()
    await simulator.say(friend, own, 'linked by code')
    await client.text('linked by code')
    await client.send(friend, `heard, ${version}`)
    await simulator.heard(friend, `heard, ${version}`)
  })

  then.also('sees the picture of a contact, unless it is hidden', async () => {
    const jid = `${friend}@s.whatsapp.net`
    assert.equal(await refusal(jid), 404)
    const bytes = randomBytes(5000)
    await simulator.setPicture(friend, bytes)
    for (const kind of ['image', 'preview']) {
      assert.deepEqual(await fetched(await client.sock.profilePictureUrl(jid, kind)), bytes)
    }
    await simulator.post('/picture', { phone: friend, hidden: true })
    assert.equal(await refusal(jid), 401)
  })

  then.also('sees the picture of a group, if it is a member', async () => {
    const group = await simulator.group('with a picture', [friend, own])
    const foreign = await simulator.group('of others', [friend, world.phone()])
    assert.equal(await refusal(group), 404)
    const bytes = randomBytes(3000)
    await simulator.setPicture(friend, bytes, group)
    assert.deepEqual(await fetched(await client.sock.profilePictureUrl(group, 'image')), bytes)
    assert.equal(await refusal(foreign), 403)
    assert.equal(await refusal('120363999999999999@g.us'), 404)
    const own_bytes = randomBytes(100)
    await setPicture(client, own_bytes, group)
    assert.deepEqual(await fetched(await client.sock.profilePictureUrl(group, 'image')), own_bytes)
  })

  then.also('sets and removes its own picture', async () => {
    const bytes = randomBytes(4000)
    await setPicture(client, bytes)
    assert.deepEqual(await fetched(await client.sock.profilePictureUrl(client.jid, 'image')), bytes)
    await within('the removal', client.sock.removeProfilePicture(client.jid))
    assert.equal(await refusal(client.jid), 404)
  })

  then.also('reads and writes about texts', async () => {
    await simulator.post('/about', { phone: friend, text: 'on holiday', t: 1_700_000_000 })
    const [about] = await client.sock.fetchStatus(`${friend}@s.whatsapp.net`)
    assert.equal(about.status.status, 'on holiday')
    assert.equal(about.status.setAt.getTime(), 1_700_000_000_000)
    await within('the own about text', client.sock.updateProfileStatus('busy'))
    const [mine] = await client.sock.fetchStatus(client.jid)
    assert.equal(mine.status.status, 'busy')
    await simulator.post('/about', { phone: friend, hidden: true })
    const [hidden] = await client.sock.fetchStatus(`${friend}@s.whatsapp.net`)
    assert.ok(!hidden.status.status)
  })
}
