// Waiting with deadlines. Everything that happens is written into a journal; a test waits for an entry,
// already there or still to come. A wait that fails says what it waited for and shows the tails of all logs.

/** Milliseconds that a wait takes at most unless told otherwise. */
export const DEADLINE = 15_000

/** Lines kept per log: enough to see the last exchange, small enough to read. */
const KEPT = 400
const SHOWN = 40

const tails = new Set()

/** A bounded log of one process or client; its end is shown when a wait fails. */
export class Tail {
  #lines = []

  constructor(name) {
    this.name = name
    tails.add(this)
  }

  /** Takes a line, or a function that makes it only when it is shown. */
  write(line) {
    this.#lines.push(line)
    if (this.#lines.length > KEPT) this.#lines.shift()
  }

  read(count = SHOWN) {
    return this.#lines.slice(-count).map((line) => {
      const text = typeof line === 'function' ? line() : line
      return text.length > 600 ? `${text.slice(0, 600)}…` : text
    })
  }

  /** Takes the log out of failure reports. */
  forget() {
    tails.delete(this)
  }
}

/** All logs' ends, as one text. */
export function logTails() {
  return [...tails].map((tail) => `--- ${tail.name}\n${tail.read().join('\n')}`).join('\n')
}

/** The error of a wait that came to nothing. */
export function waitedInVain(what, ms, seen) {
  return new Error(`waited ${ms} ms for ${what}\nseen: ${seen}\n${logTails()}`)
}

/** An append-only list on which one can wait. */
export class Journal {
  entries = []
  #waiting = new Set()

  constructor(name) {
    this.name = name
  }

  push(entry) {
    this.entries.push(entry)
    for (const wait of [...this.#waiting]) wait(entry)
  }

  filter(predicate) {
    return this.entries.filter(predicate)
  }

  /** The first entry that fits, from the `from`-th on; waits for it if need be. */
  find(what, predicate, { ms = DEADLINE, from = 0 } = {}) {
    const known = this.entries.slice(from).find(predicate)
    if (known !== undefined) return Promise.resolve(known)
    return new Promise((resolve, reject) => {
      const wait = (entry) => {
        if (!predicate(entry)) return
        clearTimeout(timer)
        this.#waiting.delete(wait)
        resolve(entry)
      }
      const timer = setTimeout(() => {
        this.#waiting.delete(wait)
        const seen = `${this.name} holds ${this.entries.length}: ${JSON.stringify(this.entries.slice(-12))}`
        reject(waitedInVain(what, ms, seen))
      }, ms)
      this.#waiting.add(wait)
    })
  }
}

/** Asks until the answer is truthy, every 50 ms. */
export async function poll(what, ask, { ms = DEADLINE } = {}) {
  const end = Date.now() + ms
  let last
  for (;;) {
    try {
      last = await ask()
      if (last) return last
    } catch (error) {
      last = error
    }
    if (Date.now() >= end) {
      const seen = last instanceof Error ? String(last) : JSON.stringify(last)
      throw waitedInVain(what, ms, seen)
    }
    await new Promise((resolve) => setTimeout(resolve, 50))
  }
}

/** A promise under a deadline. */
export function within(what, promise, { ms = DEADLINE } = {}) {
  let timer
  const late = new Promise((_, reject) => {
    timer = setTimeout(() => reject(waitedInVain(what, ms, 'nothing')), ms)
  })
  return Promise.race([promise, late]).finally(() => clearTimeout(timer))
}
