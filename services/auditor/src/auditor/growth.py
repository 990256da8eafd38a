"""Proves from the stored tree that a published head of the ledger is continued by the newest one."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy.ext.asyncio import AsyncEngine

from auditor.errors import NoHead
from auditor.repository import seals
from auditor.schemas import snapshot
from contracts.ledger_tree import TreeHead, consistency_ranges, is_prefix, proof_hashes, proof_nodes


@dataclass(frozen=True, slots=True)
class Growth:
    """A path that leads to both heads, if ``is_proven``; else what was kept is not the beginning of what is there."""

    first: TreeHead
    second: TreeHead
    second_published_at: datetime
    path: tuple[bytes, ...]
    is_proven: bool

    def document(self) -> dict[str, Any]:
        """The proof in the form that the API gives it in, and that ``docs/check_receipt.py`` reads."""
        return {
            "first": {"tree_size": self.first.tree_size, "root_hash": self.first.root_hash.hex()},
            "second": {
                "tree_size": self.second.tree_size,
                "root_hash": self.second.root_hash.hex(),
                "published_at": self.second_published_at.isoformat(),
            },
            "path": [hash_.hex() for hash_ in self.path],
        }


async def prove_growth(engine: AsyncEngine, first: TreeHead) -> Growth:
    """Prove a head that was kept against the newest published one. Reads a few hashes. Raises NoHead."""
    async with snapshot(engine) as connection:
        newest = await seals.find_newest_tree_head(connection)
        if newest is None:
            raise NoHead("no head of the ledger was published yet")
        second, published_at = newest
        if first.tree_size > second.tree_size:
            return Growth(first, second, published_at, (), is_proven=False)
        ranges = consistency_ranges(first.tree_size, second.tree_size)
        nodes = proof_nodes(ranges)
        hashes = await seals.find_nodes(connection, nodes)
    if not hashes.keys() >= set(nodes):
        return Growth(first, second, published_at, (), is_proven=False)
    path = proof_hashes(ranges, hashes)
    return Growth(first, second, published_at, path, is_proven=is_prefix(first, second, path))
