// Empty jobs a second, added one by one or in bulk: node empty_jobs.js COUNT BULK. Prints {"per_second": N}.
import { Queue, Worker } from "bullmq";
import { connection } from "./shop.js";

const QUEUE = "empty-jobs";
const IN_FLIGHT = 100;
const [count, bulk] = process.argv.slice(2).map(Number);

const queue = new Queue(QUEUE, { connection, defaultJobOptions: { removeOnComplete: true } });
await queue.waitUntilReady();
let handled = 0;
let finish;
const finished = new Promise((resolve) => (finish = resolve));
const worker = new Worker(QUEUE, async () => {}, { connection, concurrency: IN_FLIGHT });
worker.on("completed", () => ++handled === count && finish());
await worker.waitUntilReady();

const began = performance.now();
let added = 0;
async function add() {
  while (added < count) {
    const number = Math.min(bulk, count - added);
    added += number;
    if (bulk === 1) await queue.add("empty", {});
    else await queue.addBulk(Array.from({ length: number }, () => ({ name: "empty", data: {} })));
  }
}
await Promise.all(Array.from({ length: IN_FLIGHT / bulk }, add));
await finished;
console.log(JSON.stringify({ per_second: (count / (performance.now() - began)) * 1000 }));
await worker.close();
await queue.close();
