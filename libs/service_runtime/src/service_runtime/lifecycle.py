"""The life of a service process: start in order, run until told to stop or something dies, drain, stop in order."""

import asyncio
import ctypes
import gc
import os
import signal
import sys
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import Any, Final, NoReturn, Protocol, TypeVar

import structlog
import uvloop

from service_runtime.health import Health, ReadinessCheck, ops_app
from service_runtime.http_middleware import RequestObservation
from service_runtime.listener import HttpServer, Listener, ListenerFailed
from service_runtime.process_metrics import describe_process
from service_runtime.schema_version import require_schema_when_available
from service_runtime.settings import ServiceSettings
from service_runtime.tracing import configure_tracing, flush_traces

__all__ = [
    "Component",
    "ComponentFailed",
    "HttpServer",
    "ListenerFailed",
    "ServiceFailed",
    "StartFailed",
    "StopTimedOut",
    "run_process",
    "run_service",
    "to_the_end",
]

T = TypeVar("T")
Hook = Callable[[], Awaitable[Any]]

_REQUESTS_SHARE: Final = 0.7
"""The part of the drain time that open requests get; the rest belongs to components and hooks."""
_OPS_DRAIN_SECONDS: Final = 1.0
_CANCEL_AGAIN_SECONDS: Final = 1.0
_COLLECT_AFTER_ALLOCATIONS: Final = 10_000

log = structlog.get_logger(__name__)


class Component(Protocol):
    """Something that runs as long as the service does: a consumer, a relay, a loop."""

    name: str

    async def run(self) -> None:
        """Run until cancelled. To return, or to raise, ends the process."""


class ServiceFailed(Exception):
    """The service ends because a part of it failed; the cause is attached, and both are in the log already."""


class StartFailed(ServiceFailed):
    """``on_start`` raised, or a listener could not start."""


class ComponentFailed(ServiceFailed):
    """A component or listener raised or returned."""


class StopTimedOut(Exception):
    """Something did not stop within the drain time."""


async def run_service(
    name: str,
    settings: ServiceSettings,
    *,
    schema: str | None = None,
    components: Sequence[Component] = (),
    http: Sequence[HttpServer] = (),
    readiness: Mapping[str, ReadinessCheck] | None = None,
    degraded_by: Mapping[str, ReadinessCheck] | None = None,
    on_start: Hook | None = None,
    on_drain: Callable[[], None] | None = None,
    on_stop: Hook | None = None,
) -> None:
    """Run a service until SIGTERM, SIGINT or cancellation; return after an orderly stop.

    Start: ops listener, ``schema`` (is its version new enough?), ``on_start``, components, public listeners, ready.
    Stop, all of it within ``drain_seconds``: not ready, ``on_drain`` (end your long streams here), public listeners
    drain, components are cancelled, ``on_stop``, ops listener. ``readiness`` and ``degraded_by`` are checks of
    :class:`~service_runtime.health.Health`. Every public application runs inside
    ``RequestObservation``.

    Raises StartFailed or ComponentFailed, and StopTimedOut if something does not end within the drain time.
    """
    configure_tracing(name, settings)
    describe_process(name)
    health = Health(readiness or {}, components, degraded_by)
    await _Process(name, settings, schema, components, http, health, on_start, on_drain, on_stop).run()


def run_process(main: Coroutine[Any, Any, None]) -> NoReturn:
    """Run ``main`` under uvloop and end the process: 0 after an orderly stop, 1 with the reason in the log otherwise.

    The end is unconditional, so that no task and no thread holds the process beyond its drain time.
    """
    code = 1
    try:
        uvloop.run(_run_and_exit(main))
    except BaseException as error:  # noqa: BLE001 - the last one to see it turns it into the exit code
        code = error.code if isinstance(error, SystemExit) and isinstance(error.code, int) else 1
    _exit(code)


async def _run_and_exit(main: Coroutine[Any, Any, None]) -> NoReturn:
    try:
        await main
    except StopTimedOut as error:
        log.error("stop_timed_out", reason=str(error))
        _exit(1)
    except ServiceFailed:
        _exit(1)
    except Exception as error:
        log.exception("service_failed", reason=str(error))
        _exit(1)
    # Here, because leaving the loop would wait for the very tasks and threads that do not end.
    _exit(0)


async def to_the_end(work: Coroutine[Any, Any, T], drain_seconds: float) -> T:
    """Await ``work``; if this task is cancelled, let it finish first, for at most ``drain_seconds``.

    For a component whose step must not be cut in two: a batch, the commit of a claim.
    """
    task = asyncio.create_task(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        deadline = time.monotonic() + drain_seconds
        while not task.done():
            if time.monotonic() >= deadline:
                task.cancel()
            # A stop cancels again and again; the bound is ours.
            with suppress(asyncio.CancelledError):
                await asyncio.wait({task}, timeout=max(0.1, deadline - time.monotonic()))
        raise


def _exit(code: int) -> NoReturn:
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def freeze_loaded_objects() -> None:
    """Take modules, classes and statements out of garbage collection: they live as long as the process, and visiting
    them again and again costs a tenth of its time. Later objects are collected less often, too: few are in cycles."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(_COLLECT_AFTER_ALLOCATIONS, 10, 10)


def _return_free_memory() -> None:
    """Give back what loading needed for a while: 1 to 4 MB, which glibc would keep. Others have nothing to call."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


class _Process:
    """One run of one service."""

    def __init__(
        self,
        name: str,
        settings: ServiceSettings,
        schema: str | None,
        components: Sequence[Component],
        http: Sequence[HttpServer],
        health: Health,
        on_start: Hook | None,
        on_drain: Callable[[], None] | None,
        on_stop: Hook | None,
    ) -> None:
        self._name = name
        self._settings = settings
        self._components = components
        self._http = http
        self._health = health
        self._schema = schema
        self._on_start = on_start
        self._on_drain = on_drain
        self._on_stop = on_stop
        self._stop_requested = asyncio.Event()
        self._ops: Listener | None = None
        self._listeners: list[Listener] = []
        self._starting: list[asyncio.Task[None]] = []
        self._tasks: list[asyncio.Task[None]] = []

    async def run(self) -> None:
        with _signals(self._stop_requested.set):
            try:
                self._starting = [asyncio.create_task(self._start(), name="start")]
                await self._wait_for_first(self._starting)
                if self._starting[0].done():
                    _check_start(self._starting[0])
                    await self._run_until_failure()
            except ServiceFailed as error:
                # Here, because the stop takes its time, and may be cut short.
                log.exception("service_failed", reason=str(error))
                raise
            finally:
                await self._stop()

    async def _start(self) -> None:
        settings = self._settings
        self._ops = Listener(
            HttpServer(ops_app(self._health), settings.ops_host, settings.ops_port), _OPS_DRAIN_SECONDS
        )
        await self._ops.start()
        if self._schema is not None:
            await require_schema_when_available(settings, self._schema)
        if self._on_start is not None:
            await self._on_start()
        self._tasks = [asyncio.create_task(component.run(), name=component.name) for component in self._components]
        for server in self._http:
            observed = replace(server, app=RequestObservation(server.app))
            listener = Listener(observed, settings.drain_seconds * _REQUESTS_SHARE)
            self._listeners.append(listener)
            await listener.start()
        freeze_loaded_objects()
        _return_free_memory()
        self._health.ready = True
        log.info("service_started", ops=self._ops.address, http=[listener.address for listener in self._listeners])

    async def _run_until_failure(self) -> None:
        assert self._ops is not None
        listening = [listener.task for listener in (self._ops, *self._listeners) if listener.task is not None]
        watched: list[asyncio.Task[Any]] = [*self._tasks, *listening]
        await self._wait_for_first(watched)
        for task in watched:
            if task.done():
                raise _failure(task)

    async def _wait_for_first(self, tasks: Sequence[asyncio.Task[Any]]) -> None:
        """Return when one of ``tasks`` ends, or the service is told to stop."""
        stop = asyncio.create_task(self._stop_requested.wait())
        try:
            await asyncio.wait([stop, *tasks], return_when=asyncio.FIRST_COMPLETED)
        finally:
            stop.cancel()

    async def _stop(self) -> None:
        self._health.ready, self._health.reason = False, "stopping"
        log.info("service_stopping", drain_seconds=self._settings.drain_seconds)
        try:
            async with asyncio.timeout(self._settings.drain_seconds):
                await _cancel(self._starting)
                if self._on_drain is not None:
                    self._on_drain()
                await asyncio.gather(*(listener.stop() for listener in self._listeners))
                await _cancel(self._tasks)
                if self._on_stop is not None:
                    await self._on_stop()
                await asyncio.to_thread(flush_traces, 1.0)
        except TimeoutError as error:
            raise StopTimedOut(f"after {self._settings.drain_seconds:g} s still there: {self._remaining()}") from error
        finally:
            if self._ops is not None:
                await self._ops.stop()
        log.info("service_stopped")

    def _remaining(self) -> str:
        tasks = [listener.task for listener in self._listeners if listener.task is not None]
        names = [task.get_name() for task in (*self._starting, *tasks, *self._tasks) if not task.done()]
        return ", ".join(names) or "on_stop"


async def _cancel(tasks: Sequence[asyncio.Task[None]]) -> None:
    """Return when all of them have ended."""
    running = [task for task in tasks if not task.done()]
    pending = set(running)
    while pending:
        # Python 3.11's wait_for, which libraries use, can swallow one cancellation: the drain time is the bound.
        for task in pending:
            task.cancel()
        _, pending = await asyncio.wait(pending, timeout=_CANCEL_AGAIN_SECONDS)
    for task in running:
        if not task.cancelled() and task.exception() is not None:
            log.error("component_failed_while_stopping", component=task.get_name(), exc_info=task.exception())


def _check_start(task: asyncio.Task[None]) -> None:
    error = task.exception()
    if error is not None:
        raise StartFailed(f"the start failed: {type(error).__name__}: {error}") from error


def _failure(task: "asyncio.Task[Any]") -> ComponentFailed:
    cause = None if task.cancelled() else task.exception()
    what = f"{type(cause).__name__}: {cause}" if cause is not None else "it returned before the stop"
    failure = ComponentFailed(f"{task.get_name()} died: {what}")
    failure.__cause__ = cause
    return failure


@contextmanager
def _signals(told: Callable[[], None]) -> Iterator[None]:
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, told)
    try:
        yield
    finally:
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)
