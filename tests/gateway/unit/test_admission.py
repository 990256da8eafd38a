"""Under an overload the gateway refuses what it cannot answer soon, before it costs anything."""

import contextlib

import pytest

from gateway.admission import WRITES_PER_CONNECTION, Admission
from gateway.errors import RateLimited
from tests.gateway.unit.unconnected import settings


def test_writes_beyond_what_the_pool_can_serve_soon_are_refused_until_one_ends() -> None:
    admission = Admission(settings(database_pool_size=2))
    with contextlib.ExitStack() as admitted:
        for _ in range(2 * WRITES_PER_CONNECTION - 1):
            admitted.enter_context(admission.admitted())
        with admission.admitted(), pytest.raises(RateLimited) as refusal, admission.admitted():
            pass
        assert refusal.value.headers["Retry-After"] == "1"
        with admission.admitted():
            pass


def test_a_write_that_fails_gives_its_place_back() -> None:
    admission = Admission(settings(database_pool_size=1))
    for _ in range(2 * WRITES_PER_CONNECTION):
        with contextlib.suppress(ValueError), admission.admitted():
            raise ValueError
