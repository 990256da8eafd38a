"""Deleting a generation: it leaves the lists at once, and storage removes its files.

The order, its charge and the statement stay: they are the books. Links that were made before work until the file is
gone, which is a moment later, and in no case longer than they would have.
"""

from uuid import UUID

from contracts.storage import DeleteFiles
from gateway import queries, repository
from gateway.dependencies import Dependencies
from gateway.domain import User
from gateway.errors import GenerationUnderWay
from gateway.limits import check_write
from gateway.ordering import get_generation_or_deleted
from gateway.statuses import GenerationStatus
from messaging.transaction import Transaction


async def delete_generation(dependencies: Dependencies, user: User, generation_id: UUID) -> None:
    """Delete a generation that has ended. One that is deleted is deleted again: so is a file that came back.

    Raises ``GenerationNotFound``, ``GenerationUnderWay`` and ``RateLimited``.
    """
    generation = await get_generation_or_deleted(dependencies, user, generation_id)
    await check_write(dependencies, user)
    async with dependencies.transactions.begin() as tx:
        await _delete(tx, user, generation_id, generation.status)


async def delete_order(dependencies: Dependencies, user: User, generation_id: UUID) -> None:
    """Delete all variants of its order, or none if one has not ended. Raises as above."""
    generation = await get_generation_or_deleted(dependencies, user, generation_id)
    if generation.variant is None:
        await delete_generation(dependencies, user, generation_id)
        return
    order_id = generation.variant.order_id
    variants = (await queries.list_variants(dependencies.engine, user.user_id, [order_id]))[order_id]
    await check_write(dependencies, user)
    async with dependencies.transactions.begin() as tx:
        for variant in variants:
            await _delete(tx, user, variant.generation_id, variant.status)


async def _delete(tx: Transaction, user: User, generation_id: UUID, status: GenerationStatus) -> None:
    requested_at = await repository.delete_generation(tx.connection, user.user_id, generation_id)
    if requested_at is None:
        raise GenerationUnderWay("cancel it first", status_of_generation=status)
    command = DeleteFiles(generation_id=generation_id, user_id=user.user_id, requested_at=requested_at)
    tx.publish(command, correlation_id=generation_id)
