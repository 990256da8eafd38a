"""The calls whose cost ``benchmarks.scale`` compares between histories of several sizes.

What the services ask by themselves is no call: ``benchmarks.idle_minute`` has all of it.
"""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from auditor.checking import check
from auditor.dossier import read_dossier
from auditor.proving import Prover
from auditor.timeline import read_timeline
from benchmarks.multiplied_history import count_as_new
from billing.loops.tree_grower import TreeGrower
from billing.proofs import prove_line, prove_prefix
from billing.repository import tree
from contracts.ledger_tree import TreeHead
from contracts.message import Service
from contracts.queries import LedgerLineProof, ProveLedgerLine, ProveLedgerPrefix
from gateway import queries
from gateway.queries import GenerationFilter
from generation.repository.fair_queue import claim_orders
from local_platform.process_table import ENDPOINT_ID
from messaging.ids import new_id
from messaging.transaction import Transactions

BASE_ORDERS = 40
TOLERANCE_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Subjects:
    """Whom and what the calls ask for."""

    heavy: UUID
    light: UUID
    order: UUID
    """The newest order of the heavy user."""


Call = Callable[[AsyncEngine, Subjects], Awaitable[object]]


async def check_everything(engine: AsyncEngine, _: Subjects) -> object:
    return await check(engine, TOLERANCE_SECONDS)


async def _idle_round(engine: AsyncEngine, _: Subjects) -> object:
    return await Prover(engine, engine, TOLERANCE_SECONDS, 0).prove()


async def _nothing_is_new(engine: AsyncEngine) -> None:
    """Everything is proven, to this moment."""
    async with engine.begin() as connection:
        await connection.execute(text("UPDATE auditor.proof_watermark SET message_id = :id"), {"id": new_id()})


async def _news(engine: AsyncEngine, _: Subjects) -> object:
    proven = await Prover(engine, engine, TOLERANCE_SECONDS, 0).prove()
    assert proven.report.clean, proven.report.violations[:5]
    return proven


async def base_is_new(engine: AsyncEngine) -> None:
    """The orders that were not multiplied are new, as many whatever the size."""
    await count_as_new(engine, BASE_ORDERS)


async def _show(engine: AsyncEngine, subjects: Subjects) -> object:
    return await read_dossier(engine, str(subjects.order))


async def _show_light(engine: AsyncEngine, subjects: Subjects) -> object:
    return await read_dossier(engine, str(subjects.light))


async def _show_heavy(engine: AsyncEngine, subjects: Subjects) -> object:
    return await read_dossier(engine, str(subjects.heavy))


async def _timeline(engine: AsyncEngine, subjects: Subjects) -> object:
    async with engine.connect() as connection:
        return await read_timeline(connection, subjects.order)


async def _claim(engine: AsyncEngine, _: Subjects) -> object:
    async with engine.connect() as connection:
        await connection.begin()
        ids = [new_id() for _ in range(100)]
        claimed = await claim_orders(connection, ENDPOINT_ID, ids, send_within_seconds=5.0, probe_seconds=20.0)
        await connection.rollback()
        return claimed


async def _page(engine: AsyncEngine, subjects: Subjects) -> object:
    return await queries.list_generations(engine, subjects.heavy, GenerationFilter(), None, 50)


async def _rare_page(engine: AsyncEngine, subjects: Subjects) -> object:
    return await queries.list_generations(engine, subjects.heavy, GenerationFilter(status="failed"), None, 50)


async def _one(engine: AsyncEngine, subjects: Subjects) -> object:
    return await queries.find_generation(engine, subjects.heavy, subjects.order)


async def _history_of_one(engine: AsyncEngine, subjects: Subjects) -> object:
    return await queries.list_timeline(engine, subjects.heavy, subjects.order)


async def _balance(engine: AsyncEngine, subjects: Subjects) -> object:
    return await queries.find_balance(engine, subjects.heavy)


async def _lines(engine: AsyncEngine, subjects: Subjects) -> object:
    return await queries.list_lines(engine, subjects.heavy, None, 50)


async def _events(engine: AsyncEngine, subjects: Subjects) -> object:
    sequence = await queries.last_sequence(engine, subjects.heavy)
    return await queries.list_history(engine, subjects.heavy, max(sequence - 50, 0), 50)


async def _receipt(engine: AsyncEngine, subjects: Subjects) -> object:
    head = await _newest_head(engine)
    query = ProveLedgerLine(user_id=subjects.heavy, line_number=1, tree_size=head.tree_size)
    answer = await prove_line(engine, query)
    assert isinstance(answer, LedgerLineProof), answer
    return answer


async def _growth(engine: AsyncEngine, _: Subjects) -> object:
    second = (await _newest_head(engine)).tree_size
    proof = await prove_prefix(engine, ProveLedgerPrefix(first_tree_size=second // 3, second_tree_size=second))
    assert proof.path
    return proof


async def _newest_head(engine: AsyncEngine) -> TreeHead:
    async with engine.connect() as connection:
        head = await tree.find_head(connection)
    assert head is not None
    return head.head


async def _grow_nothing(engine: AsyncEngine, _: Subjects) -> object:
    await TreeGrower(Transactions(engine, producer="billing"), head_seconds=60).grow()
    return None


PREPARATIONS: Mapping[Call, Callable[[AsyncEngine], Awaitable[None]]] = {
    _idle_round: _nothing_is_new,
    _news: base_is_new,
}
"""What comes before a call each time, and is not counted."""
CALLS: tuple[tuple[str, Service, Call], ...] = (
    ("auditor: check of all history", "auditor", check_everything),
    ("auditor: round, nothing is new", "auditor", _idle_round),
    (f"auditor: round, {BASE_ORDERS} new orders", "auditor", _news),
    ("auditor: show an order", "auditor", _show),
    ("auditor: show a light user", "auditor", _show_light),
    ("auditor: show the heavy user", "auditor", _show_heavy),
    ("auditor: timeline of an order", "auditor", _timeline),
    ("GET /v1/generations", "gateway", _page),
    ("GET /v1/generations?status=failed, none", "gateway", _rare_page),
    ("GET /v1/generations/ID", "gateway", _one),
    ("GET /v1/generations/ID/timeline", "gateway", _history_of_one),
    ("GET /v1/balance", "gateway", _balance),
    ("GET /v1/ledger", "gateway", _lines),
    ("GET /v1/events", "gateway", _events),
    ("GET /v1/ledger/LINE/receipt, in billing", "billing", _receipt),
    ("that a head continues an older one", "billing", _growth),
    ("billing: a round of the tree without news", "billing", _grow_nothing),
    ("generation: claim of an empty queue", "generation", _claim),
)
