"""The order of the test files: those that take long begin first, so that none is left to run alone at the end."""

from pathlib import Path
from typing import Final

import pytest

LONGEST: Final = (
    "tests/clients/test_on_a_platform.py",
    "tests/payments/integration/test_provider_events.py",
    "tests/auditor/integration/test_invariants.py",
    "tests/local_platform/integration/test_supervisor.py",
    "tests/billing/integration/test_stateful.py",
    "tests/generation/integration/test_provider.py",
    "tests/auditor/integration/test_proving.py",
    "tests/generation/integration/test_crash_points.py",
    "tests/e2e/test_demo.py",
    "tests/messaging/integration/test_amnesia.py",
    "tests/auditor/integration/test_ledger_seals.py",
    "tests/gpu_endpoint/integration/test_deploying_an_endpoint.py",
    "tests/messaging/leases/test_leases.py",
    "tests/messaging/integration/test_consumers.py",
    "tests/messaging/integration/test_relay.py",
    "tests/storage/integration/test_previews.py",
    "tests/auditor/integration/test_library.py",
    "tests/auditor/integration/test_dossier.py",
    "tests/deploy/test_kubernetes.py",
    "tests/payments/integration/test_leases.py",
    "tests/storage/integration/test_service.py",
)
"""The files that took over half a minute on 2 cores (2026-11-28): ``make test ARGS=--durations=300`` tells them."""


def longest_first(items: list[pytest.Item], root: Path) -> None:
    """Sort in place; the tests of a file, and all other files, stay in their order.

    pytest-xdist hands files to its workers in the order of ``items`` if it is told not to sort them by how many tests
    they have. Raises ValueError if a file is not there any more.
    """
    gone = [file for file in LONGEST if not (root / file).is_file()]
    if gone:
        raise ValueError(f"tests/support/order.py names files that are not there: {gone}")
    places = {file: place for place, file in enumerate(LONGEST)}
    items.sort(key=lambda item: places.get(item.nodeid.partition("::")[0], len(places)))
