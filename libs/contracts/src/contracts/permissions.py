"""What each service may do at the broker, derived from the registry: least privilege, kept in one place.

The same lists configure the embedded server, Docker Compose and Kubernetes. A service may publish the messages it
produces and nothing else, read through its own durable consumers only, and manage only the stream that it owns.
"""

import msgspec

from contracts import live
from contracts.billing import CreditsRefused, CreditsReserved
from contracts.message import Service
from contracts.payments import PaymentChanged, PaymentRefused
from contracts.registry import consumed_by, produced_by, stream_of
from contracts.streams import STREAMS

LIVE_PUBLISH: dict[Service, tuple[str, ...]] = {
    "generation": (live.PROGRESS_SUBJECT,),
    "gateway": (f"{live.GATEWAY_PROJECTED_PREFIX}.*",),
}
"""Core subjects (no stream behind them) that a service publishes."""

LIVE_SUBSCRIBE: dict[Service, tuple[str, ...]] = {
    "gateway": (
        live.PROGRESS_SUBJECT,
        f"{live.GATEWAY_PROJECTED_PREFIX}.*",
        # The verdicts that an open HTTP request waits for: every replica hears them besides its durable consumer.
        CreditsReserved.subject,
        CreditsRefused.subject,
        PaymentChanged.subject,
        PaymentRefused.subject,
    ),
}
"""Subjects that a service listens to without a durable consumer, because missing one loses nothing."""


class Permissions(msgspec.Struct, frozen=True):
    """Subjects that one NATS user may publish to and subscribe to; everything else is denied."""

    publish: tuple[str, ...]
    subscribe: tuple[str, ...]


def durable_name(service: Service, stream: str) -> str:
    """Name of the one durable consumer through which ``service`` reads ``stream``."""
    return f"{service}-{stream.lower()}"


def inbox_prefix(service: Service) -> str:
    """Reply subjects are private to each service, so that none can read another's answers."""
    return f"_INBOX_{service}"


def permissions_of(service: Service) -> Permissions:
    """Everything that ``service`` needs at the broker, and no more."""
    produced = tuple(message.subject for message in produced_by(service))
    targets = sorted({stream_of(subject) for subject in produced})
    sources = sorted({stream_of(message.subject) for message in consumed_by(service)})
    owned = [stream.name for stream in STREAMS if stream.owner == service]
    publish = [*produced, *LIVE_PUBLISH.get(service, ()), "$JS.API.INFO"]
    for stream in owned:
        publish += [f"$JS.API.STREAM.CREATE.{stream}", f"$JS.API.STREAM.UPDATE.{stream}"]
    for stream in sorted({*owned, *targets, *sources}):
        publish += [
            f"$JS.API.STREAM.INFO.{stream}",
            f"$JS.API.STREAM.MSG.GET.{stream}",
            f"$JS.API.DIRECT.GET.{stream}",
            f"$JS.API.DIRECT.GET.{stream}.>",
        ]
    for stream in sources:
        publish += _consumer_subjects(stream, durable_name(service, stream))
    subscribe = [f"{inbox_prefix(service)}.>", *LIVE_SUBSCRIBE.get(service, ())]
    return Permissions(publish=tuple(publish), subscribe=tuple(subscribe))


def _consumer_subjects(stream: str, durable: str) -> list[str]:
    return [
        f"$JS.API.CONSUMER.CREATE.{stream}.{durable}",
        f"$JS.API.CONSUMER.CREATE.{stream}.{durable}.>",
        f"$JS.API.CONSUMER.DURABLE.CREATE.{stream}.{durable}",
        f"$JS.API.CONSUMER.INFO.{stream}.{durable}",
        f"$JS.API.CONSUMER.DELETE.{stream}.{durable}",
        f"$JS.API.CONSUMER.MSG.NEXT.{stream}.{durable}",
        f"$JS.ACK.{stream}.{durable}.>",
        f"$JS.ACK.*.*.{stream}.{durable}.>",
    ]
