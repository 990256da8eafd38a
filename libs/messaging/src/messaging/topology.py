"""Streams and consumers as this release wants them: created when absent, refused when different."""

from collections.abc import Mapping
from typing import Final

import nats.js.errors
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

from contracts.streams import StreamSpec
from messaging.errors import ConfigurationMismatchError

MAX_ACK_PENDING: Final = 10_000
"""Messages of one consumer that may be out at once. Deferred ones count, so it is far above one batch."""


async def find_stream(jetstream: JetStreamContext, name: str) -> StreamInfo | None:
    """The stream as it is at the broker, or None."""
    try:
        return await jetstream.stream_info(name)
    except nats.js.errors.NotFoundError:
        return None


async def assert_stream(jetstream: JetStreamContext, spec: StreamSpec, replicas: int) -> StreamInfo:
    """Create the stream if it is missing. Raises ConfigurationMismatchError if it is there and different."""
    wanted = _stream_config(spec, replicas)
    info = await find_stream(jetstream, spec.name)
    if info is None:
        info = await jetstream.add_stream(wanted)
    found = info.config
    _compare(
        f"stream {spec.name}",
        {
            "subjects": (set(wanted.subjects or ()), set(found.subjects or ())),
            "retention": (wanted.retention, found.retention),
            "storage": (wanted.storage, found.storage),
            "discard": (wanted.discard, found.discard),
            "max_age": (wanted.max_age, found.max_age),
            "max_bytes": (wanted.max_bytes, found.max_bytes),
            "max_msgs": (-1, found.max_msgs),
            "max_msg_size": (wanted.max_msg_size, found.max_msg_size),
            "duplicate_window": (wanted.duplicate_window, found.duplicate_window),
            "num_replicas": (wanted.num_replicas, found.num_replicas),
        },
    )
    return info


async def assert_consumer(jetstream: JetStreamContext, stream: str, wanted: ConsumerConfig) -> ConsumerInfo:
    """Create the durable consumer if it is missing. Raises ConfigurationMismatchError if it is there and different."""
    assert wanted.durable_name is not None
    try:
        info: ConsumerInfo = await jetstream.consumer_info(stream, wanted.durable_name)
    except nats.js.errors.NotFoundError:
        info = await jetstream.add_consumer(stream, wanted)
    found = info.config
    assert found is not None
    found_filters = set(found.filter_subjects or ()) or {found.filter_subject or ">"}
    _compare(
        f"consumer {wanted.durable_name}",
        {
            "filter_subjects": (set(wanted.filter_subjects or ()), found_filters),
            "deliver_policy": (wanted.deliver_policy, found.deliver_policy),
            "ack_policy": (wanted.ack_policy, found.ack_policy),
            "ack_wait": (wanted.ack_wait, found.ack_wait),
            "max_deliver": (wanted.max_deliver, found.max_deliver),
            "max_ack_pending": (wanted.max_ack_pending, found.max_ack_pending),
        },
    )
    return info


def consumer_config(durable: str, subjects: list[str], ack_wait_seconds: float) -> ConsumerConfig:
    """How every durable consumer is kept. ``max_deliver`` is unlimited: we decide when to give up, not the broker."""
    return ConsumerConfig(
        name=durable,
        durable_name=durable,
        deliver_policy=DeliverPolicy.ALL,
        ack_policy=AckPolicy.EXPLICIT,
        ack_wait=ack_wait_seconds,
        max_deliver=-1,
        max_ack_pending=MAX_ACK_PENDING,
        filter_subjects=sorted(subjects),
    )


def _stream_config(spec: StreamSpec, replicas: int) -> StreamConfig:
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


def _compare(what: str, fields: Mapping[str, tuple[object, object]]) -> None:
    for field, (expected, found) in fields.items():
        if expected != found:
            raise ConfigurationMismatchError(what, field, expected, found)
