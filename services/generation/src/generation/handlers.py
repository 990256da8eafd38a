"""One method per message that generation receives. Each takes a whole batch: lock, decide, write, announce.

Nothing here commits: the transaction belongs to the caller, and the messages leave with it. Every message may come
again, and in any order.
"""

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from functools import partial
from typing import Any, Final, NamedTuple, TypeVar
from uuid import UUID

import structlog

from catalogue import Catalogue, InvalidParameters, UnknownModel
from catalogue.gpu_cost import OVERHEAD
from contracts.billing import CreditsReserved
from contracts.generation import CancelGeneration, GenerationQueued
from contracts.storage import (
    AssetRejected,
    AssetStored,
    InputsRejected,
    InputsVerified,
    OutputMissing,
    VerifyInputs,
)
from contracts.values import GenerationOrder, Lane
from generation.changes import save_changes
from generation.domain import lifecycle, storage_events
from generation.domain.order import FIRST_VERSION, Order
from generation.domain.policy import Policy
from generation.domain.transitions import fail
from generation.repository.early_cancels import EarlyCancel, add_early_cancels
from generation.repository.orders import Added, LockedOrders, NewOrder, adding_orders, lock_orders
from generation.track_record import TrackRecord
from generation.wake_ups import WakeUps
from messaging.received import Received
from messaging.transaction import Transaction

log = structlog.get_logger(__name__)

StorageEvent = TypeVar("StorageEvent", InputsVerified, InputsRejected, AssetStored, AssetRejected, OutputMissing)


class _Work(NamedTuple):
    """What the catalogue says about an order: where it runs, what its output must be, and what it should cost."""

    endpoint: str
    expected_width_pixels: int
    expected_height_pixels: int
    expected_duration_ms: int | None
    max_size_bytes: int
    output_extension: str
    execution_timeout_seconds: int
    tier: str | None = None
    planned_gpu: str | None = None
    planned_cost_micro_usd: int | None = None
    planned_seconds: float | None = None


_NO_WORK: Final = _Work("none", 0, 0, None, 0, "none", 0)


class Handlers:
    """The reactions of the service. ``active_caps`` maps a lane to the number of jobs that one user may have."""

    def __init__(
        self,
        catalogue: Catalogue,
        policy: Policy,
        active_caps: Mapping[Lane, int],
        wake_ups: WakeUps,
        track_record: TrackRecord,
    ) -> None:
        self._catalogue = catalogue
        self._policy = policy
        self._active_caps = active_caps
        self._wake_ups = wake_ups
        self._track_record = track_record

    async def enqueue(self, tx: Transaction, batch: Sequence[Received[CreditsReserved]]) -> None:
        """Queue funded orders, and ask for their uploads to be verified. The timers apply cancels that came before."""
        received = {message.payload.order.generation_id: message for message in batch}
        impossible: dict[UUID, str] = {}
        rows = [self._new_order(message, impossible) for message in received.values()]
        for row in rows:
            self._announce(tx, row, received[row.generation_id])
        writes, values = adding_orders(rows, self._active_caps)
        if not impossible:
            await tx.write_last(writes, values, self._added)
            return
        added = Added(*await tx.write(writes, values))
        locked = await lock_orders(tx.connection, impossible.keys() & set(added.generation_ids))
        for generation_id, order in locked.orders.items():
            fail(order, locked.now, code="invalid_input", detail=impossible[generation_id])
        await save_changes(tx, locked, self._wake_ups, received)
        tx.after_commit(partial(self._added, added))

    def _announce(self, tx: Transaction, row: NewOrder, cause: Received[CreditsReserved]) -> None:
        queued = GenerationQueued(
            generation_id=row.generation_id, user_id=row.user_id, version=FIRST_VERSION, lane=row.lane
        )
        tx.publish(queued, correlation_id=row.generation_id, cause=cause)
        if row.uploads:
            clips = self._catalogue.model(row.model_id).clip_parameters
            verify = VerifyInputs(
                generation_id=row.generation_id,
                user_id=row.user_id,
                uploads=row.uploads,
                clips=clips,
                clip_duration_ms=row.expected_duration_ms if clips else None,
            )
            tx.publish(verify, correlation_id=row.generation_id, cause=cause)

    def _added(self, result: Sequence[Any]) -> None:
        added = Added(*result)
        if added.endpoints:
            self._wake_ups.dispatch_at(added.endpoints)
        if added.early_cancels:
            self._wake_ups.timers.set()

    async def cancel(self, tx: Transaction, batch: Sequence[Received[CancelGeneration]]) -> None:
        """Cancel what can be cancelled, and remember the cancels whose orders have not come yet."""
        locked = await lock_orders(tx.connection, (message.payload.generation_id for message in batch))
        early: list[EarlyCancel] = []
        for message in batch:
            wanted = message.payload
            order = locked.orders.get(wanted.generation_id)
            if order is None:
                early.append(EarlyCancel(wanted.generation_id, wanted.user_id, wanted.requested_at))
            elif order.user_id == wanted.user_id:
                lifecycle.cancel(order, self._policy, locked.now, stop_running=wanted.stop_running)
            else:
                log.warning("cancel_by_another_user", generation_id=str(wanted.generation_id))
        if early:
            await add_early_cancels(tx.connection, early)
        await save_changes(tx, locked, self._wake_ups, {message.payload.generation_id: message for message in batch})

    async def inputs_verified(self, tx: Transaction, batch: Sequence[Received[InputsVerified]]) -> None:
        """Orders whose uploads are good may be served."""
        await self._apply(tx, batch, lambda order, verified, _: storage_events.inputs_verified(order, verified))

    async def inputs_rejected(self, tx: Transaction, batch: Sequence[Received[InputsRejected]]) -> None:
        """Orders whose uploads are unusable fail."""
        await self._apply(tx, batch, storage_events.inputs_rejected)

    async def asset_stored(self, tx: Transaction, batch: Sequence[Received[AssetStored]]) -> None:
        """Orders whose file is in the library are complete."""
        locked = await self._apply(tx, batch, storage_events.asset_stored)
        for order in locked.orders.values():
            if order.status == "completed" and order.finished_at == locked.now and not order.late:
                tx.after_commit(partial(self._track_record.delivered, order))

    async def asset_rejected(self, tx: Transaction, batch: Sequence[Received[AssetRejected]]) -> None:
        """Attempts whose file was rejected have failed."""
        await self._apply(
            tx, batch, lambda order, rejected, now: storage_events.asset_rejected(order, rejected, self._policy, now)
        )

    async def output_missing(self, tx: Transaction, batch: Sequence[Received[OutputMissing]]) -> None:
        """Lookups that found nothing: the orders are retried or fail, as was planned."""
        await self._apply(
            tx, batch, lambda order, missing, now: storage_events.output_missing(order, missing, self._policy, now)
        )

    async def _apply(
        self,
        tx: Transaction,
        batch: Sequence[Received[StorageEvent]],
        react: Callable[[Order, StorageEvent, datetime], None],
    ) -> LockedOrders:
        locked = await lock_orders(tx.connection, (message.payload.generation_id for message in batch))
        for message in batch:
            order = locked.orders.get(message.payload.generation_id)
            if order is None:
                tx.defer(message, reason="the order is not known here yet")
            else:
                react(order, message.payload, locked.now)
        await save_changes(tx, locked, self._wake_ups, {message.payload.generation_id: message for message in batch})
        return locked

    def _new_order(self, message: Received[CreditsReserved], impossible: dict[UUID, str]) -> NewOrder:
        """The row of an order. An order that the catalogue cannot make gets one too: it is failed at once."""
        order = message.payload.order
        work = self._work(order, impossible)
        return NewOrder(
            generation_id=order.generation_id,
            user_id=order.user_id,
            model_id=order.model_id,
            kind=order.kind,
            lane=order.lane,
            price_credits=order.price_credits,
            parameters=order.parameters,
            uploads={} if work is _NO_WORK else order.uploads,
            inputs_ready=work is not _NO_WORK and not order.uploads,
            requested_at=order.requested_at,
            expires_at=order.expires_at,
            start_before_at=order.start_before_at,
            traceparent=message.traceparent,
            endpoint=work.endpoint,
            expected_width_pixels=work.expected_width_pixels,
            expected_height_pixels=work.expected_height_pixels,
            expected_duration_ms=work.expected_duration_ms,
            max_size_bytes=work.max_size_bytes,
            output_extension=work.output_extension,
            execution_timeout_seconds=work.execution_timeout_seconds,
            tier=work.tier,
            planned_gpu=work.planned_gpu,
            planned_cost_micro_usd=work.planned_cost_micro_usd,
            planned_seconds=work.planned_seconds,
        )

    def _work(self, order: GenerationOrder, impossible: dict[UUID, str]) -> _Work:
        try:
            model = self._catalogue.model(order.model_id)
            parameters = model.complete(order.parameters)
            expected = model.expected_output(parameters)
        except (UnknownModel, InvalidParameters) as error:
            impossible[order.generation_id] = str(error)
            return _NO_WORK
        tier = model.tier(parameters)
        seconds = tier.seconds(parameters)
        return _Work(
            endpoint=model.endpoint,
            expected_width_pixels=expected.width_pixels,
            expected_height_pixels=expected.height_pixels,
            expected_duration_ms=expected.duration_ms,
            max_size_bytes=model.max_output_size_bytes,
            output_extension=model.output_extension,
            execution_timeout_seconds=model.execution_timeout_seconds,
            tier=tier.id,
            planned_gpu=tier.gpu_seconds.gpu,
            planned_cost_micro_usd=round(tier.usd_of(seconds) * (1 + OVERHEAD) * 1_000_000),
            planned_seconds=float(seconds),
        )
