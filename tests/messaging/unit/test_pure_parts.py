"""What needs neither a database nor a broker."""

import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import msgspec
import pytest
import sqlalchemy.exc
from nats.aio.client import Client
from opentelemetry import trace

from contracts import headers
from contracts.billing import CreditsRefused
from messaging.batches import Decoder, Subscription, UndecodableError, _deferral_seconds, _retry_seconds
from messaging.broker import HeaderClient
from messaging.database import is_contended, is_unavailable
from messaging.errors import DatabaseUnavailableError
from messaging.failpoints import VARIABLE, failpoint
from messaging.ids import derived_id, new_id, spelled, uuid_or_none
from messaging.inbox import Deferral
from messaging.positions import Checkpoints
from messaging.received import Received
from messaging.schema import table_statements
from messaging.sql import statement
from messaging.tracing import traceparent_for
from messaging.transaction import Transaction

EXAMPLE = Path(__file__).parents[3] / "libs/contracts/examples/billing.event.credits-refused.v1.json"


async def _ignore(tx: Transaction, messages: object) -> None:
    return None


def _example() -> CreditsRefused:
    return msgspec.json.decode(EXAMPLE.read_bytes(), type=CreditsRefused)


def _values(**changes: str) -> dict[str, str]:
    values = {
        headers.MESSAGE_ID: str(new_id()),
        headers.CORRELATION_ID: str(new_id()),
        headers.OCCURRED_AT: "2026-11-23T10:00:00+00:00",
        headers.PRODUCER: "billing",
    }
    return values | changes


def test_new_ids_are_version_seven_and_in_order() -> None:
    ids = [new_id() for _ in range(1000)]
    assert {made.version for made in ids} == {7}
    assert ids == sorted(set(ids))
    assert isinstance(ids[0], UUID)


@pytest.mark.parametrize(
    "lines",
    [
        f"{headers.MESSAGE_ID}: {new_id()}\r\n{headers.OCCURRED_AT}: 2026-11-27T10:00:00.5+00:00",
        "tight:value\r\ntabbed:\tvalue \r\nof-two: values: two\r\nempty:",
        "with space: lost\r\nno colon\r\nn\u00e4me: lost\r\nvalue: \u00e4\r\nsame: 1\r\nsame: 2",
        " 100 Idle Heartbeat\r\nNats-Last-Consumer: 1016\r\nNats-Last-Stream: 1024",
        " 404 No Messages",
    ],
)
async def test_headers_are_read_as_the_library_reads_them(lines: str) -> None:
    raw = f"NATS/1.0{'' if lines.startswith(' ') else chr(13) + chr(10)}{lines}\r\n\r\n".encode()
    read = await HeaderClient()._process_headers(raw)
    assert read == await Client()._process_headers(raw)
    assert read


async def test_a_header_of_broken_bytes_is_read_as_the_library_reads_it() -> None:
    raw = b"NATS/1.0\r\nvalue: \xff\r\n\xff: lost\r\n\r\n"
    assert await HeaderClient()._process_headers(raw) == await Client()._process_headers(raw) == {"value": "\ufffd"}


def test_derived_ids_repeat() -> None:
    namespace = new_id()
    assert derived_id(namespace, "a") == derived_id(namespace, "a") != derived_id(namespace, "b")


def test_a_failpoint_is_silent_unless_it_is_named() -> None:
    failpoint("relay.after_publish")


@pytest.mark.parametrize(("configured", "passages"), [("here", 1), ("there,here:3", 3)])
def test_a_failpoint_kills_the_process_at_the_passage_that_is_named(configured: str, passages: int) -> None:
    program = (
        "from messaging.failpoints import failpoint\nfor n in range(1, 9):\n print(n, flush=True); failpoint('here')"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], env={VARIABLE: configured}, capture_output=True, check=False, timeout=30
    )
    assert done.returncode == -9
    assert done.stdout.split() == [str(number).encode() for number in range(1, passages + 1)]


def test_a_message_is_decoded_with_all_that_its_headers_say() -> None:
    decoder = Decoder([Subscription(CreditsRefused, _ignore)])
    cause = new_id()
    values = _values(**{headers.CAUSATION_ID: str(cause), headers.TRACEPARENT: "00-x"})
    received, subscription = decoder.decode(CreditsRefused.subject, values, EXAMPLE.read_bytes(), 3)
    assert isinstance(received.payload, CreditsRefused)
    assert received.causation_id == cause
    assert received.occurred_at == datetime(2026, 11, 23, 10, tzinfo=UTC)
    assert (received.traceparent, received.deliveries) == ("00-x", 3)
    assert subscription.handler is _ignore


@pytest.mark.parametrize(
    ("subject", "values", "payload", "reason"),
    [
        ("billing.event.unheard-of.v1", _values(), b"{}", "does not handle"),
        (CreditsRefused.subject, {}, b"{}", "missing"),
        (CreditsRefused.subject, _values(), b"{", "truncated"),
        (CreditsRefused.subject, _values(**{headers.MESSAGE_ID: "7"}), EXAMPLE.read_bytes(), "UUID"),
        (CreditsRefused.subject, _values(**{headers.OCCURRED_AT: "noon"}), EXAMPLE.read_bytes(), "isoformat"),
        (CreditsRefused.subject, _values(**{headers.PRODUCER: "gateway"}), EXAMPLE.read_bytes(), "not a message of ga"),
        (CreditsRefused.subject, _values(**{headers.PRODUCER: ""}), EXAMPLE.read_bytes(), "is not a message of"),
    ],
)
def test_what_is_wrong_with_a_message_is_named(
    subject: str, values: dict[str, str], payload: bytes, reason: str
) -> None:
    decoder = Decoder([Subscription(CreditsRefused, _ignore)])
    with pytest.raises(UndecodableError, match=reason):
        decoder.decode(subject, values, payload, 1)


def test_waits_grow_and_are_bounded() -> None:
    soon, later = timedelta(seconds=59), timedelta(seconds=61)
    assert [_deferral_seconds(Deferral(number, soon)) for number in (1, 2, 3, 100)] == [0.1, 0.2, 0.4, 1.0]
    assert _deferral_seconds(Deferral(100, later)) == 10.0
    assert 0.2 <= _retry_seconds(1, new_id()) <= 0.3
    assert 48 <= _retry_seconds(50, new_id()) <= 72


def test_a_checkpoint_moves_forward_only_and_ends_with_its_connection() -> None:
    checkpoints = Checkpoints("relay")
    created = datetime(2026, 11, 23, tzinfo=UTC)
    ids = [new_id() for _ in range(4)]
    checkpoints.remember_stream("BILLING", created, epoch=0)
    first = checkpoints.advance("BILLING", 10, ids[0], epoch=0)
    second = checkpoints.advance("BILLING", 20, ids[1], epoch=0)
    back = checkpoints.advance("BILLING", 15, ids[2], epoch=0)
    after = checkpoints.advance("BILLING", 12, ids[3], epoch=1)
    assert first.checkpoint_id == second.checkpoint_id == back.checkpoint_id != after.checkpoint_id
    assert (back.sequence, back.message_id) == (20, ids[1])
    assert (after.sequence, after.message_id) == (12, ids[3])
    assert (second.stream_created_at, after.stream_created_at) == (created, None)


def _raised(cause: BaseException) -> Exception:
    error = RuntimeError("in a handler")
    error.__cause__ = cause
    return error


CONTENTION = ("55P03", "57014")


class _Server(Exception):
    def __init__(self, sqlstate: str) -> None:
        super().__init__(sqlstate)
        self.sqlstate = sqlstate


TROUBLE_OF_THE_DATABASE = (
    *("08000", "08001", "08003", "08004", "08006", "08007", "08P01"),  # the connection
    *("53000", "53100", "53200", "53300", "53400"),  # disk, memory, connections
    *("57P01", "57P02", "57P03", "57P04", "57P05"),  # shutdown, crash, start
    *("58000", "58030"),  # the operating system
    *("25006", "25P03", "25P04", "40001", "40P01"),  # read-only, idle, long, serialization failure, deadlock
    *CONTENTION,
)


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (DatabaseUnavailableError("gone"), True),
        (_raised(DatabaseUnavailableError("gone")), True),
        *((sqlalchemy.exc.DBAPIError("q", {}, _Server(state)), True) for state in TROUBLE_OF_THE_DATABASE),
        (sqlalchemy.exc.IntegrityError("q", {}, _Server("23505")), False),
        (FileNotFoundError("the handler's own"), False),
        (TimeoutError("the driver's own"), True),
        (ValueError("poison"), False),
    ],
)
def test_only_the_database_s_own_trouble_is_not_blamed_on_the_message(error: Exception, expected: bool) -> None:
    assert is_unavailable(error) is expected


@pytest.mark.parametrize("state", TROUBLE_OF_THE_DATABASE)
def test_only_locks_and_long_work_call_for_smaller_transactions(state: str) -> None:
    error = _raised(sqlalchemy.exc.DBAPIError("q", {}, _Server(state)))
    assert is_contended(error) is (state in CONTENTION)


def test_a_trace_goes_on_from_the_message_that_is_answered(monkeypatch: pytest.MonkeyPatch) -> None:
    # Other tests of this process may have configured tracing.
    monkeypatch.setattr("service_runtime.tracing._TRACER", trace.NoOpTracer())
    around = trace.SpanContext(trace_id=7, span_id=7, is_remote=False, trace_flags=trace.TraceFlags(1))
    cause = Received(new_id(), "s", _example(), new_id(), None, datetime.now(UTC), f"00-{9:032x}-{9:016x}-01", 1)

    def trace_of(cause: Received[Any] | None, traceparent: str | None = None) -> str | None:
        context = traceparent_for(new_id(), "s", new_id(), cause, traceparent)
        return None if context is None else context.split("-")[1]

    with trace.use_span(trace.NonRecordingSpan(around)):
        assert trace_of(None) == f"{7:032x}"
        assert trace_of(None, f"00-{8:032x}-{8:016x}-01") == f"{8:032x}"
        assert trace_of(cause, f"00-{8:032x}-{8:016x}-01") == f"{9:032x}"
    assert trace_of(None) is None


@pytest.mark.parametrize("schema", ["x; DROP TABLE y", 'a"b', ""])
def test_a_schema_must_be_a_plain_name(schema: str) -> None:
    with pytest.raises(ValueError, match="not a plain SQL name"):
        statement(schema, "SELECT 1")
    with pytest.raises(ValueError, match="not a plain SQL name"):
        table_statements(schema)


def test_received_is_immutable() -> None:
    received = Received(new_id(), CreditsRefused.subject, _example(), new_id(), None, datetime.now(UTC), None, 1)
    with pytest.raises(AttributeError):
        received.deliveries = 2  # type: ignore[misc]


def test_an_id_that_is_spelled_otherwise_is_the_same_id() -> None:
    message_id = new_id()
    spellings = [spelled(message_id, number) for number in range(3)]
    assert len(set(spellings)) == 3
    assert {UUID(one) for one in spellings} == {uuid_or_none(one) for one in spellings} == {message_id}
    assert spellings[0] == str(message_id)
