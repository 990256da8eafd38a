// The client against a running platform: REELHOUSE is its address, TOKEN is of a user with 100 credits.
import assert from "node:assert/strict"
import { readFile } from "node:fs/promises"
import { before, test } from "node:test"
import { type EventOf, type Generation, newKey, Reelhouse, refused } from "../dist/index.js"

const { REELHOUSE = "", TOKEN = "", POOR_TOKEN = "", PICTURE = "" } = process.env
const reelhouse = new Reelhouse({ baseUrl: REELHOUSE, token: TOKEN })
const ORDER = { model_id: "flux-schnell", parameters: { prompt: "a paper boat" } }
let first: Generation

before(async () => {
  first = await reelhouse.order(ORDER)
})

test("an order ends with a file that its links lead to", async () => {
  const quote = await reelhouse.createQuote({ body: ORDER })
  const ended = await reelhouse.ended(first.id)
  assert.equal(ended.status, "completed")
  assert.equal(ended.price_credits, quote.price_credits)
  const file = await (await fetch(ended.download!.url)).arrayBuffer()
  assert.equal(file.byteLength, ended.download!.size_bytes)
})

test("an order whose answer is lost is placed once", async () => {
  let lost = 0
  const key = newKey()
  const unlucky = new Reelhouse({
    baseUrl: REELHOUSE,
    token: TOKEN,
    fetch: async (input, init) => {
      const answer = await fetch(input, init)
      if (lost++ < 2) throw new TypeError("the connection is gone")
      return answer
    },
  })
  const placed = await unlucky.order(ORDER, { key })
  assert.equal(lost, 3)
  assert.equal((await reelhouse.order(ORDER, { key })).id, placed.id)
  const other = { ...ORDER, parameters: { prompt: "another boat" } }
  await assert.rejects(reelhouse.order(other, { key }), (error) => refused(error, "idempotency_key_reused"))
})

test("variants are one order, and each has its own file and charge", async () => {
  const order = await reelhouse.order({ ...ORDER, count: 2 })
  assert.equal(order.total_price_credits, 2 * order.price_credits)
  const variants = await reelhouse.orderEnded(order)
  assert.deepEqual(variants.map(({ id }) => id), order.variants.map(({ id }) => id))
  assert.deepEqual(variants.map(({ status }) => status), ["completed", "completed"])
  assert.equal(new Set(variants.map(({ download }) => download!.url.split("?")[0])).size, 2)
  assert.equal(new Set(variants.map(({ parameters }) => parameters["seed"])).size, 2)
  const path = { generation_id: order.id }
  assert.equal((await reelhouse.getGeneration({ path })).total_captured_credits, order.total_price_credits)
  await reelhouse.deleteGeneration({ path, query: { variants: "all" } })
  const { items } = await reelhouse.listGenerations({ query: { variant_of: order.id } })
  assert.deepEqual(items, [])
})

test("who has too few credits learns how many are missing", async () => {
  const poor = new Reelhouse({ baseUrl: REELHOUSE, token: POOR_TOKEN })
  await assert.rejects(poor.order(ORDER), (error) => {
    assert.ok(refused(error, "insufficient_credits"))
    return error.problem.available === 0 && error.problem.required > 0
  })
})

test("a stream that is cut in the middle gives every event once", async () => {
  await reelhouse.ended(first.id)
  let connections = 0
  const cut = new Reelhouse({
    baseUrl: REELHOUSE,
    token: TOKEN,
    fetch: async (input, init) => {
      const answer = await fetch(input, init)
      return connections++ === 0 ? new Response(firstBytes(answer.body!, 700)) : answer
    },
  })
  const events = await history(cut)
  assert.equal(connections, 2)
  assert.deepEqual(events, await history(reelhouse))
  const { items } = await reelhouse.getGenerationTimeline({ path: { generation_id: first.id } })
  // The timeline is sorted by when things happened, the stream by when they became known.
  const streamed = ["requested", ...events.map(({ data }) => data.name)]
  assert.deepEqual(streamed.sort(), items.map(({ name }) => name).sort())
})

test("a picture is uploaded and becomes a clip's beginning", async () => {
  const image = await reelhouse.upload(new Blob([await readFile(PICTURE)], { type: "image/png" }))
  const order = await reelhouse.order({ model_id: "wan-2.2-i2v", parameters: { prompt: "it begins to move", image } })
  assert.equal(order.parameters["image"], image)
  assert.ok(["requested", "queued", "dispatching", "running"].includes(order.status))
  const path = { generation_id: order.id }
  await assert.rejects(reelhouse.deleteGeneration({ path }), (error) => refused(error, "generation_under_way"))
  await reelhouse.cancelGeneration({ path })
})

test("an order is repeated, and deleted when it has ended", async () => {
  const key = newKey()
  const again = await reelhouse.repeat(first.id, { parameters: { prompt: "a paper plane" } }, { key })
  assert.equal(again.parameters["prompt"], "a paper plane")
  assert.equal((await reelhouse.repeat(first.id, { parameters: { prompt: "a paper plane" } }, { key })).id, again.id)
  const path = { generation_id: again.id }
  const { download, captured_credits: cost } = await reelhouse.ended(again.id)
  assert.equal(cost, again.price_credits)
  await reelhouse.deleteGeneration({ path })
  await assert.rejects(reelhouse.getGeneration({ path }), (error) => refused(error, "generation_deleted"))
  while ((await fetch(download!.url)).status !== 404) await new Promise((resolve) => setTimeout(resolve, 100))
  const { items: [today] } = await reelhouse.getUsage()
  assert.ok(today!.orders >= 2 && today!.captured_credits >= cost!)
})

test("lists are iterated to the end, page by page", async () => {
  const inPages: string[] = []
  for await (const generation of reelhouse.generations({ limit: 1 })) inPages.push(generation.id)
  const { items } = await reelhouse.listGenerations({ query: { limit: 100 } })
  assert.deepEqual(inPages, items.map(({ id }) => id))
  assert.equal(inPages.at(-1), first.id)
  const numbers: number[] = []
  for await (const line of reelhouse.statement({ limit: 2 })) numbers.push(line.line_number)
  assert.ok(numbers.length > 4)
  assert.deepEqual(numbers, numbers.map((_, index) => numbers.length - index))
  const [names, oldest] = (await reelhouse.statementCsv()).split("\r\n")
  assert.match(`${names}\n${oldest}`, /^line_number,reason,.*\n1,goodwill,/)
})

test("a purchase comes with a checkout", async () => {
  const { items: [pack] } = await reelhouse.listCreditPacks()
  const key = newKey()
  const payment = await reelhouse.buy({ pack_id: pack!.id, provider: "stripe" }, { key })
  assert.match(payment.checkout_url!, /^http/)
  assert.equal((await reelhouse.buy({ pack_id: pack!.id, provider: "stripe" }, { key })).id, payment.id)
})

/** Every event of the first order, from the beginning to the charge. */
async function history(client: Reelhouse): Promise<EventOf<"generation.updated">[]> {
  const events: EventOf<"generation.updated">[] = []
  // The last two, in either order.
  const missing = new Set<string>(["credits_captured", "previews_stored"])
  for await (const event of client.events({ lastEventId: "0" })) {
    if (event.event !== "generation.updated" || event.data.generation_id !== first.id) continue
    events.push(event)
    missing.delete(event.data.name)
    if (missing.size === 0) break
  }
  return events
}

function firstBytes(body: ReadableStream<Uint8Array>, count: number): ReadableStream<Uint8Array> {
  let left = count
  return body.pipeThrough(new TransformStream<Uint8Array, Uint8Array>({
    transform(chunk, controller) {
      controller.enqueue(chunk.slice(0, left))
      left -= chunk.byteLength
      if (left <= 0) controller.error(new TypeError("cut"))
    },
  }))
}
