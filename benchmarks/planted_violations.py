"""Violations that are planted in a history of some size, and how long the auditor's rounds take to find them."""

import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from auditor.proving import Prover

ROUND_SECONDS: Final = 1.8
"""What the service leaves to the pass in each round: a tenth of the time, less what is new."""
_FUTURE: Final = 10**12
_MIDDLE: Final = """
    (SELECT generation_id FROM generation.video_generations ORDER BY generation_id
     OFFSET (SELECT count(*) / 2 FROM generation.video_generations) LIMIT 1)
"""
_PRICE: Final = """
    UPDATE generation.video_generations SET price_credits = price_credits {sign} 1 WHERE generation_id = {order}
"""
_NEWEST: Final = "(SELECT max(generation_id::text)::uuid FROM generation.video_generations)"
_LEG: Final = f"""
    INSERT INTO billing.balance_ledger (posting_id, transfer_id, account, amount_credits, reason, user_id, line_number,
                                        generation_id, occurred_at)
    OVERRIDING SYSTEM VALUE
    SELECT {{posting_id}}, transfer_id, 'platform:expired', 1, 'expiry', NULL, NULL, generation_id, now()
    FROM billing.balance_ledger WHERE generation_id = {_MIDDLE} AND reason = 'reserve' LIMIT 1
"""
_NO_LEG: Final = "DELETE FROM billing.balance_ledger WHERE account = 'platform:expired' AND reason = 'expiry'"
_LAST_SEQUENCE: Final = """
    UPDATE gateway.archived_timelines SET last_sequence = last_sequence {sign} 1 WHERE generation_id =
        (SELECT generation_id FROM gateway.archived_timelines ORDER BY generation_id
         OFFSET (SELECT count(*) / 2 FROM gateway.archived_timelines) LIMIT 1)
"""


@dataclass(frozen=True, slots=True)
class Violation:
    """``plant`` and ``undo`` are SQL for a superuser, and change one row.

    ``pass_seconds`` is a round's time for what is old; without it only what is new or open is checked.
    """

    name: str
    plant: str
    undo: str
    pass_seconds: float = 0.0
    is_in_new_orders: bool = False


@dataclass(frozen=True, slots=True)
class Detected:
    """How many rounds it took, and the seconds that they ran."""

    rounds: int
    seconds: float

    def __str__(self) -> str:
        return f"{self.rounds:,} round{'' if self.rounds == 1 else 's'}, {self.seconds:,.1f} s"


BEFORE_ARCHIVE: Final = (
    Violation(
        "the price of a new order",
        _PRICE.format(sign="+", order=_NEWEST),
        _PRICE.format(sign="-", order=_NEWEST),
        is_in_new_orders=True,
    ),
    Violation(
        "a new posting for an old transfer",
        _LEG.format(posting_id="nextval('billing.balance_ledger_posting_id_seq')"),
        _NO_LEG,
    ),
    Violation("a posting under an id of the future", _LEG.format(posting_id=_FUTURE), _NO_LEG),
    Violation(
        "the price of an order in the middle",
        _PRICE.format(sign="+", order=_MIDDLE),
        _PRICE.format(sign="-", order=_MIDDLE),
        pass_seconds=ROUND_SECONDS,
    ),
)
AFTER_ARCHIVE: Final = (
    Violation(
        "the timeline of an archived order",
        _LAST_SEQUENCE.format(sign="+"),
        _LAST_SEQUENCE.format(sign="-"),
        pass_seconds=ROUND_SECONDS,
    ),
)


async def detect(
    violation: Violation,
    engine: AsyncEngine,
    superuser: AsyncEngine,
    tolerance_seconds: float,
    count_new_orders: Callable[[AsyncEngine], Awaitable[None]],
) -> Detected:
    """Plant it, run the auditor's rounds until one names a violation, and undo it.

    ``engine`` is the auditor's. Before it, and after it, a round finds nothing.
    """
    news = Prover(engine, engine, tolerance_seconds, 0)
    assert (await news.prove()).report.clean
    if violation.is_in_new_orders:
        await count_new_orders(engine)
    await _execute(superuser, violation.plant)
    try:
        prover, rounds, began = (
            Prover(engine, engine, tolerance_seconds, violation.pass_seconds),
            0,
            time.perf_counter(),
        )
        while True:
            rounds += 1
            if (await prover.prove()).report.total > 0:
                detected = Detected(rounds, time.perf_counter() - began)
                break
    finally:
        await _execute(superuser, violation.undo)
    assert (await news.prove()).report.clean
    return detected


async def _execute(superuser: AsyncEngine, statement: str) -> None:
    """Past triggers: nobody but a superuser could."""
    async with superuser.begin() as connection:
        await connection.execute(text("SET LOCAL session_replication_role = replica"))
        changed = await connection.execute(text(statement))
        assert changed.rowcount == 1, (statement, changed.rowcount)
