"""Reads the library, part by part, and holds every object against the books.

Two kinds of scans recur. One reads the files of a range of recorded assets whole and compares size and checksum: new
assets within hours, all of them every four weeks. The other lists the bucket twice a day: it finds objects that no
order knows, recorded files that are gone, and objects that were written again, which are then read.
Scans are leased, so replicas share them, and how far a scan has come is in the database.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Final
from uuid import UUID

import structlog
from sqlalchemy.ext.asyncio import AsyncConnection

from auditor.domain import Violation
from auditor.errors import LibraryUnavailable
from auditor.file_checks import check_file
from auditor.library import Library
from auditor.metrics import (
    LIBRARY_LISTING_AGE_SECONDS,
    LIBRARY_OBJECTS,
    LIBRARY_OLDEST_READ_SECONDS,
    LIBRARY_OVERDUE_SECONDS,
    VIOLATIONS,
)
from auditor.recorded_files import (
    FILES_DIFFER_CODE,
    KINDS,
    SEVERITIES,
    ListedPage,
    RecordedFile,
    find_generation,
    is_left_over,
    is_suspect,
    unknown,
)
from auditor.repository import findings
from auditor.repository import library as repository
from auditor.repository.findings import OpenFinding
from auditor.repository.library import LibraryScan, ScanKind
from auditor.tables import LIBRARY_SCANS
from messaging.ids import first_id_at
from messaging.leased_worker import LeasedWorker
from messaging.transaction import Transaction, Transactions
from service_runtime.backoff import Backoff
from service_runtime.lifecycle import Component
from service_runtime.loops import Every

AGAIN_AFTER: Final[Mapping[ScanKind, timedelta]] = {"assets": timedelta(days=28), "bucket": timedelta(hours=12)}
"""Every file within a month, and what was written again within a day: both with time for the reading itself."""
NEW_FOR: Final = timedelta(hours=1)
"""New assets are collected for this long, or until there are enough of them for a scan."""
ASSETS_PER_SCAN: Final = 1000
SETTLED_AFTER: Final = timedelta(minutes=10)
"""An id is older than its commit, by the length of a transaction: no scan is closed over ids that may still come."""
SCANS_PER_ROUND: Final = 100
STRETCH_SECONDS: Final = 10.0
"""Then the position is saved. A restart repeats no more than this."""
MAX_STRETCH_SECONDS: Final = 3600.0
"""One page of a listing with a thousand suspects, or one file, may take this long."""
BATCH: Final = 50
CHECKED_AGAIN: Final = 100
"""Open findings that are looked at again in one round, those first that were not looked at for longest."""
MOST_OPEN: Final = 1000
"""Open findings of one kind. What is more is counted and logged: an empty bucket is one problem."""
BACKOFF: Final = Backoff(first=timedelta(seconds=5), longest=timedelta(minutes=10))
MAKE_SCANS_SECONDS: Final = 60.0
CHECK_AGAIN_SECONDS: Final = 600.0
POLL_SECONDS: Final = 30.0

log = structlog.get_logger(__name__)


@dataclass(slots=True)
class _Stretch:
    """What was found since the position was last saved, and how far that is.

    ``unchanged`` are files of open findings about which nothing has changed.
    """

    position: str = ""
    is_end: bool = False
    violations: list[Violation] = field(default_factory=list)
    sound: list[str] = field(default_factory=list)
    unchanged: list[str] = field(default_factory=list)
    until: float = field(default_factory=lambda: time.monotonic() + STRETCH_SECONDS)

    def is_over(self) -> bool:
        """Whether the position is to be saved now."""
        return self.is_end or time.monotonic() >= self.until


class LibraryScanner:
    """``components`` are what a service runs. ``grace``: how long a file may wait for the order that it belongs to."""

    def __init__(self, transactions: Transactions, library: Library, grace: timedelta) -> None:
        self._transactions = transactions
        self._library = library
        self._grace = grace
        for code, severity in SEVERITIES.items():
            VIOLATIONS.labels(code, severity)
        for outcome in ("as_recorded", *KINDS):
            LIBRARY_OBJECTS.labels(outcome)

    def components(self) -> Sequence[Component]:
        """The two workers, and what keeps the scans and the findings current."""
        return (
            self.worker("assets"),
            self.worker("bucket"),
            Every("library scans", MAKE_SCANS_SECONDS, self.make_scans),
            Every("library findings", CHECK_AGAIN_SECONDS, self.check_again, timeout_seconds=MAX_STRETCH_SECONDS),
        )

    def worker(self, kind: ScanKind) -> LeasedWorker[LibraryScan]:
        """Works on the scans of one kind, one at a time."""

        async def claim(connection: AsyncConnection, room: int, lease: timedelta) -> Sequence[LibraryScan]:
            return await repository.claim_scans(connection, kind, room, lease)

        return LeasedWorker(
            f"library {kind}",
            self._transactions,
            LIBRARY_SCANS,
            claim,
            self._work,
            concurrency=1,
            poll_seconds=POLL_SECONDS,
            timeout_seconds=MAX_STRETCH_SECONDS,
            backoff=BACKOFF,
        )

    async def make_scans(self, new_for: timedelta = NEW_FOR, settled_after: timedelta = SETTLED_AFTER) -> None:
        """Cover assets that no scan covers yet, and set the gauges."""
        for _ in range(SCANS_PER_ROUND):
            if not await self._make_scan(new_for, settled_after):
                break
        await self._measure()

    async def _make_scan(self, new_for: timedelta, settled_after: timedelta) -> bool:
        async with self._transactions.begin() as tx:
            now = await repository.get_time(tx.connection)
            after = await repository.find_end(tx.connection)
            new = await repository.find_next_ids(
                tx.connection, after, first_id_at(now - settled_after), ASSETS_PER_SCAN
            )
            is_due = len(new) == ASSETS_PER_SCAN or (len(new) > 0 and new[0] < first_id_at(now - new_for))
            if is_due:
                await repository.add_scan(tx.connection, after, new[-1])
        return is_due

    async def _work(self, scan: LibraryScan) -> None:
        """One stretch of a scan. What was found before the store failed is found."""
        stretch, delay = _Stretch(scan.position or ""), timedelta(0)
        try:
            if scan.kind == "assets":
                await self._read_assets(scan, stretch)
            else:
                await self._list_bucket(stretch)
        except LibraryUnavailable as error:
            delay = BACKOFF.delay(scan.claim.tries, scan.claim.key)
            log.warning("library_unavailable", scan=scan.kind, reason=str(error), again_in=delay.total_seconds())
        async with self._transactions.begin() as tx:
            if stretch.is_end:
                stands = await repository.end_scan(tx.connection, scan.claim, AGAIN_AFTER[scan.kind])
            else:
                stands = await repository.save_position(tx.connection, scan.claim, stretch.position, delay)
            if stands:
                await _record(tx, stretch)
        await self._measure()

    async def _read_assets(self, scan: LibraryScan, stretch: _Stretch) -> None:
        while True:
            after = UUID(stretch.position) if stretch.position else scan.after_id
            async with self._transactions.begin() as tx:
                batch = await repository.find_assets_after(tx.connection, after, scan.through_id, BATCH)
            stretch.is_end = not batch
            for asset in batch:
                for recorded in asset.files:
                    await self._check(recorded, stretch)
                stretch.position = str(asset.asset_id)
                if stretch.is_over():
                    return
            if stretch.is_end:
                return

    async def _list_bucket(self, stretch: _Stretch) -> None:
        while True:
            page = await self._library.list_after(stretch.position)
            await self._compare_page(page, stretch.position, stretch)
            stretch.position = page.objects[-1].object_key if page.objects else stretch.position
            stretch.is_end = page.is_last
            if stretch.is_over():
                return

    async def _compare_page(self, page: ListedPage, after: str, stretch: _Stretch) -> None:
        through = None if page.is_last else page.objects[-1].object_key
        named = (find_generation(listed.object_key) for listed in page.objects)
        generations = {one for one in named if one is not None}
        async with self._transactions.begin() as tx:
            of_page = await repository.find_assets_of(tx.connection, generations)
            between = await repository.find_assets_between(tx.connection, after, through)
            grace_began = await repository.get_time(tx.connection) - self._grace
        known = {recorded.object_key: recorded for asset in of_page for recorded in asset.files}
        # Where a generation was deleted, nothing may be left over.
        outputs = [asset.files[0].object_key for asset in of_page if asset.files[0].deleted_at is None]
        for listed in page.objects:
            recorded = known.get(listed.object_key)
            if recorded is not None and is_suspect(recorded, listed):
                await self._check(recorded, stretch)
            elif recorded is None and not is_left_over(listed.object_key, outputs) and listed.modified_at < grace_began:
                LIBRARY_OBJECTS.labels("unknown").inc()
                stretch.violations.append(unknown(listed).violation(listed.object_key))
        # Whatever the order in which either side sorts: a file counts as missing when reading it says so.
        listed_keys = {listed.object_key for listed in page.objects}
        for asset in between:
            if asset.files[0].object_key not in listed_keys and asset.files[0].deleted_at is None:
                for recorded in asset.files:
                    await self._check(recorded, stretch)

    async def _check(self, recorded: RecordedFile, stretch: _Stretch) -> None:
        difference = await check_file(self._library, recorded)
        if difference is None or await self._is_deleted_by_now(recorded):
            stretch.sound.append(recorded.object_key)
        else:
            stretch.violations.append(difference.violation(recorded.object_key))

    async def _is_deleted_by_now(self, recorded: RecordedFile) -> bool:
        """Whether its user has deleted a file since its row was read."""
        generation_id = find_generation(recorded.object_key)
        if recorded.is_deleted or generation_id is None:
            return False
        async with self._transactions.begin() as tx:
            assets = await repository.find_assets_of(tx.connection, [generation_id])
        return any(one.is_deleted for asset in assets for one in asset.files)

    async def check_again(self) -> None:
        """Look again at what was found, so that a finding ends when the file is put right."""
        async with self._transactions.begin() as tx:
            opened = await findings.find_open(tx.connection, list(SEVERITIES), CHECKED_AGAIN)
            generations = {one for one in (find_generation(finding.subject) for finding in opened) if one is not None}
            assets = await repository.find_assets_of(tx.connection, generations)
        known = {recorded.object_key: recorded for asset in assets for recorded in asset.files}
        stretch = _Stretch()
        try:
            for finding in opened:
                await self._check_finding(finding, known.get(finding.subject), stretch)
        except LibraryUnavailable as error:
            log.warning("library_unavailable", scan="findings", reason=str(error))
        async with self._transactions.begin() as tx:
            await _record(tx, stretch)
        await self._measure()

    async def _check_finding(self, finding: OpenFinding, recorded: RecordedFile | None, stretch: _Stretch) -> None:
        if recorded is not None:
            await self._check(recorded, stretch)
        elif finding.code == FILES_DIFFER_CODE or not await self._library.exists(finding.subject):
            # The order that named the file is gone, or the object that no order named is.
            stretch.sound.append(finding.subject)
        else:
            stretch.unchanged.append(finding.subject)

    async def _measure(self) -> None:
        async with self._transactions.begin() as tx:
            ages = await repository.measure_ages(tx.connection)
            counted = await findings.count_open(tx.connection, list(SEVERITIES))
        LIBRARY_OVERDUE_SECONDS.set(ages.overdue)
        LIBRARY_OLDEST_READ_SECONDS.set(ages.oldest_read)
        LIBRARY_LISTING_AGE_SECONDS.set(ages.listing)
        for code, count in counted.items():
            VIOLATIONS.labels(code, SEVERITIES[code]).set(count)


async def _record(tx: Transaction, stretch: _Stretch) -> None:
    """Open and refresh findings, and resolve those about files that are as they must be."""
    counted = await findings.count_open(tx.connection, list(SEVERITIES))
    for code in SEVERITIES:
        # A file that an order knows, and that is as recorded, is no stranger either.
        await findings.resolve_subjects(tx.connection, code, stretch.sound)
        seen = [one.subject for one in stretch.violations if one.code == code]
        await findings.refresh_subjects(tx.connection, code, stretch.unchanged + seen)
    kept = [one for one in stretch.violations if counted[one.code] < MOST_OPEN]
    changes = await findings.add_findings(tx.connection, kept, [], await repository.get_time(tx.connection))
    for violation in kept if changes.opened else ():
        log.error(
            "library_file_differs",
            invariant=violation.code,
            object_key=violation.subject,
            expected=violation.expected,
            found=violation.found,
        )
