// The playground in a real Chromium, as a new user walks through it: REELHOUSE is the platform's address, PICTURE a file
// to upload, PICTURES a folder for the pictures of the documentation.
import assert from "node:assert/strict"
import { readFile } from "node:fs/promises"
import { join } from "node:path"
import { after, before, test } from "node:test"
import { launch } from "./browser.js"

const { REELHOUSE, PICTURE, PICTURES } = process.env
const PROMPT = "a lighthouse in a storm, slow push in, waves breaking over the rocks"
const DESKTOP = { width: 1280, height: 800 }
const PHONE = { width: 390, height: 844 }
const USABLE_MS = 500
const LOADS = 5
// Longer than the clip takes: it is finished while nobody can hear of it.
const OUTAGE_MS = 20_000

const complaints = []
let browser
let page

before(async () => {
  browser = await launch()
  page = await browser.newPage({ viewport: DESKTOP, colorScheme: "dark", reducedMotion: "reduce" })
  page.setDefaultTimeout(60_000)
  page.on("pageerror", (error) => complaints.push(error.message))
  // A refusal and a lost connection are logged as failed requests, which are no faults; a breach of the policy is one.
  page.on("console", (message) => {
    const failed = message.text().startsWith("Failed to load resource")
    if (message.type() === "error" && !failed) complaints.push(message.text())
  })
})
after(async () => {
  await browser?.close()
  assert.deepEqual(complaints, [])
})

const button = (name) => page.getByRole("button", { name, exact: true })
const link = (name) => page.getByRole("link", { name, exact: true })
const picture = (name, fullPage = false) => page.screenshot({ path: join(PICTURES, `${name}.png`), fullPage })

test("the page is usable at once", async (context) => {
  // The machine may be busy with other tests: the fastest load counts, and twice the aim is the limit.
  const loads = []
  while (loads.length < LOADS && !loads.some((milliseconds) => milliseconds < USABLE_MS)) {
    const began = performance.now()
    await page.goto(`${REELHOUSE}/playground/`)
    await button("Sign in").waitFor()
    loads.push(Math.round(performance.now() - began))
  }
  context.diagnostic(`usable after ${loads.join(", ")} ms`)
  assert.ok(Math.min(...loads) < 2 * USABLE_MS)
})

test("a new user signs in and sees a form with a price", async () => {
  await page.getByLabel("E-mail").fill(`${crypto.randomUUID()}@example.test`)
  await page.getByLabel("Plan").selectOption("pro")
  await button("Sign in").click()
  await page.getByLabel("Model").selectOption("wan-2.2-t2v")
  await page.getByLabel("Prompt", { exact: true }).fill(PROMPT)
  await price(8)
})

test("who has no credits buys some, comes back, and finds the order unfinished", async () => {
  await button("Order").click()
  await link("Buy credits").click()
  await button("Buy for $10.00").click()
  await button("Pay by card").click()
  await page.getByText("1,000 credits have arrived").waitFor()
  await link("Studio").click()
  assert.equal(await page.getByLabel("Prompt", { exact: true }).inputValue(), PROMPT)
})

test("an order is watched while it is made, and a reload loses nothing", async () => {
  await button("Order").click()
  await page.locator("img.preview").waitFor()
  await page.getByText(/^\d+ % · step/).waitFor()
  const before = await page.locator(".caption").textContent()
  await page.reload()
  await page.locator(".growing, .screen video").first().waitFor()
  assert.equal(await page.locator(".caption").textContent(), before)
  assert.equal(await page.getByLabel("Prompt", { exact: true }).inputValue(), PROMPT)
  await page.locator("img.preview, .screen video").first().waitFor()
  await picture("playground-studio")
})

test("the clip plays", async () => {
  await plays()
  assert.equal(await page.locator(".gallery li").count(), 1)
})

test("its card has a thumbnail, and moves while it is chosen if motion is welcome", async () => {
  const card = page.locator(".gallery button")
  await page.waitForFunction(() => document.querySelector(".gallery img")?.currentSrc.includes("/thumbnail-"))
  await drawn(".gallery img")
  await card.hover()
  assert.equal(await page.locator(".moving").count(), 0)
  await page.emulateMedia({ reducedMotion: "no-preference" })
  await page.mouse.move(0, 0)
  await card.hover()
  await drawn(".moving")
  await page.mouse.move(0, 0)
  await page.locator(".moving").waitFor({ state: "detached" })
  await page.keyboard.press("Tab")
  await card.focus()
  await drawn(".moving")
  await page.emulateMedia({ reducedMotion: "reduce" })
})

test("a picture becomes a clip, though the network is away for 20 s meanwhile", async () => {
  await page.getByLabel("Model").selectOption("wan-2.2-i2v")
  await page.getByLabel("Prompt", { exact: true }).fill("the waves begin to move")
  await button("Order").click()
  await page.getByText("This is needed.").waitFor()
  await page.getByLabel("First frame").setInputFiles(PICTURE)
  await page.getByText("is uploaded").waitFor()
  await slide("Length", "Home")
  await button("Order").click()
  await page.locator(".gallery li").nth(1).waitFor()
  await page.locator(".caption", { hasText: "the waves begin to move" }).waitFor()
  await page.context().setOffline(true)
  await page.getByRole("img", { name: "Connecting" }).waitFor()
  await page.waitForTimeout(OUTAGE_MS)
  await page.context().setOffline(false)
  await page.getByRole("img", { name: "Live" }).waitFor()
  await plays()
})

test("an order shows its timeline and every credit that moved for it", async () => {
  await page.locator(".gallery button", { hasText: PROMPT }).click()
  await link("Details").click()
  await page.locator(".posting", { hasText: "Charged" }).waitFor()
  assert.deepEqual(await page.locator(".posting .moved").allTextContents(), ["−8 available+8 reserved", "−8 reserved"])
  await page.locator(".timeline li", { hasText: "Stored in the library" }).waitFor()
  await drawn("video")
  await picture("playground-order", true)
  const saved = page.waitForEvent("download")
  await button("Save").click()
  assert.match((await saved).suggestedFilename(), /^wan-2\.2-t2v-.+\.mp4$/)
  await page.emulateMedia({ colorScheme: "light" })
  await page.goBack()
  await drawn(".gallery img")
  await picture("playground-light")
})

test("the statement ends with the balance", async () => {
  await link("Credits").click()
  const lines = page.locator("tbody tr")
  await lines.nth(4).waitFor()
  assert.match(await lines.last().textContent(), /Credits bought/)
  const balance = await lines.first().locator("td").last().textContent()
  assert.equal(await page.locator(".balances dd").first().textContent(), balance)
  assert.match(await page.locator("#balance").textContent(), new RegExp(`^${balance} credits`))
  await page.emulateMedia({ colorScheme: "dark" })
  await picture("playground-credits", true)
  const statement = page.waitForEvent("download")
  await button("Save as CSV").click()
  assert.match(await readFile(await (await statement).path(), "utf8"), /^line_number,.*\r\n1,purchase,/)
  // A line that is sealed has a receipt; one that is not says so.
  const saved = page.waitForEvent("download").then((file) => file.suggestedFilename())
  const early = page.locator("[role=status]", { hasText: "ready in a minute" }).waitFor().then(() => "early")
  await page.getByRole("button", { name: "Receipt of line 1", exact: true }).click()
  assert.match(await Promise.race([saved, early]), /^(receipt-1\.json|early)$/)
})

test("what is deleted is gone, and its charge stays on the statement", async () => {
  await link("Studio").click()
  await page.locator(".gallery button", { hasText: "the waves begin to move" }).click()
  await link("Details").click()
  page.once("dialog", (dialog) => dialog.accept())
  const file = await page.locator(".screen video").getAttribute("src")
  await button("Delete").click()
  await page.locator(".gallery li").waitFor()
  assert.equal(await page.locator(".gallery li").count(), 1)
  await page.waitForFunction(async (url) => (await fetch(url)).status === 404, file)
  await page.reload()
  await page.locator(".gallery li").waitFor()
  assert.equal(await page.locator(".gallery li").count(), 1)
  await link("Credits").click()
  await page.locator("tbody tr", { hasText: "Charged" }).nth(1).waitFor()
})

test("the keyboard reaches everything, and a phone shows it without scrolling sideways", async () => {
  await page.setViewportSize(PHONE)
  for (const address of ["#/", "#/credits"]) {
    await page.goto(`${REELHOUSE}/playground/${address}`)
    await page.locator(".gallery li, tbody tr").first().waitFor()
    assert.ok(await page.evaluate(() => document.documentElement.scrollWidth <= innerWidth), address)
  }
  await page.goto(`${REELHOUSE}/playground/#/`)
  await drawn(".gallery img")
  await picture("playground-phone")
  await page.locator("#model").focus()
  for (let presses = 0; !(await page.evaluate(() => document.activeElement.textContent === "Order")); presses++) {
    assert.ok(presses < 40, "Tab never came to the button")
    assert.ok(await page.evaluate(() => document.activeElement.matches(":focus-visible")))
    await page.keyboard.press("Tab")
  }
})

test("orders that wait, and then run, say their place in the queue, and when they will be ready", async () => {
  await page.setViewportSize(DESKTOP)
  // The last draft is a clip of a second: this one has the length that the model suggests.
  await page.evaluate(() => sessionStorage.removeItem("reelhouse.draft"))
  await page.reload()
  await page.getByLabel("Model").selectOption("wan-2.2-t2v")
  await page.getByLabel("Prompt", { exact: true }).fill(PROMPT)
  await price(8)
  // The platform gives its one worker four jobs; the eighth order waits for four of them.
  for (let orders = 0; orders < 8; orders++) await button("Order").click()
  await page.getByText(/^number \d+ in the queue · ready in /).waitFor()
  await link("Details").click()
  await page.locator(".facts", { hasText: /nine times of ten within/ }).waitFor()
  // It was told while it waited. An order that begins at once can be ready before the queue is estimated again.
  await page.goBack()
  await page.getByText(/^\d+ % · step.* · ready in /).waitFor()
})

test("variants are ordered with one click, for the price of all of them, and each has its card", async () => {
  await link("Studio").click()
  await page.getByLabel("How many").fill("2")
  await price(16)
  await button("Order").click()
  for (const place of ["(1 of 2)", "(2 of 2)"]) {
    await page.locator(".gallery button", { hasText: place }).waitFor()
  }
  await page.locator(".gallery button", { hasText: "(2 of 2)" }).click()
  await link("Details").click()
  await page.locator(".facts", { hasText: /credits charged of 16/ }).waitFor()
  assert.equal(await page.locator(".variants a").count(), 1)
})

test("an order whose answers are lost is placed once, though its price is not known meanwhile", async () => {
  const [orders, quotes] = [`${REELHOUSE}/v1/generations`, `${REELHOUSE}/v1/quotes`]
  await link("Studio").click()
  await page.getByLabel("Model").selectOption("flux-schnell")
  await page.getByLabel("Prompt", { exact: true }).fill("a kite over the sea")
  await page.getByLabel("How many").fill("1")
  await page.locator(".price", { hasText: /^1 credit$/ }).waitFor()
  // Every try arrives, and nothing comes back.
  await page.route(orders, async (route) => {
    await route.fetch()
    await route.abort()
  })
  await page.route(quotes, (route) => route.abort())
  await button("Order").click()
  await page.getByText("nothing is ordered twice").waitFor()
  await page.locator(".price", { hasText: /^$/ }).waitFor({ state: "attached" })
  await page.unroute(orders)
  const placed = page.waitForResponse((response) => response.url() === orders && response.request().method() === "POST")
  await button("Order").click()
  assert.equal((await placed).headers()["idempotent-replayed"], "true")
  await page.unroute(quotes)
})

test("the page waits for an answer for longer than one call is repeated", async () => {
  const balance = `${REELHOUSE}/v1/balance`
  const unavailable = { type: "t", title: "Away", status: 503, code: "unavailable", retryable: true, instance: "/v1/balance" }
  await page.route(balance, (route) => route.fulfill({ status: 503, json: unavailable }))
  let asked = 0
  const seventh = page.waitForRequest((request) => request.url() === balance && ++asked === 7)
  await page.reload()
  await seventh
  await page.unroute(balance)
  await page.locator("#balance", { hasText: /\d credits/ }).waitFor()
})

/** The price beside the button. */
async function price(credits) {
  await page.locator(".price", { hasText: `${credits} credits` }).waitFor()
}

async function slide(label, key) {
  await page.getByLabel(label, { exact: true }).focus()
  await page.keyboard.press(key)
}

/** The video on the stage decodes and moves on. */
async function plays() {
  await page.locator(".screen video").waitFor()
  await page.waitForFunction(() => {
    const video = document.querySelector(".screen video")
    return video && video.videoWidth > 0 && video.currentTime > 0.2
  })
}

/** A picture or clip is there with its pixels. */
async function drawn(selector) {
  await page.waitForFunction((wanted) => {
    const element = document.querySelector(wanted)
    return element && (element.tagName === "VIDEO" ? element.readyState >= 2 : element.complete && element.naturalWidth > 0)
  }, selector)
}
