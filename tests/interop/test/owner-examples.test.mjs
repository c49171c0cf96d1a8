// The owner's page on deleting sessions: its examples are run as they stand there, from the page itself. Only the
// address is replaced. Every example meets a connected session, one that waits for a scan, and a logged-out one.

import assert from 'node:assert/strict'
import { execFile } from 'node:child_process'
import { mkdir, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, test } from 'node:test'
import { fileURLToPath } from 'node:url'
import { poll } from '../lib/journal.mjs'
import { http } from '../lib/program.mjs'
import { World } from '../lib/world.mjs'

/** The session of the page's examples. */
const ID = '36be407f-1400-46f1-b259-58e3aa4f6179'
const ADDRESS = 'http://localhost:5001'
const LIMIT = { timeout: 60_000 }

const page = await readFile(new URL('../owner/delete-session.md', import.meta.url), 'utf8')
const blocks = [...page.matchAll(/^```(\w+)\n([^]*?)^```$/gm)].map(([, language, text]) => ({ language, text }))

/** The only code block of the page in this language that holds all these words. */
function block(language, ...words) {
  const found = blocks.filter((one) => one.language === language && words.every((word) => one.text.includes(word)))
  assert.equal(found.length, 1, `${found.length} blocks in ${language} with ${words}`)
  return found[0].text
}

const world = await World.open('90')
const { simulator } = world
const gateway = await world.gateway()
const base = `http://127.0.0.1:${gateway.port}`
const here = (text) => {
  assert.ok(text.includes(ADDRESS), text)
  return text.replaceAll(ADDRESS, base)
}
const folder = await mkdtemp(join(tmpdir(), 'owner-examples-'))
after(() => rm(folder, { recursive: true, force: true }))

/** Runs a program to its end: code and what it printed. */
function run(program, args, env = {}) {
  const NODE_PATH = fileURLToPath(new URL('../node_modules', import.meta.url))
  const options = { cwd: folder, timeout: 30_000, env: { PATH: process.env.PATH, NODE_PATH, ...env } }
  return new Promise((resolve) => {
    execFile(program, args, options, (error, stdout, stderr) => resolve({ code: error ? error.code : 0, stdout, stderr }))
  })
}

/** Runs a shell block; the JSON that it prints. */
async function shell(text) {
  const { code, stdout, stderr } = await run('sh', ['-c', here(text)])
  assert.equal(code, 0, stderr)
  return JSON.parse(stdout)
}

/** Runs a script of its own beside the helpers. */
async function script(name, text, env) {
  await writeFile(join(folder, name), text)
  return run(process.execPath, [name], env)
}

/** The page's answer, with another session and time. */
function success(answer, session = ID) {
  const shown = JSON.parse(block('json', '"deletedAt"').replaceAll(ID, session))
  assert.match(answer.data.deletedAt, /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$/)
  shown.data.deletedAt = answer.data.deletedAt
  assert.deepEqual(answer, shown)
}
const notFound = JSON.parse(block('json', 'not found'))

/** Runs one of the two scripts that delete the page's session; it prints what the gateway answered. */
async function deletingScript(name, text) {
  const { code, stdout, stderr } = await script(name, here(text))
  assert.equal(code, 0, stderr)
  assert.equal(stderr, '')
  assert.ok(stdout.startsWith('Session deleted:'), stdout)
  assert.ok(stdout.includes('success: true') && stdout.includes(`Session '${ID}' deleted successfully`), stdout)
}

/** The React component's handler, without what it draws. */
async function reactHandler() {
  const text = here(block('jsx', 'handleDeleteSession'))
  const handler = text.slice(text.indexOf('const handleDeleteSession'), text.indexOf('return (\n'))
  const told = { loading: [], message: '', id: ID }
  const make = new Function('sessionId', 'setSessionId', 'setLoading', 'setMessage', `${handler}; return handleDeleteSession`)
  const handle = make(ID, (id) => (told.id = id), (loading) => told.loading.push(loading), (message) => (told.message = message))
  await handle({ preventDefault() {} })
  return told
}

await mkdir(join(folder, 'helpers'))
await writeFile(join(folder, 'helpers', 'session.js'), block('javascript', 'module.exports'))
const HELPED = { WA_GATEWAY_URL: base, WA_GATEWAY_KEY: 'secret' }
const usage = block('javascript', 'async function example1')

/** What a call of the helpers gives. */
async function helper(call, env = HELPED) {
  const text = `require('./helpers/session').${call}.then((result) => console.log(JSON.stringify(result)))`
  const { code, stdout, stderr } = await script('call.js', text, env)
  assert.equal(code, 0, stderr)
  return { result: JSON.parse(stdout), stderr }
}

const STATES = {
  connected: async (session, phone) => {
    await gateway.pair(session, phone)
  },
  'waiting for a scan': async (session) => {
    assert.ok(await gateway.begin(session))
    assert.equal((await gateway.listed(session)).status, 'connecting')
  },
  'logged out': async (session, phone) => {
    await gateway.pair(session, phone)
    await simulator.unlinkAll(phone)
    await poll(`session ${session} to be disconnected`, async () => (await gateway.listed(session)).status === 'disconnected')
  },
}

const DELETING = {
  'curl -X DELETE': async () => success(await shell(block('bash', 'curl -X DELETE'))),
  fetch: () => deletingScript('fetch.js', block('javascript', 'await fetch(')),
  axios: () => deletingScript('axios.js', block('javascript', 'async function deleteSession', 'axios.delete(')),
  'the React component': async () => {
    assert.deepEqual(await reactHandler(), { loading: [true, false], message: `✅ Session '${ID}' deleted successfully`, id: '' })
  },
  'the Thunder Client request': async () => {
    const { method, url, headers } = JSON.parse(here(block('json', '"method"')))
    const { status, body } = await http(method, url, { headers })
    assert.equal(status, 200)
    success(body)
  },
  'deleteWhatsAppSession()': async () => {
    const { code, stdout, stderr } = await script('one.js', `${usage}\nexample1()`, HELPED)
    assert.equal(code, 0, stderr)
    assert.ok(stdout.startsWith('Session deleted:') && stdout.includes(`Session '${ID}' deleted successfully`), stdout + stderr)
  },
}

const LOGGING_OUT = {
  'curl of logout by GET': () => shell(block('bash', 'curl "http', '/session/logout')),
  'curl of logout by POST': () => shell(block('bash', 'curl -X POST', '/session/logout')),
}

for (const [state, prepare] of Object.entries(STATES)) {
  const phone = world.phone()

  for (const [example, remove] of Object.entries(DELETING)) {
    test(`${example} deletes a session that is ${state}`, LIMIT, async () => {
      await prepare(ID, phone)
      await remove()
      assert.equal(await gateway.listed(ID), undefined)
      assert.equal((await gateway.ask('GET', `/session/${ID}`)).status, 404)
      assert.deepEqual(await simulator.devices(phone), [], 'unlinked at WhatsApp')
      const again = await gateway.ask('DELETE', `/session/${ID}`)
      assert.deepEqual(again, { status: 404, body: notFound })
    })
  }

  for (const [example, logout] of Object.entries(LOGGING_OUT)) {
    test(`${example} of a session that is ${state}, then a delete`, LIMIT, async () => {
      await prepare(ID, phone)
      assert.deepEqual(await logout(), JSON.parse(block('json', '"data": "success"')))
      assert.deepEqual(await simulator.devices(phone), [], 'unlinked at WhatsApp')
      assert.equal((await gateway.listed(ID)).status, 'disconnected')
      success(await shell(block('bash', 'curl -X DELETE')))
      assert.equal(await gateway.listed(ID), undefined)
    })
  }
}

test('what the page says of errors', LIMIT, async () => {
  assert.deepEqual(await shell(block('bash', 'curl -X DELETE')), notFound)
  const missing = await gateway.ask('DELETE', '/session/')
  assert.deepEqual(missing, { status: 400, body: JSON.parse(block('json', 'Session ID is required')) })
  const failed = await script('axios-failed.js', here(block('javascript', 'async function deleteSession', 'axios.delete(')))
  assert.equal(failed.code, 1)
  assert.ok(failed.stderr.startsWith(`Error: Session '${ID}' not found`), failed.stderr)
  assert.deepEqual((await reactHandler()).message, `❌ Error: Session '${ID}' not found`)
  const unknown = await helper(`deleteWhatsAppSession('${ID}')`)
  assert.deepEqual(unknown.result, { success: false, error: `Session '${ID}' not found`, statusCode: 404 })
  const wrong = { ...HELPED, WA_GATEWAY_KEY: 'wrong' }
  const refused = await helper(`deleteWhatsAppSession('${ID}')`, wrong)
  assert.deepEqual(refused.result, { success: false, error: 'Unauthorized', statusCode: 401 })
  const none = await helper('getAllSessions()', wrong)
  assert.deepEqual(none.result, [])
  assert.match(none.stderr, /401/)
})

test('the helpers list all sessions, delete one, and delete the disconnected ones only', LIMIT, async () => {
  assert.deepEqual((await helper('getAllSessions()')).result, [])
  const sessions = { kasir: 'connected', gudang: 'waiting for a scan', toko: 'logged out', warung: 'logged out' }
  const phones = {}
  for (const [session, state] of Object.entries(sessions)) {
    phones[session] = world.phone()
    await STATES[state](session, phones[session])
  }
  const statuses = async () => {
    const { result } = await helper('getAllSessions()')
    return Object.fromEntries(result.map((entry) => [entry.session, entry.status]))
  }
  assert.deepEqual(await statuses(), { kasir: 'connected', gudang: 'connecting', toko: 'disconnected', warung: 'disconnected' })

  const { result } = await helper('deleteDisconnectedSessions()')
  assert.deepEqual({ ...result, sessions: result.sessions.sort() }, { total: 2, deleted: 2, failed: 0, sessions: ['toko', 'warung'] })
  assert.deepEqual(await statuses(), { kasir: 'connected', gudang: 'connecting' })
  assert.equal((await simulator.devices(phones.kasir)).length, 1, 'the connected one stays linked')

  // Deleted names are free at once.
  await STATES['logged out']('toko', phones.toko)
  const { code, stdout, stderr } = await script('all.js', `${usage}\nexample2()`, HELPED)
  assert.equal(code, 0, stderr)
  assert.equal(stdout, 'Deleted 1 of 1 disconnected sessions\n')

  const one = await helper(`deleteWhatsAppSession('kasir')`)
  assert.equal(one.result.success, true)
  success(one.result.data, 'kasir')
  assert.deepEqual(await statuses(), { gudang: 'connecting' })
  assert.deepEqual(await simulator.devices(phones.kasir), [])
})
