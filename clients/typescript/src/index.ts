export * from "./generated/types.gen"
export { Operations } from "./generated/sdk.gen"
export {
  type Event, type EventName, type EventOf, type EventOptions, type StreamLost, type StreamOpened,
} from "./events"
export { NoAnswerError, type ProblemCode, ProblemError, type ProblemOf, refused } from "./problems"
export { ENDED, type IntentOptions, newKey, Reelhouse, type ReelhouseOptions } from "./reelhouse"
export { RETRY, type RetryPolicy } from "./retrying"
