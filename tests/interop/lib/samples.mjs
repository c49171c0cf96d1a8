// Files that are what they say they are, as far as their signatures and heads go, and a server that hands them out.

import { randomBytes } from 'node:crypto'
import { createServer } from 'node:http'
import { deflateSync } from 'node:zlib'

/** CRC-32 as PNG wants it; Node's own came after the oldest version that runs this suite. */
function crc32(bytes) {
  let crc = 0xffffffff
  for (const byte of bytes) {
    crc ^= byte
    for (let bit = 0; bit < 8; bit += 1) crc = (crc >>> 1) ^ (crc & 1 ? 0xedb88320 : 0)
  }
  return (crc ^ 0xffffffff) >>> 0
}

function word(value) {
  const bytes = Buffer.alloc(4)
  bytes.writeUInt32BE(value)
  return bytes
}

function chunk(type, content) {
  const body = Buffer.concat([Buffer.from(type), content])
  return Buffer.concat([word(content.length), body, word(crc32(body))])
}

/** A picture of one random colour, so that no two are equal. */
export function png(width = 40, height = 30) {
  const colour = randomBytes(3)
  const row = Buffer.concat([Buffer.from([0]), ...Array(width).fill(colour)])
  const pixels = Buffer.concat(Array(height).fill(row))
  return Buffer.concat([
    Buffer.from('\x89PNG\r\n\x1a\n', 'latin1'),
    chunk('IHDR', Buffer.concat([word(width), word(height), Buffer.from([8, 2, 0, 0, 0])])),
    chunk('IDAT', deflateSync(pixels)),
    chunk('IEND', Buffer.alloc(0)),
  ])
}

export function mp4(bytes = 600_000) {
  const head = Buffer.from('\0\0\0\x18ftypmp42\0\0\0\0mp42isom', 'latin1')
  return Buffer.concat([head, word(bytes + 8), Buffer.from('mdat'), randomBytes(bytes)])
}

export function mp3(bytes = 20_000) {
  return Buffer.concat([Buffer.from('ID3\x03\0\0\0\0\0\0', 'latin1'), randomBytes(bytes)])
}

/** The first page of an Ogg file with Opus in it, and then anything. */
export function opus(bytes = 20_000) {
  const page = Buffer.from('OggS\0\x02\0\0\0\0\0\0\0\0\x01\0\0\0\0\0\0\0\0\0\0\0\x01\x13', 'latin1')
  const head = Buffer.from('OpusHead\x01\x01\x38\x01\x80\xbb\0\0\0\0\0', 'latin1')
  return Buffer.concat([page, head, randomBytes(bytes)])
}

export function pdf(bytes = 30_000) {
  return Buffer.concat([Buffer.from('%PDF-1.4\n'), randomBytes(bytes)])
}

/** Serves files on the loopback interface. */
export class FileServer {
  #files = new Map()

  static async start() {
    const files = new FileServer()
    files.server = createServer((request, response) => {
      const file = files.#files.get(request.url)
      if (file) response.writeHead(200, { 'content-type': file.type, 'content-length': file.bytes.length }).end(file.bytes)
      else response.writeHead(404).end()
    })
    await new Promise((resolve, reject) => {
      files.server.once('error', reject)
      files.server.listen(0, '127.0.0.1', resolve)
    })
    return files
  }

  /** Offers these bytes; their URL. */
  offer(bytes, type = 'application/octet-stream') {
    const path = `/${this.#files.size + 1}`
    this.#files.set(path, { bytes, type })
    return `http://127.0.0.1:${this.server.address().port}${path}`
  }

  async stop() {
    this.server.closeAllConnections()
    await new Promise((resolve) => this.server.close(resolve))
  }
}
