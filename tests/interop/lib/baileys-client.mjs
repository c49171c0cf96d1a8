// One linked device run by Baileys, in any pinned version, against the loopback server.
// Keeps its credentials in a store, in the very JSON that Baileys' own file store writes, and loads them from
// there at every connection: a reconnection can never see more than was saved, nor less.

import { createCipheriv, createHash, createHmac, randomBytes } from 'node:crypto'
import * as v67 from 'baileys-67'
import * as rc14 from 'baileys-rc14'
import * as rc6 from 'baileys-rc6'
import { Journal, Tail, waitedInVain, within } from './journal.mjs'

export const VERSIONS = { rc14, rc6, v67 }

const CIPHERTEXT = 2 // WebMessageInfo.StubType.CIPHERTEXT: could not be decrypted
const RECEIPTS = { 0: 'error', 2: 'sent', 3: 'delivered', 4: 'read', 5: 'played' }
const COLLECTIONS = ['critical_block', 'critical_unblock_low', 'regular_high', 'regular_low', 'regular']
const RESTART_REQUIRED = 515

// libsignal writes whole Signal sessions to the console; they belong into the log that is shown on failure only.
const consoleTail = new Tail('console of the Baileys clients')
for (const level of ['log', 'info', 'warn', 'error']) {
  console[level] = (...parts) => consoleTail.write(() => `${level}: ${parts.map(brief).join(' ')}`)
}

// When a connection is closed, Baileys leaves what it has under way by itself, as the repetition of a retry, to fail with
// nobody looking. Whatever a test waits for fails at its own place all the same.
const CONNECTION_CLOSED = 428 // DisconnectReason.connectionClosed
const emit = process.emit
process.emit = function (event, reason, ...rest) {
  if (event === 'unhandledRejection' && reason?.output?.statusCode === CONNECTION_CLOSED) {
    consoleTail.write(() => `left behind by a closed connection: ${reason.message}`)
    return true
  }
  return emit.call(this, event, reason, ...rest)
}

function brief(part) {
  if (typeof part === 'string') return part
  if (part instanceof Error) return part.stack ?? String(part)
  try {
    return JSON.stringify(part, (_, value) => {
      if (value instanceof Error) return { message: value.message, stack: value.stack }
      if (value instanceof Uint8Array || value?.type === 'Buffer') return `<${value.length ?? value.data?.length} bytes>`
      return value
    })
  } catch {
    return String(part)
  }
}

/** pino's shape, as far as Baileys uses it. */
function logger(tail) {
  const write = (level) => (first, second) =>
    tail.write(() => `${level} ${second ?? ''} ${brief(first)}`)
  const made = { level: 'debug', trace: () => {}, debug: write('debug'), info: write('info'), warn: write('warn'), error: write('error'), fatal: write('fatal') }
  made.child = () => made
  return made
}

/** Credentials in memory. */
class MemoryStore {
  #rows = new Map()

  read(key) {
    return this.#rows.get(key)
  }

  write(key, category, json) {
    this.#rows.set(key, json)
  }

  remove(key) {
    this.#rows.delete(key)
  }

  keys(category) {
    return [...this.#rows.keys()].filter((key) => key.startsWith(`${category}-`))
  }
}

export class BaileysClient {
  /** `version` is `rc14`, `rc6` or `v67`; `store` keeps the credentials, each under `category-id`. */
  constructor(simulator, version, name = version, store = new MemoryStore()) {
    this.simulator = simulator
    this.#store = store
    this.version = version
    this.lib = VERSIONS[version]
    this.name = name
    this.tail = new Tail(`Baileys ${version} "${name}"`)
    /** Texts of others: {id, chat, chatAlt, participant, participantAlt, text, context, …}; `context` tells of replies and mentions. */
    this.texts = new Journal(`texts that ${name} decrypted`)
    /** Attachments of others: {id, chat, kind, media, message}; `media` is the part that describes the file. */
    this.media = new Journal(`attachments that ${name} got`)
    /** Everything of others that is neither text nor attachment: {id, chat, kind, content}. */
    this.others = new Journal(`other messages that ${name} got`)
    /** Texts of the own account, from this or another of its devices. */
    this.ownTexts = new Journal(`own texts that ${name} saw`)
    /** Messages that could not be decrypted at first: {id}. */
    this.undecrypted = new Journal(`messages that ${name} could not decrypt`)
    /** {id, chat, kind, user}: kind is sent, delivered, read, played or error, as Baileys' events tell it. */
    this.receipts = new Journal(`receipts that ${name} got`)
    /** {id, chat, kind, user}, straight from the stanza: of several in one batch the events tell only the last. */
    this.receiptStanzas = new Journal(`receipt stanzas that ${name} got`)
    /** {state: open|close|qr|ready, code, qr, attempt}. */
    this.states = new Journal(`connection states of ${name}`)
    this.groups = new Journal(`groups that ${name} was told of`)
    this.names = new Journal(`push names that ${name} was told as its own`)
    this.presences = new Journal(`presences that ${name} saw`)
    this.appState = new Journal(`app state runs of ${name}`)
    this.attempt = 0
  }

  #store
  #sent = new Map()
  /** Messages that this client does not get to see: of whom, and how many more. */
  #held = new Map()

  // Not `sock.user`: that is a copy from the time when the socket was made.
  get #me() {
    return this.sock.authState.creds.me
  }

  /** The own JID in phone-number form, without the device. */
  get jid() {
    return this.lib.jidNormalizedUser(this.#me.id)
  }

  get lid() {
    return this.lib.jidNormalizedUser(this.#me.lid)
  }

  get pushName() {
    return this.#me?.name
  }

  #auth() {
    const { replacer, reviver } = this.lib.BufferJSON
    const stored = this.#store.read('creds')
    const creds = stored === undefined ? this.lib.initAuthCreds() : JSON.parse(stored, reviver)
    const keys = {
      get: async (type, ids) => {
        const found = {}
        for (const id of ids) {
          const json = this.#store.read(`${type}-${id}`)
          if (json === undefined) continue
          const value = JSON.parse(json, reviver)
          found[id] = type === 'app-state-sync-key' ? this.lib.proto.Message.AppStateSyncKeyData.fromObject(value) : value
        }
        return found
      },
      set: async (data) => {
        for (const [type, values] of Object.entries(data)) {
          for (const [id, value] of Object.entries(values)) {
            if (value === null || value === undefined) this.#store.remove(`${type}-${id}`)
            else this.#store.write(`${type}-${id}`, type, JSON.stringify(value, replacer))
          }
        }
      },
    }
    return { creds, keys, save: () => this.#store.write('creds', 'credentials', JSON.stringify(creds, replacer)) }
  }

  /** Dials once. A restart demanded by the server (515) is followed at once, as any consumer of Baileys does. */
  connect() {
    const attempt = ++this.attempt
    const auth = this.#auth()
    if (this.lib.WA_CERT_DETAILS.PUBLIC_KEY) this.lib.WA_CERT_DETAILS.PUBLIC_KEY = Buffer.from(this.simulator.noiseRoot)
    const sock = this.lib.makeWASocket({
      waWebSocketUrl: this.simulator.webSocketUrl,
      auth: { creds: auth.creds, keys: auth.keys },
      browser: [`Baileys ${this.version}`, 'Chrome', '1.0'],
      logger: logger(this.tail),
      // rc.6 and 6.7 fetch the history from a fixed https host, which is no part of this suite; rc14 takes it from the
      // notification itself. With the history rc14 also fetches the app state, which the others are told to do below.
      ...(this.version !== 'rc14' ? { syncFullHistory: false, shouldSyncHistoryMessage: () => false } : {}),
      connectTimeoutMs: 10_000,
      keepAliveIntervalMs: 5_000, // pings within the suite's few seconds; the default is 30 s
      defaultQueryTimeoutMs: 10_000,
      getMessage: async ({ id }) => this.#sent.get(id),
    })
    this.sock = sock
    const emit = sock.ws.emit.bind(sock.ws)
    sock.ws.emit = (event, ...parts) => (event.startsWith('CB:message') && this.#holds(parts[0]) ? true : emit(event, ...parts))
    sock.ev.on('creds.update', (update) => {
      auth.save()
      if (update.me?.name) this.names.push(update.me.name)
      if (update.accountSyncCounter) this.appState.push({ done: true })
      if (update.myAppStateKeyId && this.version !== 'rc14') this.#syncAppState(sock)
    })
    sock.ev.on('connection.update', (update) => {
      if (update.qr) this.states.push({ state: 'qr', qr: update.qr, attempt })
      if (update.connection === 'open') this.states.push({ state: 'open', attempt })
      if (update.receivedPendingNotifications) this.states.push({ state: 'ready', attempt })
      if (update.connection === 'close') {
        const code = update.lastDisconnect?.error?.output?.statusCode
        this.states.push({ state: 'close', code, reason: update.lastDisconnect?.error?.message, attempt })
        if (code === RESTART_REQUIRED && attempt === this.attempt) this.connect()
      }
    })
    sock.ev.on('messages.upsert', ({ messages }) => messages.forEach((message) => this.#note(message)))
    sock.ev.on('messages.update', (updates) => {
      for (const { key, update } of updates) {
        if (update.message) this.#note({ key, ...update })
        this.#receipt(key, update.status)
      }
    })
    sock.ev.on('message-receipt.update', (updates) => {
      for (const { key, receipt } of updates) {
        const kind = receipt.readTimestamp ? 'read' : 'delivered'
        this.receipts.push({ id: key.id, chat: key.remoteJid, kind, user: receipt.userJid })
      }
    })
    sock.ws.on('CB:receipt', ({ attrs, content }) => {
      const kind = { undefined: 'delivered', inactive: 'delivered' }[attrs.type] ?? attrs.type
      const items = Array.isArray(content) ? content.filter((child) => child.tag === 'list').flatMap((list) => list.content) : []
      for (const id of [attrs.id, ...items.map((item) => item.attrs.id)]) {
        this.receiptStanzas.push({ id, chat: attrs.from, kind, user: attrs.participant })
      }
    })
    sock.ev.on('groups.upsert', (groups) => groups.forEach((group) => this.groups.push(group)))
    sock.ev.on('presence.update', ({ id, presences }) => {
      for (const [user, { lastKnownPresence }] of Object.entries(presences)) this.presences.push({ chat: id, user, presence: lastKnownPresence })
    })
    return attempt
  }

  /** Loses the next `count` messages of this number before they are decrypted, so that the server keeps them. */
  hold(number, count) {
    this.#held.set(number, { left: count, ids: new Set() })
  }

  /** Whether all that was to be lost has come. */
  hasHeld(number) {
    return this.#held.get(number)?.left === 0
  }

  #holds({ attrs }) {
    const told = [attrs.from, attrs.participant, attrs.sender_pn, attrs.participant_pn].map((jid) => jid?.split(/[:@]/)[0])
    const held = [...this.#held].find(([number]) => told.includes(number))?.[1]
    if (!held) return false
    if (!held.ids.has(attrs.id) && held.left > 0) {
      held.left -= 1
      held.ids.add(attrs.id)
    }
    return held.ids.has(attrs.id)
  }

  #syncAppState(sock) {
    setImmediate(() => {
      sock.resyncAppState(COLLECTIONS, true).then(
        () => this.appState.push({ done: true }),
        (error) => this.appState.push({ error: String(error) }),
      )
    })
  }

  #note(message) {
    const { key } = message
    if (message.messageStubType === CIPHERTEXT) {
      this.undecrypted.push({ id: key.id, why: message.messageStubParameters })
      return
    }
    const content = this.lib.normalizeMessageContent(message.message)
    const text = content?.conversation || content?.extendedTextMessage?.text
    if (key.fromMe) this.#receipt(key, message.status)
    if (!text) {
      if (content && !key.fromMe) this.#noteOther(message, content)
      return
    }
    const entry = {
      id: key.id,
      chat: key.remoteJid,
      chatAlt: key.remoteJidAlt,
      participant: key.participant || undefined,
      participantAlt: key.participantAlt,
      text,
      context: content.extendedTextMessage?.contextInfo ?? undefined,
      pushName: message.pushName,
      timestamp: Number(message.messageTimestamp),
    }
    const journal = key.fromMe ? this.ownTexts : this.texts
    journal.push(entry)
  }

  #noteOther(message, content) {
    const kind = this.lib.getContentType(content)
    const { id, remoteJid: chat } = message.key
    if (content[kind]?.mediaKey) this.media.push({ id, chat, kind: kind.replace('Message', ''), media: content[kind], message })
    else if (kind) this.others.push({ id, chat, kind, content: content[kind], secret: content.messageContextInfo?.messageSecret })
  }

  #receipt(key, status) {
    const kind = RECEIPTS[status]
    if (kind && key.fromMe) this.receipts.push({ id: key.id, chat: key.remoteJid, kind, user: key.participant })
  }

  async opened(attempt, options) {
    const ended = (s) => s.state === 'close' && s.code !== RESTART_REQUIRED
    const state = await this.states.find(
      `${this.name} to be connected`,
      (s) => s.attempt >= attempt && (s.state === 'open' || ended(s)),
      options,
    )
    if (ended(state)) throw waitedInVain(`${this.name} to be connected`, 0, JSON.stringify(state))
    // Baileys holds all events back until the server has told the end of the backlog.
    await this.states.find(`${this.name} to have its backlog`, (s) => s.state === 'ready' && s.attempt >= attempt, options)
  }

  /** From nothing to connected: shows a QR, has the phone scan it, restarts, logs in. */
  async pair(phone) {
    this.phone = phone
    const attempt = this.connect()
    const { qr } = await this.states.find(`a QR of ${this.name}`, (s) => s.state === 'qr' && s.attempt === attempt)
    await this.simulator.scan(qr, phone)
    await this.opened(attempt + 1)
    return this
  }

  /** From nothing to connected: asks for a code, has it typed into the phone, restarts, logs in. */
  async pairByCode(phone) {
    this.phone = phone
    const attempt = this.connect()
    await this.states.find(`${this.name} to be ready for a code`, (s) => s.state === 'qr' && s.attempt === attempt)
    const code = await within(`a code of ${this.name}`, this.sock.requestPairingCode(phone))
    await this.simulator.link(code, phone)
    await this.opened(attempt + 1)
    return this
  }

  /** A further login with the stored credentials. */
  async reconnect() {
    await this.opened(this.connect())
  }

  /** Closes the socket and keeps the credentials. */
  async disconnect() {
    const attempt = this.attempt
    await this.sock.end(undefined)
    await this.states.find(`${this.name} to be disconnected`, (s) => s.state === 'close' && s.attempt === attempt)
  }

  /** Sends a text to a number or a JID; the message id. */
  async send(to, text) {
    const jid = to.includes('@') ? to : `${to}@s.whatsapp.net`
    const sent = await within(`${this.name} to send "${text}"`, this.sock.sendMessage(jid, { text }))
    this.#sent.set(sent.key.id, sent.message)
    return sent.key.id
  }

  /** Sends anything that Baileys knows, as {image: bytes, caption}; the message id. */
  async sendContent(to, content, options) {
    const jid = to.includes('@') ? to : `${to}@s.whatsapp.net`
    const sent = await within(`${this.name} to send ${Object.keys(content)[0]}`, this.sock.sendMessage(jid, content, options))
    this.#sent.set(sent.key.id, sent.message)
    return sent.key.id
  }

  /** Sends a message as it is written, in wrappers that Baileys does not make by itself; the message id. */
  async relay(to, message) {
    const jid = to.includes('@') ? to : `${to}@s.whatsapp.net`
    const id = this.lib.generateMessageIDV2(this.sock.user.id)
    this.#sent.set(id, message)
    return within(`${this.name} to relay ${Object.keys(message)[0]}`, this.sock.relayMessage(jid, message, { messageId: id }))
  }

  /**
   * Votes in a poll as an app does, which Baileys can read but not cast; the message id. `author`: the address that the
   * poll's author goes by in this chat.
   */
  vote(to, { id, secret, author, fromMe = false }, chosen) {
    const hashes = chosen.map((name) => createHash('sha256').update(name).digest())
    const plain = this.lib.proto.Message.PollVoteMessage.encode({ selectedOptions: hashes }).finish()
    const [voter, iv] = [this.jid, randomBytes(12)]
    const hmac = (key, data) => createHmac('sha256', key).update(data).digest()
    const key = hmac(hmac(Buffer.alloc(32), secret), Buffer.concat([Buffer.from(`${id}${author}${voter}Poll Vote`), Buffer.from([1])]))
    const cipher = createCipheriv('aes-256-gcm', key, iv).setAAD(Buffer.from(`${id}\0${voter}`))
    const encPayload = Buffer.concat([cipher.update(plain), cipher.final(), cipher.getAuthTag()])
    const remoteJid = to.includes('@') ? to : `${to}@s.whatsapp.net`
    const pollCreationMessageKey = { remoteJid, fromMe, id, ...(remoteJid.endsWith('@g.us') ? { participant: author } : {}) }
    const pollUpdateMessage = { pollCreationMessageKey, vote: { encPayload, encIv: iv }, senderTimestampMs: Date.now() }
    return this.relay(to, this.lib.proto.Message.fromObject({ pollUpdateMessage }))
  }

  /** Waits for a message of somebody else that is neither text nor attachment. */
  other(id, options) {
    return this.others.find(`${this.name} to get the message ${id}`, (entry) => entry.id === id, options)
  }

  /** Waits for an attachment of somebody else. */
  attachment(id, options) {
    return this.media.find(`${this.name} to get the attachment ${id}`, (entry) => entry.id === id, options)
  }

  /** Fetches and decrypts an attachment. */
  download({ message }) {
    return within(`${this.name} to download`, this.lib.downloadMediaMessage(message, 'buffer', {}))
  }

  /** Has its phone upload an attachment again; what the attachment is then. */
  async uploadedAgain({ id, chat, kind, message }) {
    const updated = await within(`${this.name} to get ${id} uploaded again`, this.sock.updateMediaMessage(message))
    return { id, chat, kind, message: updated }
  }

  /** Waits for a text of somebody else. */
  text(text, options) {
    return this.texts.find(`${this.name} to decrypt "${text}"`, (entry) => entry.text === text, options)
  }

  /** Waits until the stanza of a receipt has come; `user` is the member in a group. */
  receipt(id, kind, { user, ...options } = {}) {
    return this.receiptStanzas.find(
      `${this.name} to get the receipt "${kind}" for ${id}${user ? ` of ${user}` : ''}`,
      (entry) => entry.id === id && entry.kind === kind && (!user || this.lib.jidNormalizedUser(entry.user) === user),
      options,
    )
  }

  /**
   * Waits until Baileys tells that a text was read, in a group by anybody. Sure to come in a group only: in a chat a
   * later receipt in the same batch, as an own companion's, takes its place.
   */
  wasRead(id, options) {
    return this.receipts.find(`${this.name} to be told that ${id} was read`, (entry) => entry.id === id && entry.kind === 'read', options)
  }

  /** Tells the sender that a text was read. */
  async read({ id, chat, participant }) {
    await within(`${this.name} to send a read receipt`, this.sock.readMessages([{ id, remoteJid: chat, participant, fromMe: false }]))
  }

  /** Loses all Signal sessions, as after a restored backup; only while disconnected. */
  forgetSessions() {
    const lost = this.#store.keys('session')
    for (const key of lost) this.#store.remove(key)
    return lost.length
  }

  /** Unlinks this device, as its own user does. */
  async logout() {
    const attempt = this.attempt
    await within(`${this.name} to log out`, this.sock.logout())
    await this.states.find(`${this.name} to be logged out`, (s) => s.state === 'close' && s.attempt === attempt)
  }

  /** Ends the client for good. */
  async close() {
    const last = this.states.entries.at(-1)
    if (this.sock && last?.state !== 'close') await this.disconnect()
    this.tail.forget()
  }
}
