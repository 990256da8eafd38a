"""No migration stops the release before it: each one's SQL is held by squawk, statement by statement."""

import re
import subprocess
from pathlib import Path
from typing import Final

import msgspec
import pytest

from contracts.message import SERVICES
from service_runtime.migrations import migration_sql
from service_runtime.schema_version import revisions
from tests.deploy.manifests import CHECKS

NOT_OURS: Final = {
    "prefer-bigint-over-int": "counts of tries and cents of one payment stay small, and small rows are faster",
    "prefer-bigint-over-smallint": "as above",
    "prefer-text-field": "Alembic's own version table",
    "require-statement-timeout": "a large index takes its time; what blocks others is bounded by lock_timeout",
}
"""Rules that are off for every migration, and why."""
BEFORE_THE_FIRST_RELEASE: Final = {
    ("generation", "0002", "ban-drop-not-null"): "older code compares due_at, and a null is due for nobody",
    ("payments", "0003", "require-concurrent-index-creation"): "no installation had payments yet",
    ("payments", "0003", "require-concurrent-index-deletion"): "no installation had payments yet",
}
"""What stands in migrations that were written before anything ran. The list only gets shorter."""

EXPLAINED: Final = {
    ("gateway", "0013", "ban-drop-not-null"): "older code looks for an equal key, and to that a null is none",
    ("gateway", "0013", "prefer-robust-stmts"): "where there is no constraint, dropping it changes nothing",
    ("gateway", "0013", "ban-drop-constraint"): "its own, which a try that was cut off has left",
    ("billing", "0002", "ban-drop-constraint"): "the same statement replaces it by a wider one",
}
"""What a rule cannot see to be harmless, and why it is."""

ALTERED_TOGETHER: Final = {("generation", "0003"), ("payments", "0004")}
"""Migrations that were released before the rule."""

REFUSED: Final = {
    "CREATE INDEX ON billing.grants (actor)": "require-concurrent-index-creation",
    "DROP INDEX billing.grants_to_spend": "require-concurrent-index-deletion",
    "ALTER TABLE billing.grants DROP COLUMN note": "ban-drop-column",
    "ALTER TABLE billing.grants RENAME COLUMN note TO remark": "renaming-column",
    "ALTER TABLE billing.grants RENAME TO gifts": "renaming-table",
    "ALTER TABLE billing.grants ALTER COLUMN amount_credits TYPE numeric": "changing-column-type",
    "ALTER TABLE billing.grants ADD COLUMN source text NOT NULL": "adding-required-field",
    "ALTER TABLE billing.grants ADD COLUMN made_at timestamptz DEFAULT clock_timestamp()": "adding-field-with-default",
    "ALTER TABLE billing.grants ALTER COLUMN note SET NOT NULL": "adding-not-nullable-field",
    "ALTER TABLE billing.grants ADD CONSTRAINT small CHECK (amount_credits < 10)": "constraint-missing-not-valid",
    "ALTER TABLE billing.grants ADD CONSTRAINT one UNIQUE (actor)": "disallowed-unique-constraint",
    "DROP TABLE billing.refusals": "ban-drop-table",
}
"""Statements that stop the release before, or lock a large table for long; and the rule that refuses each."""


class _Finding(msgspec.Struct):
    file: str
    line: int
    rule_name: str
    message: str


def lint(*files: Path) -> list[_Finding]:
    """What squawk has against the SQL of these files."""
    off = [argument for rule in NOT_OURS for argument in ("--exclude", rule)]
    command: list[str | Path] = [CHECKS / "squawk", "--pg-version", "18", "--reporter", "json", *off, *files]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode in (0, 1), result.stderr
    return msgspec.json.decode(result.stdout, type=list[_Finding])


def test_every_migration_leaves_the_release_before_it_alone(tmp_path: Path) -> None:
    files: dict[str, tuple[str, str]] = {}
    for service in SERVICES:
        before = "base"
        for revision in sorted(revisions(service)[0]):
            file = tmp_path / f"{service}_{revision}.sql"
            file.write_text(migration_sql(service, f"{before}:{revision}"))
            files[str(file)] = (service, revision)
            before = revision
    found = lint(*(Path(file) for file in files))
    by_rule = {(*files[one.file], one.rule_name): f"line {one.line}: {one.message}" for one in found}
    new = {key: what for key, what in by_rule.items() if key not in BEFORE_THE_FIRST_RELEASE | EXPLAINED}
    assert new == {}
    assert (BEFORE_THE_FIRST_RELEASE | EXPLAINED).keys() <= by_rule.keys(), "an exception that nothing needs"


def altered_together(sql: str) -> list[set[str]]:
    """The standing tables of each transaction that alters several: it keeps one locked while it waits for another.

    A reader of both that has the other one waits for the first: neither goes on before the lock timeout.
    """
    found = []
    for block in re.findall(r"\bBEGIN;(.*?)\bCOMMIT;", sql, re.DOTALL):
        made = set(re.findall(r"\bCREATE TABLE (?:IF NOT EXISTS )?([\w.]+)", block))
        altered = set(re.findall(r"\bALTER TABLE ([\w.]+)", block)) - made
        if len(altered) > 1:
            found.append(altered)
    return found


def test_no_migration_alters_two_tables_in_one_transaction() -> None:
    found = set()
    for service in SERVICES:
        before = "base"
        for revision in sorted(revisions(service)[0]):
            if altered_together(migration_sql(service, f"{before}:{revision}")):
                found.add((service, revision))
            before = revision
    assert found == ALTERED_TOGETHER


def test_two_tables_that_are_altered_together_are_found() -> None:
    two = "ALTER TABLE billing.grants ADD COLUMN a int;\nALTER TABLE billing.users ADD COLUMN b int;"
    assert altered_together(f"BEGIN;\n{two}\nCOMMIT;") == [{"billing.grants", "billing.users"}]
    assert altered_together(f"BEGIN;\n{two.replace(';', '; COMMIT; BEGIN;')}\nCOMMIT;") == []


@pytest.mark.parametrize("statement", REFUSED)
def test_a_migration_that_stops_the_release_before_it_is_refused(statement: str, tmp_path: Path) -> None:
    file = tmp_path / "bad.sql"
    file.write_text(f"SET lock_timeout = 1000;\nBEGIN;\n{statement};\nCOMMIT;\n")
    assert REFUSED[statement] in {finding.rule_name for finding in lint(file)}


def test_the_sql_of_a_migration_bounds_its_wait_for_locks() -> None:
    assert migration_sql("billing").startswith("SET lock_timeout = 1000;")
