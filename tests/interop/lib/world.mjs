// What a test file needs: the simulator, and Baileys clients that are closed at the end.

import { after } from 'node:test'
import { BaileysClient } from './baileys-client.mjs'
import { Gateway } from './gateway.mjs'
import { redirectMediaHosts } from './media-hosts.mjs'
import { Receiver } from './receiver.mjs'
import { FileServer } from './samples.mjs'
import { Simulator } from './simulator.mjs'

let numbers = 0

export class World {
  #closing = []

  /**
   * `series` (two digits) keeps this file's phone numbers apart from those of the others; `alone` gives it a server of its
   * own, whose counters nobody else moves.
   */
  static async open(series, { alone = false } = {}) {
    const world = new World()
    world.series = series
    world.simulator = await (alone ? Simulator.start() : Simulator.obtain())
    world.#closing.push(() => world.simulator.stop())
    await redirectMediaHosts(world.simulator)
    after(() => world.close(), { timeout: 60_000 })
    return world
  }

  /** A number that nobody else uses. */
  phone() {
    numbers += 1
    return `62812${this.series}${String(numbers).padStart(6, '0')}`
  }

  client(version, name, store) {
    const client = new BaileysClient(this.simulator, version, name, store)
    this.#closing.push(() => client.close())
    return client
  }

  /** A client of this version, paired with a phone of its own. */
  paired(version, name) {
    return this.client(version, name).pair(this.phone())
  }

  /** A gateway with a webhook receiver; not `started`, it waits for `up`. */
  async gateway({ started = true } = {}) {
    const receiver = await Receiver.start()
    this.#closing.push(() => receiver.stop())
    const gateway = await Gateway.make(this.simulator, receiver)
    this.#closing.push(() => gateway.stop())
    if (started) await gateway.up()
    return gateway
  }

  /** Has something ended with the world. */
  closing(end) {
    this.#closing.push(end)
  }

  /** A server of files to be fetched. */
  async files() {
    const files = await FileServer.start()
    this.#closing.push(() => files.stop())
    return files
  }

  /** Ends all in reverse order, every one of them even when one fails. */
  async close() {
    const failures = []
    for (const end of this.#closing.splice(0).reverse()) {
      try {
        await end()
      } catch (error) {
        failures.push(error)
      }
    }
    if (failures.length) throw new AggregateError(failures, failures.map(String).join('\n'))
  }
}
