// Files that are what they say they are, no two of them equal, and a server that hands them out.
//
// Those of ../sample were made by ffmpeg 5.1 of its own test sources (`testsrc`, `sine`): 64 × 48 pixels and 2 s of H.264,
// 3 s of MP3, 3 s of Opus, 48 × 32 pixels and 4 frames of GIF.

import { randomBytes } from 'node:crypto'
import { readFileSync } from 'node:fs'
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

const sample = (name) => readFileSync(new URL(`../sample/${name}`, import.meta.url))
const FILM = sample('film.mp4')
const SOUND = sample('sound.mp3')
const VOICE = sample('voice.ogg')
const MOVING = sample('move.gif')

/** What the containers of the three tell. */
export const FACTS = { mp4: { seconds: 2, width: 64, height: 48 }, mp3: { seconds: 3 }, opus: { seconds: 3 } }

/** A film, and behind it a box that players skip. */
export function mp4(bytes = 600_000) {
  return Buffer.concat([FILM, word(bytes + 8), Buffer.from('free'), randomBytes(bytes)])
}

/** A sound, and before it a tag (ID3v2.4) with a private frame. */
export function mp3(bytes = 20_000) {
  const safe = (value) => Buffer.from([value >> 21, value >> 14, value >> 7, value].map((part) => part & 0x7f))
  const frame = Buffer.concat([Buffer.from('PRIV'), safe(bytes + 2), Buffer.from([0, 0]), Buffer.from('x\0', 'latin1'), randomBytes(bytes)])
  return Buffer.concat([Buffer.from('ID3\x04\0\0', 'latin1'), safe(frame.length), frame, SOUND])
}

/** A voice note: Opus in an Ogg file. */
export function opus() {
  return Buffer.from(VOICE)
}

/** A picture of four frames. */
export function gif() {
  return Buffer.from(MOVING)
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
