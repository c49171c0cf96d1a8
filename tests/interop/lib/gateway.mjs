// The gateway: started as a program in a folder of its own, spoken to over HTTP as its users do.

import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { Program, freePort, http } from './program.mjs'
import { poll } from './journal.mjs'
import { binary } from './simulator.mjs'

const KEY = 'secret'

export class Gateway {
  /** One with a folder of its own, which does not run yet. */
  static async make(simulator, receiver) {
    const gateway = new Gateway(simulator, receiver)
    gateway.folder = await mkdtemp(join(tmpdir(), 'wa-gateway-interop-'))
    return gateway
  }

  constructor(simulator, receiver) {
    this.simulator = simulator
    this.receiver = receiver
  }

  get credentials() {
    return join(this.folder, 'wa_credentials')
  }

  /** Starts the program with these arguments, on the folder. */
  async run(args = [], settings = {}) {
    this.port = await freePort()
    return new Program(
      'gateway',
      binary('WA_GATEWAY_BIN', 'wa-gateway'),
      args,
      {
        PATH: process.env.PATH,
        KEY,
        PORT: String(this.port),
        HOST: '127.0.0.1',
        NODE_ENV: 'development',
        CREDENTIALS_DIR: this.credentials,
        WEBHOOK_BASE_URL: this.receiver.url,
        WEBHOOK_EVENTS: 'message,session,ack',
        WHATSAPP_WS_URL: this.simulator.webSocketUrl,
        WHATSAPP_MEDIA_URL: this.simulator.urls.media,
        RUST_LOG: process.env.RUST_LOG ?? 'info',
        ...settings,
      },
      this.folder,
    )
  }

  /** Starts the process on the folder and waits for `/health`. */
  async up(settings, ms) {
    this.program = await this.run([], settings)
    await poll('the gateway to answer /health', async () => {
      if (this.program.ended) throw new Error('the gateway ended')
      return (await http('GET', `http://127.0.0.1:${this.port}/health`)).status === 200
    }, { ms })
  }

  /** SIGTERM, the end, a new process on the same folder. */
  async restart() {
    const { code } = await this.program.stop()
    if (code !== 0) throw new Error(`the gateway ended with code ${code} on SIGTERM`)
    await this.up()
  }

  ask(method, path, body) {
    return http(method, `http://127.0.0.1:${this.port}${path}`, { body, headers: { key: KEY } })
  }

  async #ok(method, path, body) {
    const answer = await this.ask(method, path, body)
    if (answer.status !== 200) throw new Error(`gateway, ${method} ${path}: ${answer.status} ${JSON.stringify(answer.body)}`)
    return answer.body
  }

  /** Starts a session; its QR. */
  async begin(session) {
    return (await this.#ok('POST', '/session/start', { session })).qr
  }

  /** The session's entry in the list, or undefined. */
  async listed(session) {
    return (await this.#ok('GET', '/session')).data.find((entry) => entry.session === session)
  }

  connected(session, options) {
    return poll(`session ${session} to be connected`, async () => {
      const entry = await this.listed(session)
      return entry?.status === 'connected' && entry
    }, options)
  }

  /** From nothing to connected. */
  async pair(session, phone) {
    await this.simulator.scan(await this.begin(session), phone)
    return this.connected(session)
  }

  /** Sends a text; the message id. */
  async send(session, to, text, is_group = false) {
    const { data } = await this.#ok('POST', '/message/send-text', { session, to, text, is_group })
    return data.key.id
  }

  /** Waits until a sent message has got so far. */
  reached(session, id, status) {
    return poll(`message ${id} to be ${status}`, async () => {
      const { data } = await this.#ok('GET', `/message/${id}?session=${session}`)
      return data.status === status && data
    })
  }

  /** Sends what `/message/<path>` takes, as JSON; the answer's `data`. */
  async message(path, body) {
    return (await this.#ok('POST', `/message/${path}`, body)).data
  }

  /** The same as multipart, `part` being {field, bytes, type, name}; the answer's `data`. */
  async upload(path, fields, part) {
    const form = new FormData()
    for (const [name, value] of Object.entries(fields)) form.append(name, String(value))
    form.append(part.field, new Blob([part.bytes], { type: part.type }), part.name)
    const url = `http://127.0.0.1:${this.port}/message/${path}`
    const answer = await fetch(url, { method: 'POST', headers: { key: KEY }, body: form, signal: AbortSignal.timeout(30_000) })
    const text = await answer.text()
    if (answer.status !== 200) throw new Error(`gateway, POST /message/${path}: ${answer.status} ${text}`)
    return JSON.parse(text).data
  }

  /** What `GET /media/<name>` answers: {status, type, bytes}. */
  async file(name) {
    const answer = await fetch(`http://127.0.0.1:${this.port}/media/${encodeURIComponent(name)}`, { signal: AbortSignal.timeout(30_000) })
    return { status: answer.status, type: answer.headers.get('content-type'), bytes: Buffer.from(await answer.arrayBuffer()) }
  }

  remove(session) {
    return this.#ok('DELETE', `/session/${session}`)
  }

  async stop() {
    await this.program?.stop()
    await rm(this.folder, { recursive: true, force: true })
  }
}
