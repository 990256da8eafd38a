"""Recomputes the whole ledger: the chain, every sealed row, and every invariant."""

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field

from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from billing.conservation import Violation, find_violations
from billing.repository import seals, tree
from contracts.ledger_chain import NO_SEALS, Finding, Head, Seal, check_link, check_postings, head_of
from contracts.ledger_tree import EMPTY, TreeCheck, TreeHead


@dataclass(slots=True)
class LedgerReport:
    """What a verification read and found. The ledger is sound if nothing was found."""

    head: Head = NO_SEALS
    tree: TreeHead = EMPTY
    seals: int = 0
    sealed_postings: int = 0
    unsealed_postings: int = 0
    findings: list[Finding] = field(default_factory=list)
    violations: list[Violation] = field(default_factory=list)

    @property
    def sound(self) -> bool:
        """Whether every check passed."""
        return not self.findings and not self.violations


async def verify(
    engine: AsyncEngine, exported: Head | None = None, exported_tree: TreeHead | None = None
) -> LedgerReport:
    """Check everything on one snapshot, while the ledger is in use. Memory stays bounded, whatever its size.

    ``exported`` is a head that was kept elsewhere, and so is ``exported_tree``, one of those that are published. With
    them, even a chain or a tree that was rewritten as a whole is found.
    """
    report = LedgerReport()
    async with engine.connect() as connection:
        snapshot = await connection.execution_options(isolation_level="REPEATABLE READ")
        async with snapshot.begin():
            async for finding in _check_chain(snapshot, report, exported, exported_tree):
                report.findings.append(finding)
            report.unsealed_postings = await seals.count_unsealed(snapshot, report.head)
            report.violations = await find_violations(snapshot)
    return report


async def _check_chain(
    connection: AsyncConnection, report: LedgerReport, exported: Head | None, exported_tree: TreeHead | None
) -> AsyncIterator[Finding]:
    seen = exported is None or exported == NO_SEALS
    kept = [] if exported_tree is None else [exported_tree]
    check = TreeCheck()
    last_seal = (await tree.get_end(connection)).seal_number
    after: int | None = 0
    while after is not None:
        following = await seals.find_seals(connection, after)
        parts = await tree.find_parts(connection, [seal.seal_number for seal in following])
        heads = await tree.find_heads(connection, check.tree.size, check.tree.size + _count(following))
        after = following[-1].seal_number if following else None
        for seal in following:
            for finding in check_link(report.head, seal):
                yield finding
            postings = await seals.find_postings(connection, seal.after_posting_id, seal.through_posting_id)
            for finding in check_postings(seal, postings):
                yield finding
            for finding in check.check(seal, parts.get(seal.seal_number), [*heads, *kept], last_seal):
                yield finding
            report.head = head_of(seal)
            report.seals += 1
            report.sealed_postings += len(seal.posting_ids)
            seen = seen or report.head == exported
    report.tree = check.tree.head()
    for finding in check.check_end([*await tree.find_heads(connection, check.tree.size), *kept]):
        yield finding
    if not seen:
        yield Finding("head", f"the exported head {exported}", "is no longer part of the chain")


def _count(following: Sequence[Seal]) -> int:
    return sum(len(seal.posting_ids) for seal in following)
