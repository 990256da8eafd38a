"""One lease for all work: no service waits longer for the work of a process that was killed."""

import ast
from datetime import timedelta
from pathlib import Path

from messaging.leases import HEARTBEAT, LEASE

SOURCES = sorted((Path(__file__).parents[2] / "services").glob("*/src/**/*.py"))


def workers_of(source: str) -> list[ast.Call]:
    """The places at which leased work is given to a worker."""
    calls = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)]
    return [call for call in calls if isinstance(call.func, ast.Name) and call.func.id == "LeasedWorker"]


def test_a_killed_process_holds_its_work_for_twenty_seconds() -> None:
    assert timedelta(seconds=20) == LEASE
    assert timedelta(seconds=5) == HEARTBEAT


def test_no_service_has_a_lease_of_its_own() -> None:
    workers = {path: workers_of(path.read_text()) for path in SOURCES}
    named = [
        str(path)
        for path, calls in workers.items()
        for call in calls
        if {"lease", "heartbeat"} & {keyword.arg for keyword in call.keywords}
    ]
    assert sum(map(len, workers.values())) >= 3
    assert named == []
