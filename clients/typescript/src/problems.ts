// Every way in which a call can fail, as two classes. A refusal has a code, and the code decides what else it has.
import type { Problem } from "./generated/index.js"

export type ProblemCode = Problem["code"]

/** The problem with this code, with the members that only it has. */
export type ProblemOf<Code extends ProblemCode> = Extract<Problem, { code: Code }>

/** The API answered, and refused. `problem` is a union: after `problem.code === "…"` its own members are there. */
export class ProblemError extends Error {
  override readonly name = "ProblemError"
  readonly problem: Problem

  constructor(problem: Problem) {
    super(problem.detail ? `${problem.title}: ${problem.detail}` : problem.title)
    this.problem = problem
  }
}

/** Nobody knows whether the request arrived: the connection was lost, or something before the API answered. */
export class NoAnswerError extends Error {
  override readonly name = "NoAnswerError"

  constructor(cause: unknown, readonly status?: number) {
    super(status ? `no answer from the API (${status})` : "no answer from the API", { cause })
  }
}

/** Whether `error` is the refusal with this code: `if (refused(error, "insufficient_credits")) error.problem.required` */
export function refused<Code extends ProblemCode>(
  error: unknown, code: Code,
): error is ProblemError & { problem: ProblemOf<Code> } {
  return error instanceof ProblemError && error.problem.code === code
}

/**
 * Whether the API has decided, and said no: the intent is over, and so is its key. Anything else may have happened all
 * the same: keep the key, and give it again. A 401 or 429 says nothing of an earlier try whose answer was lost.
 */
export function decided(error: unknown): error is ProblemError {
  return error instanceof ProblemError && error.problem.status < 500 && ![401, 429].includes(error.problem.status)
}

/** What a failed call throws, from the body of its answer or from what `fetch` threw. */
export function asError(failure: unknown, status?: number): unknown {
  if (isProblem(failure)) return new ProblemError(failure)
  if (failure instanceof DOMException && failure.name === "AbortError") return failure
  return new NoAnswerError(failure, status)
}

function isProblem(body: unknown): body is Problem {
  return typeof body === "object" && body !== null && "code" in body && "retryable" in body && "instance" in body
}
