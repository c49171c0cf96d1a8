// Moving in: sessions that Baileys linked, kept as the original keeps them, go on in the gateway without a scan.

import assert from 'node:assert/strict'
import { copyFileSync, existsSync, mkdirSync, readFileSync, statSync } from 'node:fs'
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { poll } from '../lib/journal.mjs'
import { OriginalDatabase } from '../lib/original.mjs'
import { story } from '../lib/story.mjs'
import { World } from '../lib/world.mjs'

// A server of its own: what is counted below is of this file alone.
const world = await World.open('70', { alone: true })
const { simulator } = world

/** Chats with live ratchets; of the first, messages are missing. */
const CHATS = 20
const SKIPPED = 6
const MEMBERS = 5

/** Retry receipts of the gateway and those that its contacts sent. */
async function retries() {
  const { retries: counted } = await simulator.counters()
  return (counted['whatsapp-rust'] ?? 0) + (counted.phone ?? 0)
}

for (const version of ['rc6', 'rc14', 'v67']) {
  const then = story(`takeover of Baileys ${version}`, 120_000)
  const session = version
  const phone = world.phone()
  const contacts = Array.from({ length: CHATS }, () => world.phone())
  const damaged = [world.phone(), world.phone()]
  // Contacts who themselves use Baileys and make a new session at the first retry receipt. rc6 never does, whatever the
  // receipt brings, so nobody can mend its sessions.
  const friends = ['v67', 'rc14'].map((kind) => world.client(kind, `a friend of ${session}, on ${kind}`))
  const texts = [] // What must reach the gateway after it has moved in.
  const groups = []
  let original, client, gateway, folder

  /** A contact tells the session something, up to Baileys' plaintext. */
  const tell = async (contact, text) => {
    await simulator.say(contact, phone, text)
    await client.text(text)
  }
  /** The session tells a contact something, up to the contact's plaintext. */
  const answer = async (contact, text) => {
    await client.send(contact, text)
    await simulator.heard(contact, text)
  }
  /** A contact tells something that Baileys never sees; it stays in the queue. */
  const miss = async (contact, to, lost) => {
    client.hold(contact, lost.length)
    for (const text of lost) await simulator.say(contact, to, text)
    await poll(`${lost.length} messages to be lost`, () => client.hasHeld(contact))
    texts.push(...lost)
  }

  then('a session is linked, with its credentials in the table of the original', async () => {
    gateway = await world.gateway({ started: false })
    folder = await mkdtemp(join(tmpdir(), 'wa-gateway-original-'))
    world.closing(() => rm(folder, { recursive: true, force: true }))
    original = new OriginalDatabase(folder)
    world.closing(() => original.close())
    client = world.client(version, session, original.session(session))
    await client.pair(phone)
  })

  then(`${CHATS} chats live in both directions`, async () => {
    for (const [n, contact] of [...contacts, ...damaged].entries()) {
      await simulator.account(contact, { push_name: `Contact ${n}` })
      if (n % 2) await tell(contact, `${session}: hello ${n}`)
      await answer(contact, `${session}: hi ${n}`)
      await tell(contact, `${session}: how are you ${n}`)
      if (n % 3) await answer(contact, `${session}: fine ${n}`)
    }
    for (const friend of friends) {
      await friend.pair(world.phone())
      await client.send(friend.phone, `${session}: hi, ${friend.name}`)
      await friend.text(`${session}: hi, ${friend.name}`)
      await friend.send(phone, `${friend.name}: how are you`)
      await client.text(`${friend.name}: how are you`)
    }
  })

  then(`in ${SKIPPED} of them messages are missing, in half of these from a chain that has ended`, async () => {
    for (const [n, contact] of contacts.slice(0, SKIPPED).entries()) {
      await miss(contact, phone, [1, 2].map((k) => `${session}: missing ${n}.${k}`))
      await tell(contact, `${session}: overtakes ${n}`)
      if (n % 2) {
        await answer(contact, `${session}: turns the ratchet ${n}`)
        await tell(contact, `${session}: on the new chain ${n}`)
      }
    }
  })

  then('groups by number and by LID have sender keys in both directions', async () => {
    for (const lid of [false, true]) {
      const group = await simulator.group('Club', [phone, ...contacts.slice(0, MEMBERS)], lid)
      groups.push(group)
      for (const k of [1, 2]) {
        const text = `${session}: to the club ${groups.length}.${k}`
        await client.send(group, text)
        for (const contact of contacts.slice(0, MEMBERS)) await simulator.heard(contact, text)
      }
      for (const [n, contact] of contacts.slice(0, MEMBERS).entries()) {
        const text = `${session}: from a member ${groups.length}.${n}`
        await simulator.say(contact, group, text)
        await client.text(text)
      }
      const [contact] = contacts
      await miss(contact, group, [`${session}: missing in the club ${groups.length}`])
      await simulator.say(contact, group, `${session}: overtakes in the club ${groups.length}`)
      await client.text(`${session}: overtakes in the club ${groups.length}`)
    }
  })

  then('the original ends, some of what it kept is damaged, and contacts go on writing', async () => {
    await client.disconnect()
    assert.deepEqual(client.undecrypted.entries, [])
    for (const contact of [...damaged, ...friends.map((friend) => friend.phone)]) {
      const { changes } = original.db.prepare("UPDATE auth_store SET value = '{\"_sessions\":' WHERE category = 'session' AND (id LIKE ? OR id LIKE ?)")
        .run(`session-${contact}%`, `session-${(await simulator.account(contact)).lid.split(/[:@]/)[0]}%`)
      assert.ok(changes > 0, 'no row of this contact')
    }
    original.db.prepare("INSERT INTO auth_store VALUES ('moods-1', ?, 'moods', '{}')").run(session)
    original.db.prepare("INSERT INTO auth_store VALUES ('creds', 'never scanned', 'credentials', ?)")
      .run(JSON.stringify(client.lib.initAuthCreds(), client.lib.BufferJSON.replacer))
    original.db.prepare("INSERT INTO auth_store VALUES ('session-1.0', 'half written', 'session', '{}')").run()
    for (const [n, contact] of contacts.entries()) {
      texts.push(`${session}: while nobody ran ${n}`)
      await simulator.say(contact, phone, texts.at(-1))
    }
    for (const [n, group] of groups.entries()) {
      texts.push(`${session}: to the club while nobody ran ${n}`)
      await simulator.say(contacts[1], group, texts.at(-1))
    }
  })

  let before
  then('the gateway starts on the folder, takes the session over and is connected', async () => {
    // This process still has the database open, as a running original has.
    const refused = await gateway.run([], { CREDENTIALS_DIR: folder })
    const { code } = await refused.exit
    assert.equal(code, 1, 'it started while the original had its database open')
    assert.ok(refused.lines.entries.some((line) => line.includes('is in use')), JSON.stringify(refused.lines.entries))
    // The one as a killed process leaves it, with the newest ratchets in the log only, the others as an orderly end does.
    if (version !== 'rc6') original.db.exec('PRAGMA wal_checkpoint(TRUNCATE)')
    mkdirSync(gateway.credentials, { recursive: true })
    for (const name of ['database.db', 'database.db-wal']) copyFileSync(join(folder, name), join(gateway.credentials, name))
    assert.equal(statSync(join(gateway.credentials, 'database.db-wal')).size > 0, version === 'rc6')
    before = ['database.db', 'database.db-wal'].map((name) => join(gateway.credentials, name)).filter(existsSync)
      .map((path) => ({ path, bytes: readFileSync(path), modified: statSync(path).mtimeMs }))
    await gateway.up()
    const entry = await gateway.connected(session)
    assert.equal(entry.details.phoneNumber, phone)
    assert.equal((await simulator.devices(phone)).length, 1)
    for (const { path, bytes, modified } of before) {
      assert.ok(bytes.equals(readFileSync(path)), `${path} was changed`)
      assert.equal(statSync(path).mtimeMs, modified)
    }
  })

  then('the report says what was taken, what was left, and why', async () => {
    const report = JSON.parse(readFileSync(join(gateway.credentials, 'takeover-report.json')))
    const of = (name) => report.sessions.find((entry) => entry.session === name)
    assert.equal(of(session).outcome, 'taken')
    assert.ok(of(session).taken['Signal sessions'] >= CHATS, JSON.stringify(of(session)))
    assert.ok(of(session).taken['sender keys'] >= 2 * MEMBERS, JSON.stringify(of(session)))
    assert.ok(of(session).taken['pre-keys'] > 0 && of(session).taken['app-state keys'] > 0, JSON.stringify(of(session)))
    const left = (what) => of(session).left.find((entry) => entry.what === what)
    assert.equal(left('moods').why, 'the kind of this row is not known')
    assert.equal(left('Signal sessions').why, "it can't be read")
    assert.deepEqual(of('never scanned'), { session: 'never scanned', outcome: 'left', why: 'it was never linked to a phone' })
    assert.deepEqual(of('half written'), { session: 'half written', outcome: 'left', why: 'it has no row `creds`' })
    assert.ok(!JSON.stringify(report).includes(contacts[0]), 'the report names a number')
    assert.equal(await gateway.listed('never scanned'), undefined)
  })

  let asked
  then('what waited arrives, also what was overtaken', async () => {
    for (const text of texts) await gateway.receiver.message(session, text)
  })

  then('the first message each way is read at once, in every chat', async () => {
    asked = await retries()
    for (const [n, contact] of contacts.entries()) {
      const [mine, theirs] = [`${session} ${n}`, `${session}: a contact speaks ${n}`]
      // The one half begins, the other answers.
      if (n % 2) await gateway.send(session, contact, mine)
      await simulator.say(contact, phone, theirs)
      if (!(n % 2)) await gateway.send(session, contact, mine)
      await simulator.heard(contact, mine)
      await gateway.receiver.message(session, theirs)
    }
  })

  then('and in the groups', async () => {
    for (const [n, group] of groups.entries()) {
      const text = `${session} all ${n}`
      await gateway.send(session, group, text, true)
      for (const [k, contact] of contacts.slice(0, MEMBERS).entries()) {
        await simulator.heard(contact, text)
        await simulator.say(contact, group, `${session}: a member ${n}.${k}`)
        await gateway.receiver.message(session, `${session}: a member ${n}.${k}`)
      }
    }
    assert.equal(await retries(), asked, 'somebody had to ask for a message again')
  })

  then('what was damaged is mended by one retry where the contact makes a new session for it', async () => {
    for (const friend of friends) {
      const before = await retries()
      await friend.send(phone, `${friend.name}: do you still read me`)
      await gateway.receiver.message(session, `${friend.name}: do you still read me`)
      assert.equal(await retries(), before + 1, friend.name)
      await gateway.send(session, friend.phone, `${session}: I do, ${friend.name}`)
      await friend.text(`${session}: I do, ${friend.name}`)
      assert.equal(await retries(), before + 1, `${friend.name} had to ask`)
      assert.deepEqual(friend.undecrypted.entries, [])
    }
    asked = await retries()
  })

  then("and by two where the contact keeps to WhatsApp Web's own rule", async () => {
    const [speaks, hears] = damaged
    await simulator.say(speaks, phone, `${session}: a contact whose session was lost`)
    await gateway.receiver.message(session, `${session}: a contact whose session was lost`)
    // The first receipt asks for the same text once more, the second brings the keys for a new session.
    const mended = await retries()
    assert.equal(mended, asked + 2)
    await gateway.send(session, hears, `${session} again`)
    await simulator.heard(hears, `${session} again`)
    assert.equal(await retries(), mended, 'a new session needs no retry')
  })

  then('no key was used twice, nothing came twice, one device is linked', async () => {
    await simulator.settled(phone)
    const counters = await simulator.counters()
    assert.deepEqual([counters.repeated_counters, counters.repeated_ciphertexts, counters.violations], [0, 0, 0], JSON.stringify(counters))
    const came = gateway.receiver.messages.entries.map((body) => body.message)
    assert.equal(new Set(came).size, came.length, JSON.stringify(came))
    assert.equal((await simulator.devices(phone)).length, 1)
  })

  then('after a restart it is not taken over again, nor after its deletion', async () => {
    await gateway.restart()
    await gateway.connected(session)
    assert.ok(!gateway.program.lines.entries.some((line) => line.includes('sessions taken')), 'it was taken over twice')
    await gateway.remove(session)
    await gateway.restart()
    assert.equal(await gateway.listed(session), undefined)
  })
}
