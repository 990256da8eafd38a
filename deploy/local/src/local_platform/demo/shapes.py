"""What the demo sends to the API, and what it reads of the answers."""

from typing import TypedDict

import msgspec


class Order(TypedDict):
    """The body of ``POST /v1/generations``."""

    model_id: str
    parameters: dict[str, str]


class Balance(msgspec.Struct, frozen=True):
    """``GET /v1/balance``."""

    available_credits: int
    reserved_credits: int


class Model(msgspec.Struct, frozen=True):
    """One item of ``GET /v1/models``."""

    id: str
    kind: str
    title: str


class CreditPack(msgspec.Struct, frozen=True):
    """One item of ``GET /v1/credit-packs``."""

    id: str
    credits: int
    bonus_credits: int


class Payment(msgspec.Struct, frozen=True):
    """``POST /v1/payments``."""

    checkout_url: str


class Verification(msgspec.Struct, frozen=True):
    """``POST /v1/verify``."""

    made_here: bool
    explanation: str


class Failure(msgspec.Struct, frozen=True):
    """Why a generation failed."""

    code: str


class Download(msgspec.Struct, frozen=True):
    """A short-lived link to a file."""

    url: str


class Generation(msgspec.Struct, frozen=True):
    """``GET /v1/generations/{id}``, and the answer to an order."""

    id: str
    status: str
    price_credits: int
    failure: Failure | None = None
    download: Download | None = None


class StatementLine(msgspec.Struct, frozen=True):
    """One item of ``GET /v1/ledger``."""

    line_number: int
    reason: str
    available_delta_credits: int
    reserved_delta_credits: int
    available_after_credits: int
    reserved_after_credits: int


class RefusedOrder(msgspec.Struct, frozen=True):
    """The problem of an order that the user cannot pay."""

    code: str
    required: int
    available: int
