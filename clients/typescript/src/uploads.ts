// Files go straight to the object store: to an address that takes exactly this file, once, for ten minutes.
import type { Upload } from "./generated/index.js"
import { NoAnswerError } from "./problems.js"
import { pause, type RetryPolicy } from "./retrying.js"

/** Answered where the address has already been used. */
const ALREADY_THERE = 412
/** 64 kB/s. A try that is slower than this, and than the time of a request, waits for a store that is not there. */
const SLOWEST_BYTES_PER_MS = 64

export async function put(
  upload: Upload, file: Blob, send: typeof fetch, policy: RetryPolicy, signal?: AbortSignal,
): Promise<void> {
  // A browser sets the length itself, and lets nobody else do it.
  const headers = Object.entries(upload.headers).filter(([name]) => name.toLowerCase() !== "content-length")
  const limitMs = policy.timeoutMs + Math.ceil(file.size / SLOWEST_BYTES_PER_MS)
  for (let attempt = 1; ; attempt++) {
    try {
      const limit = AbortSignal.timeout(limitMs)
      const limited = signal ? AbortSignal.any([signal, limit]) : limit
      const response = await send(upload.url, { method: "PUT", headers, body: file, signal: limited })
      // The address is only ours, so what is there already is an earlier try whose answer was lost.
      if (response.ok || response.status === ALREADY_THERE) return
      if (response.status < 500 || attempt >= policy.attempts) throw new NoAnswerError(undefined, response.status)
    } catch (error) {
      if (error instanceof NoAnswerError || signal?.aborted) throw error
      if (attempt >= policy.attempts) throw new NoAnswerError(error)
    }
    await pause(Math.random() * Math.min(policy.longestMs, policy.firstMs * 2 ** (attempt - 1)), signal)
  }
}
