"""``docs/api.md`` says what the code does: every code, every route, every status."""

import re
from pathlib import Path
from typing import get_args

from contracts.values import MovementReason
from gateway.events import FailureCode
from gateway.http import ROUTERS
from gateway.openapi import GENERAL_PROBLEMS, MEMBERS, OWN_PROBLEMS
from local_platform.api_answers import render_answers
from local_platform.openapi import describe_api
from local_platform.statuses import render_api

DOCUMENT = (Path(__file__).parents[3] / "docs/api.md").read_text(encoding="utf-8")


def test_the_table_of_codes_lists_every_problem_with_its_status_and_nothing_else() -> None:
    listed = re.findall(r"^\| `(\w+)` \| (\d{3}) \| (yes|no) \|", DOCUMENT, re.MULTILINE)
    said = {(code, int(status), retryable == "yes") for code, status, retryable in listed}
    assert said == {(kind.code, kind.status, kind.retryable) for kind in OWN_PROBLEMS | GENERAL_PROBLEMS}
    assert len(listed) == len(said), "a code is listed twice"


def test_the_table_of_codes_names_the_members_that_come_with_a_code() -> None:
    for kind, members in MEMBERS.items():
        row = re.search(rf"^\| `{kind.code}` \| \d{{3}} \|.*$", DOCUMENT, re.MULTILINE)
        assert row is not None, kind.code
        assert set(members) <= set(re.findall(r"`(\w+)`", row[0])), kind.code


def test_the_tables_of_failure_codes_and_reasons_are_complete() -> None:
    for heading, values in (("failure code", FailureCode), ("reason", MovementReason)):
        table = DOCUMENT.partition(f"| {heading} | means |\n|---|---|\n")[2].partition("\n\n")[0]
        first_column = "".join(line.split("|")[1] for line in table.splitlines())
        assert sorted(re.findall(r"`(\w+)`", first_column)) == sorted(get_args(values)), heading


def test_every_route_is_described() -> None:
    described = re.sub(r"\$ID|\{id\}", "{}", DOCUMENT)
    for router in ROUTERS:
        for route in router.routes:
            path = re.sub(r"\{\w+\}", "{}", getattr(route, "path", ""))
            assert path in described, f"{path} is nowhere in docs/api.md"


def test_every_operation_id_is_unique_and_a_valid_identifier() -> None:
    names = [getattr(route, "operation_id", None) for router in ROUTERS for route in router.routes]
    assert all(name and re.fullmatch(r"[a-z]+[A-Za-z]+", name) for name in names), names
    assert len(set(names)) == len(names)


def test_the_answers_of_every_endpoint_are_current() -> None:
    assert render_answers(DOCUMENT, describe_api()) == DOCUMENT, "run `make docs`"


def test_the_tables_of_statuses_are_current() -> None:
    assert render_api(DOCUMENT) == DOCUMENT, "run `make docs`"
