// What is generated: the types, and one method for each operation. Everything else in src/ is written by hand.
export default {
  input: "../../docs/openapi.json",
  // The stream is not a call that answers once: src/events.ts reads it.
  parser: { filters: { operations: { exclude: ["GET /v1/events"] }, orphans: true } },
  output: "src/generated",
  plugins: [
    "@hey-api/typescript",
    { name: "@hey-api/sdk", operations: { strategy: "single", containerName: "Operations" }, responseStyle: "data" },
    { name: "@hey-api/client-fetch", throwOnError: true },
  ],
}
