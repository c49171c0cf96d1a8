// The loopback WhatsApp server: started as a program, commanded over its control port.

import { existsSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import { Program, http } from './program.mjs'
import { poll } from './journal.mjs'

const TARGET = fileURLToPath(new URL('../../../target/debug/', import.meta.url))

/** Path of a built binary: from the environment, else where cargo puts it. */
export function binary(variable, name) {
  const path = process.env[variable] || `${TARGET}${name}`
  if (!existsSync(path)) throw new Error(`${path} does not exist: build it, or set ${variable}`)
  return path
}

export class Simulator {
  /** The server that `run.mjs` started, or, for a test file run by itself, one of its own. */
  static async obtain() {
    return process.env.SIMULATOR_URLS ? new Simulator(JSON.parse(process.env.SIMULATOR_URLS)) : Simulator.start()
  }

  static async start() {
    const program = new Program('simulator', binary('WHATSAPP_SIMULATOR_BIN', 'whatsapp-simulator'), ['--port', '0', '--control', '0', '--tls-port', '0', '--compress'], process.env)
    try {
      const first = await program.lines.find('the simulator to tell its addresses', (line) => line.startsWith('{'))
      const simulator = new Simulator(JSON.parse(first))
      simulator.program = program
      return simulator
    } catch (error) {
      await program.stop('SIGKILL')
      throw error
    }
  }

  /** `urls` is the line of JSON that the program prints when it is ready. */
  constructor(urls) {
    this.urls = urls
    this.webSocketUrl = urls.ws.endsWith('/ws/chat') ? urls.ws : `${urls.ws}/ws/chat`
    this.noiseRoot = Buffer.from(urls.noise_root, 'hex')
  }

  async #ask(method, path, body) {
    const { status, body: answer } = await http(method, this.urls.control + path, { body })
    if (status >= 300) throw new Error(`simulator, ${method} ${path}: ${status} ${JSON.stringify(answer)}`)
    return answer
  }

  get(path) {
    return this.#ask('GET', path)
  }

  post(path, body) {
    return this.#ask('POST', path, body)
  }

  /** Acts as the phone `phone`, which scans the code. */
  scan(qr, phone) {
    return this.post('/scan', { qr, phone })
  }

  /** Makes an account, or changes its settings. */
  account(phone, settings = {}) {
    return this.post('/account', { phone, ...settings })
  }

  /** The phone `from` sends a text to `to` (a number, or a JID); the message id. */
  async say(from, to, text) {
    return (await this.post('/say', { phone: from, to, text })).id
  }

  /** The phone tells that it has read messages of a chat. */
  read(phone, chat, ids, participant) {
    return this.post('/read', { phone, chat, ids, participant })
  }

  /** Types the code that a client shows into the phone `phone`; waits until the client shows one. */
  link(code, phone, options) {
    return poll(`the phone ${phone} to be linked by code`, () => this.post('/link', { code, phone }), options)
  }

  /** The phone `from` sends an attachment: {kind, bytes, mimetype, caption, file_name, seconds}; the message id. */
  async sendMedia(from, to, { bytes, ...media }) {
    return (await this.post('/send-media', { phone: from, to, base64: bytes.toString('base64'), ...media })).id
  }

  /** The phone `from` sends an encoded message; the message id. */
  async sendMessage(from, to, encoded) {
    return (await this.post('/send', { phone: from, to, message: Buffer.from(encoded).toString('base64') })).id
  }

  /** Waits until the phone has decrypted a message. */
  received(phone, id, options) {
    return poll(`the phone ${phone} to decrypt ${id}`, async () => (await this.inbox(phone)).find((message) => message.id === id), options)
  }

  /** The attachment of a message that the phone has decrypted, in clear. */
  async download(phone, id) {
    const answer = await fetch(`${this.urls.control}/download?phone=${phone}&id=${id}`, { signal: AbortSignal.timeout(30_000) })
    if (!answer.ok) throw new Error(`simulator, the attachment of ${id}: ${answer.status} ${await answer.text()}`)
    return Buffer.from(await answer.arrayBuffer())
  }

  /** Sets the picture of the phone, or of a group by it; its id. */
  async setPicture(phone, bytes, group) {
    return (await this.post('/picture', { phone, group, base64: bytes?.toString('base64') })).id
  }

  /** What the phone has decrypted. */
  inbox(phone) {
    return this.get(`/inbox?phone=${phone}`)
  }

  /** Waits until the phone has decrypted a text. */
  heard(phone, text, options) {
    return poll(`the phone ${phone} to decrypt "${text}"`, async () => (await this.inbox(phone)).find((message) => message.text === text), options)
  }

  /** Waits for a receipt that the phone got. */
  receipt(phone, id, kind, options) {
    return poll(`the phone ${phone} to get the receipt "${kind}" for ${id}`, async () => {
      const receipts = await this.get(`/receipts?phone=${phone}`)
      return receipts.find((receipt) => receipt.id === id && receipt.kind === kind)
    }, options)
  }

  /** Waits until all companions of a phone have acknowledged everything. */
  settled(phone, options) {
    return poll(`the companions of ${phone} to acknowledge everything`, async () => (await this.devices(phone)).every((device) => device.queued === 0), options)
  }

  /** When it has noticed that no companion of a phone is connected. */
  async away(phone, options) {
    return poll(`the companions of ${phone} to be away`, async () => (await this.devices(phone)).every((device) => !device.online), options)
  }

  /** Makes a group of these numbers, the first its admin; its JID. */
  async group(subject, members, lid = false) {
    return (await this.post('/group', { subject, members, lid })).jid
  }

  counters() {
    return this.get('/counters')
  }

  /** The companions linked to the phone. */
  devices(phone) {
    return this.get(`/devices?phone=${phone}`)
  }

  /** The phone logs all its companions out. */
  async unlinkAll(phone) {
    for (const { device } of await this.devices(phone)) await this.post('/unlink', { phone, device })
  }

  features() {
    return this.get('/features')
  }

  async stop() {
    await this.program?.stop('SIGINT')
  }
}
