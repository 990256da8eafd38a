// The worker: submits to RunPod, and stores what came back.
import { GetObjectCommand, PutObjectCommand } from "@aws-sdk/client-s3";
import { getSignedUrl } from "@aws-sdk/s3-request-presigner";
import { Worker } from "bullmq";
import { QUEUE, connection, objectKey, pool, s3, settings } from "./shop.js";

const UPLOAD_SECONDS = 3600;
const CONTENT_TYPE = "image/png";

// Give the order to RunPod. Tried again while RunPod refuses it.
async function submit({ generationId }) {
  const { rows } = await pool.query("SELECT model_id, parameters FROM generations WHERE generation_id = $1", [
    generationId,
  ]);
  const key = objectKey(generationId);
  const put = new PutObjectCommand({ Bucket: "incoming", Key: key, ContentType: CONTENT_TYPE });
  const putUrl = await getSignedUrl(s3, put, { expiresIn: UPLOAD_SECONDS });
  const answer = await fetch(`${settings.RUNPOD_ENDPOINT_URL}/run`, {
    method: "POST",
    headers: { authorization: `Bearer ${settings.RUNPOD_API_KEY}`, "content-type": "application/json" },
    body: JSON.stringify({
      input: { ...rows[0], output: { put_url: putUrl, object_key: key, content_type: CONTENT_TYPE } },
      webhook: `${settings.PUBLIC_URL}/webhooks/runpod/${generationId}?secret=${settings.WEBHOOK_SECRET}`,
    }),
  });
  if (!answer.ok) throw new Error(`RunPod answered ${answer.status}`);
  const { id } = await answer.json();
  // The webhook may have been faster.
  await pool.query(
    `UPDATE generations SET status = CASE status WHEN 'queued' THEN 'submitted' ELSE status END, job_id = $2,
     object_key = $3, submitted_at = clock_timestamp() WHERE generation_id = $1`,
    [generationId, id, key],
  );
}

// Copy the file into the library, and complete the order.
async function store({ generationId }) {
  const key = objectKey(generationId);
  const received = await s3.send(new GetObjectCommand({ Bucket: "incoming", Key: key }));
  const body = await received.Body.transformToByteArray();
  await s3.send(new PutObjectCommand({ Bucket: "library", Key: key, Body: body, ContentType: CONTENT_TYPE }));
  await pool.query(
    "UPDATE generations SET status = 'completed', finished_at = clock_timestamp() WHERE generation_id = $1",
    [generationId],
  );
}

const jobs = { submit, store };
const worker = new Worker(QUEUE, (job) => jobs[job.name](job.data), { connection, concurrency: 32 });

process.on("SIGTERM", async () => {
  await worker.close();
  await pool.end();
});
