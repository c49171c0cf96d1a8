// Tests that build on one another: when one fails, the rest fail at once instead of waiting for what cannot come.

import { test } from 'node:test'

/** Steps of one story; each is bounded by `ms`. A step told by `also` matters to no later one. */
export function story(title, ms = 60_000) {
  let broken
  const tell = (name, step, matters) =>
    test(`${title}: ${name}`, { timeout: ms }, async (t) => {
      if (broken) throw new Error(`not run: "${broken}" failed before`)
      try {
        await step(t)
      } catch (error) {
        if (matters) broken = name
        throw error
      }
    })
  const then = (name, step) => tell(name, step, true)
  then.also = (name, step) => tell(name, step, false)
  return then
}
