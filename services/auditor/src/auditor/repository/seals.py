"""Billing's chain of seals and the postings under them, and the ends of the chain that were seen."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import groupby
from typing import Final

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from contracts.ledger_chain import HASH_BYTES, Head, Seal, SealedPosting
from contracts.ledger_tree import Node, TreeHead, TreePart

# The number of leaves is their length: the lists themselves are read only of those seals that are compared.
_NEXT_SEALS: Final = text("""
    SELECT seal_number, after_posting_id, through_posting_id, posting_ids, leaf_hashes, previous_hash, seal_hash
    FROM (
        SELECT following.*, row_number() OVER so_far AS place,
               sum(octet_length(leaf_hashes) / 32) OVER so_far AS postings
        FROM (
            SELECT * FROM billing.ledger_seals WHERE seal_number > :after ORDER BY seal_number LIMIT :seals
        ) AS following
        WINDOW so_far AS (ORDER BY seal_number)
    ) AS counted
    WHERE place = 1 OR postings <= :postings ORDER BY seal_number
""")
# A time that the driver cannot represent was never sealed: it is read as another one, which is an edit, not an error.
_SEALED_FORM: Final = ", ".join(SealedPosting.__struct_fields__).replace(
    "occurred_at", "least(greatest(occurred_at, '0001-01-02 00:00Z'), '9999-12-30 00:00Z') AS occurred_at"
)
_POSTINGS: Final = text(f"""
    SELECT seal.number, posting.*
    FROM unnest(
        CAST(:number AS bigint[]), CAST(:after AS bigint[]), CAST(:through AS bigint[]), CAST(:most AS bigint[])
    ) AS seal (number, after, through, most)
    CROSS JOIN LATERAL (
        SELECT {_SEALED_FORM} FROM billing.balance_ledger
        WHERE posting_id > seal.after AND posting_id <= seal.through ORDER BY posting_id LIMIT seal.most
    ) AS posting
    ORDER BY seal.number, posting.posting_id
""")  # noqa: S608 - the names are those of the sealed form
_REWRITTEN: Final = text("""
    SELECT DISTINCT seal_number
    FROM (
        SELECT seal_number, seal_hash FROM auditor.ledger_heads
        UNION SELECT CAST(:seal_number AS bigint), CAST(:seal_hash AS bytea) WHERE :seal_number > 0
    ) AS seen
    LEFT JOIN billing.ledger_seals AS seal USING (seal_number)
    WHERE seal.seal_hash IS DISTINCT FROM seen.seal_hash ORDER BY seal_number
""")
_ADD_HEAD: Final = text("""
    INSERT INTO auditor.ledger_heads (seal_number, seal_hash)
    SELECT :seal_number, :seal_hash
    WHERE NOT EXISTS (SELECT FROM auditor.ledger_heads WHERE seen_at > now() - interval '1 hour')
    ON CONFLICT DO NOTHING
""")
_PARTS: Final = text("""
    SELECT seal_number, first_leaf, tree_size, nonce_seed, node_hashes FROM billing.ledger_tree
    WHERE seal_number >= :first AND seal_number <= :last
""")
_LAST_SEAL: Final = text("SELECT coalesce(max(seal_number), 0) FROM billing.ledger_tree")
# What billing says that it published, and what arrived under a role that is not billing's.
_TREE_HEADS: Final = text("""
    (SELECT tree_size, root_hash FROM billing.tree_heads WHERE tree_size > :after ORDER BY tree_size LIMIT :most)
    UNION
    (SELECT tree_size, root_hash FROM gateway.ledger_heads WHERE tree_size > :after ORDER BY tree_size LIMIT :most)
    ORDER BY tree_size, root_hash
""")
_NEWEST_TREE_HEAD: Final = text("""
    SELECT tree_size, root_hash, published_at FROM billing.tree_heads ORDER BY tree_size DESC LIMIT 1
""")
_NODES: Final = text("""
    SELECT wanted.place, substring(part.node_hashes FROM CAST(1 + 32 * (
        wanted.position - 2 * part.first_leaf + bit_count(part.first_leaf::bit(64))) AS integer) FOR 32)
    FROM unnest(CAST(:leaves AS bigint[]), CAST(:positions AS bigint[]))
        WITH ORDINALITY AS wanted (last_leaf, position, place)
    CROSS JOIN LATERAL (
        SELECT first_leaf, node_hashes FROM billing.ledger_tree
        WHERE first_leaf <= wanted.last_leaf ORDER BY first_leaf DESC LIMIT 1
    ) AS part
""")
_BEGIN: Final = text("""
    SELECT now(), (SELECT count(*) FROM auditor.findings WHERE code = :code AND resolved_at IS NULL),
           (SELECT max(seen_at) FROM auditor.ledger_heads)
""")


@dataclass(frozen=True, slots=True)
class PassStart:
    """When a pass over the chain began, and how many of its findings were open then."""

    began_at: datetime
    open_findings: int
    last_end_at: datetime | None
    """When the end of the chain was last remembered, up to an hour before the last pass ended; None if it never was."""


async def begin_pass(connection: AsyncConnection, code: str) -> PassStart:
    """The start of a pass whose findings have ``code``."""
    return PassStart(*(await connection.execute(_BEGIN, {"code": code})).one())


async def find_next_seals(connection: AsyncConnection, head: Head, most_seals: int, most_postings: int) -> list[Seal]:
    """The seals after ``head``: at least one if there is any, else bounded by both limits."""
    bounds = {"after": head.seal_number, "seals": most_seals, "postings": most_postings}
    return [
        Seal(
            seal_number=row.seal_number,
            after_posting_id=row.after_posting_id,
            through_posting_id=row.through_posting_id,
            posting_ids=tuple(row.posting_ids),
            leaf_hashes=row.leaf_hashes,
            previous_hash=row.previous_hash,
            seal_hash=row.seal_hash,
        )
        for row in await connection.execute(_NEXT_SEALS, bounds)
    ]


async def find_postings(
    connection: AsyncConnection, limits: Sequence[tuple[Seal, int]]
) -> Mapping[int, list[SealedPosting]]:
    """The postings in the range of each seal, by its number: of each range no more than its limit."""
    ranges = {
        "number": [seal.seal_number for seal, _ in limits],
        "after": [seal.after_posting_id for seal, _ in limits],
        "through": [seal.through_posting_id for seal, _ in limits],
        "most": [most for _, most in limits],
    }
    by_seal = groupby(await connection.execute(_POSTINGS, ranges), lambda row: row.number)
    return {number: [SealedPosting(*row[1:]) for row in rows] for number, rows in by_seal}


async def find_rewritten(connection: AsyncConnection, seen: Head) -> list[int]:
    """The numbers of the seals that are no longer those that were seen: the stored heads, and ``seen``."""
    return list((await connection.execute(_REWRITTEN, _values(seen))).scalars())


async def find_parts(connection: AsyncConnection, following: Sequence[Seal]) -> Mapping[int, TreePart]:
    """What these consecutive seals have added to the tree, by their number."""
    bounds = {"first": following[0].seal_number, "last": following[-1].seal_number}
    return {
        row.seal_number: TreePart(
            seal_number=row.seal_number,
            first_leaf=row.first_leaf,
            tree_size=row.tree_size,
            nonce_seed=row.nonce_seed,
            node_hashes=row.node_hashes,
        )
        for row in await connection.execute(_PARTS, bounds)
    }


async def get_last_seal(connection: AsyncConnection) -> int:
    """The number of the last seal that is in the tree; 0 if there is none."""
    number: int = (await connection.execute(_LAST_SEAL)).scalar_one()
    return number


async def find_tree_heads(connection: AsyncConnection, after: int, most: int) -> list[TreeHead]:
    """The published heads of sizes above ``after``, wherever they are kept, in their order: ``most`` of each place."""
    bounds = {"after": after, "most": most}
    return [TreeHead(*row) for row in await connection.execute(_TREE_HEADS, bounds)]


async def find_newest_tree_head(connection: AsyncConnection) -> tuple[TreeHead, datetime] | None:
    """The published head of the longest tree, and when it was published."""
    row = (await connection.execute(_NEWEST_TREE_HEAD)).one_or_none()
    return None if row is None else (TreeHead(row.tree_size, row.root_hash), row.published_at)


async def find_nodes(connection: AsyncConnection, nodes: Sequence[Node]) -> Mapping[Node, bytes]:
    """The stored hashes of the tree, as far as they are there."""
    wanted = {
        "leaves": [((node.number + 1) << node.level) - 1 for node in nodes],
        "positions": [node.position for node in nodes],
    }
    rows = await connection.execute(_NODES, wanted)
    return {nodes[place - 1]: hash_ for place, hash_ in rows if len(hash_) == HASH_BYTES}


async def add_head(connection: AsyncConnection, head: Head) -> None:
    """Remember this end of the chain, unless one was remembered within the hour."""
    await connection.execute(_ADD_HEAD, _values(head))


def _values(head: Head) -> dict[str, int | bytes]:
    return {"seal_number": head.seal_number, "seal_hash": head.seal_hash}
