// One child process: its log, its readiness, its end. Stopped by its own id and by nothing else.

import { spawn } from 'node:child_process'
import { createInterface } from 'node:readline'
import { createServer } from 'node:net'
import { Journal, Tail, within } from './journal.mjs'

const running = new Set()
// Whatever ends this process, its children end with it.
process.on('exit', () => running.forEach((child) => child.kill('SIGKILL')))
for (const signal of ['SIGINT', 'SIGTERM']) process.once(signal, () => process.exit(1))

export class Program {
  /** Starts `binary`; `ready` lines are found in `lines`. */
  constructor(name, binary, args, env, cwd) {
    this.name = name
    this.tail = new Tail(name)
    this.lines = new Journal(`${name}'s log`)
    this.child = spawn(binary, args, { env, cwd, stdio: ['ignore', 'pipe', 'pipe'] })
    running.add(this.child)
    this.exit = new Promise((resolve) => {
      this.child.once('error', (error) => {
        this.tail.write(`could not start: ${error.message}`)
        resolve({ code: null, signal: null, error })
      })
      this.child.once('exit', (code, signal) => {
        this.tail.write(`ended: code ${code}, signal ${signal}`)
        resolve({ code, signal })
      })
    })
    this.exit.then((end) => {
      running.delete(this.child)
      this.ended = end
    })
    for (const stream of [this.child.stdout, this.child.stderr]) {
      createInterface({ input: stream }).on('line', (line) => {
        // eslint-disable-next-line no-control-regex
        const plain = line.replace(/\u001b\[[0-9;]*m/g, '')
        this.tail.write(plain)
        this.lines.push(plain)
      })
    }
  }

  /** Sends a signal and waits for the end; what has not ended by then is killed and reported. */
  async stop(signal = 'SIGTERM', ms = 25_000) {
    if (!this.ended) this.child.kill(signal)
    try {
      return await within(`${this.name} to end on ${signal}`, this.exit, { ms })
    } catch (error) {
      this.child.kill('SIGKILL')
      await this.exit
      throw error
    } finally {
      this.tail.forget()
    }
  }
}

/** A port of the loopback interface that is free at this moment. */
export function freePort() {
  return new Promise((resolve, reject) => {
    const server = createServer()
    server.once('error', reject)
    server.listen(0, '127.0.0.1', () => {
      const { port } = server.address()
      server.close(() => resolve(port))
    })
  })
}

/** One HTTP exchange with a deadline: status and parsed body. */
export async function http(method, url, { body, headers = {}, ms = 30_000 } = {}) {
  const answer = await fetch(url, {
    method,
    headers: { ...(body === undefined ? {} : { 'content-type': 'application/json' }), ...headers },
    body: body === undefined ? undefined : JSON.stringify(body),
    signal: AbortSignal.timeout(ms),
  })
  const text = await answer.text()
  let parsed = text
  try {
    parsed = JSON.parse(text)
  } catch {
    // Not every answer is JSON; the text then stands for itself.
  }
  return { status: answer.status, body: parsed }
}
