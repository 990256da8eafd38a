"""The Merkle tree over the ledger: against the definition of RFC 9162, for every size up to 70."""

import hashlib
from collections.abc import Sequence
from dataclasses import replace

import pytest

from contracts.ledger_chain import NO_SEALS, Seal, link
from contracts.ledger_tree import (
    EMPTY,
    GrowingTree,
    LeafRange,
    Node,
    TreeCheck,
    TreeHead,
    TreePart,
    consistency_ranges,
    first_position,
    inclusion_ranges,
    is_prefix,
    leaf_hash,
    node_hash,
    nonce_of,
    proof_hashes,
    proof_nodes,
    root_of_path,
)

SIZES = range(1, 71)
WRONG = hashlib.sha256(b"wrong").digest()
LEAVES = [hashlib.sha256(bytes([number])).digest() for number in range(70)]


def merkle_tree_hash(leaves: Sequence[bytes]) -> bytes:
    """MTH of RFC 9162, 2.1.1, over hashed leaves."""
    if len(leaves) < 2:
        return leaves[0] if leaves else hashlib.sha256(b"").digest()
    split = 1
    while split * 2 < len(leaves):
        split *= 2
    return node_hash(merkle_tree_hash(leaves[:split]), merkle_tree_hash(leaves[split:]))


HEADS = {size: TreeHead(size, merkle_tree_hash(LEAVES[:size])) for size in SIZES}


@pytest.fixture(scope="module")
def stored() -> list[bytes]:
    """Everything that is stored of the 70 leaves."""
    tree = GrowingTree()
    assert tree.head() == EMPTY
    hashes: list[bytes] = []
    for leaf in LEAVES:
        assert first_position(tree.size) == len(hashes)
        hashes += tree.append(leaf)
        assert tree.head() == HEADS[tree.size]
    return hashes


def found(stored: list[bytes], nodes: Sequence[Node]) -> dict[Node, bytes]:
    return {node: stored[node.position] for node in nodes}


def test_each_leaf_of_each_tree_has_a_path_to_its_root_and_to_no_other(stored: list[bytes]) -> None:
    for size in SIZES:
        for leaf in range(size):
            ranges = inclusion_ranges(leaf, size)
            path = proof_hashes(ranges, found(stored, proof_nodes(ranges)))
            assert root_of_path(LEAVES[leaf], leaf, size, path) == HEADS[size].root_hash
            assert root_of_path(LEAVES[leaf - 1], leaf, size, path) != HEADS[size].root_hash or size == 1
            assert root_of_path(LEAVES[leaf], leaf, size, (*path, LEAVES[0])) is None
            assert root_of_path(LEAVES[leaf], size, size, path) is None


def test_each_tree_is_proven_to_be_the_beginning_of_each_longer_one(stored: list[bytes]) -> None:
    for second in SIZES:
        for first in range(1, second + 1):
            ranges = consistency_ranges(first, second)
            path = proof_hashes(ranges, found(stored, proof_nodes(ranges)))
            assert is_prefix(HEADS[first], HEADS[second], path)
            assert not is_prefix(HEADS[first], TreeHead(second, WRONG), path)
            assert not is_prefix(TreeHead(first, WRONG), HEADS[second], path)
            assert not is_prefix(HEADS[first], HEADS[second], (*path, LEAVES[0]))
            assert not (path and is_prefix(HEADS[first], HEADS[second], path[:-1]))


def test_a_proof_over_ten_million_postings_reads_a_few_hashes() -> None:
    assert max(len(proof_nodes(inclusion_ranges(leaf, 10**7))) for leaf in (0, 4_999_999, 10**7 - 1)) <= 48
    assert len(proof_nodes(consistency_ranges(9_876_543, 10**7))) <= 60


def test_the_edge_of_a_tree_is_all_that_it_needs_to_grow(stored: list[bytes]) -> None:
    for size in SIZES:
        nodes = LeafRange(0, size).nodes()
        tree = GrowingTree(size, [stored[node.position] for node in nodes])
        assert tree.head() == HEADS[size]


def test_equal_postings_have_leaves_that_say_nothing_of_each_other() -> None:
    posting = hashlib.sha256(b"8 credits").digest()
    nonces = {nonce_of(seed, number) for seed in (b"a" * 32, b"b" * 32) for number in (1, 2)}
    assert len({leaf_hash(nonce, posting) for nonce in nonces}) == 4


def _seals() -> list[Seal]:
    head, made = NO_SEALS, []
    for number in range(3):
        seal = link(head, 10 * (number + 1), [])
        ids = tuple(range(10 * number + 1, 10 * number + 4))
        made.append(
            replace(seal, seal_number=number + 1, posting_ids=ids, leaf_hashes=b"".join(LEAVES[one] for one in ids))
        )
    return made


def _parts(seals: Sequence[Seal]) -> list[TreePart]:
    tree = GrowingTree()
    return [tree.add_seal(seal, bytes([seal.seal_number]) * 32) for seal in seals]


def _findings(parts: Sequence[TreePart | None], heads: Sequence[TreeHead], last_seal: int) -> list[str]:
    check = TreeCheck()
    named = [
        finding.detail
        for seal, part in zip(_seals(), parts, strict=True)
        for finding in check.check(seal, part, heads, last_seal)
    ]
    return named + [finding.detail for finding in check.check_end(heads)]


def test_a_tree_that_follows_from_the_chain_has_no_findings() -> None:
    parts = _parts(_seals())
    tree = GrowingTree()
    heads = []
    for seal, part in zip(_seals(), parts, strict=True):
        tree.add_seal(seal, part.nonce_seed)
        heads.append(tree.head())
    assert _findings(parts, heads, 3) == []
    assert _findings([parts[0], parts[1], None], heads[:2], 2) == []
    assert _findings([parts[0], None, None], heads[:1], 1) == []
    assert _findings([parts[0], None, None], heads, 1) == ["is beyond the tree of 3 postings"] * 2
    assert _findings([parts[0], None, parts[2]], heads[:1], 3) == ["is missing"]
    altered = bytes([parts[1].node_hashes[70] ^ 1])
    edited = replace(parts[1], node_hashes=parts[1].node_hashes[:70] + altered + parts[1].node_hashes[71:])
    assert _findings([parts[0], edited, parts[2]], heads, 3) == ["was edited: hash 2 does not follow from the chain"]
    cut = replace(parts[1], node_hashes=parts[1].node_hashes[:-32])
    assert _findings([parts[0], cut, parts[2]], heads, 3)[0].startswith("was edited")
    reseeded = replace(parts[1], nonce_seed=b"x" * 32)
    assert len(_findings([parts[0], reseeded, parts[2]], heads, 3)) == 4
