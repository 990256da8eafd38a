"""Cancelling an order: always while it waits, and so many times a day once a worker has it.

A worker's time that a cancel throws away is paid by nobody. So a user has an allowance of such cancels, by plan, in any
24 hours. It is counted twice, and a generation only once:

* here, where the order is shown as running: under the user's lock, so that two requests never share the last place;
* by the projector, when generation announces ``GenerationCancelling``: the order was shown as queued and a worker had
  it by the time the cancel arrived. Such cancels may go beyond the allowance by as many as a user has jobs at once.

With the allowance used up, the command says so, and generation stops only what no worker has.
"""

from typing import Final
from uuid import UUID

from contracts.generation import CancelGeneration
from gateway import queries, repository
from gateway.dependencies import Dependencies
from gateway.domain import User
from gateway.errors import CancelAllowanceUsed, GenerationEnded
from gateway.limits import check_write, running_cancels
from gateway.metrics import RUNNING_CANCELS
from gateway.ordering import get_generation, get_generation_or_deleted
from gateway.rate_limit_headers import Allowance, Limit, report
from gateway.records import GenerationRecord, RunningCancels
from gateway.statuses import TERMINAL, GenerationStatus
from gateway.withdrawals import withdraw
from messaging.transaction import Transaction

AT_WORK: Final[frozenset[GenerationStatus]] = frozenset({"dispatching", "running"})
"""A worker has it, and a cancel throws its time away."""


async def request_cancellation(dependencies: Dependencies, user: User, generation_id: UUID) -> GenerationRecord:
    """Ask generation to stop an order, and billing not to fund it any more; returns it as it is now.

    Raises ``GenerationNotFound``, ``GenerationEnded``, ``CancelAllowanceUsed`` and ``RateLimited``.
    """
    generation = await get_generation(dependencies, user, generation_id)
    _check_open(generation.status)
    await check_write(dependencies, user)
    async with dependencies.transactions.begin() as tx:
        await _cancel(tx, dependencies, user, generation_id)
    return generation


async def request_cancellation_of_all(dependencies: Dependencies, user: User, generation_id: UUID) -> GenerationRecord:
    """The same for every variant of its order that can be cancelled; raises as above if none can be.

    The generation may be deleted: the id of an order is that of its first variant. Then another one is returned.
    """
    generation = await get_generation_or_deleted(dependencies, user, generation_id)
    if generation.variant is None:
        return await request_cancellation(dependencies, user, generation_id)
    order_id = generation.variant.order_id
    variants = (await queries.list_variants(dependencies.engine, user.user_id, [order_id]))[order_id]
    await check_write(dependencies, user)
    refusal: GenerationEnded | CancelAllowanceUsed | None = None
    cancelled: list[UUID] = []
    async with dependencies.transactions.begin() as tx:
        for variant in variants:
            try:
                await _cancel(tx, dependencies, user, variant.generation_id)
                cancelled.append(variant.generation_id)
            except GenerationEnded as error:
                # That no worker can be stopped any more says more than that another variant has ended.
                refusal = refusal or error
            except CancelAllowanceUsed as error:
                refusal = error
        if not cancelled and refusal is not None:
            raise refusal
    return generation if generation.deleted_at is None else await get_generation(dependencies, user, cancelled[0])


async def _cancel(tx: Transaction, dependencies: Dependencies, user: User, generation_id: UUID) -> None:
    limit = running_cancels(dependencies.settings, user.lane)
    stop_running = await _take_running_cancel(tx, user, generation_id, limit)
    now = await repository.get_now(tx.connection)
    command = CancelGeneration(
        generation_id=generation_id, user_id=user.user_id, requested_at=now, stop_running=stop_running
    )
    tx.publish(command, correlation_id=generation_id)
    await withdraw(tx, generation_id, "cancelled")


async def _take_running_cancel(tx: Transaction, user: User, generation_id: UUID, limit: Limit) -> bool:
    """Whether the cancel may stop a worker. Takes a place of the allowance if the order is at work by now.

    Raises ``CancelAllowanceUsed`` if it is at work and no place is free, and ``GenerationEnded``.
    """
    # So that the count and the status stay true until the commit.
    await repository.lock_allowance(tx.connection, user.user_id)
    status = await repository.get_status(tx.connection, generation_id)
    _check_open(status)
    made = await repository.count_running_cancels(tx.connection, user.user_id, generation_id, limit.window_seconds)
    free = made.count < limit.quota
    if status in AT_WORK and not made.includes_this:
        if not free:
            RUNNING_CANCELS.labels("refused").inc()
            raise _refusal(limit, made)
        await repository.add_running_cancel(tx.connection, generation_id, user.user_id)
        made = RunningCancels(made.count + 1, includes_this=True, seconds_to_next=made.seconds_to_next)
        tx.after_commit(RUNNING_CANCELS.labels("accepted").inc)
    report(Allowance(limit, limit.quota - made.count, made.seconds_to_next))
    return free or made.includes_this


def _refusal(limit: Limit, made: RunningCancels) -> CancelAllowanceUsed:
    report(Allowance(limit, 0, made.seconds_to_next))
    return CancelAllowanceUsed(
        f"at most {limit.quota} in 24 hours; what a worker has not begun can still be cancelled",
        headers={"Retry-After": str(made.seconds_to_next)},
    )


def _check_open(status: GenerationStatus) -> None:
    if status in TERMINAL:
        raise GenerationEnded(f"the generation is {status}", status_of_generation=status)
