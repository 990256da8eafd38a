"""What an operator runs after a database was restored: name what is lost, then empty the streams.

The streams are newer than the restored database. What they have beyond it was never ordered, paid or made as far as
the database knows, so it may not be delivered to anybody. PostgreSQL is the truth: when the streams are empty, each
service publishes its retained outbox again, and the inboxes drop what they know.
"""

from collections.abc import AsyncIterator, Iterator
from datetime import datetime, timedelta
from typing import Final
from uuid import UUID

import asyncpg
import msgspec
import nats
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.js import JetStreamContext
from nats.js.api import ConsumerConfig, DeliverPolicy
from nats.js.errors import NotFoundError

from contracts import headers
from contracts.message import SERVICES
from contracts.permissions import inbox_prefix
from contracts.streams import STREAMS

_SLACK: Final = timedelta(minutes=10)
"""How long before the newest row of an outbox its streams are read: clocks differ, and transactions take time."""
_BATCH: Final = 500
_SILENCE_SECONDS: Final = 2.0


class LostMessage(msgspec.Struct, frozen=True, kw_only=True):
    """A message that the broker has and no outbox knows: what it says happened after the moment of the backup."""

    subject: str
    correlation_id: str
    user_id: str | None
    generation_ids: tuple[str, ...] = ()
    """The generations that it is about: of an order for several variants, each of them."""
    occurred_at: str
    message_id: str
    producer: str
    stream: str
    sequence: int


async def empty_streams(url: str, user: str, password: str) -> dict[str, int]:
    """Remove every message of every stream; returns how many there were. A stream that is missing is left missing."""
    client = await _connect(url, user, password)
    try:
        jetstream, removed = client.jetstream(), {}
        for spec in STREAMS:
            try:
                removed[spec.name] = (await jetstream.stream_info(spec.name)).state.messages
            except NotFoundError:
                continue
            await jetstream.purge_stream(spec.name)
        return removed
    finally:
        await client.close()


async def find_lost_messages(url: str, user: str, password: str, outbox_dsn: str) -> AsyncIterator[LostMessage]:
    """What the streams have and no outbox knows, stream by stream, oldest first.

    ``outbox_dsn`` may read every schema, as the auditor may.
    """
    client = await _connect(url, user, password)
    connection = await asyncpg.connect(outbox_dsn)
    try:
        since = await _newest_row(connection)
        for spec in STREAMS:
            async for batch in _read(client.jetstream(), spec.name, since):
                known = await _known(connection, [message.message_id for message in batch])
                for message in batch:
                    if message.message_id not in known:
                        yield message
    finally:
        await connection.close()
        await client.close()


async def _connect(url: str, user: str, password: str) -> Client:
    return await nats.connect(
        url,
        user=user,
        password=password,
        inbox_prefix=inbox_prefix(user),
        connect_timeout=5,
        allow_reconnect=False,
    )


async def _newest_row(connection: asyncpg.Connection) -> datetime | None:
    """When the restored database wrote its last message, with some slack; None if it has none."""
    newest = _of_every_outbox("SELECT max(created_at) AS at FROM {schema}.outbox_messages")
    at: datetime | None = await connection.fetchval(f"SELECT max(at) FROM ({newest}) AS newest")  # noqa: S608 - names of the contracts
    return None if at is None else at - _SLACK


async def _read(jetstream: JetStreamContext, stream: str, since: datetime | None) -> AsyncIterator[list[LostMessage]]:
    policy = DeliverPolicy.ALL if since is None else DeliverPolicy.BY_START_TIME
    config = ConsumerConfig(deliver_policy=policy, opt_start_time=since, inactive_threshold=60)
    try:
        last = (await jetstream.stream_info(stream)).state.last_seq
        subscription = await jetstream.pull_subscribe("", stream=stream, config=config)
    except NotFoundError:
        return
    try:
        while (info := await subscription.consumer_info()).num_pending:
            messages = await subscription.fetch(min(_BATCH, info.num_pending), timeout=_SILENCE_SECONDS)
            yield [read_message(stream, message) for message in messages]
            if messages[-1].metadata.sequence.stream >= last:
                return
    finally:
        await subscription.unsubscribe()


def read_message(stream: str, message: Msg) -> LostMessage:
    """What can be told of a message of ``stream``, whatever it holds: what is missing is empty."""
    values = message.headers or {}
    content = _content(message.data)
    return LostMessage(
        subject=message.subject,
        correlation_id=values.get(headers.CORRELATION_ID, ""),
        user_id=_user_of(content),
        generation_ids=tuple(_generations_of(content)),
        occurred_at=values.get(headers.OCCURRED_AT, ""),
        message_id=_plain(values.get(headers.MESSAGE_ID, "")),
        producer=values.get(headers.PRODUCER, ""),
        stream=stream,
        sequence=message.metadata.sequence.stream,
    )


def _content(payload: bytes) -> dict[str, object]:
    try:
        content = msgspec.json.decode(payload)
    except msgspec.DecodeError:
        return {}
    return content if isinstance(content, dict) else {}


def _user_of(content: dict[str, object]) -> str | None:
    """The user that a message is about; some carry it inside an order or a payment."""
    for holder in (content, content.get("order"), content.get("payment")):
        if isinstance(holder, dict) and isinstance(holder.get("user_id"), str):
            return str(holder["user_id"])
    return None


def _generations_of(content: dict[str, object]) -> Iterator[str]:
    several = content.get("orders")
    for holder in (content, content.get("order"), *(several if isinstance(several, list) else ())):
        if isinstance(holder, dict) and isinstance(holder.get("generation_id"), str):
            yield str(holder["generation_id"])


async def _known(connection: asyncpg.Connection, message_ids: list[str]) -> set[str]:
    ids = [UUID(one) for one in message_ids if _is_uuid(one)]
    query = _of_every_outbox("SELECT message_id FROM {schema}.outbox_messages WHERE message_id = ANY($1)")
    return {str(row["message_id"]) for row in await connection.fetch(query, ids)}


def _of_every_outbox(query: str) -> str:
    return " UNION ALL ".join(query.replace("{schema}", service) for service in SERVICES)


def _plain(message_id: str) -> str:
    """The usual spelling: a message that was published again after a purge has another."""
    return str(UUID(message_id)) if _is_uuid(message_id) else message_id


def _is_uuid(text: str) -> bool:
    try:
        UUID(text)
    except ValueError:
        return False
    return True
