// Moving in as an owner does it: the compose file of the original with its one changed line, as the README shows it, on
// the folders that the original leaves, through the image's entry point.

import assert from 'node:assert/strict'
import { copyFileSync, mkdirSync, readFileSync, statSync, writeFileSync } from 'node:fs'
import { mkdtemp, readFile, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import axios from 'axios'
import { isRoot, service, up } from '../lib/image.mjs'
import { poll } from '../lib/journal.mjs'
import { OriginalDatabase } from '../lib/original.mjs'
import { freePort, http } from '../lib/program.mjs'
import { story } from '../lib/story.mjs'
import { World } from '../lib/world.mjs'

const world = await World.open('71', { alone: true })
const { simulator } = world
const then = story('an owner changes one line', 120_000)

const page = await readFile(new URL('../../../README.md', import.meta.url), 'utf8')
const compose = service(/^```diff\n([^]*?)^```$/m.exec(page.slice(page.indexOf('## Coming from')))[1])

const SESSIONS = ['shop', '36be407f-1400-46f1-b259-58e3aa4f6179', 'toko kopi']
const phones = SESSIONS.map(() => world.phone())
const contacts = SESSIONS.map(() => world.phone())
let folder, gateway, before, container

then('the original has linked sessions, and ends', async () => {
  folder = await mkdtemp(join(tmpdir(), 'wa-gateway-owner-'))
  world.closing(() => rm(folder, { recursive: true, force: true }))
  const original = new OriginalDatabase(join(folder, 'original'))
  world.closing(() => original.close())
  for (const [n, session] of SESSIONS.entries()) {
    // Baileys 7.0.0-rc.6 is the original's own.
    const client = world.client('rc6', session, original.session(session))
    await simulator.account(contacts[n], { push_name: `Contact ${n}` })
    await client.pair(phones[n])
    await client.send(contacts[n], `${session}: hello`)
    await simulator.heard(contacts[n], `${session}: hello`)
    await simulator.say(contacts[n], phones[n], `${session}: hi`)
    await client.text(`${session}: hi`)
    await client.disconnect()
    await simulator.say(contacts[n], phones[n], `${session}: between two gateways`)
  }
  // This process keeps the files open, which a gateway that has ended does not: so a copy is what it leaves.
  mkdirSync(join(folder, 'wa_credentials'))
  for (const name of ['database.db', 'database.db-wal']) copyFileSync(join(folder, 'original', name), join(folder, 'wa_credentials', name))
  // Its folder for files, with one that somebody has a link to.
  mkdirSync(join(folder, 'media'))
  writeFileSync(join(folder, 'media', '3EB0ABCD.jpg'), Buffer.from([0xff, 0xd8, 0xff, 0xe0, 0, 16]))
  before = readFileSync(join(folder, 'wa_credentials', 'database.db'))
})

then('one line of its compose file is changed, and the container starts', async () => {
  assert.equal(compose.changed, 1, JSON.stringify(compose))
  gateway = await world.gateway({ started: false })
  gateway.port = await freePort()
  const receiver = compose.environment.findIndex((text) => text.startsWith('WEBHOOK_BASE_URL='))
  assert.ok(receiver >= 0 && compose.environment.includes('KEY=secret'), JSON.stringify(compose))
  // An engine would publish the port and resolve the receiver's name; here both are of this machine.
  assert.deepEqual(compose.ports, ['5001:5001'])
  compose.environment[receiver] = `WEBHOOK_BASE_URL=${gateway.receiver.url}`
  const scratch = join(folder, 'image')
  mkdirSync(scratch)
  container = up(compose, folder, scratch, {
    PORT: gateway.port,
    WHATSAPP_WS_URL: simulator.webSocketUrl,
    WHATSAPP_MEDIA_URL: simulator.urls.media,
  })
  gateway.program = container.program
  await poll('the gateway to answer /health', async () => {
    if (gateway.program.ended) throw new Error('the gateway ended')
    return (await http('GET', `http://127.0.0.1:${gateway.port}/health`)).status === 200
  })
})

then('every session is connected without a scan', async () => {
  for (const [n, session] of SESSIONS.entries()) {
    const entry = await gateway.connected(session)
    assert.equal(entry.details.phoneNumber, phones[n])
    assert.equal((await simulator.devices(phones[n])).length, 1)
    await gateway.receiver.message(session, `${session}: between two gateways`)
  }
  assert.ok(before.equals(readFileSync(join(folder, 'wa_credentials', 'database.db'))), 'the file of the original was changed')
})

then('the gateway runs as its own user, who has the folders now', async () => {
  const status = readFileSync(`/proc/${container.program.child.pid}/status`, 'utf8')
  assert.match(status, new RegExp(`^Uid:\\s+${container.id}\\s+${container.id}`, 'm'))
  for (const path of ['wa_credentials', 'wa_credentials/database.db', 'wa_credentials/store', 'media']) {
    assert.equal(statSync(join(folder, path)).uid, container.id, path)
  }
  if (isRoot()) assert.notEqual(container.id, 0)
})

then('the first calls of a client of the original are answered as ever', async () => {
  const client = axios.create({ baseURL: `http://127.0.0.1:${gateway.port}`, headers: { key: 'secret' } })
  for (const [n, session] of SESSIONS.entries()) {
    const { status, data } = await client.post('/message/send-text', { session, to: contacts[n], text: `${session}: as ever` })
    assert.equal(status, 200)
    assert.deepEqual([data.data.key.remoteJid, data.data.key.fromMe], [`${contacts[n]}@s.whatsapp.net`, true])
    await simulator.heard(contacts[n], `${session}: as ever`)
    await simulator.say(contacts[n], phones[n], `${session}: and back`)
    const hook = await gateway.receiver.message(session, `${session}: and back`)
    assert.equal(hook.headers.key, 'secret')
  }
  const { data } = await client.get('/session', { headers: { key: undefined }, params: { key: 'secret' } })
  assert.deepEqual(data.data.map((row) => [row.session, row.status]).sort(), SESSIONS.map((session) => [session, 'connected']).sort())
  const link = await client.get('/media/3EB0ABCD.jpg', { responseType: 'arraybuffer' })
  assert.deepEqual([link.status, link.data.length], [200, 6])
})

then('no message was asked for twice, no key used twice, and the container ends in order', async () => {
  const { retries, repeated_counters, repeated_ciphertexts, violations } = await simulator.counters()
  assert.deepEqual([retries, repeated_counters, repeated_ciphertexts, violations], [{}, 0, 0, 0])
  const { code } = await gateway.program.stop()
  assert.equal(code, 0)
})
