"""The SQL of the Merkle tree over the sealed ledger: it grows by one row a seal, and a proof reads a few hashes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final, NamedTuple
from uuid import UUID

from sqlalchemy import insert, select, text
from sqlalchemy.ext.asyncio import AsyncConnection

from billing.errors import TreeIncomplete
from billing.repository.seals import POSTING_COLUMNS
from billing.tables import balance_ledger, ledger_tree, tree_heads
from contracts.ledger_chain import HASH_BYTES, SealedPosting
from contracts.ledger_tree import GrowingTree, LeafRange, Node, TreeHead, TreePart
from service_runtime.statements import Statement

# A part holds what its leaves complete, so a node stands in the part of its last leaf. Each is one step in an index.
_NODES: Final = text(f"""
    SELECT wanted.place, substring(part.node_hashes FROM CAST(1 + {HASH_BYTES} * (
        wanted.position - 2 * part.first_leaf + bit_count(part.first_leaf::bit(64))) AS integer) FOR {HASH_BYTES})
    FROM unnest(CAST(:leaves AS bigint[]), CAST(:positions AS bigint[]))
        WITH ORDINALITY AS wanted (last_leaf, position, place)
    CROSS JOIN LATERAL (
        SELECT first_leaf, node_hashes FROM billing.ledger_tree
        WHERE first_leaf <= wanted.last_leaf ORDER BY first_leaf DESC LIMIT 1
    ) AS part
    ORDER BY wanted.place
""")  # noqa: S608 - a number
_LEAVES: Final = text(f"""
    SELECT wanted.posting_id, seal.through_posting_id >= wanted.posting_id AS is_covered,
           part.first_leaf + seal.place - 1 AS leaf_index, part.nonce_seed,
           substring(seal.leaf_hashes FROM {HASH_BYTES} * (seal.place - 1) + 1 FOR {HASH_BYTES}) AS posting_hash
    FROM unnest(CAST(:posting_ids AS bigint[])) AS wanted (posting_id)
    CROSS JOIN LATERAL (
        SELECT *, array_position(posting_ids, wanted.posting_id) AS place FROM billing.ledger_seals
        WHERE after_posting_id < wanted.posting_id ORDER BY after_posting_id DESC LIMIT 1
    ) AS seal
    LEFT JOIN billing.ledger_tree AS part USING (seal_number)
""")  # noqa: S608 - a number


_FIND_FINAL_END: Final = Statement("""
    SELECT tree.seal_number, tree.tree_size
    FROM (SELECT seal_number, tree_size FROM billing.ledger_tree ORDER BY seal_number DESC LIMIT 1) AS tree
    WHERE tree.seal_number = (SELECT max(seal_number) FROM billing.ledger_seals)
      AND tree.tree_size = (SELECT max(tree_size) FROM billing.tree_heads)
""")


class TreeEnd(NamedTuple):
    """The last seal that is in the tree, and how many postings the tree has."""

    seal_number: int
    tree_size: int


@dataclass(frozen=True, slots=True)
class SealedLeaf:
    """Where a posting stands in the tree, and what is known of it there; None where it is not, or not yet."""

    posting_id: int
    is_covered: bool
    """Whether a seal covers its id. If one does and the rest is None, the posting came after the seal."""
    leaf_index: int | None
    nonce_seed: bytes | None
    posting_hash: bytes | None


@dataclass(frozen=True, slots=True)
class PublishedHead:
    """A head, and when it was published by the database's clock."""

    head: TreeHead
    published_at: datetime


async def get_end(connection: AsyncConnection) -> TreeEnd:
    """How far the tree has grown."""
    newest = select(ledger_tree.c.seal_number, ledger_tree.c.tree_size).order_by(ledger_tree.c.seal_number.desc())
    row = (await connection.execute(newest.limit(1))).one_or_none()
    return TreeEnd(0, 0) if row is None else TreeEnd(*row)


async def find_final_end(connection: AsyncConnection) -> TreeEnd | None:
    """How far the tree has grown, if every seal is in it and its head is published; None if there is more to do."""
    row = await _FIND_FINAL_END.fetch_one(connection, {})
    return None if row is None else TreeEnd(*row)


async def get_tree(connection: AsyncConnection, tree_size: int) -> GrowingTree:
    """The right edge of the tree of this size. Raises TreeIncomplete."""
    nodes = LeafRange(0, tree_size).nodes()
    hashes = await get_nodes(connection, nodes)
    return GrowingTree(tree_size, [hashes[node] for node in nodes])


async def get_nodes(connection: AsyncConnection, nodes: Sequence[Node]) -> Mapping[Node, bytes]:
    """The stored hashes. Raises TreeIncomplete if one is missing."""
    if not nodes:
        return {}
    wanted = {
        "leaves": [((node.number + 1) << node.level) - 1 for node in nodes],
        "positions": [node.position for node in nodes],
    }
    rows = (await connection.execute(_NODES, wanted)).all()
    found = {nodes[place - 1]: hash_ for place, hash_ in rows if len(hash_) == HASH_BYTES}
    for node in nodes:
        if node not in found:
            raise TreeIncomplete(node)
    return found


async def add_part(connection: AsyncConnection, part: TreePart) -> None:
    """Let the tree grow by one seal. The database refuses a second one at the same place."""
    statement = insert(ledger_tree).values(
        seal_number=part.seal_number,
        first_leaf=part.first_leaf,
        tree_size=part.tree_size,
        nonce_seed=part.nonce_seed,
        node_hashes=part.node_hashes,
    )
    await connection.execute(statement)


async def find_parts(connection: AsyncConnection, seal_numbers: Sequence[int]) -> Mapping[int, TreePart]:
    """What these seals have added, by their number."""
    of_seals = select(ledger_tree).where(ledger_tree.c.seal_number.in_(seal_numbers))
    return {
        row.seal_number: TreePart(
            seal_number=row.seal_number,
            first_leaf=row.first_leaf,
            tree_size=row.tree_size,
            nonce_seed=row.nonce_seed,
            node_hashes=row.node_hashes,
        )
        for row in await connection.execute(of_seals)
    }


async def find_head(connection: AsyncConnection) -> PublishedHead | None:
    """The newest published head."""
    newest = select(tree_heads).order_by(tree_heads.c.tree_size.desc()).limit(1)
    row = (await connection.execute(newest)).one_or_none()
    return None if row is None else PublishedHead(TreeHead(row.tree_size, row.root_hash), row.published_at)


async def find_heads(connection: AsyncConnection, after: int, through: int | None = None) -> list[TreeHead]:
    """The published heads of trees that are longer than ``after``, and not longer than ``through``, in their order."""
    columns = tree_heads.c
    heads = select(columns.tree_size, columns.root_hash).where(columns.tree_size > after).order_by(columns.tree_size)
    if through is not None:
        heads = heads.where(columns.tree_size <= through)
    return [TreeHead(*row) for row in await connection.execute(heads)]


async def add_head(connection: AsyncConnection, head: TreeHead, published_at: datetime) -> None:
    """Remember a head that is published in this transaction."""
    values = {"tree_size": head.tree_size, "root_hash": head.root_hash, "published_at": published_at}
    await connection.execute(insert(tree_heads).values(values))


async def find_line(connection: AsyncConnection, user_id: UUID, line_number: int) -> list[SealedPosting]:
    """The postings of one line of a user, in posting order."""
    of_line = select(*POSTING_COLUMNS).where(
        balance_ledger.c.user_id == user_id, balance_ledger.c.line_number == line_number
    )
    return [SealedPosting(*row) for row in await connection.execute(of_line.order_by(balance_ledger.c.posting_id))]


async def find_leaves(connection: AsyncConnection, posting_ids: Sequence[int]) -> Mapping[int, SealedLeaf]:
    """Where postings stand in the tree, by posting id. An id above all seals is missing, or not covered."""
    rows = await connection.execute(_LEAVES, {"posting_ids": list(posting_ids)})
    return {row.posting_id: SealedLeaf(*row) for row in rows}
