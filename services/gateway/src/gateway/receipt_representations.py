"""What the API gives of the sealed ledger: heads, receipts, and proofs that it only grows."""

from datetime import datetime

from pydantic import BaseModel, Field

from contracts.queries import PostingProof
from gateway.records import LedgerHeadRecord
from gateway.representations import MAX_PAGE


class LedgerHead(BaseModel):
    """The sealed ledger of all users at one moment. What was published is never taken back."""

    tree_size: int = Field(description="How many postings it has.")
    root_hash: str = Field(description="The root of the Merkle tree over them (RFC 9162, SHA-256), in hexadecimal.")
    published_at: datetime


class LedgerHeadPage(BaseModel):
    """Newest first; ``next_before`` is null on the last page."""

    items: list[LedgerHead] = Field(max_length=MAX_PAGE)
    next_before: int | None


class PostingReceipt(BaseModel):
    """One posting, and the hashes that lead from it to the root. Hashes are in hexadecimal."""

    posting: str = Field(description="The posting as it was sealed, a JSON array. Hash exactly this text.")
    nonce: str = Field(description="The leaf is SHA-256 of: byte 00, the nonce, and the SHA-256 of the posting.")
    leaf_index: int
    path: list[str] = Field(description="From the leaf upwards.")


class LedgerReceipt(BaseModel):
    """Proves that the line stands in the sealed ledger: `docs/check_receipt.py` checks it without us."""

    line_number: int
    head: LedgerHead
    postings: list[PostingReceipt]


class LedgerConsistency(BaseModel):
    """Proves that the ledger of the first head is the beginning of that of the second one."""

    first: LedgerHead
    second: LedgerHead
    path: list[str] = Field(description="As in RFC 9162, 2.1.4; in hexadecimal.")


def represent_head(head: LedgerHeadRecord) -> LedgerHead:
    """A published head of the ledger."""
    return LedgerHead(tree_size=head.tree_size, root_hash=head.root_hash.hex(), published_at=head.published_at)


def represent_posting(proof: PostingProof) -> PostingReceipt:
    """A proven posting for its owner."""
    return PostingReceipt(
        posting=proof.posting,
        nonce=proof.nonce.hex(),
        leaf_index=proof.leaf_index,
        path=[hash_.hex() for hash_ in proof.path],
    )
