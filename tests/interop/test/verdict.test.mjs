// The judgement over the feature table itself.

import assert from 'node:assert/strict'
import { test } from 'node:test'
import { ONLY_OURS, table, verdict } from '../lib/features.mjs'

const fine = { 'login': { 'baileys-rc14': 2, 'whatsapp-rust': 1 } }
const [excused] = Object.keys(ONLY_OURS)

test('verdict: what Baileys exercised too is fine, and what only Baileys exercised', () => {
  assert.deepEqual(verdict(fine), [])
  assert.deepEqual(verdict({ ...fine, other: { 'baileys-rc6': 1 } }), [])
})

test('verdict: what only our library exercised fails, unless excused', () => {
  assert.deepEqual(verdict({ ...fine, other: { 'whatsapp-rust': 1 } }), ['other: exercised by whatsapp-rust only'])
  assert.deepEqual(verdict({ ...fine, other: { 'whatsapp-rust': 1, 'baileys-rc6': 0 } }), ['other: exercised by whatsapp-rust only'])
  assert.deepEqual(verdict({ ...fine, [excused]: { 'whatsapp-rust': 1 } }), [])
})

test('verdict: an excuse that is not needed fails, and an empty table', () => {
  assert.equal(verdict({ ...fine, [excused]: { 'baileys-rc6': 1 } }).length, 1)
  assert.equal(verdict({}).length, 1)
})

test('table: one row per feature, one column per client', () => {
  assert.deepEqual(table({ b: { x: 1 }, a: { y: 20 } }), ['feature  x   y', 'a        -  20', 'b        1   -'])
})
