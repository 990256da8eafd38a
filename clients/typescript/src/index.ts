export * from "./generated/types.gen.js"
export { Operations } from "./generated/sdk.gen.js"
export {
  type Event, type EventName, type EventOf, type EventOptions, type StreamLost, type StreamOpened,
} from "./events.js"
export { decided, NoAnswerError, type ProblemCode, ProblemError, type ProblemOf, refused } from "./problems.js"
export { ENDED, type IntentOptions, newKey, Reelhouse, type ReelhouseOptions } from "./reelhouse.js"
export { RETRY, type RetryPolicy } from "./retrying.js"
