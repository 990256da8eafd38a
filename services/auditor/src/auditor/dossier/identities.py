"""Identifies an id: what it is, and which generation, payment or user it belongs to."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal, NamedTuple
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from auditor.errors import UnusableIdentity
from contracts.message import SERVICES

LONGEST_ARGUMENT: Final = 255
"""Characters. Stripe's ids, the longest of those that providers give, have at most 255."""
MOST_OWNERS: Final = 20
"""Owners per column. A reference has one owner or a few; an argument like ``1`` must not list every row with a 1."""

SubjectKind = Literal["generation", "payment", "user", "correlation", "mention"]


@dataclass(frozen=True, slots=True)
class Subject:
    """What a chapter is about. A ``mention`` belongs to no generation, payment or user; its ``uuid`` may be None."""

    kind: SubjectKind
    key: str
    uuid: UUID | None


@dataclass(frozen=True, slots=True)
class IdColumn:
    """A column in which ids of one kind are found, and the columns that say what they belong to."""

    description: str
    table: str
    column: str
    generation: str = "NULL"
    payment: str = "NULL"
    user: str = "NULL"
    kind: Literal["uuid", "text"] = "uuid"


@dataclass(frozen=True, slots=True)
class Identification:
    """What an id is with regard to one subject. ``columns`` are those in which the id itself was found."""

    descriptions: tuple[str, ...]
    subject: Subject
    columns: tuple[IdColumn, ...]


_GENERATION: Final = tuple(
    IdColumn("a generation", table, "generation_id", generation="generation_id")
    for table in (
        "gateway.generation_requests",
        "gateway.generations",
        "billing.reservations",
        "billing.refusals",
        "generation.video_generations",
        "generation.cancellations",
        "storage.assets",
        "storage.verifications",
    )
)
_PAYMENT: Final = tuple(
    IdColumn("a payment", table, "payment_id", payment="payment_id")
    for table in ("gateway.payment_requests", "gateway.payments", "payments.payment_transactions")
)
_USER: Final = tuple(
    IdColumn("a user", table, "user_id", user="user_id")
    for table in (
        "billing.users",
        "gateway.balances",
        "gateway.generation_requests",
        "gateway.payment_requests",
        "gateway.signups",
        "gateway.uploads",
        "generation.video_generations",
    )
)
_PARTS: Final = (
    IdColumn("a reservation", "billing.reservations", "reservation_id", generation="generation_id"),
    IdColumn(
        "a transfer",
        "billing.balance_ledger",
        "transfer_id",
        generation="generation_id",
        payment="payment_id",
        user="user_id",
    ),
    IdColumn("a grant", "billing.grants", "grant_id", payment="payment_id", user="user_id"),
    IdColumn("the grant of a sign-up", "gateway.signups", "grant_id", user="user_id"),
    IdColumn("a clawback", "billing.clawbacks", "clawback_id", payment="payment_id"),
    IdColumn("an attempt", "generation.attempts", "attempt_id", generation="generation_id"),
    IdColumn(
        "a callback of the provider",
        "generation.provider_callbacks JOIN generation.attempts USING (attempt_id)",
        "callback_id",
        generation="generation_id",
    ),
    IdColumn("an asset", "storage.assets", "asset_id", generation="generation_id"),
    IdColumn("an upload", "gateway.uploads", "upload_id", user="user_id"),
    IdColumn("an upload", "storage.uploads", "upload_id", user="user_id"),
    IdColumn("a movement of credits", "payments.credit_movements", "movement_id", payment="payment_id"),
    IdColumn("a refund", "payments.refunds", "refund_id", payment="payment_id"),
    IdColumn("a review", "payments.reviews", "review_id", payment="payment_id"),
)
_IDS: Final = (*_GENERATION, *_PAYMENT, *_USER, *_PARTS)
_UNINDEXED_IDS: Final = (
    IdColumn("a generation", "billing.balance_ledger", "generation_id", generation="generation_id"),
    IdColumn("an asset that is not stored", "generation.video_generations", "asset_id", generation="generation_id"),
    IdColumn("a payment", "billing.grants", "payment_id", payment="payment_id"),
    IdColumn("a payment", "billing.clawbacks", "payment_id", payment="payment_id"),
    IdColumn("a payment", "payments.reviews", "payment_id", payment="payment_id"),
    IdColumn("a user", "payments.payment_transactions", "user_id", user="user_id"),
    IdColumn("a user", "billing.refusals", "user_id", user="user_id"),
    IdColumn("a user", "billing.balance_ledger", "user_id", user="user_id"),
    IdColumn(
        "a transfer",
        "gateway.ledger_lines",
        "transfer_id",
        generation="generation_id",
        payment="payment_id",
        user="user_id",
    ),
)
"""Searched only if nothing else is found: after a loss of rows these may be the only trace."""
_MESSAGES: Final = (
    *(IdColumn("a message", f"{schema}.outbox_messages", "message_id") for schema in SERVICES),
    *(IdColumn("a message", f"{schema}.dead_letters", "message_id") for schema in SERVICES),
    IdColumn("a message", "auditor.journal", "message_id"),
)
_REFERENCES: Final = (
    IdColumn(
        "a job of the provider", "generation.attempts", "provider_job_id", generation="generation_id", kind="text"
    ),
    IdColumn(
        "a checkout at the provider",
        "payments.payment_transactions",
        "provider_reference",
        payment="payment_id",
        kind="text",
    ),
    IdColumn(
        "a charge at the provider",
        "payments.payment_transactions",
        "charge_reference",
        payment="payment_id",
        kind="text",
    ),
    IdColumn("a refund at the provider", "payments.refunds", "provider_reference", payment="payment_id", kind="text"),
    IdColumn("a dispute at the provider", "payments.disputes", "provider_reference", payment="payment_id", kind="text"),
    IdColumn("an event of the provider", "payments.provider_events", "event_id", payment="payment_id", kind="text"),
    IdColumn("a file in the library", "storage.assets", "object_key", generation="generation_id", kind="text"),
)
_UNINDEXED_REFERENCES: Final = (
    IdColumn(
        "what an event of the provider is about",
        "payments.provider_events",
        "reference",
        payment="payment_id",
        kind="text",
    ),
)


def validated(argument: str) -> str:
    """The id without surrounding spaces. Raises UnusableIdentity if it cannot be an id."""
    stripped = argument.strip()
    if not stripped or len(stripped) > LONGEST_ARGUMENT or not stripped.isprintable():
        raise UnusableIdentity(f"an id has 1 to {LONGEST_ARGUMENT} printable characters")
    return stripped


def uuid_of(argument: str) -> UUID | None:
    """The argument as a UUID, if it is one."""
    try:
        return UUID(argument)
    except ValueError:
        return None


async def identify(connection: AsyncConnection, argument: str) -> tuple[Identification, ...]:
    """Everything that ``argument`` is: one identification for each generation, payment or user that it belongs to.

    An id that no service knows is a ``mention``: messages, dead letters or findings may still name it.
    """
    identity = uuid_of(argument)
    found: list[Identification] = []
    if identity is not None:
        found += await _find_owners(connection, _IDS, identity)
        found += await _find_message(connection, identity)
    found += await _find_owners(connection, _REFERENCES, argument)
    if not found:
        found += await _find_owners(connection, _UNINDEXED_REFERENCES, argument)
    if not found and identity is not None:
        found += await _find_owners(connection, _UNINDEXED_IDS, identity)
    return tuple(_merged(found)) or (Identification((), _mention(identity or argument), ()),)


class _Owner(NamedTuple):
    """To what a row with the id belongs; ``number`` is that of the column in which it was found."""

    number: int
    generation_id: UUID | None
    payment_id: UUID | None
    user_id: UUID | None


async def _find_owners(
    connection: AsyncConnection, columns: Sequence[IdColumn], value: UUID | str
) -> list[Identification]:
    parts = [
        f"(SELECT {number} AS number, CAST({one.generation} AS uuid), CAST({one.payment} AS uuid),"  # noqa: S608
        f" CAST({one.user} AS uuid) FROM {one.table}"
        f" WHERE {one.column} = CAST(:value AS {one.kind}) LIMIT {MOST_OWNERS})"
        for number, one in enumerate(columns)
    ]
    query = f"SELECT DISTINCT * FROM ({' UNION ALL '.join(parts)}) AS found ORDER BY number"  # noqa: S608
    owners = [_Owner(*row) for row in await connection.execute(text(query), {"value": value})]
    return [
        Identification((columns[owner.number].description,), _subject_of(value, owner), (columns[owner.number],))
        for owner in owners
    ]


class _Message(NamedTuple):
    number: int
    subject: str
    correlation_id: UUID | None


async def _find_message(connection: AsyncConnection, message_id: UUID) -> list[Identification]:
    """What a message is about, from every place that still knows it: its correlation is an id of its own."""
    parts = [
        f"SELECT {number} AS number, subject, correlation_id FROM {one.table} WHERE {one.column} = :id"  # noqa: S608
        for number, one in enumerate(_MESSAGES)
    ]
    query = text(" UNION ".join(parts) + " ORDER BY number")
    messages = [_Message(*row) for row in await connection.execute(query, {"id": message_id})]
    found = []
    for message in messages:
        subjects = (
            {_mention(message_id)}
            if message.correlation_id is None
            else await _find_correlated(connection, message.correlation_id)
        )
        description = f"a message ({message.subject})"
        found += [
            Identification((description,), one, (_MESSAGES[message.number],)) for one in sorted(subjects, key=str)
        ]
    return found


async def _find_correlated(connection: AsyncConnection, correlation_id: UUID) -> set[Subject]:
    owners = await _find_owners(connection, _IDS, correlation_id)
    return {owner.subject for owner in owners} or {_subject("correlation", correlation_id)}


def _merged(found: Sequence[Identification]) -> list[Identification]:
    """One identification for each subject. A row without an owner goes with rows of the same kind that have one."""
    merged: dict[Subject, Identification] = {}
    owned = {text for one in found if one.subject.kind != "mention" for text in one.descriptions}
    for one in found:
        if one.subject.kind == "mention" and owned.issuperset(one.descriptions):
            continue
        before = merged.get(one.subject, Identification((), one.subject, ()))
        merged[one.subject] = Identification(
            tuple(dict.fromkeys((*before.descriptions, *one.descriptions))),
            one.subject,
            tuple(dict.fromkeys((*before.columns, *one.columns))),
        )
    return list(merged.values())


def _subject_of(value: UUID | str, owner: _Owner) -> Subject:
    if owner.generation_id is not None:
        return _subject("generation", owner.generation_id)
    if owner.payment_id is not None:
        return _subject("payment", owner.payment_id)
    return _mention(value) if owner.user_id is None else _subject("user", owner.user_id)


def _subject(kind: SubjectKind, identity: UUID) -> Subject:
    return Subject(kind, str(identity), identity)


def _mention(value: UUID | str) -> Subject:
    return Subject("mention", str(value), value if isinstance(value, UUID) else None)
