// A fetch that repeats a request until there is a decision. Which requests may be repeated is decided here, once.

export interface RetryPolicy {
  /** How often a request is sent at most. */
  attempts: number
  /** The longest wait before the second try. It doubles with each try, up to `longestMs`; the wait is random below it. */
  firstMs: number
  /** No wait is longer. If `Retry-After` asks for more, the refusal is the answer. */
  longestMs: number
  /** How long one try may take. A purchase waits up to 10 s for its provider. An upload gets more by its size. */
  timeoutMs: number
}

export const RETRY: RetryPolicy = { attempts: 6, firstMs: 500, longestMs: 15_000, timeoutMs: 30_000 }

/** `token` gives a fresh one: each further try of a request that carries one has its own. */
export function retryingFetch(
  send: typeof fetch, policy: RetryPolicy, token: () => Promise<string | undefined>,
): typeof fetch {
  return async (input, init) => {
    const request = new Request(input, init)
    let refused = false
    for (let attempt = 1; ; attempt++) {
      const last = attempt >= policy.attempts
      let wait = Math.random() * Math.min(policy.longestMs, policy.firstMs * 2 ** (attempt - 1))
      try {
        if (attempt > 1) await renew(request, token)
        const signal = AbortSignal.any([request.signal, AbortSignal.timeout(policy.timeoutMs)])
        const response = await send(new Request(request.clone(), { signal }))
        // The token may have expired on its way. A second refusal is meant.
        if (response.status === 401 && request.headers.has("Authorization") && !refused && !last) {
          refused = true
          continue
        }
        if (last || !mayChange(request, response.status)) return response
        const asked = retryAfterMs(response)
        if (asked > policy.longestMs) return response
        wait = Math.max(wait, asked)
      } catch (error) {
        if (last || request.signal.aborted || !isRepeatable(request)) throw error
      }
      await pause(wait, request.signal)
    }
  }
}

/** Between two tries a token may expire. */
async function renew(request: Request, token: () => Promise<string | undefined>): Promise<void> {
  const fresh = request.headers.has("Authorization") ? await token() : undefined
  if (fresh !== undefined) request.headers.set("Authorization", `Bearer ${fresh}`)
}

/** 429 did nothing. After a 5xx nobody knows, so only what may arrive twice is sent twice. */
function mayChange(request: Request, status: number): boolean {
  return status === 429 || (status >= 500 && isRepeatable(request))
}

function isRepeatable(request: Request): boolean {
  return ["GET", "HEAD", "DELETE"].includes(request.method) || request.headers.has("Idempotency-Key")
}

export function retryAfterMs(response: Response): number {
  return Number(response.headers.get("Retry-After") ?? 0) * 1000 || 0
}

/** Wait, or throw as soon as `signal` is aborted. */
export function pause(milliseconds: number, signal?: AbortSignal): Promise<void> {
  return new Promise((resolve, reject) => {
    if (signal?.aborted) return reject(signal.reason)
    const stop = (): void => {
      clearTimeout(timer)
      reject(signal?.reason)
    }
    const timer = setTimeout(() => {
      signal?.removeEventListener("abort", stop)
      resolve()
    }, milliseconds)
    signal?.addEventListener("abort", stop, { once: true })
  })
}
