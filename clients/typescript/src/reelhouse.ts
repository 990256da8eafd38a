// The client: every operation of the API is a method of it, generated from the description. What a description cannot
// say is added here: a key for each intent, events that resume, uploads, lists as iterators.
import {
  type Generation, type GenerationRequest, type LedgerLine, type ListGenerationsData, Operations, type Payment,
  type PaymentRequest, type Problem, type RepeatRequest, type UploadRequest,
} from "./generated/index.js"
import { createClient, createConfig } from "./generated/client/index.js"
import { type Event, type EventOptions, follow } from "./events.js"
import { everyItem } from "./pages.js"
import { asError } from "./problems.js"
import { RETRY, type RetryPolicy, retryingFetch } from "./retrying.js"
import { put } from "./uploads.js"

export interface ReelhouseOptions {
  /** Where the API is, without a path: `https://api.example.com`. */
  baseUrl: string
  /** The Supabase access token, or a function that gives a fresh one; it is called for every try. */
  token?: string | (() => string | undefined | Promise<string | undefined>)
  retry?: Partial<RetryPolicy>
  /** In place of the global one. */
  fetch?: typeof fetch
}

export interface IntentOptions {
  /**
   * One for each click, at most 200 characters. Under one key nothing is ordered or charged twice, so keep it where a
   * reload finds it, and give it again. Without it the intent ends with the page.
   */
  key?: string
  signal?: AbortSignal
}

/** Statuses in which a generation stays; only a file that arrives late can change them, to `completed`. */
export const ENDED: ReadonlySet<Generation["status"]> = new Set(["completed", "failed", "refused", "cancelled"])

export class Reelhouse extends Operations {
  readonly #baseUrl: string
  readonly #token: () => Promise<string | undefined>
  readonly #fetch: typeof fetch
  readonly #policy: RetryPolicy

  constructor(options: ReelhouseOptions) {
    const send: typeof fetch = options.fetch ?? ((input, init) => globalThis.fetch(input, init))
    const policy = { ...RETRY, ...options.retry }
    const { token } = options
    const freshToken = async (): Promise<string | undefined> => (typeof token === "function" ? token() : token)
    const client = createClient(createConfig({
      baseUrl: options.baseUrl, auth: freshToken, fetch: retryingFetch(send, policy, freshToken),
      throwOnError: true,
    }))
    client.interceptors.error.use((failure, response) => asError(failure as Problem, response?.status))
    super({ client })
    this.#baseUrl = options.baseUrl.replace(/\/$/, "")
    this.#token = freshToken
    this.#fetch = send
    this.#policy = policy
  }

  /**
   * Order a clip or a picture, or `count` variants of one, once. Throws the refusal, for example `insufficient_credits`.
   * The answer is the first variant; its `variants` name all of them.
   */
  async order(body: GenerationRequest, { key = newKey(), signal }: IntentOptions = {}): Promise<Generation> {
    return this.createGeneration({ body, headers: { "idempotency-key": key }, signal: signal ?? null })
  }

  /** Order the same again, once, with these parameters changed. It is a new order, at today's price. */
  async repeat(
    generationId: string, changes: RepeatRequest = {}, { key = newKey(), signal }: IntentOptions = {},
  ): Promise<Generation> {
    const path = { generation_id: generationId }
    const headers = { "idempotency-key": key }
    return this.repeatGeneration({ path, body: changes, headers, signal: signal ?? null })
  }

  /** Begin to buy a pack, once, and wait until it has a checkout: send the user to `checkout_url`. */
  async buy(body: PaymentRequest, { key = newKey(), signal }: IntentOptions = {}): Promise<Payment> {
    for (;;) {
      const payment = await this.createPayment({ body, headers: { "idempotency-key": key }, signal: signal ?? null })
      // `created`: the API waited for the provider, in vain. The same key waits on.
      if (payment.status !== "created") return payment
      signal?.throwIfAborted()
    }
  }

  /** Upload a picture or a clip, and get the id to order with. It is checked when an order uses it. */
  async upload(file: Blob, options: { contentType?: string; signal?: AbortSignal } = {}): Promise<string> {
    const signal = options.signal ?? null
    const contentType = (options.contentType ?? file.type) as UploadRequest["content_type"]
    const upload = await this.createUpload({ body: { content_type: contentType, size_bytes: file.size }, signal })
    await put(upload, file, this.#fetch, this.#policy, options.signal)
    return upload.id
  }

  /** Everything that happens to this user's generations, payments and credits, without a gap, until you leave the loop. */
  events(options: EventOptions = {}): AsyncGenerator<Event, void, undefined> {
    return follow(async (headers, signal) => {
      const token = await this.#token()
      const authorized = token === undefined ? headers : { ...headers, Authorization: `Bearer ${token}` }
      return this.#fetch(`${this.#baseUrl}/v1/events`, { headers: authorized, signal, cache: "no-store" })
    }, options)
  }

  /** The generation once it has ended. `status` says how; links to the file are in `download`. */
  async ended(generationId: string, options: { signal?: AbortSignal } = {}): Promise<Generation> {
    return (await this.#ended([generationId], options))[0]!
  }

  /** Every variant of the order once all have ended, in their order; of an order of one, that one. */
  async orderEnded(order: Generation, options: { signal?: AbortSignal } = {}): Promise<Generation[]> {
    return this.#ended(order.count === 1 ? [order.id] : order.variants.map(({ id }) => id), options)
  }

  async #ended(ids: string[], options: { signal?: AbortSignal }): Promise<Generation[]> {
    const ended = new Map<string, Generation>()
    for await (const { event, data } of this.events(options)) {
      // The stream first, then the question: so nothing can happen in between.
      const asked = event === "stream.opened" ? ids
        : event === "generation.updated" && data.status !== undefined ? ids.filter((id) => id === data.generation_id)
          : []
      for (const id of asked) {
        const generation = await this.getGeneration({ path: { generation_id: id }, signal: options.signal ?? null })
        if (ENDED.has(generation.status)) ended.set(id, generation)
      }
      if (ended.size === ids.length) return ids.map((id) => ended.get(id)!)
    }
    throw options.signal?.reason ?? new Error("the event stream has ended")
  }

  /** The user's generations, newest first. */
  generations(query: Omit<NonNullable<ListGenerationsData["query"]>, "cursor"> = {}): AsyncGenerator<Generation> {
    return everyItem(async (cursor: string | undefined) => {
      const page = await this.listGenerations({ query: cursor === undefined ? query : { ...query, cursor } })
      return { items: page.items, next: page.next_cursor }
    })
  }

  /** The user's payments, newest first. */
  payments(query: { limit?: number } = {}): AsyncGenerator<Payment> {
    return everyItem(async (cursor: string | undefined) => {
      const page = await this.listPayments({ query: cursor === undefined ? query : { ...query, cursor } })
      return { items: page.items, next: page.next_cursor }
    })
  }

  /** The statement, newest line first. */
  statement(query: { limit?: number } = {}): AsyncGenerator<LedgerLine> {
    return everyItem(async (before: number | undefined) => {
      const page = await this.getLedger({ query: before === undefined ? query : { ...query, before } })
      return { items: page.items, next: page.next_before }
    })
  }

  /** The whole statement as CSV, oldest line first. */
  async statementCsv({ signal }: { signal?: AbortSignal } = {}): Promise<string> {
    // The description has two types for this answer, and the generator takes the first.
    const text: unknown = await this.getLedger({ query: { format: "csv" }, parseAs: "text", signal: signal ?? null })
    return text as string
  }
}

/** A key for one intent. `crypto.randomUUID` exists only where the page came over HTTPS or from this machine. */
export function newKey(): string {
  const bytes = crypto.getRandomValues(new Uint8Array(16))
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("")
}
