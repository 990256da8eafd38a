"""Lets the Merkle tree grow behind the seals, and publishes its heads."""

import secrets
from datetime import timedelta
from typing import Final

import structlog
from sqlalchemy.ext.asyncio import AsyncConnection

from billing import metrics
from billing.errors import HeadContradicted
from billing.repository import ledger, seals, tree
from contracts.billing import LedgerHeadPublished
from contracts.ledger_tree import (
    NONCE_SEED_BYTES,
    TreeHead,
    consistency_ranges,
    is_prefix,
    proof_hashes,
    proof_nodes,
)
from messaging.database import single_statements
from messaging.ids import new_id
from messaging.transaction import Transactions

SEALS_PER_TRANSACTION: Final = 10
SEALS_PER_ROUND: Final = 200
"""An old ledger gets its tree in bounded rounds: 400,000 postings in each at most."""

log = structlog.get_logger(__name__)


class TreeGrower:
    """Adds sealed postings to the tree. Any number may run: one at a time extends it.

    It reads the seals and not the ledger: what was sealed is what the tree says, whatever became of a row since.
    """

    def __init__(self, transactions: Transactions, head_seconds: float) -> None:
        self._transactions = transactions
        self._head_interval = timedelta(seconds=head_seconds)

    async def grow(self) -> None:
        """Add what is sealed and not in the tree, and publish the new head if it is time."""
        async with single_statements(self._transactions.engine) as connection:
            final = await tree.find_final_end(connection)
        if final is not None:
            metrics.TREE_SEAL_NUMBER.set(final.seal_number)
            return
        for _ in range(SEALS_PER_ROUND // SEALS_PER_TRANSACTION):
            if not await self._grow_once():
                break
        await self._publish()

    async def _grow_once(self) -> bool:
        """Add a few seals; whether there may be more."""
        async with self._transactions.begin() as tx:
            if not await seals.lock_chain(tx.connection):
                return False
            end = await tree.get_end(tx.connection)
            metrics.TREE_SEAL_NUMBER.set(end.seal_number)
            following = await seals.find_seals(tx.connection, end.seal_number, SEALS_PER_TRANSACTION)
            if not following:
                return False
            growing = await tree.get_tree(tx.connection, end.tree_size)
            for seal in following:
                part = growing.add_seal(seal, secrets.token_bytes(NONCE_SEED_BYTES))
                await tree.add_part(tx.connection, part)
            metrics.TREE_SEAL_NUMBER.set(following[-1].seal_number)
        return len(following) == SEALS_PER_TRANSACTION

    async def _publish(self) -> None:
        """Announce the tree as it is now, if it grew and the last head is old enough."""
        async with self._transactions.begin() as tx:
            if not await seals.lock_chain(tx.connection):
                return
            end = await tree.get_end(tx.connection)
            last = await tree.find_head(tx.connection)
            if end.tree_size == (0 if last is None else last.head.tree_size):
                return
            now = await ledger.get_time(tx.connection)
            if last is not None and now - last.published_at < self._head_interval:
                return
            head = (await tree.get_tree(tx.connection, end.tree_size)).head()
            if last is not None and not await _continues(tx.connection, last.head, head):
                raise HeadContradicted(last.head)
            await tree.add_head(tx.connection, head, now)
            message = LedgerHeadPublished(tree_size=head.tree_size, root_hash=head.root_hash.hex(), published_at=now)
            tx.publish(message, correlation_id=new_id())
        log.info("ledger_head_published", tree_size=head.tree_size, root_hash=head.root_hash.hex())


async def _continues(connection: AsyncConnection, last: TreeHead, head: TreeHead) -> bool:
    ranges = consistency_ranges(last.tree_size, head.tree_size)
    path = proof_hashes(ranges, await tree.get_nodes(connection, proof_nodes(ranges)))
    return is_prefix(last, head, path)
