// The webhook receiver: an HTTP server that notes what the gateway posts and answers 200.

import { createServer } from 'node:http'
import { Journal } from './journal.mjs'

export class Receiver {
  static async start() {
    const receiver = new Receiver()
    await new Promise((resolve, reject) => {
      receiver.server.once('error', reject)
      receiver.server.listen(0, '127.0.0.1', resolve)
    })
    receiver.url = `http://127.0.0.1:${receiver.server.address().port}`
    return receiver
  }

  /** Message bodies, with the request's headers under `headers`. */
  messages = new Journal('webhook messages')
  statuses = new Journal('webhook statuses')
  acks = new Journal('webhook acks')

  constructor() {
    this.server = createServer((request, response) => {
      const chunks = []
      request.on('data', (chunk) => chunks.push(chunk))
      request.on('end', () => {
        const text = Buffer.concat(chunks).toString()
        const journal = { '/message': this.messages, '/session': this.statuses, '/ack': this.acks }[request.url]
        let body
        try {
          body = JSON.parse(text)
        } catch {
          body = undefined
        }
        if (request.method !== 'POST' || !journal || body === undefined) {
          response.writeHead(404).end()
          this.statuses.push({ unexpected: `${request.method} ${request.url} ${text}` })
          return
        }
        journal.push({ ...body, headers: request.headers })
        response.writeHead(200, { 'content-type': 'application/json' }).end('{}')
      })
    })
  }

  /** The message webhook of `session` with this text. */
  message(session, text, options) {
    return this.messages.find(
      `a webhook of session ${session} with the text "${text}"`,
      (body) => body.session === session && body.message === text,
      options,
    )
  }

  /** The message webhook of `session` for the message of this id. */
  event(session, id, options) {
    return this.messages.find(`a webhook of session ${session} for ${id}`, (body) => body.session === session && body.id === id, options)
  }

  status(session, status, options) {
    return this.statuses.find(
      `a webhook that session ${session} is ${status}`,
      (body) => body.session === session && body.status === status,
      options,
    )
  }

  async stop() {
    this.server.closeAllConnections()
    await new Promise((resolve) => this.server.close(resolve))
  }
}
