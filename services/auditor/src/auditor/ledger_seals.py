"""The ledger against its seals, from the first to the last and then again from the first, a few at a time.

What the invariants cannot see, the seals show: a posting that was changed together with all that follows from it. The
auditor also remembers how far it has seen the chain: one that was made anew as a whole no longer has those links.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from itertools import groupby
from typing import Any, Final

import structlog
from prometheus_client import Gauge
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from auditor import repository
from auditor.checker import VIOLATIONS
from auditor.domain import Violation
from auditor.schemas import snapshot
from contracts.ledger_chain import (
    NO_SEALS,
    Finding,
    Head,
    Seal,
    SealedPosting,
    check_link,
    check_postings,
    head_of,
)

CODE: Final = "the_ledger_is_as_sealed"
SEALS_PER_ROUND: Final = 200
POSTINGS_PER_ROUND: Final = 10_000
"""Or one seal, if that has more: hashing them takes about a tenth of a second."""
LISTED: Final = 100
"""How much of what one pass finds is kept. The rest is counted, of what was put into one range no more than this."""

LAST_PASS_AT = Gauge(
    "auditor_last_ledger_pass_timestamp_seconds",
    "When the ledger was last compared with its seals to the end; its age is what to alert on",
)

_BEGIN: Final = text("""
    SELECT now() AS began_at, (SELECT count(*) FROM auditor.findings WHERE code = :code AND resolved_at IS NULL) AS open
""")
# The number of leaves is their length: the lists themselves are read of those seals alone that are compared.
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
_REMEMBER: Final = text("""
    INSERT INTO auditor.ledger_heads (seal_number, seal_hash)
    SELECT :seal_number, :seal_hash
    WHERE NOT EXISTS (SELECT FROM auditor.ledger_heads WHERE seen_at > now() - interval '1 hour')
    ON CONFLICT DO NOTHING
""")

log = structlog.get_logger(__name__)


@dataclass(slots=True)
class _Pass:
    """From the first seal to the last: how far it has come, and what it has found."""

    began_at: datetime
    open_before: int
    head: Head = NO_SEALS
    whole: bool = True
    """Whether the seals themselves were in order: only then is their end one to remember."""
    found: list[Violation] = field(default_factory=list)
    total: int = 0
    kept: int = 0

    def add(self, findings: Iterable[Finding]) -> None:
        for finding in findings:
            self.total += 1
            self.whole = self.whole and finding.kind not in ("seal", "head")
            if len(self.found) < LISTED:
                self.found.append(_violation(finding))
                log.error("ledger_is_not_as_sealed", subject=finding.subject, detail=finding.detail)


class SealVerifier:
    """``run_round`` is the round of a loop. A restart begins a new pass."""

    def __init__(self, reading: AsyncEngine, writing: AsyncEngine) -> None:
        self._reading = reading
        self._writing = writing
        self._pass: _Pass | None = None
        self._seen = NO_SEALS
        VIOLATIONS.labels(CODE, "critical")

    async def run_round(self) -> None:
        """Verify the next seals and keep what is found; at the end of the chain, close what was not found again.

        A round that fails has compared nothing, or what it found is kept by the next; only an end that cannot be kept
        costs the pass.
        """
        async with snapshot(self._reading) as connection:
            current = self._pass = self._pass or await _begin(connection)
            ended = await self._verify(connection, current)
        if not ended:
            await self._keep(current)
            return
        self._pass = None
        await self._keep_end(current)
        LAST_PASS_AT.set_to_current_time()

    async def _verify(self, connection: AsyncConnection, current: _Pass) -> bool:
        """Whether this was the end. Nothing is awaited between a seal's findings and the step beyond it."""
        seals = await _next_seals(connection, current.head)
        if not seals:
            rows = await connection.execute(_REWRITTEN, _values(self._seen))
            current.add(_rewritten(row.seal_number) for row in rows)
            return True
        postings = await _postings(connection, seals)
        for seal in seals:
            current.add(check_link(current.head, seal))
            current.add(_check_postings(seal, postings.get(seal.seal_number, [])))
            current.head = head_of(seal)
        return False

    async def _keep(self, current: _Pass) -> None:
        if current.kept == current.total:
            return
        async with self._writing.begin() as connection:
            await repository.add_findings(connection, current.found, [], current.began_at)
        current.kept = current.total
        # Until the end it is not known what was mended.
        VIOLATIONS.labels(CODE, "critical").set(max(current.total, current.open_before))

    async def _keep_end(self, current: _Pass) -> None:
        complete = [CODE] if current.total == len(current.found) else []
        to_remember = current.whole and current.head != NO_SEALS
        async with self._writing.begin() as connection:
            await repository.add_findings(connection, current.found, complete, current.began_at)
            if to_remember:
                await connection.execute(_REMEMBER, _values(current.head))
        if to_remember:
            self._seen = current.head
        VIOLATIONS.labels(CODE, "critical").set(current.total)


async def _begin(connection: AsyncConnection) -> _Pass:
    row = (await connection.execute(_BEGIN, {"code": CODE})).one()
    VIOLATIONS.labels(CODE, "critical").set(row.open)
    return _Pass(row.began_at, row.open)


async def _next_seals(connection: AsyncConnection, head: Head) -> list[Seal]:
    bounds = {"after": head.seal_number, "seals": SEALS_PER_ROUND, "postings": POSTINGS_PER_ROUND}
    rows = await connection.execute(_NEXT_SEALS, bounds)
    return [Seal(**{**row._mapping, "posting_ids": tuple(row.posting_ids)}) for row in rows]


async def _postings(connection: AsyncConnection, seals: Sequence[Seal]) -> Mapping[int, list[SealedPosting]]:
    """What is in the range of each seal, by its number. A range may hold more than was sealed: some of that."""
    ranges = {
        "number": [seal.seal_number for seal in seals],
        "after": [seal.after_posting_id for seal in seals],
        "through": [seal.through_posting_id for seal in seals],
        "most": [_most(seal) for seal in seals],
    }
    by_seal = groupby(await connection.execute(_POSTINGS, ranges), lambda row: row.number)
    return {number: [SealedPosting(*row[1:]) for row in rows] for number, rows in by_seal}


def _most(seal: Seal) -> int:
    """How many postings of a range are read: if there are as many, more were put in than are listed."""
    return len(seal.posting_ids) + LISTED + 1


def _check_postings(seal: Seal, postings: Sequence[SealedPosting]) -> Iterator[Finding]:
    cut_off = len(postings) == _most(seal)
    for finding in check_postings(seal, postings):
        # What was not read was not removed.
        if not (cut_off and finding.kind == "removed"):
            yield finding


def _values(head: Head) -> dict[str, Any]:
    return {"seal_number": head.seal_number, "seal_hash": head.seal_hash}


def _rewritten(seal_number: int) -> Finding:
    return Finding("head", f"seal {seal_number}", "is not the one that was seen here before: the chain was made anew")


def _violation(finding: Finding) -> Violation:
    subject = str(finding.transfer_id) if finding.transfer_id is not None else finding.subject
    return Violation(CODE, "critical", subject, "as it was sealed", str(finding))
