"""Taking an order: validated, priced, written down with its message, and answered with billing's verdict."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from math import ceil
from typing import Any, Final
from uuid import UUID

from sqlalchemy import Row

from catalogue import FieldError, InvalidParameters, Model, UnknownModel
from contracts.billing import CreditsRefused
from contracts.gateway import GenerationRequested
from contracts.values import GenerationOrder
from gateway import queries, repository
from gateway.dependencies import Parts
from gateway.domain import User, is_storable, request_hash
from gateway.errors import (
    AccountFrozen,
    IdempotencyKeyReused,
    InsufficientCredits,
    InvalidModelParameters,
    ModelNotFound,
    PriceAboveLimit,
    RateLimited,
    TooManyOpenGenerations,
)
from gateway.representations import GenerationRequest
from gateway.tables import generation_requests
from messaging.database import single_statements
from messaging.ids import new_id
from messaging.transaction import Transaction

FIRST_LOOK_SECONDS: Final = 0.25
"""How long a verdict is only listened for; mostly it is heard within milliseconds."""
MOST_ERRORS: Final = 20
"""How many fields a refusal names."""


@dataclass(frozen=True)
class Taken:
    """An order that stands. ``reserved`` is False while billing has not said; ``replayed`` if the key was known."""

    row: Row[Any]
    reserved: bool
    replayed: bool


def completed(parts: Parts, model_id: str, parameters: dict[str, Any]) -> tuple[Model, dict[str, Any]]:
    """The model and its complete parameters. Raises ``ModelNotFound`` or ``InvalidModelParameters``."""
    try:
        model = parts.catalogue.model(model_id)
        _check_storable(parameters)
        return model, model.complete(parameters)
    except UnknownModel as error:
        raise ModelNotFound(f"GET /v1/models lists every model; '{model_id[:64]}' is none of them") from error
    except InvalidParameters as error:
        raise _invalid(error.errors) from error


async def take(parts: Parts, user: User, key: str, asked: GenerationRequest) -> Taken:
    """Write the order down once for this key and wait a little for the verdict.

    Raises the problems of ``completed``, ``PriceAboveLimit``, ``IdempotencyKeyReused``, ``InsufficientCredits``,
    ``AccountFrozen``, ``RateLimited`` and ``TooManyOpenGenerations``.
    """
    # First of all: a repeated request gets its first result, whatever has become of model, price and limits since.
    held = await _request(parts, user, key)
    if held is None:
        model, parameters = completed(parts, asked.model_id, asked.parameters)
        price = model.quote(parameters).price_credits
        if asked.max_price_credits is not None and price > asked.max_price_credits:
            raise PriceAboveLimit(price_credits=price, max_price_credits=asked.max_price_credits)
        await check_write(parts, user)
        generation_id = new_id()
        # Expected before it is asked for: the verdict may be faster than the commit's return.
        with parts.news.expecting(generation_id) as verdict:
            async with parts.transactions.begin() as tx:
                held = await _write_down(tx, parts, user, key, asked, generation_id, model, parameters, price)
            if held is None:
                await wait_for(verdict, parts.settings.verdict_wait_seconds, lambda: _is_decided(parts, user, key))
                return await _answer(parts, user, key, generation_id, verdict, replayed=False)
    if bytes(held.request_hash) != _hash(asked):
        raise IdempotencyKeyReused(generation_id=str(held.generation_id))
    with parts.news.expecting(held.generation_id) as verdict:
        request = await _request(parts, user, key)
        if request is None or request.verdict is None:
            await wait_for(verdict, parts.settings.verdict_wait_seconds, lambda: _is_decided(parts, user, key))
        return await _answer(parts, user, key, held.generation_id, verdict, replayed=True)


async def _write_down(
    tx: Transaction,
    parts: Parts,
    user: User,
    key: str,
    asked: GenerationRequest,
    generation_id: UUID,
    model: Model,
    parameters: dict[str, Any],
    price: int,
) -> Row[Any] | None:
    """The one transaction of an order; returns the request that holds the key, if it was known."""
    values = {
        "generation_id": generation_id,
        "user_id": user.user_id,
        "idempotency_key": key,
        "request_hash": _hash(asked),
    }
    claimed = await repository.add_request(tx.connection, generation_requests, values)
    if not isinstance(claimed, datetime):
        return claimed
    # So that what is counted next stays true.
    await repository.lock_allowance(tx.connection, user.user_id)
    limit = parts.settings.max_open_generations
    if await repository.count_open_generations(tx.connection, user.user_id) >= limit:
        raise TooManyOpenGenerations(f"at most {limit} at a time", headers={"Retry-After": "10"})
    uploads = {name: UUID(parameters[name]) for name in model.upload_parameters if _is_uuid(parameters[name])}
    await _check_uploads(tx, user, model, uploads)
    order = GenerationOrder(
        generation_id=generation_id,
        user_id=user.user_id,
        model_id=model.id,
        kind=model.kind,
        parameters=parameters,
        price_credits=price,
        lane=user.lane,
        uploads=uploads,
        requested_at=claimed,
        expires_at=claimed + timedelta(seconds=model.order_deadline_seconds),
    )
    await repository.add_generation(tx.connection, order)
    tx.publish(GenerationRequested(order=order), correlation_id=generation_id)
    return None


async def check_write(parts: Parts, user: User) -> None:
    """Take one of the writes that a user has each minute, whatever becomes of it. Raises ``RateLimited``."""
    per_minute = parts.settings.writes_per_minute
    async with single_statements(parts.engine) as connection:
        taken = await repository.take_allowance(connection, user.user_id, per_minute)
    if not taken:
        raise RateLimited(f"at most {per_minute} a minute", headers={"Retry-After": str(ceil(60 / per_minute))})


async def _check_uploads(tx: Transaction, user: User, model: Model, uploads: dict[str, UUID]) -> None:
    known = await repository.count_uploads(tx.connection, user.user_id, list(uploads.values())) if uploads else 0
    if len(uploads) != len(model.upload_parameters) or known != len(set(uploads.values())):
        message = "is not the id of a file that you uploaded"
        raise _invalid(tuple(FieldError(name, "unknown_upload", message) for name in model.upload_parameters))


async def wait_for(verdict: asyncio.Future[Any], seconds: float, written: Callable[[], Awaitable[bool]]) -> None:
    """Wait until the verdict is heard or ``written`` down, but no longer: what was asked for is durable either way.

    News may be lost, or heard before this request came: so the database is looked at now and then, ever more rarely.
    """
    deadline = time.monotonic() + seconds
    pause = FIRST_LOOK_SECONDS
    while (remaining := deadline - time.monotonic()) > 0:
        await asyncio.wait([verdict], timeout=min(pause, remaining))
        if verdict.done() or await written():
            return
        pause *= 2


async def _answer(
    parts: Parts, user: User, key: str, generation_id: UUID, verdict: asyncio.Future[Any], *, replayed: bool
) -> Taken:
    if verdict.done():
        if isinstance(refused := verdict.result(), CreditsRefused):
            raise _refusal(refused.code, refused.required_credits, refused.available_credits, generation_id)
        reserved = True
    else:
        request = await _request(parts, user, key)
        assert request is not None, "the request was committed"
        if request.verdict not in (None, "reserved"):
            raise _refusal(request.verdict, request.required_credits, request.available_credits, generation_id)
        reserved = request.verdict == "reserved"
    row = await queries.find_generation(parts.engine, user.user_id, generation_id)
    assert row is not None, "the order was committed, and belongs to this user"
    return Taken(row, reserved=reserved, replayed=replayed)


async def _request(parts: Parts, user: User, key: str) -> Row[Any] | None:
    async with single_statements(parts.engine) as connection:
        return await repository.find_request(connection, generation_requests, user.user_id, key)


async def _is_decided(parts: Parts, user: User, key: str) -> bool:
    request = await _request(parts, user, key)
    return request is not None and request.verdict is not None


def _refusal(code: str, required: int, available: int, generation_id: UUID) -> Exception:
    kind = AccountFrozen if code == "account_frozen" else InsufficientCredits
    return kind(required=required, available=available, generation_id=str(generation_id))


def _invalid(errors: tuple[FieldError, ...]) -> InvalidModelParameters:
    shown = [{"field": f"parameters.{e.field}", "code": e.code, "message": e.message} for e in errors[:MOST_ERRORS]]
    return InvalidModelParameters(errors=shown)


def _check_storable(parameters: dict[str, Any]) -> None:
    """Refuse what JSON may say and the database cannot hold, and what is nested: no model takes that."""
    bad = [name for name, value in parameters.items() if not (is_storable(name) and is_storable(value))]
    if bad:
        message = "must be one value, without characters and numbers that cannot be stored"
        # The name itself may be what cannot even be said in an answer.
        shown = [name.encode(errors="replace").decode() for name in bad]
        raise InvalidParameters(tuple(FieldError(name, "unstorable", message) for name in shown))


def _hash(asked: GenerationRequest) -> bytes:
    return request_hash(asked.model_dump())


def _is_uuid(text: Any) -> bool:
    try:
        UUID(text)
    except (ValueError, TypeError, AttributeError):
        return False
    return True
