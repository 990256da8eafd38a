"""Proofs that a line stands in the sealed ledger, and that one published ledger is the beginning of another."""

from collections.abc import Mapping, Sequence

import structlog
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from billing.errors import TreeIncomplete
from billing.repository import tree
from billing.repository.tree import SealedLeaf
from contracts.ledger_chain import SealedPosting
from contracts.ledger_tree import (
    LeafRange,
    TreeHead,
    consistency_ranges,
    inclusion_ranges,
    leaf_hash,
    nonce_of,
    proof_hashes,
    proof_nodes,
    root_of_path,
)
from contracts.queries import (
    LedgerLineAltered,
    LedgerLineAnswer,
    LedgerLineNotSealed,
    LedgerLineProof,
    LedgerPrefixProof,
    PostingProof,
    ProveLedgerLine,
    ProveLedgerPrefix,
)

log = structlog.get_logger(__name__)


class _NotSealed(Exception):
    """A posting of the line is not in the tree of the wanted size."""


class _Altered(Exception):
    """The line or the tree is not as it was sealed."""


async def prove_line(engine: AsyncEngine, query: ProveLedgerLine) -> LedgerLineAnswer:
    """Prove a line of a user to the published head of this size. A proof that does not hold is never given."""
    async with engine.connect() as connection:
        try:
            return await _prove_line(connection, query)
        except _NotSealed:
            return LedgerLineNotSealed()
        except (_Altered, TreeIncomplete) as error:
            log.error(
                "ledger_line_not_provable",
                user_id=str(query.user_id),
                line_number=query.line_number,
                reason=str(error),
            )
            return LedgerLineAltered()


async def prove_prefix(engine: AsyncEngine, query: ProveLedgerPrefix) -> LedgerPrefixProof:
    """Prove that the tree of the first size is the beginning of that of the second one."""
    async with engine.connect() as connection:
        end = await tree.get_end(connection)
        if not 0 < query.first_tree_size <= query.second_tree_size <= end.tree_size:
            return LedgerPrefixProof(path=None)
        ranges = consistency_ranges(query.first_tree_size, query.second_tree_size)
        return LedgerPrefixProof(path=await _hashes_of(connection, ranges))


async def _prove_line(connection: AsyncConnection, query: ProveLedgerLine) -> LedgerLineProof:
    heads = await tree.find_heads(connection, query.tree_size - 1, query.tree_size)
    postings = await tree.find_line(connection, query.user_id, query.line_number)
    if not heads or not postings:
        raise _NotSealed
    leaves = await tree.find_leaves(connection, [posting.posting_id for posting in postings])
    proofs = [await _prove_posting(connection, posting, leaves, heads[0]) for posting in postings]
    return LedgerLineProof(postings=tuple(proofs))


async def _prove_posting(
    connection: AsyncConnection, posting: SealedPosting, leaves: Mapping[int, SealedLeaf], head: TreeHead
) -> PostingProof:
    leaf = leaves.get(posting.posting_id)
    if leaf is None or not leaf.is_covered:
        raise _NotSealed
    if leaf.posting_hash != posting.leaf_hash():
        raise _Altered(f"posting {posting.posting_id} is not as it was sealed")
    if leaf.leaf_index is None or leaf.nonce_seed is None or leaf.leaf_index >= head.tree_size:
        raise _NotSealed
    nonce = nonce_of(leaf.nonce_seed, posting.posting_id)
    path = await _hashes_of(connection, inclusion_ranges(leaf.leaf_index, head.tree_size))
    root = root_of_path(leaf_hash(nonce, leaf.posting_hash), leaf.leaf_index, head.tree_size, path)
    if root != head.root_hash:
        raise _Altered(f"the path of posting {posting.posting_id} does not lead to head {head}")
    return PostingProof(posting=posting.canonical().decode(), nonce=nonce, leaf_index=leaf.leaf_index, path=path)


async def _hashes_of(connection: AsyncConnection, ranges: Sequence[LeafRange]) -> tuple[bytes, ...]:
    return proof_hashes(ranges, await tree.get_nodes(connection, proof_nodes(ranges)))
