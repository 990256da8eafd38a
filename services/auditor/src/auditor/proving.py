"""Proves what is new or open, and goes over what is old a portion at a time.

What is proven stays proven. One round evaluates the invariants for the ids that were touched since the watermark, for
the open findings, and whole where they read only what is open. So a violation in new activity is found as soon after a
million orders as after a thousand. With the rest of its time the round goes over old ids, scope by scope, from the
first to the last and then again: that finds a change of what was proven.

All of a round's state is in the database. Two replicas may run rounds at once: they repeat each other's work, and what
either stores is true.
"""

import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Final
from uuid import UUID

import structlog
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from auditor.checking import LISTED_PER_INVARIANT, check_together, walk_along_indexes
from auditor.domain import Invariant, Report, Result, Violation
from auditor.invariants import INVARIANTS
from auditor.invariants.messages import FIRST_UNPROVEN
from auditor.portions import LAST_ID, SCOPES, Ids, Range, Scope, scopes_of
from auditor.repository import findings, proofs
from auditor.repository.findings import FindingChanges, OpenFinding
from auditor.repository.proofs import CLOCK_SKEW, MESSAGES_SLICE, Mark, News, Pass, Watermark
from auditor.schemas import snapshot
from messaging.ids import FIRST_ID, first_id_at, uuid_or_none

IDS_PER_PORTION: Final = 1000
RECHECKED: Final = 1000
"""Open findings that one round looks at again, those first that were not seen for longest."""
FIRST_WINDOW: Final = timedelta(minutes=15)
"""What counts as new where nothing is proven yet. The passes prove the rest."""
PASSED_WITHIN: Final = timedelta(hours=2)
"""A message that its reader has not passed by then is left to the passes: of each hour one position is kept."""

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Round:
    """What a round found, and how far everything is proven now.

    ``open_findings`` counts them by invariant. ``passes`` has a scope once a pass over it began.
    """

    report: Report
    changes: FindingChanges
    open_findings: Mapping[str, int]
    proven_through: datetime
    passes: Mapping[Scope, Pass]


@dataclass(frozen=True, slots=True)
class _Start:
    """What a round begins with. ``closed`` is the mark up to which it can prove, if there is one."""

    began_at: datetime
    watermark: Watermark
    closed: Mark | None
    opened: Sequence[OpenFinding]
    passes: Mapping[Scope, Pass]


@dataclass(slots=True)
class _Tally:
    """The results of all portions, by invariant. A row that two portions name is one violation."""

    found: dict[str, dict[tuple[str, str, str], Violation]] = field(default_factory=lambda: defaultdict(dict))
    unlisted: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    seconds: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    failures: dict[str, str] = field(default_factory=dict)

    def add(self, result: Result) -> None:
        code = result.invariant.code
        self.seconds[code] += result.seconds
        if result.failure is not None:
            self.failures.setdefault(code, result.failure)
        for one in result.violations:
            self.found[code][(one.subject, one.expected, one.found)] = one
        self.unlisted[code] += result.total - len(result.violations)

    def keys_of(self, invariants: Sequence[Invariant]) -> set[UUID]:
        """The ids of the scopes in which these invariants were found broken."""
        keys = {uuid_or_none(one.key or one.subject) for each in invariants for one in self.found[each.code].values()}
        return {key for key in keys if key is not None}

    def result(self, invariant: Invariant, opened: set[tuple[str, str]]) -> Result:
        """All portions together. Of many, those are listed that are open findings, and then the others."""
        code = invariant.code
        found = sorted(self.found[code].values(), key=lambda one: ((code, one.subject) not in opened, one.subject))
        return Result(
            invariant,
            len(found) + self.unlisted[code],
            tuple(found[:LISTED_PER_INVARIANT]),
            self.seconds[code],
            self.failures.get(code),
        )


class Prover:
    """``reading`` may take long, ``writing`` is short. ``pass_seconds`` are a round's for what is old; 0 is no pass."""

    def __init__(
        self,
        reading: AsyncEngine,
        writing: AsyncEngine,
        tolerance_seconds: float,
        pass_seconds: float,
        invariants: Sequence[Invariant] = INVARIANTS,
    ) -> None:
        self._reading = reading
        self._writing = writing
        self._tolerance_seconds = tolerance_seconds
        self._pass_seconds = pass_seconds
        self._invariants = invariants
        self._by_scope = {scope: [one for one in invariants if scope in scopes_of(one)] for scope in SCOPES}
        self._whole = [one for one in invariants if not scopes_of(one)]
        self._turn = 0

    async def prove(self) -> Round:
        """One round. An invariant whose query fails hides no other; an unavailable database is raised."""
        start = await self._begin()
        tally = _Tally()
        for result in await check_together(self._reading, self._whole, self._tolerance_seconds, None):
            tally.add(result)
        news = await self._prove_news(start, tally)
        message_id = await self._prove_messages(start, tally)
        passes, from_scratch = await self._go_over(start, tally)
        return await self._store(start, tally, news, message_id, passes, from_scratch)

    async def _begin(self) -> _Start:
        async with self._writing.begin() as connection:
            now: datetime = (await connection.execute(text("SELECT now()"))).scalar_one()
            watermark, stands = await proofs.find_watermark(connection)
            if not stands:
                log.warning("proofs_taken_back", watermark=watermark)
                await proofs.forget(connection)
                watermark = None
            tolerance = timedelta(seconds=self._tolerance_seconds)
            if watermark is None:
                watermark = await proofs.first_watermark(connection, FIRST_WINDOW + tolerance)
            await proofs.add_mark(connection)
            return _Start(
                began_at=now,
                watermark=watermark,
                closed=await proofs.find_closed_mark(connection, now - tolerance),
                opened=await findings.find_open(connection, [one.code for one in self._invariants], RECHECKED),
                passes=await proofs.find_passes(connection),
            )

    async def _prove_news(self, start: _Start, tally: _Tally) -> News:
        async with snapshot(self._reading) as connection:
            await walk_along_indexes(connection)
            news = await proofs.find_news(connection, start.watermark, start.began_at)
        again = self._keys_by_scope(start.opened)
        for scope in SCOPES:
            ids = sorted({*news.ids.get(scope, ()), *again.get(scope, ())})
            for portion in _slices(ids, IDS_PER_PORTION):
                await self._check_portion(Ids(scope, portion), tally)
        return news

    def _keys_by_scope(self, opened: Sequence[OpenFinding]) -> Mapping[Scope, set[UUID]]:
        scopes = {invariant.code: scopes_of(invariant) for invariant in self._invariants}
        keys: dict[Scope, set[UUID]] = defaultdict(set)
        for finding in opened:
            key = uuid_or_none(finding.key)
            if key is not None:
                for scope in scopes[finding.code]:
                    keys[scope].add(key)
        return keys

    async def _prove_messages(self, start: _Start, tally: _Tally) -> UUID:
        """Returns the first message that is not proven yet: its reader has not come to it, or tries again.

        That is asked first: what a reader passes while the messages are checked, the next round checks.
        """
        values = {"first": start.watermark.message_id, "tolerance": self._tolerance_seconds}
        async with snapshot(self._reading) as connection:
            await walk_along_indexes(connection)
            unproven: UUID | None = await connection.scalar(text(FIRST_UNPROVEN), values)
        await self._check_portion(Range("message", start.watermark.message_id, LAST_ID), tally)
        return unproven or LAST_ID

    async def _go_over(self, start: _Start, tally: _Tally) -> tuple[Mapping[Scope, Pass], set[UUID]]:
        """Portions of old ids until the time is up, or each pass has ended. Returns the passes, and the users of whose
        lines nothing was taken as proven.
        """
        until = time.monotonic() + self._pass_seconds
        passes: dict[Scope, Pass] = {}
        from_scratch: set[UUID] = set()
        # At least one portion a round, however late it is.
        going = [*SCOPES[self._turn :], *SCOPES[: self._turn]] if self._pass_seconds > 0 else []
        while going:
            for current, portion, users in await self._next_portions(going, start, passes):
                is_sound = await self._check_portion(portion, tally) and current.is_sound
                from_scratch |= users
                if portion.last == LAST_ID:
                    going.remove(current.scope)
                    proven_at = current.began_at if is_sound else current.proven_at
                    passes[current.scope] = Pass(current.scope, None, current.began_at, is_sound, proven_at)
                else:
                    next_id = UUID(int=portion.last.int + 1)
                    passes[current.scope] = replace(current, next_id=next_id, is_sound=is_sound)
                self._turn = (SCOPES.index(current.scope) + 1) % len(SCOPES)
                if time.monotonic() >= until:
                    return passes, from_scratch
        return passes, from_scratch

    async def _next_portions(
        self, scopes: Sequence[Scope], start: _Start, passes: Mapping[Scope, Pass]
    ) -> Sequence[tuple[Pass, Range, set[UUID]]]:
        """Of each scope where its pass stands, the portion that comes next, and its users whose lines are added up."""
        found = []
        async with snapshot(self._reading) as connection:
            await walk_along_indexes(connection)
            for scope in scopes:
                current = passes.get(scope) or start.passes.get(scope)
                if current is None or current.next_id is None:
                    current = _begun(scope, current, start.began_at)
                assert current.next_id is not None
                portion = await proofs.find_portion(connection, scope, current.next_id)
                users: set[UUID] = set()
                if scope == "user":
                    users = await proofs.find_users_with_lines(connection, portion.first, portion.last)
                found.append((current, portion, users))
        return found

    async def _check_portion(self, portion: Ids | Range, tally: _Tally) -> bool:
        """Whether every invariant of the scope could be evaluated."""
        invariants = self._by_scope[portion.scope]
        results = await check_together(self._reading, invariants, self._tolerance_seconds, portion)
        for result in results:
            tally.add(result)
        return all(result.failure is None for result in results)

    async def _store(
        self,
        start: _Start,
        tally: _Tally,
        news: News,
        message_id: UUID,
        passes: Mapping[Scope, Pass],
        from_scratch: set[UUID],
    ) -> Round:
        opened = {(finding.code, finding.subject) for finding in start.opened}
        results = tuple(tally.result(invariant, opened) for invariant in self._invariants)
        report = Report(start.began_at, self._tolerance_seconds, results)
        watermark = _moved(start, news, message_id, bool(report.unproven))
        if watermark is not None and report.unproven:
            # What is skipped has no proof until a pass that begins now has ended.
            log.warning("proof_has_a_gap", unproven=[result.invariant.code for result in report.unproven])
            failed = {scope for result in report.unproven for scope in scopes_of(result.invariant)}
            passes = {
                **passes,
                **{
                    scope: _begun(scope, passes.get(scope) or start.passes.get(scope), start.began_at)
                    for scope in failed
                },
            }
        async with self._writing.begin() as connection:
            complete = [code for code in report.complete_codes if code in {one.code for one in self._whole}]
            changes = await findings.add_findings(connection, report.violations, complete, start.began_at)
            resolved = await findings.resolve_unseen(connection, _gone(start, report), start.began_at)
            open_findings = await findings.count_open(connection, [one.code for one in self._invariants])
            await proofs.put_passes(connection, list(passes.values()))
            if watermark is not None:
                await proofs.put_watermark(connection, watermark)
            users = set(news.ids.get("user", ()))
            broken = tally.keys_of(self._by_scope["user"])
            is_proven = not any(one.code in tally.failures for one in self._by_scope["user"])
            await proofs.forget_balances(connection, from_scratch | broken)
            if start.closed is not None and is_proven:
                await proofs.prove_balances(connection, (users | from_scratch) - broken, start.closed.posting_id)
        return Round(
            report,
            FindingChanges(changes.opened, changes.resolved + resolved),
            open_findings,
            (watermark or start.watermark).noted_at,
            {**start.passes, **passes},
        )


def _moved(start: _Start, news: News, message_id: UUID, is_unproven: bool) -> Watermark | None:
    """The watermark after this round, or None if it stays where it is.

    It waits for an invariant that cannot be evaluated, but not for ever: the others must see what is new.
    """
    if start.closed is None or start.closed.noted_at <= start.watermark.noted_at:
        return None
    if is_unproven and start.closed.noted_at - start.watermark.noted_at < MESSAGES_SLICE:
        return None
    if news.posting_id is not None and news.posting_id < start.closed.posting_id:
        # More postings than one round reads: until it has caught up, the time stands.
        noted_at, posting_id = start.watermark.noted_at, news.posting_id
    else:
        noted_at = start.closed.noted_at if news.noted_at is None else min(start.closed.noted_at, news.noted_at)
        posting_id = start.closed.posting_id
    passed = max(message_id, first_id_at(noted_at - PASSED_WITHIN))
    return Watermark(noted_at, posting_id, min(passed, first_id_at(noted_at - CLOCK_SKEW)))


def _begun(scope: Scope, before: Pass | None, began_at: datetime) -> Pass:
    """A pass at its first id. What an earlier one has proven stays proven."""
    return Pass(scope, FIRST_ID, began_at, True, None if before is None else before.proven_at)


def _gone(start: _Start, report: Report) -> list[OpenFinding]:
    """The findings that this round looked at again and did not find."""
    complete = set(report.complete_codes)
    seen = {(violation.code, violation.subject) for violation in report.violations}
    return [
        finding
        for finding in start.opened
        if finding.code in complete
        and (finding.code, finding.subject) not in seen
        and uuid_or_none(finding.key) is not None
    ]


def _slices(ids: Sequence[UUID], size: int) -> Iterator[Sequence[UUID]]:
    for place in range(0, len(ids), size):
        yield ids[place : place + size]
