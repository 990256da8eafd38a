"""Makes the streams and consumers of this release: ``python -m messaging.provisioning``.

Only the provisioner may do that. It runs before a release's services and after a broker was lost, any number of times:

- What is missing is created.
- A consumer that lacks subjects gets them, and reads the messages of these that the stream holds already.
- A consumer keeps subjects that this release does not read, because the release beside it may. ``--narrow`` takes them
  away, when no process of the other release is left.
- What would lose messages is refused: a lower limit than a stream has, another kind of stream or consumer.
- A stream that is nearly full gives up history, and gets its retention back when there is room (``stream_room``).

It reads ``PROVISIONER_NATS_URL``, ``_USER``, ``_PASSWORD``, ``_CA_FILE``, ``PROVISIONER_STREAM_REPLICAS``, and the size
and retention of streams: ``PROVISIONER_STREAM_MAX_BYTES='{"GENERATION": 34359738368}'``,
``PROVISIONER_STREAM_MAX_AGE_SECONDS='{"STORAGE": 259200}'``. What they do not name is as ``contracts.streams`` says.
"""

import argparse
import asyncio
import sys
from collections.abc import Coroutine, Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from math import inf
from pathlib import Path
from typing import Annotated, Any, Final

import msgspec
import nats.errors
import nats.js.errors
from nats.aio.client import Client
from nats.js import JetStreamContext
from nats.js.api import ConsumerConfig, ConsumerInfo, StreamInfo
from pydantic import AfterValidator, Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict

from contracts.message import SERVICES, Service
from contracts.permissions import PROVISIONER, durable_name, inbox_prefix, sources_of, streams_of
from contracts.streams import BY_NAME, LEAST_AGE_SECONDS, STREAMS, StreamSpec
from messaging.broker import tls_context
from messaging.stream_room import NEARLY_FULL, Contents, kept_seconds
from messaging.topology import (
    consumer_differences,
    durable_config,
    filters_of,
    find_consumer,
    find_stream,
    stream_config,
    stream_differences,
    verifier_config,
)

_JOURNALS: Final[frozenset[Service]] = frozenset({"auditor"})
"""What they have not read is history: it goes before an order is stopped."""

_REWIND: Final = "reelhouse-rewind-to"
"""Note in a consumer's metadata: it got more subjects, and has yet to go back to this sequence."""

_LONGEST_AGE_SECONDS: Final = max(spec.max_age_seconds for spec in STREAMS)
"""Inboxes forget ids 17 days after their receipt, which counts on this."""

_NO_ROOM_AT_SERVERS: Final = frozenset({10023, 10047})
"""What a server says when its ``max_file_store`` has no room for the limits of all streams."""

_REQUEST_SECONDS: Final = 10.0
_RETRY_SECONDS: Final = 0.5


class RefusedError(Exception):
    """A change that would lose messages; the text says what to do."""


def _known(name: str) -> str:
    if name not in BY_NAME:
        raise ValueError(f"there is no stream of this name; there are {', '.join(BY_NAME)}")
    return name


StreamName = Annotated[str, AfterValidator(_known)]


class Settings(BaseSettings):
    """How the provisioner reaches the broker."""

    model_config = SettingsConfigDict(env_prefix="PROVISIONER_")

    nats_url: str
    nats_user: str = PROVISIONER
    nats_password: SecretStr
    nats_ca_file: Path | None = None
    stream_replicas: int = Field(default=1, ge=1, le=5)
    stream_max_bytes: dict[StreamName, Annotated[int, Field(ge=64 * 1024**2)]] = {}
    stream_max_age_seconds: dict[StreamName, Annotated[int, Field(ge=LEAST_AGE_SECONDS, le=_LONGEST_AGE_SECONDS)]] = {}

    def specs(self) -> list[StreamSpec]:
        """The streams, with the sizes and retentions of these settings."""
        return [
            msgspec.structs.replace(
                spec,
                max_bytes=self.stream_max_bytes.get(spec.name, spec.max_bytes),
                max_age_seconds=self.stream_max_age_seconds.get(spec.name, spec.max_age_seconds),
            )
            for spec in STREAMS
        ]


async def provision(
    client: Client, replicas: int, *, narrow: bool = False, specs: Sequence[StreamSpec] = STREAMS
) -> list[str]:
    """Make everything; returns a line for each change. Raises RefusedError, after doing all that can be done."""
    jetstream = client.jetstream(timeout=_REQUEST_SECONDS)
    changes: list[str] = []
    refusals: list[str] = []
    ready = await _gather(refusals, [_stream(jetstream, spec, replicas, changes) for spec in specs])
    wanted = [(stream, config) for stream, config in _consumers() if stream in ready]
    await _gather(refusals, [_consumer(jetstream, stream, config, narrow, changes) for stream, config in wanted])
    if refusals:
        raise RefusedError("\n".join([*changes, *refusals]))
    return changes


async def _gather(refusals: list[str], steps: Sequence[Coroutine[Any, Any, str]]) -> set[str]:
    """Take all steps at once. Returns what those that were not refused return; the others add to ``refusals``."""
    done: set[str] = set()
    for outcome in await asyncio.gather(*steps, return_exceptions=True):
        if isinstance(outcome, RefusedError):
            refusals.append(str(outcome))
        elif isinstance(outcome, BaseException):
            raise outcome
        else:
            done.add(outcome)
    return done


def _consumers() -> Iterator[tuple[str, ConsumerConfig]]:
    for service in SERVICES:
        for stream in sources_of(service):
            yield stream, durable_config(service, stream)
        for stream in streams_of(service):
            yield stream, verifier_config(service, stream)


async def _stream(jetstream: JetStreamContext, spec: StreamSpec, replicas: int, changes: list[str]) -> str:
    wanted = stream_config(spec, replicas)
    found = await find_stream(jetstream, spec.name)
    if found is None:
        await jetstream.add_stream(wanted)
        changes.append(f"created the stream {spec.name}")
        return spec.name
    contents = await _contents(jetstream, spec, found)
    kept = kept_seconds(spec.max_age_seconds, found.config.max_age or inf, LEAST_AGE_SECONDS, contents)
    makes_room = contents.full >= NEARLY_FULL and kept < spec.max_age_seconds
    wanted = replace(wanted, max_age=kept)
    differences = stream_differences(wanted, found.config)
    if not differences:
        return spec.name
    if found.config.max_age and kept < found.config.max_age and not makes_room:
        raise RefusedError(
            f"stream {spec.name}: it keeps messages for {found.config.max_age:.0f} s, and this release for"
            f" {kept:.0f} s: older messages would be lost. If that is meant, run"
            f" `nats stream edit {spec.name} --max-age={kept:.0f}s` first"
        )
    if wanted.max_bytes and found.state.bytes > wanted.max_bytes:
        raise RefusedError(
            f"stream {spec.name}: it holds {found.state.bytes} bytes, and this release allows {wanted.max_bytes}:"
            f" no message could be published. Raise PROVISIONER_STREAM_MAX_BYTES"
        )
    fields = ", ".join(sorted(one.field for one in differences))
    try:
        # Also what we do not name is set: what somebody added, such as a republish or a source, goes.
        await jetstream.update_stream(replace(wanted, metadata=found.config.metadata))
    except nats.js.errors.APIError as error:
        if error.err_code in _NO_ROOM_AT_SERVERS:
            raise RefusedError(
                f"stream {spec.name}: the servers have no room for {wanted.max_bytes} bytes ({error.description})."
                " Raise their max_file_store first, and the volume with it"
            ) from error
        raise RefusedError(
            f"stream {spec.name}: {fields} cannot be changed ({error.description}). Stop the services, run"
            f" `nats stream rm {spec.name}` and this again: the services publish the last 7 days again"
        ) from error
    told = f" ({contents.full:.0%} full: it keeps {kept / 3600:.1f} hours)" if makes_room else ""
    changes.append(f"changed the stream {spec.name}: {fields}{told}")
    return spec.name


async def _contents(jetstream: JetStreamContext, spec: StreamSpec, found: StreamInfo) -> Contents:
    """How full a stream is by the limit that it shall have. Its messages are looked at only where that decides."""
    state = found.state
    full = state.bytes / spec.max_bytes
    is_whole = state.first_seq <= 1
    keeps_all = is_whole or not found.config.max_age or found.config.max_age >= spec.max_age_seconds
    if (full < NEARLY_FULL and keeps_all) or not state.messages:
        return Contents(full, 0.0, None, is_whole)
    # Messages are dated by the broker. If our clock is behind it, its newest message tells the time.
    newest = await _dated(jetstream, spec.name, state.last_seq)
    now = max(datetime.now(UTC), newest or datetime.min.replace(tzinfo=UTC))
    oldest = await _dated(jetstream, spec.name, state.first_seq) or now
    unread = await _first_unread(jetstream, spec.name, state.last_seq)
    unread_at = None if unread is None else await _dated(jetstream, spec.name, max(unread, state.first_seq)) or oldest
    unread_seconds = None if unread_at is None else (now - unread_at).total_seconds()
    return Contents(full, (now - oldest).total_seconds(), unread_seconds, is_whole)


async def _first_unread(jetstream: JetStreamContext, stream: str, last_sequence: int) -> int | None:
    """The first sequence that a service other than the journal may have yet to read; None if there is none."""
    unread: list[int] = []
    for service in SERVICES:
        if service in _JOURNALS or stream not in sources_of(service):
            continue
        consumer = await find_consumer(jetstream, stream, durable_name(service, stream))
        floor = 0 if consumer is None or consumer.ack_floor is None else consumer.ack_floor.stream_seq
        if consumer is None or consumer.num_pending or consumer.num_ack_pending:
            unread.append(floor + 1)
    return min(unread, default=None)


async def _dated(jetstream: JetStreamContext, stream: str, sequence: int) -> datetime | None:
    """When the broker got the message under ``sequence``, or None if it has none there."""
    try:
        return (await jetstream.get_msg(stream, seq=sequence)).time
    except nats.js.errors.NotFoundError:
        return None


async def _consumer(
    jetstream: JetStreamContext, stream: str, release: ConsumerConfig, narrow: bool, changes: list[str]
) -> str:
    name = str(release.name)
    found = await find_consumer(jetstream, stream, name)
    if found is None or found.config is None:
        await jetstream.add_consumer(stream, release)
        changes.append(f"created the consumer {name}")
        return name
    standing = filters_of(found.config)
    added = sorted(set(release.filter_subjects or ()) - set(standing))
    if added:
        await _add_subjects(jetstream, stream, found, added)
        changes.append(f"the consumer {name} gets also {', '.join(added)}")
    elif (found.config.metadata or {}).get(_REWIND):
        await _rewind(jetstream, stream, found)
    filters = sorted(release.filter_subjects or ()) if narrow else sorted({*standing, *(release.filter_subjects or ())})
    wanted = replace(release, filter_subjects=filters)
    latest = await jetstream.consumer_info(stream, name)
    if differences := consumer_differences(wanted, latest.config):
        fields = ", ".join(sorted(one.field for one in differences))
        try:
            await jetstream.add_consumer(stream, wanted)
        except nats.js.errors.APIError as error:
            raise RefusedError(
                f"consumer {name}: {fields} cannot be changed ({error.description}). Run"
                f" `nats consumer rm {stream} {name}` and this again: it reads from the start, which harms nothing"
            ) from error
        changes.append(f"changed the consumer {name}: {fields}")
    return name


async def _add_subjects(jetstream: JetStreamContext, stream: str, found: ConsumerInfo, added: Sequence[str]) -> None:
    """Widen a filter. What the stream holds of the added subjects already lies behind the consumer: it goes back there.

    Where to is noted at the consumer in the same step, so that a provisioner that dies in between is continued.
    """
    assert found.config is not None
    firsts = [sequence for subject in added if (sequence := await _first(jetstream, stream, subject)) is not None]
    metadata = {key: value for key, value in (found.config.metadata or {}).items() if not key.startswith("_nats")}
    known = metadata.get(_REWIND)
    targets = [*firsts, *([int(known)] if known else [])]
    if targets and found.config.ack_policy != "none":
        metadata[_REWIND] = str(min(targets))
    filters = sorted({*filters_of(found.config), *added})
    config = replace(found.config, filter_subject=None, filter_subjects=filters, metadata=metadata)
    widened = await jetstream.add_consumer(stream, config)
    if metadata.get(_REWIND):
        await _rewind(jetstream, stream, widened)


async def _rewind(jetstream: JetStreamContext, stream: str, consumer: ConsumerInfo) -> None:
    assert consumer.config is not None
    metadata = {key: value for key, value in (consumer.config.metadata or {}).items() if not key.startswith("_nats")}
    await jetstream.reset_consumer(stream, str(consumer.config.durable_name), seq=int(metadata.pop(_REWIND)))
    await jetstream.add_consumer(stream, replace(consumer.config, metadata=metadata))


async def _first(jetstream: JetStreamContext, stream: str, subject: str) -> int | None:
    """The sequence of the first message of ``subject``, or None."""
    try:
        message = await jetstream.get_msg(stream, seq=1, next=True, subject=subject)
    except nats.js.errors.NotFoundError:
        return None
    return message.seq


async def connect(url: str, user: str, password: str, ca_file: Path | None = None) -> Client:
    """A connection of the provisioner, for one run. Raises what the client raises."""
    client = Client()
    try:
        await client.connect(
            servers=url.split(","),
            user=user,
            password=password,
            name=PROVISIONER,
            tls=tls_context(url, ca_file),
            inbox_prefix=inbox_prefix(user),
            allow_reconnect=False,
        )
    except BaseException:
        await client.close()
        raise
    return client


async def provision_server(
    url: str, password: str, *, replicas: int = 1, user: str = PROVISIONER, ca_file: Path | None = None,
    narrow: bool = False, wait_seconds: float = 0.0, specs: Sequence[StreamSpec] = STREAMS,
) -> list[str]:  # fmt: skip
    """Connect, within ``wait_seconds``, and make everything."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + wait_seconds
    while True:
        try:
            client = await connect(url, user, password, ca_file)
            try:
                return await provision(client, replicas, narrow=narrow, specs=specs)
            finally:
                await client.close()
        except (nats.errors.Error, nats.js.errors.ServiceUnavailableError, OSError) as error:
            if loop.time() >= deadline:
                raise
            sys.stderr.write(f"waiting for the broker: {type(error).__name__}: {error}\n")
        await asyncio.sleep(_RETRY_SECONDS)


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point. Ends with 1 if something was refused."""
    parser = argparse.ArgumentParser(
        prog="python -m messaging.provisioning", description="Make the streams and consumers of this release."
    )
    parser.add_argument("--narrow", action="store_true", help="take away subjects that this release does not read")
    parser.add_argument("--wait-seconds", type=float, default=60.0, help="how long to wait for the broker")
    arguments = parser.parse_args(argv)
    settings = Settings()
    try:
        changes = asyncio.run(
            provision_server(
                settings.nats_url,
                settings.nats_password.get_secret_value(),
                replicas=settings.stream_replicas,
                user=settings.nats_user,
                ca_file=settings.nats_ca_file,
                narrow=arguments.narrow,
                wait_seconds=arguments.wait_seconds,
                specs=settings.specs(),
            )
        )
    except RefusedError as refusal:
        sys.exit(str(refusal))
    sys.stdout.write("".join(f"{line}\n" for line in changes or ["everything was there already"]))


if __name__ == "__main__":
    main()
