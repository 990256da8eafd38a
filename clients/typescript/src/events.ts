// The event stream: typed, and without a gap however often the connection is lost.
import type { StreamedEvent } from "./generated/index.js"
import { asError, ProblemError } from "./problems.js"
import { pause, retryAfterMs } from "./retrying.js"

/**
 * The stream stands. `resumed`: nothing was missed since the last event. Otherwise the stream begins now: read the lists
 * again, for what happened before is not repeated.
 */
export interface StreamOpened {
  event: "stream.opened"
  data: { resumed: boolean }
  id: string
}

/** The connection is lost and will be made again by itself; `error` says why, where there is one. */
export interface StreamLost {
  event: "stream.lost"
  data: { error?: unknown }
}

export type Event = StreamedEvent | StreamOpened | StreamLost
export type EventName = Event["event"]
export type EventOf<Name extends EventName> = Extract<Event, { event: Name }>

export interface EventOptions {
  /** Resume after this event; without it the stream begins now. */
  lastEventId?: string
  /** Ends the stream. So does leaving the `for await` loop. */
  signal?: AbortSignal
}

/** The server says something every 15 s: a connection that is silent for longer is dead, though nobody closed it. */
const SILENCE_MS = 45_000
/** Until the server says otherwise, with a field of its own. */
const RECONNECT_MS = 2_000
const LONGEST_RECONNECT_MS = 30_000

/** Opens one connection; called for each one anew, so that each has a fresh token. */
export type Connect = (headers: Record<string, string>, signal: AbortSignal) => Promise<Response>

export async function* follow(connect: Connect, options: EventOptions = {}): AsyncGenerator<Event, void, undefined> {
  const stop = new AbortController()
  const signal = options.signal ? AbortSignal.any([options.signal, stop.signal]) : stop.signal
  let lastEventId = options.lastEventId
  let reconnectMs = RECONNECT_MS
  let failures = 0
  try {
    while (!signal.aborted) {
      let asked = 0
      let lost: unknown
      try {
        const response = await withinSilence(signal, (limited) =>
          connect(lastEventId === undefined ? {} : { "Last-Event-ID": lastEventId }, limited))
        if (!response.ok || !response.body) {
          asked = retryAfterMs(response)
          throw asError(await response.json().catch(() => undefined), response.status)
        }
        for await (const block of blocks(response.body)) {
          failures = 0
          reconnectMs = block.retry ?? reconnectMs
          if (block.id !== undefined && block.data === undefined) {
            yield { event: "stream.opened", data: { resumed: lastEventId !== undefined }, id: block.id }
          }
          if (block.data !== undefined) {
            yield { event: block.event, data: JSON.parse(block.data), id: block.id } as StreamedEvent
          }
          // Only now: an event that its reader has not taken is sent again.
          lastEventId = block.id ?? lastEventId
        }
      } catch (error) {
        if (signal.aborted) return
        if (error instanceof ProblemError && !mayPass(error, failures)) throw error
        lost = error
      }
      failures += 1
      yield { event: "stream.lost", data: lost === undefined ? {} : { error: lost } }
      const longer = Math.random() * Math.min(LONGEST_RECONNECT_MS, reconnectMs * 2 ** (failures - 1))
      await pause(Math.max(asked, reconnectMs, longer), signal)
    }
  } catch (error) {
    if (!signal.aborted) throw error
  } finally {
    stop.abort()
  }
}

/** Give up a connection that does not begin to answer; `signal` ends it at any time. */
async function withinSilence<Answer>(
  signal: AbortSignal, open: (limited: AbortSignal) => Promise<Answer>,
): Promise<Answer> {
  const overdue = new AbortController()
  const timer = setTimeout(() => overdue.abort(new Error("silence")), SILENCE_MS)
  return open(AbortSignal.any([signal, overdue.signal])).finally(() => clearTimeout(timer))
}

/** A token may expire while it travels: the next one is fresh. A second refusal is meant. */
function mayPass(error: ProblemError, failures: number): boolean {
  return error.problem.retryable || error.problem.status >= 500 || (error.problem.status === 401 && failures === 0)
}

interface Block {
  event: string
  data?: string
  id?: string
  retry?: number
}

/** The blocks of a `text/event-stream`, until it ends or is silent for too long. */
export async function* blocks(body: ReadableStream<Uint8Array>): AsyncGenerator<Block, void, undefined> {
  const reader = body.getReader()
  const decoder = new TextDecoder()
  let unfinished = ""
  let block: Block = { event: "message" }
  try {
    for (;;) {
      const silence = setTimeout(() => void reader.cancel(), SILENCE_MS)
      const { done, value } = await reader.read().finally(() => clearTimeout(silence))
      if (done) return
      const lines = (unfinished + decoder.decode(value, { stream: true })).split("\n")
      unfinished = lines.pop() ?? ""
      for (const line of lines.map((one) => one.replace(/\r$/, ""))) {
        if (line !== "") {
          read(line, block)
        } else {
          yield block
          block = { event: "message" }
        }
      }
    }
  } finally {
    await reader.cancel().catch(() => undefined)
  }
}

function read(line: string, block: Block): void {
  const colon = line.indexOf(":")
  const name = colon < 0 ? line : line.slice(0, colon)
  const value = colon < 0 ? "" : line.slice(colon + 1).replace(/^ /, "")
  if (name === "event") block.event = value
  if (name === "id") block.id = value
  if (name === "retry" && /^\d+$/.test(value)) block.retry = Number(value)
  if (name === "data") block.data = block.data === undefined ? value : `${block.data}\n${value}`
}
