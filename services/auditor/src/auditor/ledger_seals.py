"""The ledger against its seals, from the first to the last and then again from the first, a few at a time.

What the invariants cannot see, the seals show: a posting that was changed together with all that follows from it. The
auditor also remembers how far it has seen the chain: one that was made anew as a whole no longer has those links.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Final

import structlog
from prometheus_client import Gauge
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from auditor import repository
from auditor.checker import VIOLATIONS
from auditor.domain import Violation
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
"""How much of what one pass finds is kept; all of it is counted."""

LAST_PASS_AT = Gauge(
    "auditor_last_ledger_pass_timestamp_seconds", "When the ledger was last compared with its seals to the end"
)

_NEXT_SEALS: Final = text("""
    SELECT seal_number, after_posting_id, through_posting_id, posting_ids, leaf_hashes, previous_hash, seal_hash
    FROM billing.ledger_seals WHERE seal_number > :after ORDER BY seal_number LIMIT :limit
""")
_POSTINGS: Final = text(f"""
    SELECT {", ".join(SealedPosting.__struct_fields__)} FROM billing.balance_ledger
    WHERE posting_id > :after AND posting_id <= :through ORDER BY posting_id
""")  # noqa: S608 - the names are those of the sealed form
_HEADS: Final = text("SELECT seal_number, seal_hash FROM auditor.ledger_heads")
_REMEMBER: Final = text("""
    INSERT INTO auditor.ledger_heads (seal_number, seal_hash)
    SELECT :seal_number, :seal_hash
    WHERE NOT EXISTS (SELECT FROM auditor.ledger_heads WHERE seen_at > now() - interval '1 hour')
    ON CONFLICT DO NOTHING
""")

log = structlog.get_logger(__name__)


class SealVerifier:
    """``run_round`` is the round of a loop. A restart begins a new pass."""

    def __init__(self, reading: AsyncEngine, writing: AsyncEngine) -> None:
        self._reading = reading
        self._writing = writing
        VIOLATIONS.labels(CODE, "critical")
        self._begin()

    def _begin(self) -> None:
        self._head = NO_SEALS
        self._began_at: datetime | None = None
        self._remembered: dict[int, bytes] = {}
        self._found: list[Violation] = []
        self._total = 0

    async def run_round(self) -> None:
        """Verify the next seals and keep what is found; at the end of the chain, close what was not found again."""
        async with self._reading.connect() as connection:
            snapshot = await connection.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)
            async with snapshot.begin():
                findings, ended = await self._verify(snapshot)
        self._total += len(findings)
        self._found += [_violation(finding) for finding in findings][: LISTED - len(self._found)]
        for finding in findings[:LISTED]:
            log.error("ledger_is_not_as_sealed", subject=finding.subject, detail=finding.detail)
        if findings or ended:
            await self._keep(ended=ended)
        if ended:
            LAST_PASS_AT.set_to_current_time()
            self._begin()

    async def _verify(self, snapshot: AsyncConnection) -> tuple[list[Finding], bool]:
        if self._began_at is None:
            self._began_at = (await snapshot.execute(text("SELECT now()"))).scalar_one()
            self._remembered = {row.seal_number: bytes(row.seal_hash) for row in await snapshot.execute(_HEADS)}
        seals = await _next_seals(snapshot, self._head)
        findings: list[Finding] = []
        postings = iter(await _postings(snapshot, seals))
        posting = next(postings, None)
        for seal in seals:
            findings += check_link(self._head, seal)
            of_seal = []
            while posting is not None and posting.posting_id <= seal.through_posting_id:
                of_seal.append(posting)
                posting = next(postings, None)
            findings += check_postings(seal, of_seal)
            self._head = head_of(seal)
            if self._remembered.pop(seal.seal_number, seal.seal_hash) != seal.seal_hash:
                findings.append(_rewritten(seal.seal_number))
        if not seals:
            findings += [_rewritten(number) for number in sorted(self._remembered)]
        return findings, not seals

    async def _keep(self, *, ended: bool) -> None:
        assert self._began_at is not None
        complete = [CODE] if ended and self._total == len(self._found) else []
        async with self._writing.begin() as connection:
            await repository.add_findings(connection, self._found, complete, self._began_at)
            if ended and self._total == 0 and self._head != NO_SEALS:
                head = {"seal_number": self._head.seal_number, "seal_hash": self._head.seal_hash}
                await connection.execute(_REMEMBER, head)
        VIOLATIONS.labels(CODE, "critical").set(self._total)


async def _next_seals(snapshot: AsyncConnection, head: Head) -> list[Seal]:
    rows = await snapshot.execute(_NEXT_SEALS, {"after": head.seal_number, "limit": SEALS_PER_ROUND})
    seals: list[Seal] = []
    postings = 0
    for row in rows:
        values: dict[str, Any] = {**row._mapping, "posting_ids": tuple(row.posting_ids)}
        postings += len(row.posting_ids)
        if seals and postings > POSTINGS_PER_ROUND:
            break
        seals.append(Seal(**values))
    return seals


async def _postings(snapshot: AsyncConnection, seals: Sequence[Seal]) -> list[SealedPosting]:
    if not seals:
        return []
    between = {"after": seals[0].after_posting_id, "through": seals[-1].through_posting_id}
    return [SealedPosting(*row) for row in await snapshot.execute(_POSTINGS, between)]


def _rewritten(seal_number: int) -> Finding:
    return Finding("head", f"seal {seal_number}", "is not the one that was seen here before: the chain was made anew")


def _violation(finding: Finding) -> Violation:
    subject = str(finding.transfer_id) if finding.transfer_id is not None else finding.subject
    return Violation(CODE, "critical", subject, "as it was sealed", str(finding))
