"""Compares the ledger with its seals, from the first to the last and then again from the first, a few at a time.

The Merkle tree over the seals is recomputed on the way, and every published head of it.

What the invariants cannot see, the seals show: a posting that was changed together with everything that follows from
it. The auditor also remembers ends of the chain that it has seen: a rewritten chain no longer has those seals.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

import structlog
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from auditor.domain import LEDGER_SEALS_CODE, Violation
from auditor.metrics import LAST_LEDGER_PASS_AT, VIOLATIONS
from auditor.repository import findings, seals
from auditor.repository.seals import PassStart
from auditor.schemas import snapshot
from contracts.ledger_chain import NO_SEALS, Finding, Head, Seal, SealedPosting, check_link, check_postings, head_of
from contracts.ledger_tree import TreeCheck

SEALS_PER_ROUND: Final = 200
POSTINGS_PER_ROUND: Final = 10_000
"""Or one seal, if that has more: hashing them takes about a tenth of a second."""
LISTED: Final = 100
"""How many findings of one pass are stored. The others are counted, and of one range no more than this many."""

log = structlog.get_logger(__name__)


@dataclass(slots=True)
class _Pass:
    """From the first seal to the last: how far it has come, and what it has found."""

    start: PassStart
    head: Head = NO_SEALS
    tree: TreeCheck = field(default_factory=TreeCheck)
    seals_intact: bool = True
    """Whether the seals themselves were in order: only then is their end remembered."""
    found: list[Violation] = field(default_factory=list)
    total: int = 0
    stored: int = 0

    def add(self, found: Iterable[Finding]) -> None:
        for finding in found:
            self.total += 1
            self.seals_intact = self.seals_intact and finding.kind not in ("seal", "head")
            if len(self.found) < LISTED:
                self.found.append(_violation(finding))
                log.error("ledger_is_not_as_sealed", subject=finding.subject, detail=finding.detail)


class SealVerifier:
    """``run_round`` is the round of a loop. A restart begins a new pass."""

    def __init__(self, reading: AsyncEngine, writing: AsyncEngine) -> None:
        self._reading = reading
        self._writing = writing
        self._pass: _Pass | None = None
        self._has_ended_one = False
        self._seen = NO_SEALS
        VIOLATIONS.labels(LEDGER_SEALS_CODE, "critical")

    async def run_round(self) -> None:
        """Verify the next seals and store what is found; at the end of the chain, resolve what was not found again.

        A round that fails has compared nothing, or the next round stores what it found. Only an end that cannot be
        stored costs the pass.
        """
        async with snapshot(self._reading) as connection:
            current = self._pass = self._pass or await self._begin(connection)
            ended = await self._verify(connection, current)
        if not ended:
            await self._store(current)
            return
        self._pass = None
        await self._store_end(current)
        self._has_ended_one = True
        LAST_LEDGER_PASS_AT.set_to_current_time()

    async def _begin(self, connection: AsyncConnection) -> _Pass:
        start = await seals.begin_pass(connection, LEDGER_SEALS_CODE)
        _set_violations(start.open_findings)
        if not self._has_ended_one and start.last_end_at is not None:
            # A restart begins anew: until a pass of this process has ended, the last one of another counts.
            LAST_LEDGER_PASS_AT.set(start.last_end_at.timestamp())
        return _Pass(start)

    async def _verify(self, connection: AsyncConnection, current: _Pass) -> bool:
        """Whether this was the end. Nothing is awaited between a seal's findings and the step beyond it."""
        following = await seals.find_next_seals(connection, current.head, SEALS_PER_ROUND, POSTINGS_PER_ROUND)
        leaves = sum(len(seal.posting_ids) for seal in following)
        # All that may be right are no more than there are leaves: beyond them a few are enough to be named.
        heads = await seals.find_tree_heads(connection, current.tree.tree.size, leaves + LISTED)
        if not following:
            if not current.tree.has_ended:
                current.add(current.tree.check_end(heads))
            current.add(map(_rewritten, await seals.find_rewritten(connection, self._seen)))
            return True
        postings = await seals.find_postings(connection, [(seal, _most_postings(seal)) for seal in following])
        parts = await seals.find_parts(connection, following)
        last_seal = await seals.get_last_seal(connection)
        had_ended = current.tree.has_ended
        for seal in following:
            current.add(check_link(current.head, seal))
            current.add(_check_postings(seal, postings.get(seal.seal_number, [])))
            current.add(current.tree.check(seal, parts.get(seal.seal_number), heads, last_seal))
            current.head = head_of(seal)
        # Later the tree may have grown: what is said of its end is said of this snapshot.
        if current.tree.has_ended and not had_ended:
            current.add(current.tree.check_end(heads))
        return False

    async def _store(self, current: _Pass) -> None:
        if current.stored == current.total:
            return
        async with self._writing.begin() as connection:
            await findings.add_findings(connection, current.found, [], current.start.began_at)
        current.stored = current.total
        # Only the end of the pass shows which of the open findings were put right.
        _set_violations(max(current.total, current.start.open_findings))

    async def _store_end(self, current: _Pass) -> None:
        complete = [LEDGER_SEALS_CODE] if current.total == len(current.found) else []
        is_remembered = current.seals_intact and current.head != NO_SEALS
        async with self._writing.begin() as connection:
            await findings.add_findings(connection, current.found, complete, current.start.began_at)
            if is_remembered:
                await seals.add_head(connection, current.head)
        if is_remembered:
            self._seen = current.head
        _set_violations(current.total)


def _set_violations(total: int) -> None:
    VIOLATIONS.labels(LEDGER_SEALS_CODE, "critical").set(total)


def _most_postings(seal: Seal) -> int:
    """How many postings of a range are read: if there are as many, more were put in than are listed."""
    return len(seal.posting_ids) + LISTED + 1


def _check_postings(seal: Seal, postings: Sequence[SealedPosting]) -> Iterator[Finding]:
    is_cut_off = len(postings) == _most_postings(seal)
    for finding in check_postings(seal, postings):
        # A posting that was not read was not removed.
        if not (is_cut_off and finding.kind == "removed"):
            yield finding


def _rewritten(seal_number: int) -> Finding:
    return Finding("head", f"seal {seal_number}", "is not the one that was seen here before: the chain was made anew")


def _violation(finding: Finding) -> Violation:
    subject = str(finding.transfer_id) if finding.transfer_id is not None else finding.subject
    return Violation(LEDGER_SEALS_CODE, "critical", subject, "as it was sealed", str(finding))
