"""One method per message that generation receives. Each takes a whole batch: lock, decide, write, announce.

Nothing here commits: the transaction belongs to the caller, and the messages leave with it. All of it may be repeated,
and may come in any order.
"""

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from functools import partial
from typing import TypeVar
from uuid import UUID

import structlog

from catalogue import Catalogue, InvalidParameters, UnknownModel
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
from contracts.values import GenerationOrder
from generation.changes import Wakes, save_changes
from generation.domain import lifecycle, storage_news
from generation.domain.endings import fail
from generation.domain.order import FIRST_VERSION, Order, Policy
from generation.repository.attempts import Tombstone, add_tombstones, remove_tombstones
from generation.repository.orders import NewOrder, add_orders, lock_orders
from messaging.received import Received
from messaging.transaction import Transaction

log = structlog.get_logger(__name__)

StorageNews = TypeVar("StorageNews", InputsVerified, InputsRejected, AssetStored, AssetRejected, OutputMissing)


class Handlers:
    """The reactions of the service. ``active_caps`` maps a lane to the number of jobs that one user may have."""

    def __init__(self, catalogue: Catalogue, policy: Policy, active_caps: Mapping[str, int], wakes: Wakes) -> None:
        self._catalogue = catalogue
        self._policy = policy
        self._active_caps = dict(active_caps)
        self._wakes = wakes

    async def enqueue(self, tx: Transaction, batch: Sequence[Received[CreditsReserved]]) -> None:
        """Queue funded orders, ask for their uploads to be verified, and apply cancels that came before them."""
        received = {message.payload.order.generation_id: message for message in batch}
        impossible: dict[UUID, str] = {}
        rows = [self._row(message, impossible) for message in received.values()]
        added = await add_orders(tx.connection, rows, self._active_caps)
        cancelled = await remove_tombstones(tx.connection, sorted(added))
        new = [row for row in rows if row.generation_id in added]
        for row in new:
            queued = GenerationQueued(
                generation_id=row.generation_id, user_id=row.user_id, version=FIRST_VERSION, lane=row.lane
            )
            tx.publish(queued, correlation_id=row.generation_id, cause=received[row.generation_id])
        locked = await lock_orders(tx.connection, added & (impossible.keys() | cancelled.keys()))
        for generation_id, order in locked.orders.items():
            if cancelled.get(generation_id) == order.user_id:
                lifecycle.cancel(order, self._policy, locked.now)
            elif generation_id in impossible:
                fail(order, locked.now, code="invalid_input", detail=impossible[generation_id])
        for row in new:
            if row.uploads and (row.generation_id not in locked.orders or not locked.orders[row.generation_id].events):
                verify = VerifyInputs(generation_id=row.generation_id, user_id=row.user_id, uploads=row.uploads)
                tx.publish(verify, correlation_id=row.generation_id, cause=received[row.generation_id])
        await save_changes(tx, locked, self._wakes, received)
        if new:
            tx.after_commit(partial(self._wakes.look_at, {row.endpoint for row in new}))

    def _row(self, message: Received[CreditsReserved], impossible: dict[UUID, str]) -> NewOrder:
        """The row of an order. One that this version of the catalogue cannot make is kept too, to be failed."""
        order = message.payload.order
        try:
            return self._new_order(order, message.traceparent)
        except (UnknownModel, InvalidParameters) as error:
            impossible[order.generation_id] = str(error)
            return _impossible_order(order, message.traceparent)

    async def cancel(self, tx: Transaction, batch: Sequence[Received[CancelGeneration]]) -> None:
        """Cancel what can be cancelled, and remember the cancels whose orders have not come yet."""
        locked = await lock_orders(tx.connection, (message.payload.generation_id for message in batch))
        early: list[Tombstone] = []
        for message in batch:
            wanted = message.payload
            order = locked.orders.get(wanted.generation_id)
            if order is None:
                early.append(Tombstone(wanted.generation_id, wanted.user_id, wanted.requested_at))
            elif order.user_id == wanted.user_id:
                lifecycle.cancel(order, self._policy, locked.now)
            else:
                log.warning("cancel_by_another_user", generation_id=str(wanted.generation_id))
        if early:
            await add_tombstones(tx.connection, early)
        await save_changes(tx, locked, self._wakes, {message.payload.generation_id: message for message in batch})

    async def inputs_verified(self, tx: Transaction, batch: Sequence[Received[InputsVerified]]) -> None:
        """Orders whose uploads are good may be served."""
        await self._apply(tx, batch, lambda order, news, _now: storage_news.inputs_verified(order, news))

    async def inputs_rejected(self, tx: Transaction, batch: Sequence[Received[InputsRejected]]) -> None:
        """Orders whose uploads are unusable fail."""
        await self._apply(tx, batch, storage_news.inputs_rejected)

    async def asset_stored(self, tx: Transaction, batch: Sequence[Received[AssetStored]]) -> None:
        """Orders whose file is in the library are complete."""
        await self._apply(tx, batch, storage_news.asset_stored)

    async def asset_rejected(self, tx: Transaction, batch: Sequence[Received[AssetRejected]]) -> None:
        """Attempts whose file is no good have failed."""
        await self._apply(
            tx, batch, lambda order, news, now: storage_news.asset_rejected(order, news, self._policy, now)
        )

    async def output_missing(self, tx: Transaction, batch: Sequence[Received[OutputMissing]]) -> None:
        """Searches that found nothing end as they were meant to."""
        await self._apply(
            tx, batch, lambda order, news, now: storage_news.output_missing(order, news, self._policy, now)
        )

    async def _apply(
        self,
        tx: Transaction,
        batch: Sequence[Received[StorageNews]],
        react: Callable[[Order, StorageNews, datetime], None],
    ) -> None:
        locked = await lock_orders(tx.connection, (message.payload.generation_id for message in batch))
        for message in batch:
            order = locked.orders.get(message.payload.generation_id)
            if order is None:
                tx.defer(message, reason="the order is not known here yet")
            else:
                react(order, message.payload, locked.now)
        await save_changes(tx, locked, self._wakes, {message.payload.generation_id: message for message in batch})

    def _new_order(self, order: GenerationOrder, traceparent: str | None) -> NewOrder:
        model = self._catalogue.model(order.model_id)
        expected = model.expected_output(model.complete(order.parameters))
        return NewOrder(
            generation_id=order.generation_id,
            user_id=order.user_id,
            model_id=order.model_id,
            kind=order.kind,
            endpoint=model.endpoint,
            lane=order.lane,
            price_credits=order.price_credits,
            parameters=order.parameters,
            uploads=order.uploads,
            inputs_ready=not order.uploads,
            requested_at=order.requested_at,
            expires_at=order.expires_at,
            expected_width_pixels=expected.width_pixels,
            expected_height_pixels=expected.height_pixels,
            expected_duration_ms=expected.duration_ms,
            max_size_bytes=model.max_output_size_bytes,
            output_extension=model.output_extension,
            execution_timeout_seconds=model.execution_timeout_seconds,
            traceparent=traceparent,
        )


def _impossible_order(order: GenerationOrder, traceparent: str | None) -> NewOrder:
    return NewOrder(
        generation_id=order.generation_id,
        user_id=order.user_id,
        model_id=order.model_id,
        kind=order.kind,
        endpoint="none",
        lane=order.lane,
        price_credits=order.price_credits,
        parameters=order.parameters,
        uploads={},
        inputs_ready=False,
        requested_at=order.requested_at,
        expires_at=order.expires_at,
        expected_width_pixels=0,
        expected_height_pixels=0,
        expected_duration_ms=None,
        max_size_bytes=0,
        output_extension="none",
        execution_timeout_seconds=0,
        traceparent=traceparent,
    )
