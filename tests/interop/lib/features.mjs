// What the simulator saw from whom: a table, and the verdict that our own library alone must not define the server.

/** The simulator's name for the gateway's library. */
const OURS = 'whatsapp-rust'

/** Features that no Baileys client can exercise, each with the reason. */
export const ONLY_OURS = {
  ik: 'Baileys speaks the XX pattern only',
  xxfallback: 'Baileys speaks the XX pattern only, so the server never declines an IK hello of it',
  'usync-business': 'Baileys has no usync protocol for business names; it asks for whole business profiles instead',
}

/** Feature × client as text lines. `features` is {feature: [client, …]}. */
export function table(features) {
  const names = Object.keys(features).sort()
  const clients = [...new Set(names.flatMap((name) => features[name]))].sort()
  const rows = [['feature', ...clients], ...names.map((name) => [name, ...clients.map((client) => (features[name].includes(client) ? 'x' : '-'))])]
  const widths = rows[0].map((_, column) => Math.max(...rows.map((row) => row[column].length)))
  return rows.map((row) => row.map((cell, column) => (column ? cell.padStart(widths[column]) : cell.padEnd(widths[column]))).join('  ').trimEnd())
}

/** What is wrong: features that only our library exercised, and excuses that are not needed. */
export function verdict(features) {
  const problems = []
  for (const [name, users] of Object.entries(features)) {
    const byBaileys = users.some((client) => client.startsWith('baileys'))
    if (users.includes(OURS) && !byBaileys && !(name in ONLY_OURS)) problems.push(`${name}: exercised by ${OURS} only`)
    if (byBaileys && name in ONLY_OURS) problems.push(`${name}: excused, yet Baileys exercised it`)
  }
  if (!Object.keys(features).length) problems.push('the simulator told no features at all')
  return problems
}
