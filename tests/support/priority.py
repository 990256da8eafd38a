"""Holds that no test gives its process a real-time priority."""

import os
import sys
from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True)
def ordinary_priority() -> Iterator[None]:
    """Servers that later tests start would inherit the priority and starve everything else on the machine."""
    yield
    if sys.platform == "linux" and os.sched_getscheduler(0) != os.SCHED_OTHER:
        os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
        pytest.fail("this test left its process with a real-time priority; let a process of its own do it")
