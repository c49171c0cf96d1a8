// The loopback WhatsApp server: started as a program, commanded over its control port.

import { existsSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import { Program, freePort, http } from './program.mjs'
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
    if (process.env.SIMULATOR_PORT) {
      return Simulator.attach(process.env.SIMULATOR_PORT, process.env.SIMULATOR_CONTROL)
    }
    return Simulator.start()
  }

  static async start() {
    const [port, control] = [await freePort(), await freePort()]
    const program = new Program(
      'simulator',
      binary('WHATSAPP_SIMULATOR_BIN', 'whatsapp-simulator'),
      ['--port', String(port), '--control', String(control)],
      { ...process.env, RUST_LOG: process.env.RUST_LOG ?? 'info' },
    )
    const simulator = await Simulator.attach(port, control, program).catch(async (error) => {
      await program.stop('SIGKILL')
      throw error
    })
    simulator.program = program
    return simulator
  }

  static async attach(port, control, program) {
    const simulator = new Simulator(Number(port), Number(control))
    const root = await poll('the simulator to answer on its control port', () => {
      if (program?.ended) throw new Error('the simulator ended')
      return simulator.get('/noise-root')
    })
    simulator.noiseRoot = Buffer.from(root.public_key ?? root.root, 'hex')
    return simulator
  }

  constructor(port, control) {
    this.port = port
    this.control = control
    this.webSocketUrl = `ws://127.0.0.1:${port}/ws/chat`
  }

  async #ask(method, path, body) {
    const { status, body: answer } = await http(method, `http://127.0.0.1:${this.control}${path}`, { body })
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

  /** The phone `from` sends a text to `to` (a number, or a group's JID); the message id. */
  async say(from, to, text) {
    return (await this.post('/say', { from, to, text })).id
  }

  /** What the phone has decrypted. */
  inbox(phone) {
    return this.get(`/inbox?phone=${phone}`)
  }

  /** Waits until the phone has decrypted a text. */
  heard(phone, text, options) {
    return poll(`the phone ${phone} to decrypt "${text}"`, async () => {
      const inbox = await this.inbox(phone)
      return (inbox.messages ?? inbox).find((message) => message.text === text)
    }, options)
  }

  /** Makes a group of the phones' accounts; its JID. */
  async group(subject, owner, members) {
    return (await this.post('/group', { subject, owner, members })).jid
  }

  counters() {
    return this.get('/counters')
  }

  /** The companions linked to the phone. */
  async devices(phone) {
    const answer = await this.get('/devices')
    return (answer.devices ?? answer).filter((device) => device.phone === phone)
  }

  features() {
    return this.get('/features')
  }

  async stop() {
    await this.program?.stop()
  }
}
