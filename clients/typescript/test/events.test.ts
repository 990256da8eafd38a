// How the stream is read, whatever pieces it comes in and however often it breaks.
import assert from "node:assert/strict"
import { test } from "node:test"
import { type Event, ProblemError, Reelhouse } from "../dist/index.js"

const DATA = { generation_id: "g", name: "running", status: "running", version: 2, at: "2026-11-23T09:28:14.402Z" }
const OPENING = "retry: 20\nid: 6\n\n"
const updated = (id: number): string => `id: ${id}\nevent: generation.updated\ndata: ${JSON.stringify(DATA)}\n\n`
const encoder = new TextEncoder()

/** The stream in pieces of `size` bytes; at the end it is closed, or it breaks. */
function stream(text: string, { size = 1e6, breaks = false } = {}): Response {
  const bytes = encoder.encode(text)
  let sent = 0
  return new Response(new ReadableStream<Uint8Array>({
    pull(controller) {
      if (sent < bytes.length) return controller.enqueue(bytes.slice(sent, (sent += size)))
      return breaks ? controller.error(new TypeError("terminated")) : controller.close()
    },
  }), { headers: { "Content-Type": "text/event-stream" } })
}

function following(answers: (Response | Error)[], token?: () => string): { client: Reelhouse; asked: Headers[] } {
  const asked: Headers[] = []
  const client = new Reelhouse({
    baseUrl: "http://api.test",
    token: token ?? "t",
    fetch: async (_input, init) => {
      asked.push(new Headers(init?.headers))
      const answer = answers.shift()
      if (answer instanceof Error) throw answer
      return answer ?? Promise.reject(new Error("asked too often"))
    },
  })
  return { client, asked }
}

async function take(client: Reelhouse, count: number, lastEventId?: string): Promise<Event[]> {
  const taken: Event[] = []
  for await (const event of client.events(lastEventId === undefined ? {} : { lastEventId })) {
    taken.push(event)
    if (taken.length === count) break
  }
  return taken
}

test("an event is the same in whatever pieces it comes", async () => {
  const text = OPENING + ": still here\n\n" + updated(7).replace("running", "rünning").replaceAll("\n", "\r\n")
  for (const size of [1, 2, 7, 1000]) {
    const { client } = following([stream(text, { size })])
    const [opened, event] = await take(client, 2)
    assert.deepEqual(opened, { event: "stream.opened", data: { resumed: false }, id: "6" })
    assert.deepEqual(event, { event: "generation.updated", id: "7", data: { ...DATA, name: "rünning" } })
  }
})

test("a broken stream goes on after the last event, with a fresh token", async () => {
  let number = 0
  const broken = stream(OPENING + updated(7) + "id: 8\nevent: gen", { breaks: true })
  const answers = [broken, new TypeError("fetch failed"), stream("id: 7\n\n" + updated(8))]
  const { client, asked } = following(answers, () => `token-${++number}`)
  const events = await take(client, 6)
  assert.deepEqual(events.map(({ event }) => event), [
    "stream.opened", "generation.updated", "stream.lost", "stream.lost", "stream.opened", "generation.updated",
  ])
  assert.deepEqual(events[4], { event: "stream.opened", data: { resumed: true }, id: "7" })
  assert.deepEqual(asked.map((headers) => headers.get("Last-Event-ID")), [null, "7", "7"])
  assert.deepEqual(asked.map((headers) => headers.get("Authorization")), [1, 2, 3].map((n) => `Bearer token-${n}`))
})

test("a stream that was lost before its first event resumes where it began", async () => {
  const { client, asked } = following([stream(OPENING), stream("id: 6\n\n" + updated(7))])
  await take(client, 4)
  assert.deepEqual(asked.map((headers) => headers.get("Last-Event-ID")), [null, "6"])
})

test("a refusal that will not pass ends the stream", async () => {
  const refusal = { type: "t", title: "Sign in", status: 401, code: "not_authenticated", retryable: false, instance: "/" }
  const answers = [Response.json(refusal, { status: 401 }), Response.json(refusal, { status: 401 })]
  const { client, asked } = following(answers)
  await assert.rejects(take(client, 9), ProblemError)
  assert.equal(asked.length, 2)
})

test("aborting ends the stream quietly, leaving the loop closes the connection", async () => {
  const stop = new AbortController()
  let cancelled = false
  const endless = (): Response => new Response(new ReadableStream<Uint8Array>({
    start: (controller) => controller.enqueue(encoder.encode(OPENING)),
    cancel: () => void (cancelled = true),
  }))
  const { client } = following([endless(), endless()])
  for await (const event of client.events({ signal: stop.signal })) {
    assert.equal(event.event, "stream.opened")
    break
  }
  assert.ok(cancelled)
  stop.abort()
  for await (const event of client.events({ signal: stop.signal })) assert.fail(event.event)
})
