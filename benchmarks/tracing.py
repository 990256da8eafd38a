"""What traces cost in processor time: none at all, made and not recorded, and 10 % of them recorded.

    python -m benchmarks.tracing [--rounds 480]

One unit of work is what a service does most: a request under the middleware, a message processed by billing's handler
in a transaction on a real PostgreSQL, and its event sent. All three ways do the same, in turns in one process, whose
processor time is what counts (the exporter's thread included). A collector takes the spans in another process.
The quickest quarter of the turns of each way is compared: a busy machine slows turns down, and quickens none.
Each turn of the third way records one unit of ten: where chance decided, the quickest would be those with fewer.
What off costs is less than what two such measurements differ by. So it is measured alone, too: the same calls for a
request, a message and its event, with nothing in them, a hundred at a time, the quickest of all.
Exit code 1 if off costs more than 4 % (against a process without trace ids), or recording 10 % another 5 %, or the
calls alone more than 0.03 ms a unit.
"""

import argparse
import asyncio
import multiprocessing
import os
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from multiprocessing.connection import Connection
from typing import Final
from uuid import UUID, uuid4

import uvloop
from opentelemetry.trace import NoOpTracerProvider, Tracer, TracerProvider

from billing import handlers
from local_platform.console import say, table
from local_platform.servers import PostgresServer
from messaging.ids import new_id
from messaging.tracing import consumer_span, record_sent, traceparent_for
from service_runtime import tracing
from service_runtime.http_middleware import AsgiMessage, Receive, RequestObservation, Scope, Send
from service_runtime.logging import configure_logging
from service_runtime.tracers import RecordingProvider
from tests.billing.ledger_harness import LedgerHarness, order, received
from tests.service_runtime.settings import settings
from tests.support.databases import DatabaseFactory
from tests.support.folders import removed_at_exit

UNITS: Final = 10
"""Of work, in one turn. Of those that are recorded, one is."""
WARM_UP: Final = 10
"""Rounds that do not count."""
ROUNDS_OF_EXPORT: Final = 60
"""Spans of so many rounds are exported together: some 360, as a service that is busy exports them."""
EXPORT_MILLISECONDS: Final = 10_000
MOST_OFF: Final = 1.04
"""Off still makes trace ids: logs, answers and messages carry them, recorded or not."""
MOST_ON: Final = 1.05
MOST_OFF_MICROSECONDS: Final = 30.0
"""One per cent of a unit."""
CALLS: Final = 100
REPEATED: Final = 100


class Sink(BaseHTTPRequestHandler):
    """A collector that reads what it is sent and forgets it."""

    def do_POST(self) -> None:
        """Take one batch."""
        self.rfile.read(int(self.headers["content-length"]))
        self.send_response(200)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


def collect(ready: Connection) -> None:
    """The collector's process: tells its port."""
    server = HTTPServer(("127.0.0.1", 0), Sink)
    ready.send(server.server_port)
    server.serve_forever()


class Way:
    """Who makes the spans of a turn: ``one`` those of one unit, by turns, and ``rest`` those of all others."""

    def __init__(self, one: TracerProvider, rest: TracerProvider) -> None:
        self.one = one
        self._tracer = one.get_tracer("reelhouse")
        self._rest = [rest.get_tracer("reelhouse")] * (UNITS - 1)

    def tracers(self, turn: int) -> Sequence[Tracer]:
        """Of the units of a turn, by its number."""
        before = turn % UNITS
        return [*self._rest[:before], self._tracer, *self._rest[before:]]


class Work:
    """Units of work on one ledger."""

    def __init__(self, ledger: LedgerHarness, user: UUID) -> None:
        self._ledger = ledger
        self._user = user
        self._app = RequestObservation(self._handle)

    async def turn(self, tracers: Sequence[Tracer]) -> None:
        """A unit with each tracer, one after the other."""
        for tracer in tracers:
            tracing._TRACER = tracer  # type: ignore[misc]
            scope = {"type": "http", "method": "POST", "path": "/v1/generations", "query_string": b"", "headers": []}
            await self._app(scope, _receive, _send)

    async def _handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        transactions = self._ledger.transactions
        command = received(order(self._user, 1))
        context = traceparent_for(new_id(), command.subject, command.correlation_id, None)
        message = replace(command, traceparent=context)
        with consumer_span("billing-gateway", [message]):
            async with transactions.begin() as tx:
                await handlers.reserve(tx, [message])
        record_sent(list(transactions.fresh), time.time_ns())
        transactions.fresh.clear()
        await send({"type": "http.response.start", "status": 201, "headers": []})
        await send({"type": "http.response.body", "body": b""})


async def _receive() -> AsgiMessage:
    return {"type": "http.request", "body": b""}


async def _send(message: AsgiMessage) -> None:
    await asyncio.sleep(0)


async def seconds_of_turn(work: Work, tracers: Sequence[Tracer]) -> float:
    """Processor time of one turn whose spans ``tracers`` make, without their export."""
    began = time.process_time()
    await work.turn(tracers)
    return time.process_time() - began


def seconds_of_export(provider: TracerProvider) -> float:
    """Processor time of the export of what is buffered."""
    began = time.process_time()
    if isinstance(provider, RecordingProvider):
        assert provider.force_flush(EXPORT_MILLISECONDS)
    return time.process_time() - began


async def measure(work: Work, ways: dict[str, Way], rounds: int) -> dict[str, list[float]]:
    """Seconds of each turn by way, with its share of the exports. Each round begins with another way."""
    names = list(ways)
    turns: dict[str, list[float]] = {name: [] for name in names}
    exports = dict.fromkeys(names, 0.0)
    for number in range(-WARM_UP, rounds):
        first = number % len(names)
        for name in names[first:] + names[:first]:
            seconds = await seconds_of_turn(work, ways[name].tracers(number))
            if number >= 0:
                turns[name].append(seconds)
        if (number + 1) % ROUNDS_OF_EXPORT == 0 or number + 1 == rounds:
            for name in names:
                exports[name] += seconds_of_export(ways[name].one)
    return {name: [one + exports[name] / (rounds + WARM_UP) for one in turns[name]] for name in names}


async def measure_calls(ways: Sequence[TracerProvider]) -> list[float]:
    """Microseconds that the calls of one unit take, without their work, by way."""
    command = received(order(uuid4(), 1))

    async def handle(scope: Scope, receive: Receive, send: Send) -> None:
        context = traceparent_for(command.message_id, command.subject, command.correlation_id, None)
        message = replace(command, traceparent=context)
        with consumer_span("billing-gateway", [message]):
            traceparent_for(command.message_id, command.subject, command.correlation_id, message)
        await send({"type": "http.response.start", "status": 201, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    async def send(message: AsgiMessage) -> None:
        """Take the answer."""

    app = RequestObservation(handle)
    quickest = [float("inf")] * len(ways)
    for _ in range(REPEATED):
        for number, provider in enumerate(ways):
            tracing._TRACER = provider.get_tracer("reelhouse")  # type: ignore[misc]
            began = time.process_time()
            for _ in range(CALLS):
                scope = {"type": "http", "method": "POST", "path": "/", "query_string": b"", "headers": []}
                await app(scope, _receive, send)
            quickest[number] = min(quickest[number], (time.process_time() - began) / CALLS * 1e6)
    return quickest


def ratio(found: dict[str, list[float]], way: str, peer: str) -> float:
    """What a turn of ``way`` costs, in turns of ``peer``."""
    return _undisturbed(found[way]) / _undisturbed(found[peer])


def _undisturbed(seconds: Sequence[float]) -> float:
    """The mean of the quickest quarter."""
    return statistics.mean(sorted(seconds)[: max(1, len(seconds) // 4)])


def report(found: dict[str, list[float]], none: float, off_alone: float) -> int:
    """Print the table; returns the exit code."""
    rows = [
        (
            way,
            f"{_undisturbed(seconds) / UNITS * 1e6:,.0f} µs",
            f"{ratio(found, way, 'none'):.3f}",
            f"{ratio(found, way, 'off'):.3f}",
        )
        for way, seconds in found.items()
    ]
    say(table(("recorded", "processor time of a unit", "of none", "of off"), rows))
    off, on = ratio(found, "off", "none"), ratio(found, "10 %", "off")
    say(f"off costs {off - 1:+.1%} (at most {MOST_OFF - 1:.0%}), 10 % costs {on - 1:+.1%} (at most {MOST_ON - 1:.0%})")
    say(
        f"the calls of a unit alone take {none:.1f} µs with none and {off_alone:.1f} µs with off:"
        f" {off_alone - none:+.1f} µs (at most {MOST_OFF_MICROSECONDS:g})"
    )
    return 0 if off <= MOST_OFF and on <= MOST_ON and off_alone - none <= MOST_OFF_MICROSECONDS else 1


async def run(rounds: int, port: int) -> int:
    """Measure on a database of its own."""
    endpoint = f"http://127.0.0.1:{port}/v1/traces"
    none, off, nothing, everything = (
        NoOpTracerProvider(),
        tracing.tracer_provider("benchmark", settings()),
        *(
            tracing.tracer_provider("benchmark", settings(otlp_endpoint=endpoint, trace_sample_ratio=ratio))
            for ratio in (0, 1)
        ),
    )
    ways = {"none": Way(none, none), "off": Way(off, off), "10 %": Way(everything, nothing)}
    with removed_at_exit("reelhouse-bench-tracing-") as directory:
        server = PostgresServer(directory)
        await server.start()
        try:
            database = await DatabaseFactory(server).make(("billing",))
            ledger, user = LedgerHarness(database.engine("billing", pool_size=1)), uuid4()
            await ledger.grant(user, 10_000_000)
            found = await measure(Work(ledger, user), ways, rounds)
            await database.dispose()
        finally:
            await server.stop("immediate")
    return report(found, *await measure_calls([none, off]))


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=480, help="turns of each way (default: 480)")
    rounds: int = parser.parse_args(arguments).rounds
    # Exports are made when they are measured, not after five seconds in the turn of another way.
    os.environ["OTEL_BSP_SCHEDULE_DELAY"] = "3600000"
    # As in production: requests that succeed are not logged.
    configure_logging("benchmark", settings())
    ours, theirs = multiprocessing.Pipe()
    collector = multiprocessing.get_context("spawn").Process(target=collect, args=(theirs,), daemon=True)
    collector.start()
    try:
        return uvloop.run(run(rounds, ours.recv()))
    finally:
        collector.kill()


if __name__ == "__main__":
    sys.exit(main())
