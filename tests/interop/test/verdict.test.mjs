// The judgement over the feature table itself.

import assert from 'node:assert/strict'
import { test } from 'node:test'
import { ONLY_OURS, table, verdict } from '../lib/features.mjs'

const fine = { login: ['baileys', 'whatsapp-rust'] }
const [excused] = Object.keys(ONLY_OURS)

test('verdict: what Baileys exercised too is fine, and what only Baileys exercised', () => {
  assert.deepEqual(verdict(fine), [])
  assert.deepEqual(verdict({ ...fine, other: ['baileys'] }), [])
})

test('verdict: what only our library exercised fails, unless excused', () => {
  assert.deepEqual(verdict({ ...fine, other: ['whatsapp-rust'] }), ['other: exercised by whatsapp-rust only'])
  assert.deepEqual(verdict({ ...fine, other: ['phone', 'whatsapp-rust'] }), ['other: exercised by whatsapp-rust only'])
  assert.deepEqual(verdict({ ...fine, [excused]: ['whatsapp-rust'] }), [])
})

test('verdict: an excuse that is not needed fails, and an empty table', () => {
  assert.equal(verdict({ ...fine, [excused]: ['baileys', 'whatsapp-rust'] }).length, 1)
  assert.equal(verdict({}).length, 1)
})

test('table: one row per feature, one column per client', () => {
  assert.deepEqual(table({ b: ['x'], a: ['y'] }), ['feature  x  y', 'a        -  x', 'b        x  -'])
})
