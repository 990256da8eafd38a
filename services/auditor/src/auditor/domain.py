"""Invariants, and what a check of them says. Pure: no input, no output."""

from dataclasses import dataclass
from datetime import datetime
from typing import Final, Literal

Severity = Literal["critical", "warning"]
"""Critical: credits or files are wrong, or may be. Warning: something waits for an operator."""

LEDGER_SEALS_CODE: Final = "the_ledger_is_as_sealed"
"""The one invariant that is no query: the seal verifier proves it."""


@dataclass(frozen=True, slots=True)
class Invariant:
    """Something that always holds, as a query that returns the rows that break it.

    The columns are ``subject`` (the id an operator would look up), ``expected`` and ``found``, all text. The query may
    use ``:tolerance``, the seconds for which services may disagree while messages are under way.

    It may name its scopes (``OF_USER(u.user_id)``): then it can be evaluated for a portion of them alone
    (``auditor.portions``). Without a scope it is always evaluated whole, so it must read only what is open. Where the
    subject is not the id of the scope, a fourth column ``key`` is, and ``is_keyed`` says so.
    """

    code: str
    severity: Severity
    meaning: str
    query: str
    is_keyed: bool = False


@dataclass(frozen=True, slots=True)
class Violation:
    """One row that breaks an invariant, with both sides."""

    code: str
    severity: Severity
    subject: str
    expected: str
    found: str
    key: str | None = None
    """The id of the scope in which it was found; None if it is the subject."""


@dataclass(frozen=True, slots=True)
class Result:
    """What one invariant's query found. ``violations`` lists the first of ``total``.

    ``failure`` says why it could not be checked; then nothing is known about it.
    """

    invariant: Invariant
    total: int
    violations: tuple[Violation, ...]
    seconds: float
    failure: str | None = None


@dataclass(frozen=True, slots=True)
class Report:
    """One check of all invariants, each on a snapshot of its own, none older than ``checked_at``."""

    checked_at: datetime
    tolerance_seconds: float
    results: tuple[Result, ...]

    @property
    def violations(self) -> tuple[Violation, ...]:
        """All that were listed, in the order of the invariants."""
        return tuple(violation for result in self.results for violation in result.violations)

    @property
    def total(self) -> int:
        """How many rows break an invariant, listed or not."""
        return sum(result.total for result in self.results)

    @property
    def unproven(self) -> tuple[Result, ...]:
        """The results of the invariants that could not be checked."""
        return tuple(result for result in self.results if result.failure is not None)

    @property
    def clean(self) -> bool:
        """Whether every invariant was checked and holds."""
        return self.total == 0 and not self.unproven

    @property
    def seconds(self) -> float:
        """How long the queries took together."""
        return sum(result.seconds for result in self.results)

    @property
    def complete_codes(self) -> tuple[str, ...]:
        """Invariants of which every violation is listed."""
        return tuple(
            result.invariant.code
            for result in self.results
            if result.failure is None and result.total == len(result.violations)
        )
