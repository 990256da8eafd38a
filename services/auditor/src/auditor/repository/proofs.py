"""How far everything is proven: marks, the watermark, the passes over old ids, and proven balances.

All of it is in the database that it speaks of, so a restored database has the proofs of its own time.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from auditor.portions import LAST_ID, Range, Scope
from auditor.schemas import for_each_schema
from contracts.message import SERVICES
from messaging.ids import first_id_at

CLOCK_SKEW: Final = timedelta(minutes=5)
"""A message's id has the time of the host that made it, its row that of the database."""
_MARGIN: Final = timedelta(seconds=1)
"""A transaction has a start time for a moment before the server lists it among those that run."""
POSTINGS_PER_ROUND: Final = 20_000
MESSAGES_SLICE: Final = timedelta(minutes=10)
"""After a long pause of the auditor, this much of what was missed is proven in one round."""
WORTH_PROVING: Final = 100
"""A user's lines are added up anew until there are so many beyond the proven ones."""


@dataclass(frozen=True, slots=True)
class Mark:
    """A moment, and how far posting ids were given out then."""

    noted_at: datetime
    posting_id: int


@dataclass(frozen=True, slots=True)
class Watermark:
    """What is older is proven: what transactions wrote that began before ``noted_at``, postings through
    ``posting_id``, and messages before ``message_id``.

    The anchor is a posting that was there. A ledger that lacks it is another one.
    """

    noted_at: datetime
    posting_id: int
    message_id: UUID


@dataclass(frozen=True, slots=True)
class News:
    """What was touched after the watermark, by scope, and how far that was read."""

    ids: Mapping[Scope, Collection[UUID]]
    noted_at: datetime | None
    """None: to the end."""
    posting_id: int | None


@dataclass(frozen=True, slots=True)
class Pass:
    """How far the going-over of a scope has come; ``next_id`` None: it has ended.

    ``is_sound``: every invariant could be evaluated. ``proven_at``: when the last pass began of which that is true.
    What was wrong in the scope then has been found.
    """

    scope: Scope
    next_id: UUID | None
    began_at: datetime
    is_sound: bool
    proven_at: datetime | None


_SERVICE_ROLES: Final = ", ".join(f"'{service}'" for service in SERVICES)
# Only services count: a backup reads for hours, and writes nothing.
_RUNNING: Final = f"""ARRAY(
        SELECT running.virtualtransaction
        FROM pg_locks AS running
        JOIN pg_stat_activity AS session USING (pid)
        JOIN pg_roles AS role ON role.oid = session.usesysid
        WHERE running.locktype = 'virtualxid' AND running.granted AND running.mode = 'ExclusiveLock'
          AND session.datname = current_database() AND running.pid <> pg_backend_pid()
          AND role.rolname IN ({_SERVICE_ROLES})
    )"""  # noqa: S608 - the roles are constants
_GIVEN_OUT: Final = text("""
    SELECT clock_timestamp(), CASE WHEN is_called THEN last_value ELSE 0 END FROM billing.balance_ledger_posting_id_seq
""")
_ADD_MARK: Final = text(f"""
    INSERT INTO auditor.proof_marks (noted_at, posting_id, running) VALUES (:noted_at, :posting_id, {_RUNNING})
""")  # noqa: S608 - as above
_CLOSED_MARK: Final = text(f"""
    SELECT noted_at, posting_id FROM auditor.proof_marks
    WHERE noted_at <= :until AND NOT running && {_RUNNING}
    ORDER BY mark_id DESC LIMIT 1
""")  # noqa: S608 - as above
_DROP_MARKS: Final = text("DELETE FROM auditor.proof_marks WHERE noted_at <= :noted_at")

# OFFSET 0: the posting is looked up. Statistics of the one row that say nothing would have the whole ledger hashed.
_WATERMARK: Final = text("""
    SELECT noted_at, posting_id, message_id,
           (anchor_posting_id IS NULL OR EXISTS (
               SELECT FROM billing.balance_ledger AS l
               WHERE l.posting_id = anchor_posting_id AND l.transfer_id = anchor_transfer_id OFFSET 0))
           AND noted_at <= clock_timestamp()
           AND posting_id <= (SELECT last_value FROM billing.balance_ledger_posting_id_seq) AS stands
    FROM auditor.proof_watermark
""")
_FIRST_WATERMARK: Final = text("""
    SELECT clock_timestamp() - make_interval(secs => :seconds),
           coalesce(
               (SELECT posting_id FROM billing.balance_ledger ORDER BY posting_id DESC OFFSET :postings LIMIT 1), 0)
""")
_PUT_WATERMARK: Final = text("""
    INSERT INTO auditor.proof_watermark AS w
        (noted_at, posting_id, message_id, anchor_posting_id, anchor_transfer_id)
    SELECT :noted_at, :posting_id, :message_id, anchor.posting_id, anchor.transfer_id
    FROM (VALUES (true)) AS one LEFT JOIN LATERAL (
        SELECT posting_id, transfer_id FROM billing.balance_ledger WHERE posting_id <= :posting_id
        ORDER BY posting_id DESC LIMIT 1
    ) AS anchor ON true
    ON CONFLICT (only_one) DO UPDATE SET noted_at = excluded.noted_at, posting_id = excluded.posting_id,
        message_id = excluded.message_id, anchor_posting_id = excluded.anchor_posting_id,
        anchor_transfer_id = excluded.anchor_transfer_id
""")
_FORGET: Final = tuple(
    text(f"DELETE FROM auditor.{table}")  # noqa: S608 - the tables of this module
    for table in ("proof_watermark", "proof_marks", "proof_passes", "proven_balances")
)


async def add_mark(connection: AsyncConnection) -> Mark:
    """Note this moment. The time and the posting id are read before the transactions that run."""
    mark = Mark(*(await connection.execute(_GIVEN_OUT)).one())
    await connection.execute(_ADD_MARK, {"noted_at": mark.noted_at, "posting_id": mark.posting_id})
    return mark


async def find_closed_mark(connection: AsyncConnection, until: datetime) -> Mark | None:
    """The newest mark, noted before ``until``, of which every transaction has ended."""
    row = (await connection.execute(_CLOSED_MARK, {"until": until})).one_or_none()
    return None if row is None else Mark(row.noted_at - _MARGIN, row.posting_id)


async def find_watermark(connection: AsyncConnection) -> tuple[Watermark | None, bool]:
    """The watermark, and whether it still stands: a database that went back is older than it."""
    row = (await connection.execute(_WATERMARK)).one_or_none()
    if row is None:
        return None, True
    return Watermark(row.noted_at, row.posting_id, row.message_id), row.stands


async def first_watermark(connection: AsyncConnection, window: timedelta) -> Watermark:
    """Where to begin where nothing is proven: what is older is found by the passes."""
    values = {"seconds": window.total_seconds(), "postings": POSTINGS_PER_ROUND}
    noted_at, posting_id = (await connection.execute(_FIRST_WATERMARK, values)).one()
    return Watermark(noted_at, posting_id, first_id_at(noted_at - CLOCK_SKEW))


async def put_watermark(connection: AsyncConnection, watermark: Watermark) -> None:
    """Move the watermark, and drop the marks below it."""
    values = {"posting_id": watermark.posting_id, "message_id": watermark.message_id, "noted_at": watermark.noted_at}
    await connection.execute(_PUT_WATERMARK, values)
    await connection.execute(_DROP_MARKS, {"noted_at": watermark.noted_at})


async def forget(connection: AsyncConnection) -> None:
    """Nothing counts as proven any more."""
    for statement in _FORGET:
        await connection.execute(statement)


_NEW_POSTINGS: Final = text("""
    WITH news AS MATERIALIZED (
        SELECT posting_id, transfer_id, user_id, generation_id, payment_id, grant_id, clawback_id
        FROM billing.balance_ledger WHERE posting_id > :after ORDER BY posting_id LIMIT :most
    )
    SELECT count(*) AS postings, max(posting_id) AS last_posting_id,
           array_agg(DISTINCT transfer_id) AS transfers,
           array_agg(DISTINCT user_id) FILTER (WHERE user_id IS NOT NULL) AS users,
           array_agg(DISTINCT generation_id) FILTER (WHERE generation_id IS NOT NULL) AS orders,
           array_agg(DISTINCT payment_id) FILTER (WHERE payment_id IS NOT NULL) AS payments,
           array_agg(DISTINCT coalesce(grant_id, clawback_id))
               FILTER (WHERE coalesce(grant_id, clawback_id) IS NOT NULL) AS movements
    FROM news
""")
_NEW_MESSAGES: Final = text(
    "SELECT DISTINCT correlation_id FROM ("  # noqa: S608 - names of the contracts
    + for_each_schema(
        "SELECT correlation_id FROM {schema}.outbox_messages"
        " WHERE message_id >= :first AND created_at > :since AND created_at <= :until"
    )
    + ") AS news"
)
_PAYMENTS_AMONG: Final = text("""
    SELECT payment_id FROM payments.payment_transactions WHERE payment_id = ANY(CAST(:ids AS uuid[]))
    UNION SELECT payment_id FROM gateway.payment_requests WHERE payment_id = ANY(CAST(:ids AS uuid[]))
""")
_MOVEMENTS_OF: Final = text("""
    SELECT movement_id FROM payments.credit_movements WHERE payment_id = ANY(CAST(:ids AS uuid[]))
""")

_NEW_ARCHIVES: Final = text("SELECT archive_id FROM gateway.timeline_archives WHERE archive_id >= :first")
_GRANTS_AMONG: Final = text("""
    SELECT grant_id FROM gateway.signups WHERE grant_id = ANY(CAST(:ids AS uuid[]))
    UNION SELECT grant_id FROM billing.grants WHERE grant_id = ANY(CAST(:ids AS uuid[]))
""")


async def find_news(connection: AsyncConnection, watermark: Watermark, now: datetime) -> News:
    """The ids that were touched since ``watermark``: those of new postings, and those that new messages are about."""
    until = watermark.noted_at + MESSAGES_SLICE
    is_slice = until < now - MESSAGES_SLICE
    posted = (
        await connection.execute(_NEW_POSTINGS, {"after": watermark.posting_id, "most": POSTINGS_PER_ROUND})
    ).one()
    since = {
        "first": first_id_at(watermark.noted_at - CLOCK_SKEW),
        "since": watermark.noted_at,
        "until": until if is_slice else now + timedelta(days=3650),
    }
    spoken_of = set((await connection.execute(_NEW_MESSAGES, since)).scalars())
    payments = set((await connection.execute(_PAYMENTS_AMONG, {"ids": list(spoken_of)})).scalars())
    grants = set((await connection.execute(_GRANTS_AMONG, {"ids": list(spoken_of)})).scalars())
    orders = (spoken_of - payments - grants) | set(posted.orders or ())
    payments |= set(posted.payments or ())
    movements = set((await connection.execute(_MOVEMENTS_OF, {"ids": list(payments)})).scalars())
    archives = (await connection.execute(_NEW_ARCHIVES, {"first": since["first"]})).scalars().all()
    return News(
        {
            "archive": archives,
            "user": posted.users or (),
            "order": orders,
            "payment": payments,
            "movement": movements | grants | set(posted.movements or ()),
            "transfer": posted.transfers or (),
        },
        until if is_slice else None,
        posted.last_posting_id if posted.postings == POSTINGS_PER_ROUND else None,
    )


_ROWS: Final[Mapping[Scope, tuple[int, Sequence[str]]]] = {
    "order": (
        500,
        (
            "generation_id FROM gateway.generation_requests",
            "generation_id FROM gateway.generations",
            "generation_id FROM billing.reservations",
            "generation_id FROM billing.refusals",
            "generation_id FROM generation.video_generations",
            "generation_id FROM storage.assets",
            "generation_id FROM storage.deletions",
            "generation_id FROM gateway.archived_timelines",
        ),
    ),
    "payment": (
        500,
        (
            "payment_id FROM gateway.payment_requests",
            "payment_id FROM gateway.payments",
            "payment_id FROM payments.payment_transactions",
            "payment_id FROM billing.clawbacks",
        ),
    ),
    "movement": (
        500,
        (
            "grant_id FROM billing.grants",
            "clawback_id FROM billing.clawbacks",
            "movement_id FROM payments.credit_movements",
            "grant_id FROM gateway.signups",
        ),
    ),
    "reservation": (
        2000,
        (
            "reservation_id FROM billing.reservations",
            "reservation_id FROM billing.reservation_grants",
            "reservation_id FROM billing.reservation_resolutions",
        ),
    ),
    "transfer": (2000, ("transfer_id FROM billing.balance_ledger",)),
    "message": (2000, tuple(f"message_id FROM {service}.outbox_messages" for service in SERVICES)),
    "archive": (10, ("archive_id FROM gateway.timeline_archives",)),
}
"""How many rows of each table a portion of a pass reads. Users are counted by their lines."""
LINES_PER_PORTION: Final = 10_000
USERS_PER_PORTION: Final = 500

_USERS_FROM: Final = text(f"""
    SELECT user_id FROM (
        SELECT user_id, sum(line_number) OVER (ORDER BY user_id) AS lines, row_number() OVER (ORDER BY user_id) AS place
        FROM (
            SELECT user_id, line_number FROM billing.users WHERE user_id >= :first
            ORDER BY user_id LIMIT {USERS_PER_PORTION}
        ) AS following
    ) AS counted
    WHERE place = {USERS_PER_PORTION} OR lines >= {LINES_PER_PORTION} ORDER BY user_id LIMIT 1
""")  # noqa: S608 - numbers


def _ends(scope: Scope) -> str:
    rows, columns = _ROWS[scope]
    ends = " UNION ALL ".join(
        f"(SELECT {column} WHERE {column.partition(' ')[0]} >= :first ORDER BY 1 OFFSET {rows - 1} LIMIT 1)"
        for column in columns
    )
    return f"SELECT * FROM ({ends}) AS ends (id) ORDER BY id LIMIT 1"  # noqa: S608


_ENDS: Final = {scope: text(_ends(scope)) for scope in _ROWS}
_PASSES: Final = text("SELECT scope, next_id, began_at, is_sound, proven_at FROM auditor.proof_passes")
_PUT_PASSES: Final = text("""
    INSERT INTO auditor.proof_passes AS p (scope, next_id, began_at, is_sound, proven_at)
    SELECT * FROM unnest(CAST(:scope AS text[]), CAST(:next_id AS uuid[]), CAST(:began_at AS timestamptz[]),
                         CAST(:is_sound AS boolean[]), CAST(:proven_at AS timestamptz[]))
    ON CONFLICT (scope) DO UPDATE SET next_id = excluded.next_id, began_at = excluded.began_at,
        is_sound = excluded.is_sound AND (p.is_sound OR p.began_at <> excluded.began_at),
        proven_at = greatest(p.proven_at, excluded.proven_at)
""")


async def find_passes(connection: AsyncConnection) -> dict[Scope, Pass]:
    """How far the pass over each scope has come, where one began."""
    return {row.scope: Pass(*row) for row in await connection.execute(_PASSES)}


async def put_passes(connection: AsyncConnection, passes: Sequence[Pass]) -> None:
    """Store how far passes over different scopes have come."""
    names = ("scope", "next_id", "began_at", "is_sound", "proven_at")
    if passes:
        await connection.execute(_PUT_PASSES, {name: [getattr(one, name) for one in passes] for name in names})


async def find_portion(connection: AsyncConnection, scope: Scope, first: UUID) -> Range:
    """The next portion of a pass: a bounded number of rows of each table that has the scope."""
    statement = _USERS_FROM if scope == "user" else _ENDS[scope]
    last: UUID | None = await connection.scalar(statement, {"first": first})
    return Range(scope, first, last or LAST_ID)


_STAND_NO_MORE: Final = text("DELETE FROM auditor.proven_balances WHERE user_id = ANY(CAST(:users AS uuid[]))")
_PROVE_BALANCES: Final = text(f"""
    INSERT INTO auditor.proven_balances AS p
        (user_id, line_number, transfer_id, available_credits, reserved_credits, receivable_credits)
    SELECT one.user_id, line.last_line, line.last_transfer,
           coalesce(known.available_credits, 0) + line.available, coalesce(known.reserved_credits, 0) + line.reserved,
           coalesce(known.receivable_credits, 0) + line.receivable
    FROM unnest(CAST(:users AS uuid[])) AS one (user_id)
    LEFT JOIN auditor.proven_balances AS known USING (user_id)
    CROSS JOIN LATERAL (
        SELECT count(DISTINCT line_number) AS lines, max(line_number) AS last_line,
               (array_agg(transfer_id ORDER BY line_number DESC))[1] AS last_transfer,
               coalesce(sum(amount_credits) FILTER (WHERE account = 'user:available'), 0) AS available,
               coalesce(sum(amount_credits) FILTER (WHERE account = 'user:reserved'), 0) AS reserved,
               coalesce(-sum(amount_credits) FILTER (WHERE account = 'user:receivable'), 0) AS receivable
        FROM billing.balance_ledger AS l
        WHERE l.user_id = one.user_id AND l.line_number > coalesce(known.line_number, 0)
          AND l.posting_id <= :posting_id
    ) AS line
    WHERE line.lines >= {WORTH_PROVING}
    ON CONFLICT (user_id) DO UPDATE SET line_number = excluded.line_number, transfer_id = excluded.transfer_id,
        available_credits = excluded.available_credits, reserved_credits = excluded.reserved_credits,
        receivable_credits = excluded.receivable_credits, proven_at = now()
""")  # noqa: S608 - a number
_WITH_LINES: Final = text(f"""
    SELECT user_id FROM billing.users
    WHERE user_id BETWEEN :first AND :last AND line_number >= {WORTH_PROVING}
""")  # noqa: S608 - a number


async def find_users_with_lines(connection: AsyncConnection, first: UUID, last: UUID) -> set[UUID]:
    """The users of a range whose lines are worth proving."""
    return set((await connection.execute(_WITH_LINES, {"first": first, "last": last})).scalars())


async def forget_balances(connection: AsyncConnection, users: Collection[UUID]) -> None:
    """Add these users' lines up from the first one again."""
    await connection.execute(_STAND_NO_MORE, {"users": list(users)})


async def prove_balances(connection: AsyncConnection, users: Collection[UUID], posting_id: int) -> None:
    """Remember what the lines of these users add up to, through ``posting_id``, where that is worth it."""
    await connection.execute(_PROVE_BALANCES, {"users": sorted(users), "posting_id": posting_id})
