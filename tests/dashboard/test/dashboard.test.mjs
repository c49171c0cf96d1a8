// The dashboard in a real browser, from signing in to signing out. Starts the simulator and the gateway as programs:
// WHATSAPP_SIMULATOR_BIN and WA_GATEWAY_BIN, by default from the workspace's target/debug. DASHBOARD_SHOTS names a folder
// for pictures of every page.

import assert from 'node:assert/strict'
import { after, before, test } from 'node:test'
import { readFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import { join } from 'node:path'
import jsqr from 'jsqr'
import { PNG } from 'pngjs'
import puppeteer from 'puppeteer-core'
import { Gateway } from '../../interop/lib/gateway.mjs'
import { poll } from '../../interop/lib/journal.mjs'
import { Receiver } from '../../interop/lib/receiver.mjs'
import { Simulator } from '../../interop/lib/simulator.mjs'

const KEY = 'secret'
const OWNER = '6281299000001'
const FRIEND = '6281299000002'
const DEADLINE = 20_000
const AXE = readFileSync(createRequire(import.meta.url).resolve('axe-core/axe.min.js'), 'utf8')
const SIZES = { desktop: { width: 1200, height: 800 }, phone: { width: 390, height: 844 } }

let simulator
let receiver
let gateway
let browser

before(async () => {
  simulator = await Simulator.start()
  receiver = await Receiver.start()
  gateway = await Gateway.make(simulator, receiver)
  await gateway.up()
  browser = await puppeteer.launch({
    executablePath: process.env.CHROMIUM_BIN ?? '/usr/bin/chromium',
    args: ['--no-sandbox', '--disable-dev-shm-usage'],
    protocolTimeout: 60_000,
  })
}, { timeout: 60_000 })

after(async () => {
  await browser?.close()
  await gateway?.stop()
  await receiver?.stop()
  await simulator?.stop()
}, { timeout: 60_000 })

/** A page, and a list of what must not happen on it: errors on the console, and requests to another host. */
async function open(language) {
  const context = await browser.createBrowserContext()
  const origin = `http://127.0.0.1:${gateway.port}`
  const faults = []
  const loads = []
  const window = async () => {
    const page = await context.newPage()
    page.setDefaultTimeout(DEADLINE)
    await page.setViewport(SIZES.desktop)
    await page.setExtraHTTPHeaders({ 'accept-language': language })
    page.on('console', (message) => ['error', 'warn'].includes(message.type()) && faults.push(`console: ${message.text()} ${message.location().url ?? ''}`.trim()))
    page.on('pageerror', (error) => faults.push(`error: ${error.message}`))
    page.on('request', (request) => {
      if (!request.url().startsWith(`${origin}/`) && !request.url().startsWith('data:')) faults.push(`request: ${request.url()}`)
      if (request.isNavigationRequest()) loads.push(request.url())
    })
    page.on('dialog', (dialog) => {
      faults.push(`dialog: ${dialog.message()}`)
      dialog.dismiss()
    })
    return page
  }
  return { page: await window(), window, origin, faults, loads, close: () => context.close() }
}

/** No serious fault for assistive technology, and nothing that needs scrolling sideways: light, dark, wide and narrow. */
async function inspect(page, name) {
  const faults = []
  for (const scheme of ['light', 'dark']) {
    await page.emulateMediaFeatures([{ name: 'prefers-color-scheme', value: scheme }, { name: 'prefers-reduced-motion', value: 'reduce' }])
    for (const [size, viewport] of Object.entries(SIZES)) {
      await page.setViewport(viewport)
      if (process.env.DASHBOARD_SHOTS) {
        await page.screenshot({ path: join(process.env.DASHBOARD_SHOTS, `${name}-${size}-${scheme}.png`), fullPage: true })
      }
      await page.evaluate(AXE)
      const { violations } = await page.evaluate(() => globalThis.axe.run())
      for (const { id, impact, nodes } of violations) {
        if (['serious', 'critical'].includes(impact)) faults.push(`${name}, ${size}, ${scheme}: ${id}: ${nodes[0].html}`)
      }
      const wide = await page.evaluate(() => document.documentElement.scrollWidth - innerWidth)
      if (wide > 0) faults.push(`${name}, ${size}: ${wide} pixels too wide`)
    }
  }
  await page.setViewport(SIZES.desktop)
  assert.deepEqual(faults, [])
}

/** The text of the QR code on the page, off its pixels. */
async function decode(page) {
  const element = await page.waitForSelector('#qr svg')
  const { width, height, data } = PNG.sync.read(Buffer.from(await element.screenshot()))
  return jsqr(new Uint8ClampedArray(data), width, height)?.data
}

async function signIn(page, origin) {
  await page.goto(`${origin}/`)
  assert.equal(new URL(page.url()).pathname, '/auth/login')
  await page.type('#password', KEY)
  await Promise.all([page.waitForNavigation(), page.keyboard.press('Enter')])
  assert.equal(new URL(page.url()).pathname, '/dashboard')
}

const text = (page, selector) => page.$eval(selector, (element) => element.textContent.trim())
const card = (name) => `[data-card="${name}"]`

test('from signing in to signing out', { timeout: 180_000 }, async () => {
  const { page, window, origin, faults, loads, close } = await open('en-US,en;q=0.9')
  await page.goto(`${origin}/auth/login`)
  await page.type('#password', 'wrong')
  await Promise.all([page.waitForNavigation(), page.click('button[type=submit]')])
  assert.equal(await text(page, '#login-error'), 'Invalid key')
  await inspect(page, 'login')

  await signIn(page, origin)
  await inspect(page, 'overview')
  await Promise.all([page.waitForNavigation(), page.click('main a[href="/dashboard/sessions"]')])
  await inspect(page, 'empty')

  // A second window looks at the list all the while.
  const list = await window()
  await list.goto(`${origin}/dashboard/sessions`)
  await list.evaluate(() => (globalThis.notReloaded = true))

  await page.bringToFront()
  await Promise.all([page.waitForNavigation(), page.click('a[href^="sessions/create?id="]')])
  await inspect(page, 'new')
  await page.$eval('#id', (input) => (input.value = ''))
  await page.type('#id', 'shop')
  await Promise.all([page.waitForNavigation(), page.click('#link button[type=submit]')])
  assert.equal(await text(page, '#link .of'), 'shop')
  const loaded = loads.length
  await page.waitForSelector('#link[data-state=pending] #qr svg')
  await inspect(page, 'code')
  // The code may be renewed between the two looks.
  const code = await poll('the picture to say what was served', async () => {
    const served = await page.evaluate(async () => (await fetch('/dashboard/sessions/create/qr?id=shop')).json())
    return served.qr && (await decode(page)) === served.qr && served.qr
  })
  await simulator.scan(code, OWNER)
  await page.waitForSelector('#link[data-state=connected]')
  assert.equal(await text(page, '#status'), 'Connected')
  assert.equal(await page.$eval('#redirecting', (line) => line.hidden), false)
  assert.equal(loads.length, loaded, 'the page turned to connected without being loaded again')
  await poll('the page to go to the list', () => new URL(page.url()).pathname === '/dashboard/sessions')
  await page.goto(`${origin}/dashboard/sessions/create?id=shop`)
  await inspect(page, 'connected')
  assert.equal(await text(page, '#status'), 'Connected')

  await list.bringToFront()
  await list.waitForSelector(`${card('shop')}[data-status=connected]`)
  assert.equal(await list.evaluate(() => globalThis.notReloaded), true, 'the card turned without a reload')
  assert.match(await text(list, card('shop')), new RegExp(`Connected[^]*\\+${OWNER}`))
  await inspect(list, 'sessions')

  await list.click(`${card('shop')} [data-session]`)
  await list.waitForSelector('#send-text[open]')
  await inspect(list, 'send')
  await list.type('#send-to', 'nobody')
  await list.type('#send-message', 'Halo dari dasbor')
  await list.keyboard.press('Tab')
  await list.click('#send-text [data-submit]')
  await list.waitForFunction(() => document.getElementById('send-error').textContent !== '')
  // Chromium itself writes this one refusal to the console.
  const refused = 'console: Failed to load resource: the server responded with a status of 400 (Bad Request)'
  await poll('the refusal on the console', () => faults.length > 0)
  assert.deepEqual(faults.splice(0), [`${refused} ${origin}/dashboard/messages/send-text-api`])
  await list.$eval('#send-to', (input) => (input.value = ''))
  await list.type('#send-to', `+${FRIEND}`)
  await simulator.account(FRIEND)
  await list.click('#send-text [data-submit]')
  await simulator.heard(FRIEND, 'Halo dari dasbor')
  await list.waitForSelector('#send-text:not([open])')
  assert.equal(await list.evaluate(() => document.activeElement.dataset.session), 'shop', 'the focus is back')

  // Stopped it stays linked: a start needs no scan.
  await Promise.all([list.waitForNavigation(), list.click(`${card('shop')} [data-stop]`)])
  await list.waitForSelector(`${card('shop')}[data-status=disconnected] [data-start]`)
  assert.equal((await simulator.devices(OWNER)).length, 1)
  await inspect(list, 'stopped')
  await Promise.all([list.waitForNavigation(), list.click(`${card('shop')} [data-start]`)])
  await list.waitForSelector(`${card('shop')}[data-status=connected]`)

  // Escape keeps the session, the button deletes it.
  await list.click(`${card('shop')} [data-delete]`)
  await list.waitForSelector('#delete-session[open]')
  await inspect(list, 'delete')
  await list.keyboard.press('Escape')
  await list.waitForSelector('#delete-session:not([open])')
  assert.equal((await gateway.listed('shop'))?.status, 'connected')
  await list.click(`${card('shop')} [data-delete]`)
  await list.click('#delete-session [data-submit]')
  await list.waitForFunction(() => !document.querySelector('[data-card=shop]'))
  assert.equal(await gateway.listed('shop'), undefined)
  assert.deepEqual(await simulator.devices(OWNER), [])

  await Promise.all([list.waitForNavigation(), list.click('.sign-out button')])
  assert.equal(new URL(list.url()).pathname, '/auth/login')
  await list.goto(`${origin}/dashboard`)
  assert.equal(new URL(list.url()).pathname, '/auth/login')
  assert.deepEqual(faults, [])
  await close()
})

test('a hostile name stays text, in Indonesian and by keyboard', { timeout: 120_000 }, async () => {
  const name = `"'></script><script>document.title='taken'</script><img src=x onerror="document.title='taken'">`
  const { page, origin, faults, close } = await open('id-ID,id;q=0.9,en;q=0.8')
  await signIn(page, origin)
  assert.equal(await page.$eval('html', (html) => html.lang), 'id')
  await page.goto(`${origin}/dashboard/sessions/create?id=${encodeURIComponent(name)}`)
  await page.focus('#id')
  await Promise.all([page.waitForNavigation(), page.keyboard.press('Enter')])
  await page.waitForSelector('#link[data-state=pending] #qr svg')
  assert.equal(await text(page, '#link .of'), name)
  await page.goto(`${origin}/dashboard/sessions`)
  assert.equal(await page.$eval('[data-card] h2', (heading) => heading.textContent), name)
  assert.equal(await page.title(), 'Sesi')
  await inspect(page, 'hostile')
  await page.focus('[data-card] [data-delete]')
  await page.keyboard.press('Enter')
  await page.waitForSelector('#delete-session[open]')
  await page.focus('#delete-session [data-submit]')
  await page.keyboard.press('Enter')
  await page.waitForFunction(() => !document.querySelector('[data-card]'))
  assert.equal(await gateway.listed(name), undefined)
  assert.deepEqual(faults, [])
  await close()
})

test('a code that changes is drawn anew, and what ends elsewhere is told', { timeout: 120_000 }, async () => {
  const { page, origin, faults, loads, close } = await open('en')
  await signIn(page, origin)
  const first = await gateway.begin('later')
  await page.goto(`${origin}/dashboard/sessions/create?id=later`)
  const loaded = loads.length
  await poll('the first code to be drawn', async () => (await decode(page)) === first)
  await gateway.remove('later')
  await page.waitForSelector('#link[data-state=disconnected]')
  assert.equal(await page.$eval('#link form', (form) => form.hidden), false, 'a new code is one click away')
  await inspect(page, 'stopped')
  const second = await gateway.begin('later')
  assert.notEqual(second, first)
  await poll('the second code to be drawn', async () => (await decode(page)) === second)
  assert.equal(loads.length, loaded, 'without a reload')

  await page.goto(`${origin}/dashboard/sessions`)
  await page.waitForSelector(card('later'))
  await gateway.remove('later')
  await page.waitForFunction(() => !document.querySelector('[data-card]'))
  assert.deepEqual(faults, [])
  await close()
})

test('the page of a start shows fresh codes, and begins nothing again that was ended elsewhere', { timeout: 120_000 }, async () => {
  const { window, origin, faults, close } = await open('en')
  const ends = [
    ['a', (name) => gateway.ask('POST', '/session/stop', { session: name }), 'This session was stopped.', 'stopped'],
    ['b', (name) => gateway.ask('POST', '/session/logout', { session: name }), 'This session was logged out.', 'logged_out'],
    ['c', (name) => gateway.ask('DELETE', `/session/${name}`), 'This session was deleted.', undefined],
  ]
  const starts = (asked) => new URL(asked.url()).pathname === '/session/start'
  for (const [name, end, told, state] of ends) {
    const page = await window()
    await page.goto(`${origin}/session/start?session=${name}&key=${KEY}`)
    await page.waitForSelector('#qrcode img')
    if (name === 'a') await page.waitForRequest(starts)
    let begun = 0
    page.on('request', (request) => starts(request) && begun++)
    assert.equal((await end(name)).status, 200)
    await page.waitForFunction((told) => document.querySelector('#status').textContent.startsWith(told), {}, told)
    assert.equal(await page.$('#qrcode'), null, 'no code is left to scan')
    assert.equal((await gateway.ask('GET', `/session/${name}`)).body.data?.state, state)
    assert.equal(begun, 0)
    await page.close()
  }
  assert.deepEqual(faults.filter((fault) => fault.startsWith('error:')), [])
  await close()
})
