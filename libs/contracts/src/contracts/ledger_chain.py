"""The hash chain over billing's ledger: what is hashed, in which form, and what a difference means.

Billing seals in this form, and every proof of the ledger verifies it. The form can never change.
"""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal
from uuid import UUID

import msgspec

HASH_BYTES = 32
GENESIS = hashlib.sha256(b"reelhouse ledger, form 1").digest()
"""What the first seal follows."""


class SealedPosting(msgspec.Struct, frozen=True, array_like=True):
    """A posting with every column that the ledger stores, in the order in which they are hashed."""

    posting_id: int
    transfer_id: UUID
    account: str
    amount_credits: int
    reason: str
    user_id: UUID | None
    line_number: int | None
    generation_id: UUID | None
    payment_id: UUID | None
    grant_id: UUID | None
    clawback_id: UUID | None
    note: str | None
    occurred_at: datetime

    def canonical(self) -> bytes:
        """What is hashed: a compact JSON array of the columns; times are UTC."""
        return msgspec.json.encode(self)

    def leaf_hash(self) -> bytes:
        """Hash of the posting alone."""
        return hashlib.sha256(self.canonical()).digest()


@dataclass(frozen=True, slots=True, kw_only=True)
class Seal:
    """One link: the postings with ``after_posting_id < posting_id <= through_posting_id``, all of them.

    The range is closed: no transaction can still add a posting to it. ``leaf_hashes`` holds one hash per posting, so
    that verification can name the very row that changed.
    """

    seal_number: int
    after_posting_id: int
    through_posting_id: int
    posting_ids: tuple[int, ...]
    leaf_hashes: bytes
    previous_hash: bytes
    seal_hash: bytes

    def leaves(self) -> Iterator[tuple[int, bytes]]:
        """Each posting id with its leaf hash."""
        for index, posting_id in enumerate(self.posting_ids):
            yield posting_id, self.leaf_hashes[index * HASH_BYTES : (index + 1) * HASH_BYTES]


@dataclass(frozen=True, slots=True)
class Head:
    """The end of the chain. Kept outside the database, it proves that nothing before it was rewritten."""

    seal_number: int
    through_posting_id: int
    seal_hash: bytes

    def __str__(self) -> str:
        return f"{self.seal_number}:{self.through_posting_id}:{self.seal_hash.hex()}"

    @classmethod
    def parse(cls, text: str) -> "Head":
        """Read what ``str`` wrote. Raises ValueError."""
        number, through, digest = text.strip().split(":")
        return cls(int(number), int(through), bytes.fromhex(digest))


NO_SEALS = Head(0, 0, GENESIS)


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is not as it was sealed, named."""

    kind: Literal["edited", "removed", "inserted", "seal", "head", "tree"]
    subject: str
    detail: str
    transfer_id: UUID | None = None
    """Of a posting that is there."""

    def __str__(self) -> str:
        return f"{self.subject} {self.detail}"


def link(head: Head, through_posting_id: int, postings: Sequence[SealedPosting]) -> Seal:
    """The seal that follows ``head`` and covers ``postings``, which are in posting order."""
    posting_ids = tuple(posting.posting_id for posting in postings)
    leaf_hashes = b"".join(posting.leaf_hash() for posting in postings)
    return Seal(
        seal_number=head.seal_number + 1,
        after_posting_id=head.through_posting_id,
        through_posting_id=through_posting_id,
        posting_ids=posting_ids,
        leaf_hashes=leaf_hashes,
        previous_hash=head.seal_hash,
        seal_hash=seal_hash(head, through_posting_id, posting_ids, leaf_hashes),
    )


def seal_hash(head: Head, through_posting_id: int, posting_ids: Sequence[int], leaf_hashes: bytes) -> bytes:
    """Hash of one link: the link before it, its number and range, which postings are in it, and what they say."""
    digest = hashlib.sha256(head.seal_hash)
    digest.update(msgspec.json.encode((head.seal_number + 1, head.through_posting_id, through_posting_id, posting_ids)))
    digest.update(leaf_hashes)
    return digest.digest()


def head_of(seal: Seal) -> Head:
    """The end of a chain whose last link is ``seal``."""
    return Head(seal.seal_number, seal.through_posting_id, seal.seal_hash)


def check_link(head: Head, seal: Seal) -> Iterator[Finding]:
    """Hold a stored seal against the one before it and against its own content."""
    name = f"seal {seal.seal_number}"
    if seal.seal_number != head.seal_number + 1:
        yield Finding("seal", f"seal {head.seal_number + 1}", "is missing")
    elif seal.previous_hash != head.seal_hash or seal.after_posting_id != head.through_posting_id:
        yield Finding("seal", name, f"does not continue seal {head.seal_number}")
    before = Head(seal.seal_number - 1, seal.after_posting_id, seal.previous_hash)
    if seal_hash(before, seal.through_posting_id, seal.posting_ids, seal.leaf_hashes) != seal.seal_hash:
        yield Finding("seal", name, "was edited: its hash does not match its content")


def check_postings(seal: Seal, postings: Iterable[SealedPosting]) -> Iterator[Finding]:
    """Hold the postings that are in a sealed range today against what was sealed."""
    sealed = dict(seal.leaves())
    for posting in postings:
        leaf = sealed.pop(posting.posting_id, None)
        where = f"posting {posting.posting_id} (transfer {posting.transfer_id}, {posting.account})"
        if leaf is None:
            detail = f"was inserted after seal {seal.seal_number} closed its range"
            yield Finding("inserted", where, detail, posting.transfer_id)
        elif leaf != posting.leaf_hash():
            yield Finding("edited", where, f"was edited after seal {seal.seal_number}", posting.transfer_id)
    for posting_id in sealed:
        yield Finding("removed", f"posting {posting_id}", f"was removed after seal {seal.seal_number}")
