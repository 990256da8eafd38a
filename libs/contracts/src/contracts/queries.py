"""Questions that one service asks another while a user waits: over core NATS, never stored, asked again when lost.

For reads alone, and only where a projection would be a second copy of much that few look at. What changes anything is
a message of the registry. Without an answer the asker says so to its user.
"""

from typing import ClassVar, Final
from uuid import UUID

import msgspec

from contracts.message import Service


class Query(msgspec.Struct, frozen=True, kw_only=True):
    """A question. Its subject is ``query.<responder>.<noun>.v<N>``, which belongs to no stream."""

    subject: ClassVar[str]
    asker: ClassVar[Service]
    responder: ClassVar[Service]


class ProveLedgerLine(Query, frozen=True, kw_only=True):
    """Prove that the postings of a user's line stand in the first ``tree_size`` postings of the sealed ledger."""

    subject: ClassVar[str] = "query.billing.ledger-line-proof.v1"
    asker: ClassVar[Service] = "gateway"
    responder: ClassVar[Service] = "billing"

    user_id: UUID
    line_number: int
    tree_size: int


class PostingProof(msgspec.Struct, frozen=True, kw_only=True):
    """One posting, and the path from its leaf to the root. ``posting`` is its canonical form: exactly what is hashed.

    The leaf is ``sha256(00 || nonce || sha256(posting))``, see :mod:`contracts.ledger_tree`.
    """

    posting: str
    nonce: bytes
    leaf_index: int
    path: tuple[bytes, ...]


class LedgerLineProof(msgspec.Struct, frozen=True, kw_only=True, tag="proof"):
    """The line's postings in their order: one to three of them, each with its own path to the same root."""

    postings: tuple[PostingProof, ...]


class LedgerLineNotSealed(msgspec.Struct, frozen=True, kw_only=True, tag="not_sealed"):
    """The line is not among the first ``tree_size`` postings yet, or unknown here. Ask again after the next head."""


class LedgerLineAltered(msgspec.Struct, frozen=True, kw_only=True, tag="altered"):
    """The line is not as it was sealed, or the tree is not. Nothing is proven; an operator is told."""


LedgerLineAnswer = LedgerLineProof | LedgerLineNotSealed | LedgerLineAltered


class ProveLedgerPrefix(Query, frozen=True, kw_only=True):
    """Prove that the ledger of the first size is the beginning of that of the second one."""

    subject: ClassVar[str] = "query.billing.ledger-prefix-proof.v1"
    asker: ClassVar[Service] = "gateway"
    responder: ClassVar[Service] = "billing"

    first_tree_size: int
    second_tree_size: int


class LedgerPrefixProof(msgspec.Struct, frozen=True, kw_only=True):
    """The path; None where the tree is not that long (any more)."""

    path: tuple[bytes, ...] | None


QUERIES: Final[tuple[type[Query], ...]] = (ProveLedgerLine, ProveLedgerPrefix)


def asked_by(service: Service) -> tuple[type[Query], ...]:
    """The queries that ``service`` asks others."""
    return tuple(query for query in QUERIES if query.asker == service)


def answered_by(service: Service) -> tuple[type[Query], ...]:
    """The queries that ``service`` answers."""
    return tuple(query for query in QUERIES if query.responder == service)
