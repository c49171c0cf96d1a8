// Tests that build on one another: when one fails, the rest fail at once instead of waiting for what cannot come.

import { test } from 'node:test'

/** A chapter of one story; `ms` bounds each step. */
export function story(title, ms = 60_000) {
  let broken
  return (name, step) =>
    test(`${title}: ${name}`, { timeout: ms }, async (t) => {
      if (broken) throw new Error(`not run: "${broken}" failed before`)
      try {
        await step(t)
      } catch (error) {
        broken = name
        throw error
      }
    })
}
