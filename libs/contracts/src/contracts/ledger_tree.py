"""The Merkle tree over the sealed ledger: what is hashed, where hashes are stored, and what a proof holds.

It is the tree of RFC 9162. Its leaves are the sealed postings, seal by seal, in posting order. A leaf hides its posting
behind a nonce, so that a hash in somebody's proof says nothing about a neighbour. Billing grows the tree, and every
proof of the ledger verifies it. The form can never change.
"""

import hashlib
import hmac
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import reduce
from typing import NamedTuple

from contracts.ledger_chain import HASH_BYTES, Finding, Seal

NONCE_SEED_BYTES = 32
EMPTY_ROOT = hashlib.sha256(b"").digest()
"""The root of a tree without leaves."""


@dataclass(frozen=True, slots=True)
class TreeHead:
    """A tree of ``tree_size`` postings. Who holds it can check every receipt and every later head against it."""

    tree_size: int
    root_hash: bytes

    def __str__(self) -> str:
        return f"{self.tree_size}:{self.root_hash.hex()}"

    @classmethod
    def parse(cls, text: str) -> "TreeHead":
        """Read what ``str`` wrote. Raises ValueError."""
        size, root = text.strip().split(":")
        head = cls(int(size), bytes.fromhex(root))
        if head.tree_size < 1 or len(head.root_hash) != HASH_BYTES:
            raise ValueError(f"{text!r} is no head")
        return head


EMPTY = TreeHead(0, EMPTY_ROOT)


@dataclass(frozen=True, slots=True, kw_only=True)
class TreePart:
    """What one seal adds to the tree: its leaves and the nodes that they complete, in the order of their making.

    ``nonce_seed`` is random and secret. The nonce of each posting comes from it, and a nonce reveals nothing of others.
    """

    seal_number: int
    first_leaf: int
    tree_size: int
    nonce_seed: bytes
    node_hashes: bytes


class Node(NamedTuple):
    """The root of the complete subtree over the leaves from ``number * 2**level`` on, ``2**level`` of them."""

    level: int
    number: int

    @property
    def position(self) -> int:
        """Its place among all hashes that are stored: each leaf is followed by the nodes that it completes."""
        return first_position(((self.number + 1) << self.level) - 1) + self.level


class LeafRange(NamedTuple):
    """The leaves ``first <= leaf < end``. Proofs consist of the hashes of such ranges."""

    first: int
    end: int

    def nodes(self) -> list[Node]:
        """The complete subtrees that make up the range, from left to right."""
        found = []
        first = self.first
        while first < self.end:
            level = (self.end - first).bit_length() - 1
            if first:
                level = min(level, (first & -first).bit_length() - 1)
            found.append(Node(level, first >> level))
            first += 1 << level
        return found


def nonce_of(seed: bytes, posting_id: int) -> bytes:
    """What hides a posting in its leaf."""
    return hmac.digest(seed, posting_id.to_bytes(8, "big"), "sha256")


def leaf_hash(nonce: bytes, posting_hash: bytes) -> bytes:
    """The leaf of a posting. ``posting_hash`` is :meth:`SealedPosting.leaf_hash`, as it stands in the chain."""
    return hashlib.sha256(b"\x00" + nonce + posting_hash).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """The node over two others."""
    return hashlib.sha256(b"\x01" + left + right).digest()


def first_position(leaf: int) -> int:
    """How many hashes are stored before that of this leaf: two for each leaf, without those that are incomplete."""
    return 2 * leaf - leaf.bit_count()


def range_hash(nodes: Sequence[bytes]) -> bytes:
    """The hash of a range whose complete subtrees have these hashes, from left to right."""
    return reduce(lambda right, left: node_hash(left, right), reversed(nodes))


@dataclass(slots=True)
class GrowingTree:
    """The right edge of a tree: all that is needed to go on. ``peaks`` are those of ``LeafRange(0, size).nodes()``."""

    size: int = 0
    peaks: list[bytes] = field(default_factory=list)

    def head(self) -> TreeHead:
        """The tree as it stands now."""
        return TreeHead(self.size, range_hash(self.peaks)) if self.peaks else EMPTY

    def append(self, leaf: bytes) -> list[bytes]:
        """Add a leaf; returns the hashes to store."""
        stored = [leaf]
        size = self.size
        while size & 1:
            stored.append(node_hash(self.peaks.pop(), stored[-1]))
            size >>= 1
        self.peaks.append(stored[-1])
        self.size += 1
        return stored

    def add_seal(self, seal: Seal, nonce_seed: bytes) -> TreePart:
        """Add the postings of the next seal; returns what is stored of that."""
        first_leaf = self.size
        stored = [
            stored
            for posting_id, posting_hash in seal.leaves()
            for stored in self.append(leaf_hash(nonce_of(nonce_seed, posting_id), posting_hash))
        ]
        return TreePart(
            seal_number=seal.seal_number,
            first_leaf=first_leaf,
            tree_size=self.size,
            nonce_seed=nonce_seed,
            node_hashes=b"".join(stored),
        )


def inclusion_ranges(leaf: int, tree_size: int) -> list[LeafRange]:
    """The ranges whose hashes lead from a leaf to the root, from the leaf upwards (RFC 9162, 2.1.3.1)."""
    assert 0 <= leaf < tree_size, "a leaf of the tree"
    first, end, path = 0, tree_size, []
    while end - first > 1:
        middle = _middle(first, end)
        if leaf < middle:
            path.append(LeafRange(middle, end))
            end = middle
        else:
            path.append(LeafRange(first, middle))
            first = middle
    return path[::-1]


def consistency_ranges(first_size: int, second_size: int) -> list[LeafRange]:
    """The ranges whose hashes prove that one tree is the beginning of another (RFC 9162, 2.1.4.1)."""
    assert 0 < first_size <= second_size, "the first tree is the smaller one"
    first, end, path = 0, second_size, []
    while end != first_size:
        middle = _middle(first, end)
        if first_size <= middle:
            path.append(LeafRange(middle, end))
            end = middle
        else:
            path.append(LeafRange(first, middle))
            first = middle
    if first:
        path.append(LeafRange(first, end))
    return path[::-1]


def proof_nodes(ranges: Sequence[LeafRange]) -> list[Node]:
    """The stored hashes that a proof needs: a few for each doubling of the tree."""
    return [node for each in ranges for node in each.nodes()]


def proof_hashes(ranges: Sequence[LeafRange], hashes: Mapping[Node, bytes]) -> tuple[bytes, ...]:
    """The proof, from stored hashes."""
    return tuple(range_hash([hashes[node] for node in each.nodes()]) for each in ranges)


def root_of_path(leaf: bytes, index: int, tree_size: int, path: Sequence[bytes]) -> bytes | None:
    """The root that a path leads to; None if it is no path of such a tree (RFC 9162, 2.1.3.2)."""
    if not 0 <= index < tree_size:
        return None
    node, last, found = index, tree_size - 1, leaf
    for hash_ in path:
        if last == 0:
            return None
        if node & 1 or node == last:
            found = node_hash(hash_, found)
            while node and not node & 1:
                node, last = node >> 1, last >> 1
        else:
            found = node_hash(found, hash_)
        node, last = node >> 1, last >> 1
    return found if last == 0 else None


def is_prefix(first: TreeHead, second: TreeHead, path: Sequence[bytes]) -> bool:
    """Whether a path proves that ``first`` is the beginning of ``second`` (RFC 9162, 2.1.4.2)."""
    if first.tree_size == second.tree_size:
        return first == second and not path
    if not 0 < first.tree_size < second.tree_size:
        return False
    hashes = list(path)
    if first.tree_size & (first.tree_size - 1) == 0:
        hashes.insert(0, first.root_hash)
    if not hashes:
        return False
    node, last = first.tree_size - 1, second.tree_size - 1
    while node & 1:
        node, last = node >> 1, last >> 1
    first_root = second_root = hashes[0]
    for hash_ in hashes[1:]:
        if last == 0:
            return False
        if node & 1 or node == last:
            first_root, second_root = node_hash(hash_, first_root), node_hash(hash_, second_root)
            while node and not node & 1:
                node, last = node >> 1, last >> 1
        else:
            second_root = node_hash(second_root, hash_)
        node, last = node >> 1, last >> 1
    return last == 0 and (first_root, second_root) == (first.root_hash, second.root_hash)


@dataclass(slots=True)
class TreeCheck:
    """Holds what is stored of the tree, and its published heads, against the chain, seal by seal from the first."""

    tree: GrowingTree = field(default_factory=GrowingTree)
    has_ended: bool = False
    """Whether a seal without a part was met: the tree has not grown that far, or lacks it. Nothing more is checked."""

    def check(self, seal: Seal, part: TreePart | None, heads: Sequence[TreeHead], last_seal: int) -> Iterator[Finding]:
        """Check the next seal, and those of ``heads`` that were published after the seal before it.

        ``last_seal`` is the last one that has a part. The check goes on with what should be there, whatever is.
        """
        name = f"the tree's part of seal {seal.seal_number}"
        if self.has_ended:
            return
        if part is None:
            self.has_ended = True
            if seal.seal_number < last_seal:
                yield Finding("tree", name, "is missing")
            return
        expected = self.tree.add_seal(seal, part.nonce_seed)
        if (part.first_leaf, part.tree_size) != (expected.first_leaf, expected.tree_size):
            yield Finding("tree", name, f"does not continue the tree at posting {expected.first_leaf}")
        if part.node_hashes != expected.node_hashes:
            place = _first_difference(part.node_hashes, expected.node_hashes)
            yield Finding("tree", name, f"was edited: hash {place} does not follow from the chain")
        for head in heads:
            if expected.first_leaf < head.tree_size <= self.tree.size and head != self.tree.head():
                yield Finding("tree", f"the published head {head}", "is not that of the ledger")

    def check_end(self, heads: Sequence[TreeHead]) -> Iterator[Finding]:
        """At the end of the tree: no head is that of a longer one. ``heads`` were read together with the end."""
        for head in heads:
            if head.tree_size > self.tree.size:
                yield Finding("tree", f"the published head {head}", f"is beyond the tree of {self.tree.size} postings")


def _first_difference(found: bytes, expected: bytes) -> int:
    """The number of the first hash that differs."""
    for place in range(max(len(found), len(expected)) // HASH_BYTES):
        hash_ = slice(place * HASH_BYTES, (place + 1) * HASH_BYTES)
        if found[hash_] != expected[hash_]:
            return place
    return len(expected) // HASH_BYTES


def _middle(first: int, end: int) -> int:
    """Where RFC 9162 splits: after the largest power of two that is smaller than the number of leaves."""
    return first + (1 << ((end - first - 1).bit_length() - 1))
