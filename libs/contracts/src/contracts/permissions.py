"""What each service may do at the broker, derived from the registry: least privilege, kept in one place.

There is one account that holds all streams and consumers, and one account without JetStream for each service, which
imports exact subjects of it. Inside one account a server answers wherever a request tells it to, so that permissions on
subjects confine nobody; across accounts an answer reaches the account that asked. The same lists configure the embedded
server, Docker Compose and Kubernetes.
"""

from typing import Final

import msgspec

from contracts import live
from contracts.billing import CreditsRefused, CreditsReserved
from contracts.message import SERVICES, Service
from contracts.payments import PaymentChanged, PaymentRefused
from contracts.queries import answered_by, asked_by
from contracts.registry import BY_SUBJECT, consumed_by, produced_by, stream_of

HUB: Final = "HUB"
"""The account that holds all streams and consumers. Only the provisioner has a user in it."""

SYSTEM: Final = "SYS"
"""The servers' own account. Nobody has a user in it."""

PROVISIONER: Final = "provisioner"
"""The user that creates streams and consumers."""

API_PREFIX: Final = f"JS.{HUB}.API"
"""How JetStream's API is called in a service's account. Under its own name the service's account would answer."""

LIVE_PUBLISH: dict[Service, tuple[str, ...]] = {
    "generation": (live.PROGRESS_SUBJECT, live.ESTIMATES_SUBJECT),
    "gateway": (f"{live.GATEWAY_PROJECTED_PREFIX}.*",),
}
"""Core subjects (no stream behind them) that a service publishes."""

LIVE_SUBSCRIBE: dict[Service, tuple[str, ...]] = {
    "gateway": (
        live.PROGRESS_SUBJECT,
        live.ESTIMATES_SUBJECT,
        f"{live.GATEWAY_PROJECTED_PREFIX}.*",
        # The verdicts that an open HTTP request waits for: every replica hears them besides its durable consumer.
        CreditsReserved.subject,
        CreditsRefused.subject,
        PaymentChanged.subject,
        PaymentRefused.subject,
    ),
}
"""Subjects that a service listens to without a durable consumer, because missing one loses nothing."""

FOLLOWED: dict[Service, tuple[Service, ...]] = {"billing": ("gateway",)}
"""Readers of a service's own stream of which it may ask how far they have come.

An operator who grants credits is told when the user sees them.
"""


class Permissions(msgspec.Struct, frozen=True):
    """Subjects that one NATS user may publish to and subscribe to; everything else is denied.

    ``answers`` allows one answer to each message that asks for one, wherever that is.
    """

    publish: tuple[str, ...]
    subscribe: tuple[str, ...]
    answers: bool = False


class Call(msgspec.Struct, frozen=True):
    """A subject of the hub that a service may ask, and what the service's account calls it.

    ``streams`` says that there is more than one answer.
    """

    subject: str
    local_subject: str
    streams: bool = False


class Heard(msgspec.Struct, frozen=True):
    """A live subject that a service hears of another one."""

    producer: Service
    subject: str


def durable_name(service: Service, stream: str) -> str:
    """Name of the one durable consumer through which ``service`` reads ``stream``."""
    return f"{service}-{stream.lower()}"


def verifier_name(service: Service, stream: str) -> str:
    """Name of the consumer through which ``service`` finds what ``stream`` holds under one sequence."""
    return f"{durable_name(service, stream)}-verify"


def inbox_prefix(user: str) -> str:
    """Reply subjects are private to each user, so that none can read another's answers."""
    return f"_INBOX_{user}"


def sources_of(service: Service) -> list[str]:
    """The streams that ``service`` reads."""
    return sorted({stream_of(message.subject) for message in consumed_by(service)})


def streams_of(service: Service) -> list[str]:
    """The streams that ``service`` reads or publishes into."""
    return sorted({stream_of(message.subject) for message in (*consumed_by(service), *produced_by(service))})


def consumed_subjects(service: Service, stream: str) -> list[str]:
    """What ``service`` reads of ``stream``."""
    return sorted(message.subject for message in consumed_by(service) if stream_of(message.subject) == stream)


def known_subjects(service: Service, stream: str) -> list[str]:
    """What ``service`` reads of ``stream``, and what it has published there itself."""
    known = {message.subject for message in (*consumed_by(service), *produced_by(service))}
    return sorted(subject for subject in known if stream_of(subject) == stream)


def calls_of(service: Service) -> list[Call]:
    """All that ``service`` may ask of the hub: publish its messages, and work with its own consumers."""
    calls = [Call(message.subject, message.subject) for message in produced_by(service)]
    for stream in streams_of(service):
        calls.append(_api_call(f"STREAM.INFO.{stream}"))
        verifier = verifier_name(service, stream)
        calls += _consumer_calls(stream, verifier)
    for stream in sources_of(service):
        durable = durable_name(service, stream)
        calls += _consumer_calls(stream, durable)
        calls.append(Call(f"$JS.ACK.{stream}.{durable}.>", f"$JS.ACK.{stream}.{durable}.>"))
    for reader in FOLLOWED.get(service, ()):
        calls.append(_api_call(f"CONSUMER.INFO.{service.upper()}.{durable_name(reader, service.upper())}"))
    return calls


def heard_by(service: Service) -> list[Heard]:
    """The live subjects that ``service`` hears of others. They come from the account of their producer."""
    return [
        Heard(producer, subject)
        for subject in LIVE_SUBSCRIBE.get(service, ())
        for producer in _producers_of(subject)
        if producer != service
    ]


def permissions_of(service: Service) -> Permissions:
    """Everything that the user of ``service`` needs in its account, and no more."""
    publish = [
        *(call.local_subject for call in calls_of(service)),
        *LIVE_PUBLISH.get(service, ()),
        *(query.subject for query in asked_by(service)),
    ]
    answered = [query.subject for query in answered_by(service)]
    subscribe = [f"{inbox_prefix(service)}.>", *LIVE_SUBSCRIBE.get(service, ()), *answered]
    return Permissions(publish=tuple(publish), subscribe=tuple(subscribe), answers=bool(answered))


def provisioner_permissions() -> Permissions:
    """What the provisioner needs: all of JetStream, and no message of ours.

    It makes streams and consumers. After a database was restored, it reads the streams and empties them.
    """
    return Permissions(publish=("$JS.API.>", "$JS.ACK.>"), subscribe=(f"{inbox_prefix(PROVISIONER)}.>",))


def _producers_of(subject: str) -> tuple[Service, ...]:
    if subject in BY_SUBJECT:
        return BY_SUBJECT[subject].producers
    return tuple(service for service in SERVICES if subject in LIVE_PUBLISH.get(service, ()))


def _api_call(call: str, *, streams: bool = False) -> Call:
    return Call(f"$JS.API.{call}", f"{API_PREFIX}.{call}", streams)


def _consumer_calls(stream: str, durable: str) -> list[Call]:
    return [
        _api_call(f"CONSUMER.INFO.{stream}.{durable}"),
        _api_call(f"CONSUMER.RESET.{stream}.{durable}"),
        _api_call(f"CONSUMER.MSG.NEXT.{stream}.{durable}", streams=True),
    ]
