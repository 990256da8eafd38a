"""The worker: submits to RunPod, and stores what came back. ``arq benchmarks.peers.arq_version.worker.Worker``."""

import os
from contextlib import AsyncExitStack
from typing import Any, Final
from uuid import UUID

import aiohttp
from arq import Retry
from sqlalchemy import case, func, update

from benchmarks.peers.arq_version.shop import Generation, engine, redis_settings, s3_client, sessions

RUNPOD: Final = os.environ["RUNPOD_ENDPOINT_URL"]
RUNPOD_HEADERS: Final = {"Authorization": f"Bearer {os.environ['RUNPOD_API_KEY']}"}
WEBHOOK: Final = f"{os.environ['PUBLIC_URL']}/webhooks/runpod"
SECRET: Final = os.environ["WEBHOOK_SECRET"]
UPLOAD_SECONDS: Final = 3600
RETRY_SECONDS: Final = 1


async def submit(context: dict[str, Any], generation_id: str) -> None:
    """Give the order to RunPod. Tried again while RunPod refuses it."""
    async with sessions() as session:
        generation = await session.get_one(Generation, UUID(generation_id))
    key = f"generations/{generation_id}.png"
    put_url = await context["s3"].generate_presigned_url(
        "put_object",
        Params={"Bucket": "incoming", "Key": key, "ContentType": "image/png"},
        ExpiresIn=UPLOAD_SECONDS,
    )
    output = {"put_url": put_url, "object_key": key, "content_type": "image/png"}
    job = {
        "input": {"model_id": generation.model_id, "parameters": generation.parameters, "output": output},
        "webhook": f"{WEBHOOK}/{generation_id}?secret={SECRET}",
    }
    async with context["http"].post(f"{RUNPOD}/run", json=job, headers=RUNPOD_HEADERS) as answer:
        if not answer.ok:
            raise Retry(defer=RETRY_SECONDS)
        job_id = (await answer.json())["id"]
    async with sessions.begin() as session:
        await session.execute(
            update(Generation)
            .where(Generation.generation_id == UUID(generation_id))
            .values(
                # The webhook may have been faster.
                status=case((Generation.status == "queued", "submitted"), else_=Generation.status),
                job_id=job_id,
                object_key=key,
                submitted_at=func.clock_timestamp(),
            )
        )


async def store(context: dict[str, Any], generation_id: str) -> None:
    """Copy the file into the library, and complete the order."""
    key = f"generations/{generation_id}.png"
    received = await context["s3"].get_object(Bucket="incoming", Key=key)
    body = await received["Body"].read()
    await context["s3"].put_object(Bucket="library", Key=key, Body=body, ContentType="image/png")
    async with sessions.begin() as session:
        await session.execute(
            update(Generation)
            .where(Generation.generation_id == UUID(generation_id))
            .values(status="completed", finished_at=func.clock_timestamp())
        )


async def startup(context: dict[str, Any]) -> None:
    """Open what the jobs use."""
    stack = context["stack"] = AsyncExitStack()
    context["s3"] = await stack.enter_async_context(s3_client())
    context["http"] = await stack.enter_async_context(aiohttp.ClientSession())


async def shutdown(context: dict[str, Any]) -> None:
    """Close it."""
    await context["stack"].aclose()
    await engine.dispose()


class Worker:
    """arq's settings."""

    functions = (submit, store)
    redis_settings = redis_settings
    on_startup = startup
    on_shutdown = shutdown
    max_jobs = 32
    # arq asks Redis for work. Its default, half a second, would be most of the time of an order.
    poll_delay = 0.1
    keep_result = 0
