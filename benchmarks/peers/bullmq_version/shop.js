// What the API and the worker share: settings, the database, the queue and the object store.
import { S3Client } from "@aws-sdk/client-s3";
import pg from "pg";

export const PRICE_CREDITS = 1;
export const settings = process.env;
export const pool = new pg.Pool({ connectionString: settings.DATABASE_URL, max: 10 });
export const connection = { url: settings.REDIS_URL };
export const QUEUE = "generations";

export const s3 = new S3Client({
  endpoint: settings.S3_ENDPOINT_URL,
  region: settings.S3_REGION,
  credentials: { accessKeyId: settings.S3_ACCESS_KEY_ID, secretAccessKey: settings.S3_SECRET_ACCESS_KEY },
  forcePathStyle: true,
  requestChecksumCalculation: "WHEN_REQUIRED",
  responseChecksumValidation: "WHEN_REQUIRED",
});

export const objectKey = (generationId) => `generations/${generationId}.png`;
