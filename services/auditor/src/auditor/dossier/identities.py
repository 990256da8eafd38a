"""What an id is, and which generation, payment or user it belongs to."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from auditor.errors import UnusableIdentity
from contracts.message import SERVICES

LONGEST_ARGUMENT: Final = 255
"""Characters. Stripe's ids, the longest of those that providers give, have at most 255."""
MOST_HELD: Final = 20
"""A reference is one thing or a few; whoever asks for ``1`` does not get every row that says 1."""

SubjectKind = Literal["generation", "payment", "user", "correlation", "mention"]


@dataclass(frozen=True, slots=True)
class Subject:
    """What a dossier is about. A ``mention`` belongs to no generation, payment or user; its ``uuid`` may be None."""

    kind: SubjectKind
    key: str
    uuid: UUID | None


@dataclass(frozen=True, slots=True)
class Key:
    """A column in which ids of one kind are found, and the columns that say what they belong to."""

    what: str
    table: str
    column: str
    generation: str = "NULL"
    payment: str = "NULL"
    user: str = "NULL"
    kind: Literal["uuid", "text"] = "uuid"


@dataclass(frozen=True, slots=True)
class Meaning:
    """What an id is with regard to one subject. ``keys`` are where its own rows are."""

    what: tuple[str, ...]
    subject: Subject
    keys: tuple[Key, ...]


_GENERATION: Final = tuple(
    Key("a generation", table, "generation_id", generation="generation_id")
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
    Key("a payment", table, "payment_id", payment="payment_id")
    for table in ("gateway.payment_requests", "gateway.payments", "payments.payment_transactions")
)
_USER: Final = tuple(
    Key("a user", table, "user_id", user="user_id")
    for table in (
        "billing.users",
        "gateway.balances",
        "gateway.generation_requests",
        "gateway.payment_requests",
        "gateway.uploads",
        "generation.video_generations",
    )
)
_PARTS: Final = (
    Key("a reservation", "billing.reservations", "reservation_id", generation="generation_id"),
    Key(
        "a transfer",
        "billing.balance_ledger",
        "transfer_id",
        generation="generation_id",
        payment="payment_id",
        user="user_id",
    ),
    Key("a grant", "billing.grants", "grant_id", payment="payment_id", user="user_id"),
    Key("a clawback", "billing.clawbacks", "clawback_id", payment="payment_id"),
    Key("an attempt", "generation.attempts", "attempt_id", generation="generation_id"),
    Key(
        "a callback of the provider",
        "generation.provider_callbacks JOIN generation.attempts USING (attempt_id)",
        "callback_id",
        generation="generation_id",
    ),
    Key("an asset", "storage.assets", "asset_id", generation="generation_id"),
    Key("an upload", "gateway.uploads", "upload_id", user="user_id"),
    Key("an upload", "storage.uploads", "upload_id", user="user_id"),
    Key("a movement of credits", "payments.credit_movements", "movement_id", payment="payment_id"),
    Key("a refund", "payments.refunds", "refund_id", payment="payment_id"),
    Key("a review", "payments.reviews", "review_id", payment="payment_id"),
)
_IDS: Final = (*_GENERATION, *_PAYMENT, *_USER, *_PARTS)
_ONLY_A_SCAN_FINDS: Final = (
    Key("a generation", "billing.balance_ledger", "generation_id", generation="generation_id"),
    Key("an asset that is not stored", "generation.video_generations", "asset_id", generation="generation_id"),
    Key("a payment", "billing.grants", "payment_id", payment="payment_id"),
    Key("a payment", "billing.clawbacks", "payment_id", payment="payment_id"),
    Key("a payment", "payments.reviews", "payment_id", payment="payment_id"),
    Key("a user", "payments.payment_transactions", "user_id", user="user_id"),
    Key("a user", "billing.refusals", "user_id", user="user_id"),
    Key("a user", "billing.balance_ledger", "user_id", user="user_id"),
    Key(
        "a transfer",
        "gateway.ledger_lines",
        "transfer_id",
        generation="generation_id",
        payment="payment_id",
        user="user_id",
    ),
)
"""Asked only if nothing else is found: damage may have left these as the only trace."""
_MESSAGES: Final = (
    *(Key("a message", f"{schema}.outbox_messages", "message_id") for schema in SERVICES),
    *(Key("a message", f"{schema}.dead_letters", "message_id") for schema in SERVICES),
    Key("a message", "auditor.journal", "message_id"),
)
_REFERENCES: Final = (
    Key("a job of the provider", "generation.attempts", "provider_job_id", generation="generation_id", kind="text"),
    Key(
        "a checkout at the provider",
        "payments.payment_transactions",
        "provider_reference",
        payment="payment_id",
        kind="text",
    ),
    Key(
        "a charge at the provider",
        "payments.payment_transactions",
        "charge_reference",
        payment="payment_id",
        kind="text",
    ),
    Key("a refund at the provider", "payments.refunds", "provider_reference", payment="payment_id", kind="text"),
    Key("a dispute at the provider", "payments.disputes", "provider_reference", payment="payment_id", kind="text"),
    Key("an event of the provider", "payments.provider_events", "event_id", payment="payment_id", kind="text"),
    Key("a file in the library", "storage.assets", "object_key", generation="generation_id", kind="text"),
)
_REFERENCES_ONLY_A_SCAN_FINDS: Final = (
    Key(
        "what an event of the provider is about",
        "payments.provider_events",
        "reference",
        payment="payment_id",
        kind="text",
    ),
)


def checked(argument: str) -> str:
    """The id as it can be looked up. Raises UnusableIdentity for what no id looks like."""
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


async def find_meanings(connection: AsyncConnection, argument: str) -> tuple[Meaning, ...]:
    """All that ``argument`` is, one meaning for each generation, payment or user that it belongs to.

    What nobody holds is a ``mention``: messages, dead letters or findings may still name it.
    """
    identity = uuid_of(argument)
    found: list[Meaning] = []
    if identity is not None:
        found += await _held(connection, _IDS, identity)
        found += await _message(connection, identity)
    found += await _held(connection, _REFERENCES, argument)
    if not found:
        found += await _held(connection, _REFERENCES_ONLY_A_SCAN_FINDS, argument)
    if not found and identity is not None:
        found += await _held(connection, _ONLY_A_SCAN_FINDS, identity)
    return tuple(_merged(found)) or (Meaning((), _mention(identity or argument), ()),)


async def _held(connection: AsyncConnection, keys: Sequence[Key], value: UUID | str) -> list[Meaning]:
    parts = [
        f"(SELECT {number} AS number, CAST({key.generation} AS uuid), CAST({key.payment} AS uuid),"  # noqa: S608
        f" CAST({key.user} AS uuid) FROM {key.table} WHERE {key.column} = CAST(:value AS {key.kind}) LIMIT {MOST_HELD})"
        for number, key in enumerate(keys)
    ]
    query = f"SELECT DISTINCT * FROM ({' UNION ALL '.join(parts)}) AS found ORDER BY number"  # noqa: S608
    rows = (await connection.execute(text(query), {"value": value})).all()
    return [Meaning((keys[row[0]].what,), _subject(value, *row[1:]), (keys[row[0]],)) for row in rows]


async def _message(connection: AsyncConnection, message_id: UUID) -> list[Meaning]:
    """What a message is about, from wherever it is still known: its correlation is an id of its own."""
    parts = [
        f"SELECT {number} AS number, subject, correlation_id FROM {key.table} WHERE {key.column} = :id"  # noqa: S608
        for number, key in enumerate(_MESSAGES)
    ]
    query = text(" UNION ".join(parts) + " ORDER BY number")
    meanings = []
    for number, subject, correlation_id in (await connection.execute(query, {"id": message_id})).all():
        about = {_mention(message_id)} if correlation_id is None else await _correlated(connection, correlation_id)
        what = (f"a message ({subject})",)
        meanings += [Meaning(what, one, (_MESSAGES[number],)) for one in sorted(about, key=str)]
    return meanings


async def _correlated(connection: AsyncConnection, correlation_id: UUID) -> set[Subject]:
    holders = await _held(connection, _IDS, correlation_id)
    return {holder.subject for holder in holders} or {_of("correlation", correlation_id)}


def _merged(meanings: Sequence[Meaning]) -> list[Meaning]:
    """One meaning for each subject. Rows that belong to nothing go with those of the same kind that do."""
    merged: dict[Subject, Meaning] = {}
    owned = {what for meaning in meanings if meaning.subject.kind != "mention" for what in meaning.what}
    for meaning in meanings:
        if meaning.subject.kind == "mention" and owned.issuperset(meaning.what):
            continue
        before = merged.get(meaning.subject, Meaning((), meaning.subject, ()))
        what = tuple(dict.fromkeys((*before.what, *meaning.what)))
        merged[meaning.subject] = Meaning(what, meaning.subject, tuple(dict.fromkeys((*before.keys, *meaning.keys))))
    return list(merged.values())


def _subject(value: UUID | str, generation_id: UUID | None, payment_id: UUID | None, user_id: UUID | None) -> Subject:
    if generation_id is not None:
        return _of("generation", generation_id)
    if payment_id is not None:
        return _of("payment", payment_id)
    return _mention(value) if user_id is None else _of("user", user_id)


def _of(kind: SubjectKind, identity: UUID) -> Subject:
    return Subject(kind, str(identity), identity)


def _mention(value: UUID | str) -> Subject:
    return Subject("mention", str(value), value if isinstance(value, UUID) else None)
