"""Streams and consumers as this release wants them, and how what the broker has differs from that.

The provisioner makes them (``messaging.provisioning``). A service only compares: it waits for what is missing, takes
what is at least what it needs, and refuses what would lose messages.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Final

import nats.js.errors
import structlog
from nats.js import JetStreamContext
from nats.js.api import (
    AckPolicy,
    ConsumerConfig,
    ConsumerInfo,
    DeliverPolicy,
    DiscardPolicy,
    RetentionPolicy,
    StorageType,
    StreamConfig,
    StreamInfo,
)

from contracts.message import Service
from contracts.permissions import consumed_subjects, durable_name, known_subjects, verifier_name
from contracts.streams import LEAST_AGE_SECONDS, StreamSpec
from messaging.errors import ConfigurationMismatchError

_log = structlog.get_logger("messaging.topology")

ACK_WAIT_SECONDS: Final = 10.0
"""How long the broker waits for a sign of life before it delivers a message to another process."""

MAX_ACK_PENDING: Final = 10_000
"""Messages of one consumer that may be out at once. Deferred ones count, so it is far above one batch."""

_MAX_WAITING: Final = 512
"""Pulls that may be open at once; each process has a few. This is the server's default."""

_AT_LEAST: Final = frozenset({"max_msg_size", "duplicate_window", "num_replicas"})
"""Limits of a stream: a release beside ours may want more, which harms nobody."""

_PROVISIONERS: Final = frozenset({"max_bytes", "max_age"})
"""Limits that the provisioner chooses by its settings, and shortens when a stream is nearly full."""

_HARMLESS: Final = frozenset(
    {
        # Of streams.
        "allow_direct", "compression", "consumer_limits", "deny_delete", "deny_purge", "max_consumers",
        "mirror_direct", "placement",
        # Of consumers.
        "ack_wait", "max_ack_pending", "max_waiting", "num_replicas", "sample_freq",
    }
)  # fmt: skip
"""Fields that lose no message, whatever they say: the provisioner sets them, and a service goes on meanwhile."""

_UNCOMPARED: Final = frozenset({"metadata", "description", "filter_subject"})
"""Notes of servers and operators; and one filter alone, which is compared as one of ``filter_subjects``."""

_NOTHING: Final = (None, False, 0, 0.0, "", "none", -1)
"""How servers and the client library say that something is not set."""


@dataclass(frozen=True, slots=True)
class Difference:
    """One field that the broker has otherwise than we want it."""

    field: str
    expected: Any
    found: Any

    @property
    def loses_messages(self) -> bool:
        """Whether a service must not go on like this."""
        if self.field == "max_bytes":
            # A full stream refuses what comes, and the outbox keeps it.
            return False
        if self.field == "max_age":
            return _is_less(self.found, LEAST_AGE_SECONDS)
        if self.field in _AT_LEAST:
            return _is_less(self.found, self.expected)
        if self.field in ("subjects", "filter_subjects"):
            return not set(self.expected) <= set(self.found)
        return self.field not in _HARMLESS


def stream_config(spec: StreamSpec, replicas: int) -> StreamConfig:
    """How a stream is kept."""
    return StreamConfig(
        name=spec.name,
        subjects=list(spec.subjects),
        retention=RetentionPolicy.LIMITS,
        storage=StorageType.FILE,
        discard=DiscardPolicy.NEW,
        max_age=spec.max_age_seconds,
        max_bytes=spec.max_bytes,
        max_msg_size=spec.max_message_bytes,
        duplicate_window=spec.duplicate_window_seconds,
        num_replicas=replicas,
    )


def durable_config(service: Service, stream: str) -> ConsumerConfig:
    """The consumer through which a service reads a stream. We decide when to give up, not the broker."""
    durable = durable_name(service, stream)
    return ConsumerConfig(
        name=durable,
        durable_name=durable,
        deliver_policy=DeliverPolicy.ALL,
        ack_policy=AckPolicy.EXPLICIT,
        ack_wait=ACK_WAIT_SECONDS,
        max_deliver=-1,
        max_ack_pending=MAX_ACK_PENDING,
        max_waiting=_MAX_WAITING,
        filter_subjects=consumed_subjects(service, stream),
    )


def verifier_config(service: Service, stream: str) -> ConsumerConfig:
    """The consumer through which a service finds what a stream holds under one sequence (``messaging.verifier``).

    It gives what the service reads or has published itself, and nothing else.
    """
    name = verifier_name(service, stream)
    return ConsumerConfig(
        name=name,
        durable_name=name,
        deliver_policy=DeliverPolicy.ALL,
        ack_policy=AckPolicy.NONE,
        max_deliver=-1,
        max_waiting=_MAX_WAITING,
        filter_subjects=known_subjects(service, stream),
    )


async def find_stream(jetstream: JetStreamContext, name: str) -> StreamInfo | None:
    """The stream as it is at the broker, or None."""
    try:
        return await jetstream.stream_info(name)
    except nats.js.errors.NotFoundError:
        return None


async def find_consumer(jetstream: JetStreamContext, stream: str, name: str) -> ConsumerInfo | None:
    """The consumer as it is at the broker, or None."""
    try:
        info: ConsumerInfo = await jetstream.consumer_info(stream, name)
    except nats.js.errors.NotFoundError:
        return None
    return info


def stream_differences(wanted: StreamConfig, found: StreamConfig) -> list[Difference]:
    """Every field of the stream's configuration that is not as we want it."""
    return _differences(_values(wanted), _values(found))


def consumer_differences(wanted: ConsumerConfig, found: ConsumerConfig) -> list[Difference]:
    """Every field of the consumer's configuration that is not as we want it."""
    values = _values(found)
    values["filter_subjects"] = filters_of(found)
    return _differences(_values(wanted), values)


def filters_of(config: ConsumerConfig) -> list[str]:
    """The subjects that a consumer gets."""
    return sorted(config.filter_subjects or [config.filter_subject or ">"])


def hold_against(what: str, differences: Sequence[Difference]) -> None:
    """Raises ConfigurationMismatchError for what would lose messages; says what else is not as it should be."""
    for difference in differences:
        if difference.loses_messages:
            raise ConfigurationMismatchError(what, difference.field, difference.expected, difference.found)
    others = sorted(one.field for one in differences if one.field not in _PROVISIONERS)
    if others:
        _log.warning("configuration_differs", what=what, fields=others)


def _differences(wanted: Mapping[str, Any], found: Mapping[str, Any]) -> list[Difference]:
    return [
        Difference(field, expected, found[field])
        for field, expected in wanted.items()
        if field not in _UNCOMPARED and not _is_same(expected, found[field])
    ]


def _values(config: StreamConfig | ConsumerConfig) -> dict[str, Any]:
    return {field.name: getattr(config, field.name) for field in fields(config)}


def _is_same(expected: Any, found: Any) -> bool:
    if isinstance(expected, list):
        return sorted(expected) == sorted(found or [])
    if expected in _NOTHING or expected is None:
        return _is_unset(found)
    return bool(expected == found)


def _is_unset(value: Any) -> bool:
    if value in _NOTHING or value in ([], {}):
        return True
    return hasattr(value, "__dataclass_fields__") and all(_is_unset(getattr(value, one.name)) for one in fields(value))


def _is_less(found: Any, expected: Any) -> bool:
    """Whether a limit is below another; a limit that is not set is the highest, except for replicas."""
    return found not in _NOTHING and found < expected
