// A document of 64 MiB both ways between the gateway and Baileys: equal bytes, and little memory.

import assert from 'node:assert/strict'
import { createHash } from 'node:crypto'
import { readFileSync } from 'node:fs'
import { pdf } from '../lib/samples.mjs'
import { story } from '../lib/story.mjs'
import { World } from '../lib/world.mjs'

const BYTES = 64 * 1024 * 1024
/** The most that the gateway's memory may grow, in bytes. */
const GROWTH = 16 * 1024 * 1024
/** The programs are built without optimization, and the other tests run beside this one. */
const SLOW = { ms: 60_000 }

const world = await World.open('95')
const gateway = await world.gateway({ started: false })
const files = await world.files()
const phone = world.phone()
const clients = [world.client('rc14', 'maya'), world.client('rc6', 'nils')]
const then = story('large documents of gateway and Baileys', 120_000)
const session = 'large'
const document = { mimetype: 'application/octet-stream', fileName: 'Arsip 2024.bin', caption: 'the whole year' }

/** No two blocks alike, so that no part can stand for another, and no two files alike. */
function large(mark) {
  const bytes = Buffer.alloc(BYTES, mark)
  for (let at = 0; at < BYTES; at += 64) bytes.writeUInt32LE(at, at)
  return bytes
}

const hash = (bytes) => createHash('sha256').update(bytes).digest('hex')

/** The most memory that the gateway ever held, in bytes. */
function peak() {
  const [, kib] = readFileSync(`/proc/${gateway.program.child.pid}/status`, 'utf8').match(/^VmHWM:\s+(\d+) kB$/m)
  return Number(kib) * 1024
}

function check(before, what) {
  const grown = peak() - before
  assert.ok(grown < GROWTH, `the peak grew by ${grown} bytes when ${what}`)
}

async function arrived(client, key, bytes) {
  const got = await client.attachment(key.id, SLOW)
  assert.equal(got.kind, 'document')
  assert.equal(Number(got.media.fileLength), bytes.length)
  assert.deepEqual([got.media.fileName, got.media.caption], [document.fileName, document.caption])
  assert.equal(hash(await client.download(got)), hash(bytes))
}

async function told(id, bytes) {
  const body = await gateway.receiver.event(session, id, SLOW)
  assert.equal(body.media_error, undefined)
  assert.deepEqual([body.type, body.file_name, body.message, body.size], ['document', document.fileName, document.caption, bytes.length])
  const file = await gateway.file(`${id}.bin`)
  assert.equal(file.status, 200)
  assert.equal(hash(file.bytes), hash(bytes))
}

then('all pair, and a small document goes each way', async () => {
  await gateway.up({ SEND_TIMEOUT_SECS: '50' })
  await gateway.pair(session, phone)
  const bytes = pdf()
  for (const client of clients) {
    await client.pair(world.phone())
    const { key } = await gateway.message('send-document', {
      session, to: client.phone, text: document.caption, document_name: document.fileName, document_base64: bytes.toString('base64'),
    })
    await arrived(client, key, bytes)
    await told(await client.sendContent(phone, { document: bytes, ...document }), bytes)
  }
})

const [maya, nils] = clients
const fields = (client) => ({ session, to: client.phone, text: document.caption, document_name: document.fileName })

then.also(`by URL to Baileys ${maya.version}`, async () => {
  const [before, bytes] = [peak(), large(1)]
  const { key } = await gateway.message('send-document', { ...fields(maya), document_url: files.offer(bytes) })
  check(before, 'it sent by URL')
  await arrived(maya, key, bytes)
})

then.also(`by upload to Baileys ${nils.version}`, async () => {
  const [before, bytes] = [peak(), large(2)]
  const { key } = await gateway.upload('send-document', fields(nils), { field: 'document', bytes, type: 'application/octet-stream', name: 'a.bin' })
  check(before, 'it took an upload')
  await arrived(nils, key, bytes)
})

then.also(`from Baileys ${maya.version}, and served`, async () => {
  const [before, bytes] = [peak(), large(3)]
  await told(await maya.sendContent(phone, { document: bytes, ...document }), bytes)
  check(before, 'it received')
})
