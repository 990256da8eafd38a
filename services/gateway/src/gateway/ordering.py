"""Placing an order: validated, priced, written down with its message, and answered with billing's verdict."""

import asyncio
import contextlib
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final
from uuid import UUID

import structlog

from catalogue import FieldError, InvalidParameters, Model, UnknownModel
from contracts.billing import CreditsRefused, CreditsReserved, RefusalCode
from contracts.gateway import GenerationRequested, VariantsRequested
from contracts.object_keys import UPLOADS_KEPT_FOR
from contracts.values import GenerationOrder
from gateway import queries, repository
from gateway.dependencies import Dependencies
from gateway.domain import OrderRequest, User, is_storable
from gateway.errors import (
    AccountFrozen,
    GenerationDeleted,
    GenerationNotFound,
    IdempotencyKeyReused,
    InsufficientCredits,
    InvalidModelParameters,
    ModelNotFound,
    PriceAboveLimit,
    TooManyOpenGenerations,
)
from gateway.limits import check_start_limit, find_request_or_check_write
from gateway.live_events import Reply, wait_for_reply
from gateway.records import GenerationRecord, GenerationRequestRecord, first_of_order
from gateway.settings import Settings
from gateway.statuses import WITHDRAWN
from messaging.database import single_statements
from messaging.ids import new_id
from messaging.transaction import Transaction
from service_runtime.problems import Problem, named_errors

OLDEST_UPLOAD: Final = UPLOADS_KEPT_FOR - timedelta(days=1)
"""An order waits for hours before its uploads are read, and nobody removes them to the minute."""
_DRAWN: Final = "seed"
"""Drawn at random where none is given, and what is ordered again is to become something else."""


@dataclass(frozen=True, slots=True)
class PlacedOrder:
    """An order that was written down. ``reserved``: billing has answered. ``replayed``: the key was used before."""

    generation: GenerationRecord
    reserved: bool
    replayed: bool


@dataclass(frozen=True, slots=True)
class _PricedOrder:
    """A request that fits its model: the parameters of each variant, complete, and what billing will reserve for it."""

    model: Model
    variants: list[dict[str, Any]]
    price_credits: int
    """Of each variant."""


def complete_parameters(
    dependencies: Dependencies, model_id: str, parameters: dict[str, Any], *, unfinished: bool = False
) -> tuple[Model, dict[str, Any]]:
    """The model and its complete parameters. Raises ``ModelNotFound`` or ``InvalidModelParameters``.

    ``unfinished``: texts and files may still be missing.
    """
    try:
        model = dependencies.catalogue.offered_model(model_id)
        _check_storable(parameters)
        return model, model.complete(parameters, model.missing_texts(parameters) if unfinished else ())
    except UnknownModel as error:
        raise ModelNotFound(f"GET /v1/models lists every model; '{model_id[:64]}' is none of them") from error
    except InvalidParameters as error:
        raise _invalid(error.errors) from error


async def place_order(dependencies: Dependencies, user: User, key: str, request: OrderRequest) -> PlacedOrder:
    """Write the order down, once for this key, and wait a little for the verdict.

    Raises the problems of ``complete_parameters``, ``PriceAboveLimit``, ``IdempotencyKeyReused``,
    ``InsufficientCredits``, ``AccountFrozen``, ``RateLimited``, ``TooManyOpenGenerations`` and ``GenerationDeleted``.
    """
    async with contextlib.AsyncExitStack() as admission:
        writes = dependencies.admission.writes
        admission.enter_context(writes.admitted())
        await admission.enter_async_context(writes.turns)
        try:
            priced = _price(dependencies, request)
        except Problem:
            # A key gets its first result, even if model, price or limits have changed since.
            found = await _find_request(dependencies, user, key)
            if found is None:
                raise
            earlier = found
        else:
            generation_id = new_id()
            structlog.contextvars.bind_contextvars(correlation_id=str(generation_id))
            # Expected before it is asked for: the verdict may be faster than the commit's return.
            with dependencies.live_events.expecting(generation_id) as verdict:
                recorded = await _record(dependencies, user, key, request, generation_id, priced)
                # The wait for billing costs nobody anything.
                await admission.aclose()
                if isinstance(recorded, GenerationRecord):
                    await _await_verdict(dependencies, user, key, verdict)
                    return await _answer(dependencies, user, key, generation_id, verdict, placed=recorded)
            earlier = recorded
    structlog.contextvars.bind_contextvars(correlation_id=str(earlier.generation_id))
    if earlier.request_hash != request.digest:
        raise IdempotencyKeyReused(generation_id=str(earlier.generation_id))
    with dependencies.live_events.expecting(earlier.generation_id) as verdict:
        if not await _is_decided(dependencies, user, key):
            await _await_verdict(dependencies, user, key, verdict)
        return await _answer(dependencies, user, key, earlier.generation_id, verdict)


async def repeat_order(
    dependencies: Dependencies,
    user: User,
    key: str,
    generation_id: UUID,
    changes: dict[str, Any],
    max_price_credits: int | None,
    count: int,
) -> PlacedOrder:
    """Order the same again, with some parameters changed, at today's price. Raises what ``place_order`` raises.

    Also raises ``GenerationNotFound``. A seed is drawn anew, unless ``changes`` has one. Of a variant, that one is
    repeated and not its whole order. A key that was used gets its first result, even if the first order is deleted now.
    """
    first = await get_generation_or_deleted(dependencies, user, generation_id)
    if first.deleted_at is not None and await _find_request(dependencies, user, key) is None:
        raise _deleted(first.deleted_at)
    same = {name: value for name, value in first.parameters.items() if name != _DRAWN}
    return await place_order(
        dependencies, user, key, OrderRequest(first.model_id, same | changes, max_price_credits, count=count)
    )


async def get_generation(dependencies: Dependencies, user: User, generation_id: UUID) -> GenerationRecord:
    """One generation of this user. Raises ``GenerationNotFound`` and ``GenerationDeleted``."""
    generation = await get_generation_or_deleted(dependencies, user, generation_id)
    if generation.deleted_at is not None:
        raise _deleted(generation.deleted_at)
    return generation


async def get_generation_or_deleted(dependencies: Dependencies, user: User, generation_id: UUID) -> GenerationRecord:
    """One generation of this user, also if it is deleted. Raises ``GenerationNotFound``."""
    generation = await queries.find_generation(dependencies.engine, user.user_id, generation_id)
    if generation is None:
        raise GenerationNotFound
    return generation


def _deleted(deleted_at: datetime) -> GenerationDeleted:
    return GenerationDeleted(deleted_at=deleted_at.isoformat())


def _price(dependencies: Dependencies, request: OrderRequest) -> _PricedOrder:
    model, parameters = complete_parameters(dependencies, request.model_id, request.parameters)
    check_count(model, request.count)
    price = model.quote(parameters).price_credits
    total = price * request.count
    if request.max_price_credits is not None and total > request.max_price_credits:
        raise PriceAboveLimit(price_credits=total, max_price_credits=request.max_price_credits)
    return _PricedOrder(model, model.variants(parameters, request.count), price)


def check_count(model: Model, count: int) -> None:
    """Whether one order may ask for so many outputs of the model. Raises ``InvalidModelParameters``."""
    if count > model.max_count:
        message = f"may be at most {model.max_count} of this model"
        raise InvalidModelParameters(errors=named_errors([("count", "too_many", message)]))


async def _record(
    dependencies: Dependencies, user: User, key: str, request: OrderRequest, generation_id: UUID, priced: _PricedOrder
) -> GenerationRecord | GenerationRequestRecord:
    """The one transaction of an order; returns the first generation of it, or the request that used the key."""
    async with dependencies.transactions.begin() as tx:
        try:
            return await _write(tx, dependencies.settings, user, key, request, generation_id, priced)
        except Problem as problem:
            # This commits: what is refused counts among the user's writes, too.
            refusal = problem
    raise refusal


async def _write(
    tx: Transaction,
    settings: Settings,
    user: User,
    key: str,
    request: OrderRequest,
    generation_id: UUID,
    priced: _PricedOrder,
) -> GenerationRecord | GenerationRequestRecord:
    """Where it raises a problem, it has written nothing but that the user made a write."""
    requested_at = await find_request_or_check_write(tx, settings, user, key, request.count)
    if isinstance(requested_at, GenerationRequestRecord):
        return requested_at
    if request.start_within_seconds is not None:
        await check_start_limit(tx, settings, user, generation_id)
    ids = [generation_id, *(new_id() for _ in priced.variants[1:])]
    orders = [
        _order(user, id_, priced, parameters, requested_at, request.start_within_seconds)
        for id_, parameters in zip(ids, priced.variants, strict=True)
    ]
    await _check_uploads(tx, user, priced.model, orders[0].uploads)
    if len(orders) == 1:
        tx.publish(GenerationRequested(order=orders[0]), correlation_id=generation_id)
    else:
        tx.publish(VariantsRequested(user_id=user.user_id, orders=tuple(orders)), correlation_id=generation_id)
    limit = settings.max_open_generations
    if not await repository.add_order(tx, orders, key, request.digest, limit):
        # Another request with the key was a little faster; the lock of the user was waited for, and it is known now.
        earlier = await repository.find_generation_request(tx.connection, user.user_id, key)
        if earlier is None:
            raise TooManyOpenGenerations(f"at most {limit} at a time", headers={"Retry-After": "10"})
        return earlier
    if len(orders) > 1:
        await repository.add_variant_requests(tx.connection, ids[1:], user.user_id, request.digest)
    return first_of_order(orders)


def _order(
    user: User,
    generation_id: UUID,
    priced: _PricedOrder,
    parameters: dict[str, Any],
    requested_at: datetime,
    start_within_seconds: int | None,
) -> GenerationOrder:
    model = priced.model
    return GenerationOrder(
        generation_id=generation_id,
        user_id=user.user_id,
        model_id=model.id,
        kind=model.kind,
        parameters=parameters,
        price_credits=priced.price_credits,
        lane=user.lane,
        uploads={name: UUID(parameters[name]) for name in model.upload_parameters if _is_uuid(parameters[name])},
        requested_at=requested_at,
        expires_at=requested_at + timedelta(seconds=model.order_deadline_seconds),
        start_before_at=None
        if start_within_seconds is None
        else requested_at + timedelta(seconds=start_within_seconds),
    )


async def _check_uploads(tx: Transaction, user: User, model: Model, uploads: dict[str, UUID]) -> None:
    known = await repository.find_uploads(tx.connection, user.user_id, list(uploads.values())) if uploads else {}
    unknown = [name for name in model.upload_parameters if uploads.get(name) not in known]
    if unknown:
        message = "is not the id of a file that you uploaded"
        raise _invalid(tuple(FieldError(name, "unknown_upload", message) for name in unknown))
    gone = [name for name, upload_id in uploads.items() if known[upload_id] > OLDEST_UPLOAD]
    if gone:
        message = f"was uploaded more than {OLDEST_UPLOAD.days} days ago: upload it again"
        raise _invalid(tuple(FieldError(name, "upload_expired", message) for name in gone))


async def _await_verdict(dependencies: Dependencies, user: User, key: str, verdict: asyncio.Future[Reply]) -> None:
    seconds = dependencies.settings.verdict_wait_seconds
    with dependencies.admission.verdicts.waiting() as cut_short:
        await wait_for_reply(verdict, seconds, lambda: _is_decided(dependencies, user, key), cut_short)


async def _answer(
    dependencies: Dependencies,
    user: User,
    key: str,
    generation_id: UUID,
    verdict: asyncio.Future[Reply],
    *,
    placed: GenerationRecord | None = None,
) -> PlacedOrder:
    """``placed`` is what this request has written; None if the key was used before."""
    replayed = placed is None
    if verdict.done():
        reply = verdict.result()
        if isinstance(reply, CreditsRefused) and reply.code not in WITHDRAWN:
            raise _refusal(reply.code, reply.required_credits, reply.available_credits, generation_id)
        if placed is not None and isinstance(reply, CreditsReserved):
            # As it was written. Its events say what has happened since.
            return PlacedOrder(placed, reserved=True, replayed=False)
        reserved = True
    else:
        request = await _find_request(dependencies, user, key)
        assert request is not None, "the request was committed"
        if request.verdict is not None and request.verdict != "reserved" and request.verdict not in WITHDRAWN:
            raise _refusal(request.verdict, request.required_credits, request.available_credits, generation_id)
        reserved = request.verdict is not None
    generation = await get_generation(dependencies, user, generation_id)
    return PlacedOrder(generation, reserved=reserved, replayed=replayed)


async def _find_request(dependencies: Dependencies, user: User, key: str) -> GenerationRequestRecord | None:
    async with single_statements(dependencies.engine) as connection:
        return await repository.find_generation_request(connection, user.user_id, key)


async def _is_decided(dependencies: Dependencies, user: User, key: str) -> bool:
    request = await _find_request(dependencies, user, key)
    return request is not None and request.verdict is not None


def _refusal(
    code: RefusalCode, required: int | None, available: int | None, generation_id: UUID
) -> AccountFrozen | InsufficientCredits:
    kind = AccountFrozen if code == "account_frozen" else InsufficientCredits
    return kind(required=required, available=available, generation_id=str(generation_id))


def _invalid(errors: tuple[FieldError, ...]) -> InvalidModelParameters:
    named = ((f"parameters.{error.field}", error.code, error.message) for error in errors)
    return InvalidModelParameters(errors=named_errors(named))


def _check_storable(parameters: dict[str, Any]) -> None:
    """Refuse what JSON can express and the database cannot hold, and what is nested: no model takes that."""
    bad = [name for name, value in parameters.items() if not (is_storable(name) and is_storable(value))]
    if bad:
        message = "must be one value, without characters and numbers that cannot be stored"
        # The name itself may hold characters that no answer can carry.
        printable = [name.encode(errors="replace").decode() for name in bad]
        raise InvalidParameters(tuple(FieldError(name, "unstorable", message) for name in printable))


def _is_uuid(text: object) -> bool:
    try:
        UUID(text)  # type: ignore[arg-type]
    except (ValueError, TypeError, AttributeError):
        return False
    return True
