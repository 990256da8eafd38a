// How numbers, times, statuses and failures are said.
import { NoAnswerError, ProblemError } from "./client.js"

const NUMBER = new Intl.NumberFormat("en")
const TIME = new Intl.DateTimeFormat("en", { dateStyle: "medium", timeStyle: "short" })

const STATUS = {
  requested: "Ordered", queued: "In the queue", dispatching: "Starting", running: "Rendering", storing: "Checking the file",
  completed: "Ready", failed: "Failed", refused: "Refused", cancelling: "Stopping", cancelled: "Cancelled",
}
const FAILURE = {
  insufficient_credits: "There were too few credits.",
  account_frozen: "Credits are owed after a refund. Buy credits to go on.",
  invalid_input: "What you uploaded cannot be used.",
  output_rejected: "The file that came out was not what you ordered.",
  deadline_exceeded: "It was not delivered in time.",
  not_started_in_time: "No GPU was free in the time that the order gave.",
  execution_timeout: "It took too long.",
}
const REASON = {
  purchase: "Credits bought", bonus: "Bonus", signup: "Welcome credits", goodwill: "Goodwill", reserve: "Set aside for an order",
  capture: "Charged", release: "Given back", refund: "Refund", dispute: "Dispute", refund_failed: "Refund came back",
  dispute_won: "Dispute won", expiry: "Expired", receivable_settled: "Debt paid",
}
const EVENT = {
  requested: "Ordered", credits_reserved: "Credits set aside", queued: "Put into the queue", dispatching: "Sent to a GPU",
  running: "Rendering began", attempt_failed: "An attempt failed", storing: "Uploaded, being checked",
  late_output_ready: "A late file arrived", asset_stored: "Stored in the library", previews_stored: "Thumbnails stored",
  completed: "Ready", failed: "Failed",
  refused: "Refused", cancelling: "Being stopped", cancelled: "Cancelled", credits_captured: "Charged",
  credits_released: "Credits given back", deleted: "Deleted",
}
const PROVIDER = { stripe: "Card", btcpay: "Bitcoin", nowpayments: "Other coins" }

/** A name that this page does not know yet is shown as it is: enumerations grow. */
const said = (words, name) => words[name] ?? name.replaceAll("_", " ")

export const sayStatus = (status) => said(STATUS, status)
export const sayReason = (reason) => said(REASON, reason)
export const sayEvent = (name) => said(EVENT, name)
export const sayProvider = (provider) => said(PROVIDER, provider)
export const sayTime = (time) => TIME.format(new Date(time))
export const sayNumber = (number) => NUMBER.format(number)
export const sayCredits = (count) => `${NUMBER.format(count)} credit${count === 1 ? "" : "s"}`
export const sayDelta = (count) => (count > 0 ? `+${NUMBER.format(count)}` : NUMBER.format(count).replace("-", "−"))
export const sayPrice = (cents, currency) =>
  new Intl.NumberFormat("en", { style: "currency", currency: currency.toUpperCase() }).format(cents / 100)

export function sayMilliseconds(milliseconds) {
  if (milliseconds < 1000) return `${Math.round(milliseconds)} ms`
  return milliseconds < 60_000 ? `${(milliseconds / 1000).toFixed(1)} s` : `${Math.round(milliseconds / 60_000)} min`
}

/** How long it is until then, roughly: an estimate does not tick. */
export function sayUntil(time) {
  const seconds = Math.max(0, (Date.parse(time) - Date.now()) / 1000)
  if (seconds < 10) return "a few seconds"
  return seconds < 55 ? `about ${Math.ceil(seconds / 10) * 10} s` : `about ${Math.round(seconds / 60)} min`
}

/** Why there is no file. */
export function sayFailure(failure) {
  return FAILURE[failure.code] ?? `It did not work (${said({}, failure.code)}).`
}

/** What went wrong with a call. */
export function sayError(error) {
  if (error instanceof ProblemError) {
    switch (error.problem.code) {
      case "insufficient_credits":
        return `This costs ${sayCredits(error.problem.required)}, and you have ${NUMBER.format(error.problem.available)}.`
      case "price_above_limit":
        return `The price is ${sayCredits(error.problem.price_credits)} now. Order again to accept it.`
      case "invalid_parameters":
        return "Some settings do not fit the model."
      default:
        return `${error.message}.`
    }
  }
  if (error instanceof NoAnswerError) return "The server does not answer. Try again; nothing is ordered twice."
  throw error
}
