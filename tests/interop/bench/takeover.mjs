// How long a start takes that moves 1,000 sessions in: `node bench/takeover.mjs [sessions] [pre-keys] [chats]`.
// Prints the time of the takeover, and until the gateway answers. The sessions are made up: none of them can log in.

import { generateKeyPairSync, randomBytes, randomInt } from 'node:crypto'
import { copyFileSync, mkdirSync, readFileSync, statSync } from 'node:fs'
import { join } from 'node:path'
import * as baileys from 'baileys-rc6'
import { Gateway } from '../lib/gateway.mjs'
import { poll } from '../lib/journal.mjs'
import { OriginalDatabase } from '../lib/original.mjs'
import { Receiver } from '../lib/receiver.mjs'
import { Simulator } from '../lib/simulator.mjs'

const [sessions = 1000, prekeys = 100, chats = 20] = process.argv.slice(2).map(Number)
const { replacer } = baileys.BufferJSON
const json = (value) => JSON.stringify(value, replacer)
const base64 = (bytes) => Buffer.from(bytes).toString('base64')

function pair() {
  const { publicKey, privateKey } = generateKeyPairSync('x25519')
  return { public: publicKey.export({ format: 'der', type: 'spki' }).subarray(-32), private: privateKey.export({ format: 'der', type: 'pkcs8' }).subarray(-32) }
}

const pool = Array.from({ length: 64 }, pair)
const some = () => pool[randomInt(pool.length)]
const serialized = ({ public: key }) => base64(Buffer.concat([Buffer.from([5]), key]))

function signalSession() {
  const [ours, theirs, base] = [pool[0], pool[1], pool[2 + randomInt(60)]]
  const chain = (chainType) => ({ chainKey: { counter: randomInt(50), key: base64(randomBytes(32)) }, chainType, messageKeys: {} })
  return {
    version: 'v1',
    _sessions: {
      [serialized(base)]: {
        registrationId: 5,
        currentRatchet: { ephemeralKeyPair: { pubKey: serialized(ours), privKey: base64(ours.private) }, lastRemoteEphemeralKey: serialized(theirs), previousCounter: 1, rootKey: base64(randomBytes(32)) },
        indexInfo: { baseKey: serialized(base), baseKeyType: 2, closed: -1, used: 1, created: 1, remoteIdentityKey: serialized(some()) },
        _chains: { [serialized(theirs)]: chain(2), [serialized(ours)]: chain(1) },
      },
    },
  }
}

const simulator = await Simulator.start()
const receiver = await Receiver.start()
const gateway = await Gateway.make(simulator, receiver)
try {
  const original = new OriginalDatabase(join(gateway.folder, 'original'))
  original.db.exec('BEGIN')
  for (let n = 0; n < sessions; n += 1) {
    const store = original.session(`session ${n}`)
    const creds = baileys.initAuthCreds()
    creds.me = { id: `62${8e9 + n}:3@s.whatsapp.net`, lid: `${9e13 + n}:3@lid`, name: `Shop ${n}` }
    creds.account = { details: randomBytes(40), accountSignatureKey: randomBytes(32), accountSignature: randomBytes(64), deviceSignature: randomBytes(64) }
    creds.firstUnuploadedPreKeyId = creds.nextPreKeyId = prekeys + 1
    store.write('creds', 'credentials', json(creds))
    for (let id = 1; id <= prekeys; id += 1) store.write(`pre-key-${id}`, 'pre-key', json(some()))
    for (let chat = 0; chat < chats; chat += 1) store.write(`session-62${7e9 + chat}.0`, 'session', json(signalSession()))
  }
  original.db.exec('COMMIT')
  original.db.exec('PRAGMA wal_checkpoint(TRUNCATE)')
  // A copy: this process may still hold a lock on the file itself.
  mkdirSync(gateway.credentials)
  copyFileSync(original.path, join(gateway.credentials, 'database.db'))
  original.close()
  const megabytes = (statSync(join(gateway.credentials, 'database.db')).size / 1e6).toFixed(1)
  const begun = Date.now()
  await gateway.up({ RUST_LOG: 'off' }, 300_000)
  const seconds = ((Date.now() - begun) / 1000).toFixed(1)
  const report = JSON.parse(readFileSync(join(gateway.credentials, 'takeover-report.json')))
  const taken = report.sessions.filter((session) => session.outcome === 'taken').length
  const listed = await poll('the list', async () => (await gateway.ask('GET', '/session')).body.data?.length)
  console.log(`${sessions} sessions of ${prekeys} pre-keys and ${chats} chats (${megabytes} MB): ${taken} taken in ${(report.milliseconds / 1000).toFixed(1)} s, serving after ${seconds} s, ${listed} listed`)
} finally {
  await gateway.stop()
  await receiver.stop()
  await simulator.stop()
}
