"""How many writes one process works on at once."""

import contextlib
from collections.abc import Iterator
from typing import Final

from gateway.errors import RateLimited

WRITES_PER_CONNECTION: Final = 5
"""Writes that may wait for each database connection. More would wait longer than a client does, and end as 503."""


class Admission:
    """Refuses writes beyond what can be answered soon, before they cost anything.

    Under an overload a queue only makes everybody late: who is refused at once can try again, and who is admitted is
    answered.
    """

    def __init__(self, connections: int) -> None:
        self._places = connections * WRITES_PER_CONNECTION

    @contextlib.contextmanager
    def admitted(self) -> Iterator[None]:
        """A place for one write until the block ends. Raises ``RateLimited`` if none is free."""
        if self._places <= 0:
            raise RateLimited("the service is busy", headers={"Retry-After": "1"})
        self._places -= 1
        try:
            yield
        finally:
            self._places += 1
