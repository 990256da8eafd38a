"""The API: takes orders, debits credits, enqueues work, and hears from RunPod."""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Any, Final
from uuid import UUID, uuid4

import jwt
from arq import create_pool
from fastapi import Depends, FastAPI, Header, HTTPException, Request
from pydantic import BaseModel
from sqlalchemy import func, update

from benchmarks.peers.arq_version.shop import PRICE_CREDITS, Customer, Generation, engine, redis_settings, sessions

JWKS: Final = jwt.PyJWKClient(os.environ["JWKS_URL"])
ISSUER: Final = os.environ["JWT_ISSUER"]
WEBHOOK_SECRET: Final = os.environ["WEBHOOK_SECRET"]


class Order(BaseModel):
    """What is asked for."""

    model_id: str
    parameters: dict[str, Any]


class PlacedOrder(BaseModel):
    """What was written down."""

    id: UUID
    status: str
    price_credits: int


class JobResult(BaseModel):
    """The part of RunPod's webhook that matters."""

    status: str
    output: dict[str, Any] | None = None


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Connect to Redis."""
    app.state.queue = await create_pool(redis_settings)
    yield
    await app.state.queue.aclose()
    await engine.dispose()


app = FastAPI(lifespan=lifespan)


async def signed_in(authorization: Annotated[str, Header()]) -> UUID:
    """The user whose token this is."""
    token = authorization.removeprefix("Bearer ")
    try:
        key = JWKS.get_signing_key_from_jwt(token)
        claims = jwt.decode(token, key, algorithms=["ES256"], audience="authenticated", issuer=ISSUER)
    except jwt.PyJWTError as error:
        raise HTTPException(401) from error
    return UUID(claims["sub"])


@app.post("/v1/generations", status_code=201)
async def create_generation(
    order: Order, user_id: Annotated[UUID, Depends(signed_in)], request: Request
) -> PlacedOrder:
    """Debit the credits, write the order down, and enqueue it."""
    generation_id = uuid4()
    async with sessions.begin() as session:
        debit = (
            update(Customer)
            .where(Customer.user_id == user_id, Customer.credits >= PRICE_CREDITS)
            .values(credits=Customer.credits - PRICE_CREDITS)
            .returning(Customer.credits)
        )
        if (await session.execute(debit)).one_or_none() is None:
            raise HTTPException(402)
        session.add(
            Generation(
                generation_id=generation_id,
                user_id=user_id,
                model_id=order.model_id,
                parameters=order.parameters,
                price_credits=PRICE_CREDITS,
            )
        )
    await request.app.state.queue.enqueue_job("submit", str(generation_id))
    return PlacedOrder(id=generation_id, status="queued", price_credits=PRICE_CREDITS)


@app.post("/webhooks/runpod/{generation_id}")
async def job_ended(generation_id: UUID, secret: str, result: JobResult, request: Request) -> dict[str, bool]:
    """Remember when RunPod called, and enqueue the rest."""
    if secret != WEBHOOK_SECRET:
        raise HTTPException(403)
    status = "storing" if result.status == "COMPLETED" else "failed"
    async with sessions.begin() as session:
        await session.execute(
            update(Generation)
            .where(Generation.generation_id == generation_id)
            .values(status=status, callback_at=func.clock_timestamp())
        )
    if status == "storing":
        await request.app.state.queue.enqueue_job("store", str(generation_id))
    return {"ok": True}


@app.get("/healthz")
async def healthz() -> dict[str, bool]:
    """Whether it serves."""
    return {"ok": True}
