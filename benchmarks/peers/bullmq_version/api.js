// The API: takes orders, debits credits, enqueues work, and hears from RunPod.
import { randomUUID } from "node:crypto";
import { Queue } from "bullmq";
import Fastify from "fastify";
import { createRemoteJWKSet, jwtVerify } from "jose";
import { PRICE_CREDITS, QUEUE, connection, pool, settings } from "./shop.js";

const ORDER = {
  type: "object",
  required: ["model_id", "parameters"],
  properties: { model_id: { type: "string" }, parameters: { type: "object", additionalProperties: true } },
};
const JOB = { attempts: 5, backoff: { type: "fixed", delay: 1000 }, removeOnComplete: true };

const keys = createRemoteJWKSet(new URL(settings.JWKS_URL));
const queue = new Queue(QUEUE, { connection });
const app = Fastify({ logger: { level: "error" } });

async function signedIn(request, reply) {
  try {
    const token = (request.headers.authorization ?? "").replace(/^Bearer /, "");
    const options = { issuer: settings.JWT_ISSUER, audience: "authenticated", algorithms: ["ES256"] };
    request.userId = (await jwtVerify(token, keys, options)).payload.sub;
  } catch {
    await reply.code(401).send({ code: "not_authenticated" });
  }
}

async function inTransaction(work) {
  const client = await pool.connect();
  try {
    await client.query("BEGIN");
    const result = await work(client);
    await client.query("COMMIT");
    return result;
  } catch (error) {
    await client.query("ROLLBACK");
    throw error;
  } finally {
    client.release();
  }
}

app.post("/v1/generations", { preHandler: signedIn, schema: { body: ORDER } }, async (request, reply) => {
  const generationId = randomUUID();
  const { model_id: modelId, parameters } = request.body;
  const debited = await inTransaction(async (client) => {
    const debit = await client.query(
      "UPDATE users SET credits = credits - $2 WHERE user_id = $1 AND credits >= $2 RETURNING credits",
      [request.userId, PRICE_CREDITS],
    );
    if (debit.rowCount === 0) return false;
    await client.query(
      "INSERT INTO generations (generation_id, user_id, model_id, parameters, price_credits) VALUES ($1, $2, $3, $4, $5)",
      [generationId, request.userId, modelId, parameters, PRICE_CREDITS],
    );
    return true;
  });
  if (!debited) return reply.code(402).send({ code: "insufficient_credits" });
  await queue.add("submit", { generationId }, JOB);
  return reply.code(201).send({ id: generationId, status: "queued", price_credits: PRICE_CREDITS });
});

app.post("/webhooks/runpod/:generationId", async (request, reply) => {
  if (request.query.secret !== settings.WEBHOOK_SECRET) return reply.code(403).send({});
  const { generationId } = request.params;
  const status = request.body.status === "COMPLETED" ? "storing" : "failed";
  await pool.query(
    "UPDATE generations SET status = $2, callback_at = clock_timestamp() WHERE generation_id = $1",
    [generationId, status],
  );
  if (status === "storing") await queue.add("store", { generationId }, JOB);
  return { ok: true };
});

app.get("/healthz", async () => ({ ok: true }));

process.on("SIGTERM", async () => {
  await app.close();
  await queue.close();
  await pool.end();
});

await app.listen({ host: "127.0.0.1", port: Number(settings.PORT) });
