// WhatsApp's media and picture hosts have fixed names: whatever in this process dials them by TLS reaches the simulator.

import { syncBuiltinESMExports } from 'node:module'
import tls from 'node:tls'

const HOST = /\.whatsapp\.net$/

let target

/** Sends connections to the media hosts to this simulator, whose test root is trusted for them only. */
export async function redirectMediaHosts(simulator) {
  const { port } = new URL(simulator.urls.wss)
  target = { host: '127.0.0.1', port: Number(port), servername: 'localhost', ca: await simulator.get('/root.pem'), ALPNProtocols: ['http/1.1'] }
}

const connect = tls.connect
tls.connect = (...parts) => {
  const [options, ...rest] = parts
  const name = typeof options === 'object' ? (options.servername || options.host || options.hostname) : undefined
  if (target && name && HOST.test(name)) return connect({ ...options, ...target, session: undefined }, ...rest)
  return connect(...parts)
}
// https and fetch look the function up when they connect.
syncBuiltinESMExports()
