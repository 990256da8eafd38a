// What is repeated, and for how long. No platform is needed: the answers are made up here.
import assert from "node:assert/strict"
import { test } from "node:test"
import { decided, NoAnswerError, Reelhouse, refused } from "../dist/index.js"

type Answer = Response | (() => Response) | Error

const PROBLEM = { type: "urn:reelhouse:problem:x", title: "x", instance: "/v1/generations" }
const problem = (status: number, code: string, headers: Record<string, string> = {}): Response =>
  Response.json({ ...PROBLEM, status, code, retryable: status === 429 }, { status, headers })

function clientWith(...answers: Answer[]): { reelhouse: Reelhouse; sent: Request[] } {
  const sent: Request[] = []
  let tokens = 0
  const token = (): string => `token-${++tokens}`
  const answer: typeof fetch = async (input, init) => {
    sent.push(new Request(input, init))
    const next = answers.length > 1 ? answers.shift() : answers[0]
    if (next instanceof Error) throw next
    return typeof next === "function" ? next() : next!.clone()
  }
  const retry = { attempts: 4, firstMs: 1, longestMs: 2000 }
  return { reelhouse: new Reelhouse({ baseUrl: "http://api.test", token, fetch: answer, retry }), sent }
}

const ORDER = { model_id: "m", parameters: {} }
const LOST = new TypeError("fetch failed")

test("an order is repeated under one key until there is a decision", async () => {
  const { reelhouse, sent } = clientWith(LOST, problem(503, "unavailable"), Response.json({ id: "1" }, { status: 201 }))
  assert.equal((await reelhouse.order(ORDER)).id, "1")
  assert.equal(sent.length, 3)
  assert.equal(new Set(sent.map((request) => request.headers.get("Idempotency-Key"))).size, 1)
  assert.deepEqual(await sent[2]!.json(), ORDER)
})

test("two orders have two keys, unless the caller gives one", async () => {
  const { reelhouse, sent } = clientWith(Response.json({ id: "1" }))
  await reelhouse.order(ORDER)
  await reelhouse.order(ORDER)
  await reelhouse.order(ORDER, { key: "mine" })
  const keys = sent.map((request) => request.headers.get("Idempotency-Key"))
  assert.equal(new Set(keys).size, 3)
  assert.equal(keys[2], "mine")
})

test("a refusal is not repeated, and carries the members of its code", async () => {
  const body = { ...PROBLEM, status: 402, code: "insufficient_credits", retryable: false, required: 8, available: 3 }
  const { reelhouse, sent } = clientWith(Response.json(body, { status: 402 }))
  await assert.rejects(reelhouse.order(ORDER), (error) => {
    assert.ok(refused(error, "insufficient_credits"))
    assert.equal(error.problem.required - error.problem.available, 5)
    return !refused(error, "account_frozen")
  })
  assert.equal(sent.length, 1)
})

test("what may have happened is not sent twice without a key", async () => {
  const { reelhouse, sent } = clientWith(LOST)
  const body = { content_type: "image/png", size_bytes: 1 } as const
  await assert.rejects(reelhouse.createUpload({ body }), NoAnswerError)
  assert.equal(sent.length, 1)
})

test("Retry-After is waited for, and is the answer where it asks for too long", async () => {
  const soon = clientWith(problem(429, "rate_limited", { "Retry-After": "1" }), Response.json({ items: [] }))
  const began = performance.now()
  await soon.reelhouse.listCreditPacks()
  assert.ok(performance.now() - began > 990)
  const late = clientWith(problem(429, "too_many_uploads", { "Retry-After": "3600" }))
  await assert.rejects(late.reelhouse.listCreditPacks(), (error) => refused(error, "too_many_uploads"))
  assert.equal(late.sent.length, 1)
})

test("the last failure is thrown: a connection that stays lost, a page of a proxy", async () => {
  const lost = clientWith(LOST)
  await assert.rejects(lost.reelhouse.getBalance(), (error) => error instanceof NoAnswerError && error.cause === LOST)
  assert.equal(lost.sent.length, 4)
  const proxy = clientWith(new Response("<h1>Bad gateway</h1>", { status: 502 }))
  await assert.rejects(proxy.reelhouse.getBalance(), (error) => error instanceof NoAnswerError && error.status === 502)
})

test("every request asks for a token anew", async () => {
  let number = 0
  const sent: string[] = []
  const reelhouse = new Reelhouse({
    baseUrl: "http://api.test",
    token: async () => `token-${++number}`,
    fetch: async (input, init) => {
      sent.push(new Request(input, init).headers.get("Authorization") ?? "")
      return Response.json({})
    },
  })
  await reelhouse.getBalance()
  await reelhouse.getBalance()
  assert.deepEqual(sent, ["Bearer token-1", "Bearer token-2"])
})

test("every try has a fresh token, and a refused one is replaced once", async () => {
  const { reelhouse, sent } = clientWith(LOST, problem(401, "not_authenticated"), Response.json({ id: "1" }, { status: 201 }))
  assert.equal((await reelhouse.order(ORDER)).id, "1")
  assert.deepEqual(sent.map((request) => request.headers.get("Authorization")), [1, 2, 3].map((n) => `Bearer token-${n}`))
  const signedOut = clientWith(problem(401, "not_authenticated"))
  await assert.rejects(signedOut.reelhouse.getBalance(), (error) => refused(error, "not_authenticated"))
  assert.equal(signedOut.sent.length, 2)
})

test("an intent is over when the API has decided, and not before", async () => {
  for (const [status, code, over] of [
    [402, "account_frozen", true], [404, "model_not_found", true], [422, "invalid_parameters", true],
    [401, "not_authenticated", false], [429, "rate_limited", false], [500, "internal_error", false], [503, "unavailable", false],
  ] as const) {
    const { reelhouse } = clientWith(problem(status, code))
    await assert.rejects(reelhouse.order(ORDER), (error) => refused(error, code) && decided(error) === over, code)
  }
  await assert.rejects(clientWith(LOST).reelhouse.order(ORDER), (error) => !decided(error))
})

test("an upload that the store never answers is given up, and sent again", async () => {
  const upload = { id: "u", url: "http://store.test/u", headers: {} }
  const signals: AbortSignal[] = []
  const send: typeof fetch = async (input, init) => {
    if (String(input instanceof Request ? input.url : input).startsWith("http://api.test")) return Response.json(upload)
    signals.push(init!.signal!)
    if (signals.length > 1) return new Response()
    return new Promise((_, reject) => init!.signal!.addEventListener("abort", () => reject(init!.signal!.reason)))
  }
  const retry = { attempts: 2, firstMs: 1, timeoutMs: 20 }
  const reelhouse = new Reelhouse({ baseUrl: "http://api.test", fetch: send, retry })
  assert.equal(await reelhouse.upload(new Blob(["x"], { type: "image/png" })), "u")
  assert.equal(signals[0]!.aborted, true)
})
