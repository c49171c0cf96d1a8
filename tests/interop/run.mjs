// `npm test`: starts the simulator, runs every test file against it, then judges the table feature × client.
// Takes built programs: WHATSAPP_SIMULATOR_BIN and WA_GATEWAY_BIN (a build with the feature `simulator`), by default
// from the workspace's target/debug. `node run.mjs group habits` runs the files with those words in their names only.

import { spawn } from 'node:child_process'
import { readdirSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import { ONLY_OURS, table, verdict } from './lib/features.mjs'
import { Simulator, binary } from './lib/simulator.mjs'

/** The whole suite takes some four minutes, and twice that on a busy machine; what takes longer hangs. */
const LIMIT = 480_000

const folder = fileURLToPath(new URL('./test/', import.meta.url))
const wanted = process.argv.slice(2)
const files = readdirSync(folder).filter((name) => name.endsWith('.test.mjs') && (!wanted.length || wanted.some((part) => name.includes(part)))).sort()
const complete = !wanted.length

if (files.some((name) => name.includes('gateway'))) binary('WA_GATEWAY_BIN', 'wa-gateway')
const started = Date.now()
const simulator = await Simulator.start()
let code
let features
let counters
try {
  code = await new Promise((resolve) => {
    const tests = spawn(
      process.execPath,
      ['--test', '--test-concurrency=2', '--test-force-exit', '--test-reporter=spec', ...files.map((name) => folder + name)],
      {
        stdio: 'inherit',
        env: { ...process.env, SIMULATOR_URLS: JSON.stringify(simulator.urls) },
      },
    )
    process.once('exit', () => tests.kill())
    const timer = setTimeout(() => {
      console.error(`not ended after ${LIMIT / 1000} s`)
      tests.kill('SIGTERM')
    }, LIMIT)
    tests.once('exit', (status) => {
      clearTimeout(timer)
      resolve(status ?? 1)
    })
  })
  features = await simulator.features()
  counters = await simulator.counters()
} finally {
  await simulator.stop()
}

console.log('\nWhat each client exercised on the simulator:')
for (const line of table(features)) console.log(`  ${line}`)
for (const [name, reason] of Object.entries(ONLY_OURS)) console.log(`  excused: ${name}: ${reason}`)
const problems = complete ? verdict(features) : []
for (const name of ['violations', 'repeated_counters', 'repeated_ciphertexts']) {
  if (counters[name]) problems.push(`${name}: ${counters[name]} ${JSON.stringify(counters.violations_seen)}`)
}
for (const problem of problems) console.log(`  PROBLEM ${problem}`)

const seconds = ((Date.now() - started) / 1000).toFixed(0)
if (code === 0 && problems.length === 0) {
  console.log(`interop: passed in ${seconds} s (${files.length} files${complete ? '' : ', not the whole suite'})`)
} else {
  console.log(`interop: FAILED in ${seconds} s (tests ended with ${code}, ${problems.length} problems in the table)`)
  process.exitCode = 1
}
