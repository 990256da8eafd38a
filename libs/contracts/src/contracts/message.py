"""What every message has in common: a subject, the services that produce and consume it, and a typed payload."""

from typing import ClassVar, Literal

import msgspec

Service = Literal["gateway", "billing", "generation", "storage", "payments", "auditor"]

SERVICES: tuple[Service, ...] = ("gateway", "billing", "generation", "storage", "payments", "auditor")


class Message(msgspec.Struct, frozen=True, kw_only=True):
    """A payload that travels on one JetStream subject.

    Subjects are ``<owner>.event.<past-tense-name>.v<N>`` and ``<receiver>.command.<imperative-name>.v<N>``; the first
    word is also the stream. Fields are only ever added, with a default: a reader ignores what it does not know.

    ``history`` says that the message only tells what happens meanwhile: no order, credit or payment waits for it. It is
    held back first when its stream is nearly full.
    """

    subject: ClassVar[str]
    history: ClassVar[bool] = False
    producers: ClassVar[tuple[Service, ...]]
    consumers: ClassVar[tuple[Service, ...]]
