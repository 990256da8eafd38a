"""Receipts: a proof from billing that a statement line stands in the sealed ledger, checked before it is given."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final
from uuid import UUID

import msgspec
import structlog

from contracts.ledger_chain import SealedPosting
from contracts.ledger_tree import TreeHead, is_prefix, leaf_hash, root_of_path
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
from contracts.values import LedgerLine
from gateway import queries
from gateway.dependencies import Dependencies
from gateway.errors import (
    LedgerHeadNotFound,
    LedgerLineNotFound,
    LineNotSealed,
    ReceiptNotProvable,
    ReceiptsUnavailable,
)
from gateway.records import LedgerHeadRecord
from messaging.errors import QueryUnansweredError
from messaging.queries import ask

RETRY_SECONDS: Final = 30
"""A line is sealed within seconds, and in a published head within a minute or two."""
RETRY: Final = {"Retry-After": str(RETRY_SECONDS)}

_LINE_ANSWER: Final[msgspec.json.Decoder[LedgerLineAnswer]] = msgspec.json.Decoder(LedgerLineAnswer)
_PREFIX_PROOF: Final = msgspec.json.Decoder(LedgerPrefixProof)

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Receipt:
    """The postings of one line, each with its path to the head."""

    line_number: int
    head: LedgerHeadRecord
    postings: Sequence[PostingProof]


@dataclass(frozen=True, slots=True)
class Consistency:
    """A path that proves that the ledger of the first head is the beginning of that of the second one."""

    first: LedgerHeadRecord
    second: LedgerHeadRecord
    path: Sequence[bytes]


async def get_receipt(dependencies: Dependencies, user_id: UUID, line_number: int) -> Receipt:
    """The receipt for a line of this user, up to the newest published head.

    Raises LedgerLineNotFound, LineNotSealed, ReceiptsUnavailable and ReceiptNotProvable.
    """
    line = await queries.find_line(dependencies.engine, user_id, line_number)
    if line is None:
        raise LedgerLineNotFound
    head = await queries.find_newest_head(dependencies.engine)
    if head is None:
        raise LineNotSealed(headers=RETRY)
    query = ProveLedgerLine(user_id=user_id, line_number=line_number, tree_size=head.tree_size)
    try:
        answer = await ask(dependencies.broker, query, _LINE_ANSWER)
    except QueryUnansweredError as error:
        raise ReceiptsUnavailable(headers={"Retry-After": "5"}) from error
    if isinstance(answer, LedgerLineNotSealed):
        raise LineNotSealed(headers=RETRY)
    if isinstance(answer, LedgerLineAltered) or not proves(answer, line, TreeHead(head.tree_size, head.root_hash)):
        log.error("receipt_not_provable", user_id=str(user_id), line_number=line_number, tree_size=head.tree_size)
        raise ReceiptNotProvable
    return Receipt(line_number, head, answer.postings)


async def get_consistency(dependencies: Dependencies, tree_size: int) -> Consistency:
    """The proof that the newest published head continues an earlier one.

    Raises LedgerHeadNotFound, ReceiptsUnavailable and ReceiptNotProvable.
    """
    first = await queries.find_head(dependencies.engine, tree_size)
    second = await queries.find_newest_head(dependencies.engine)
    if first is None or second is None:
        raise LedgerHeadNotFound
    query = ProveLedgerPrefix(first_tree_size=first.tree_size, second_tree_size=second.tree_size)
    try:
        path = (await ask(dependencies.broker, query, _PREFIX_PROOF)).path
    except QueryUnansweredError as error:
        raise ReceiptsUnavailable(headers={"Retry-After": "5"}) from error
    heads = TreeHead(first.tree_size, first.root_hash), TreeHead(second.tree_size, second.root_hash)
    if path is None or not is_prefix(*heads, path):
        log.error("ledger_heads_contradict", first=str(heads[0]), second=str(heads[1]))
        raise ReceiptNotProvable
    return Consistency(first, second, path)


def proves(proof: LedgerLineProof, line: LedgerLine, head: TreeHead) -> bool:
    """Whether each path leads to the head, and the postings together are what the statement shows of this line."""
    moved = dict.fromkeys(("user:available", "user:reserved", "user:receivable"), 0)
    for proven in proof.postings:
        written = proven.posting.encode()
        leaf = leaf_hash(proven.nonce, hashlib.sha256(written).digest())
        if root_of_path(leaf, proven.leaf_index, head.tree_size, proven.path) != head.root_hash:
            return False
        posting = msgspec.json.decode(written, type=SealedPosting)
        if not _belongs(posting, line) or posting.account not in moved:
            return False
        moved[posting.account] += posting.amount_credits
    return (moved["user:available"], moved["user:reserved"], -moved["user:receivable"]) == (
        line.available_delta_credits,
        line.reserved_delta_credits,
        line.receivable_delta_credits,
    )


def _belongs(posting: SealedPosting, line: LedgerLine) -> bool:
    return (posting.user_id, posting.line_number, posting.transfer_id, posting.reason, posting.occurred_at) == (
        line.user_id,
        line.line_number,
        line.transfer_id,
        line.reason,
        line.occurred_at,
    )
