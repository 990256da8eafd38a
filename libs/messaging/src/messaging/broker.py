"""The connection to NATS: it reconnects for as long as the process lives."""

import asyncio
import re
import ssl
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import nats
import structlog
from nats.aio.client import Client
from nats.js.client import JetStreamContext

from contracts.permissions import API_PREFIX, inbox_prefix
from messaging.errors import BrokerUnavailableError
from service_runtime.settings import ServiceSettings

_log = structlog.get_logger("messaging.broker")

_PENDING_BYTES: Final = 64 * 1024 * 1024
"""Outbound buffer; nats-py's own 2 MiB overflow in one large batch."""

_RECONNECT_WAIT_SECONDS: Final = 0.2
_PING_SECONDS: Final = 5
_REQUEST_TIMEOUT_SECONDS: Final = 5.0
_ABANDON_SECONDS: Final = 1.0
_SAME_TROUBLE_SECONDS: Final = 5.0
"""While a server is away every attempt fails alike: one line in so many seconds is enough."""

_DENIED_PUBLISH: Final = re.compile(r'permissions violation for publish to "([^"]+)"', re.IGNORECASE)


class HeaderClient(Client):
    """nats-py's client, which reads headers in a third of the time: its own asks of every letter whether it is a space.

    That is done for each message that any service receives.
    """

    @staticmethod
    def _parse_header_lines(raw: bytes) -> dict[str, str]:
        values: dict[str, str] = {}
        for line in raw.split(b"\r\n"):
            name, colon, value = line.partition(b":")
            name = name.strip()
            if colon and name.isascii() and len(name.split()) == 1:
                values[name.decode()] = value.strip().decode(errors="replace")
        return values


class Broker:
    """One connection, shared by everything in the process that speaks to the broker.

    ``epoch`` grows with every reconnect: what was learnt from the broker under an older epoch may no longer be true.
    """

    def __init__(self, url: str, user: str, password: str, name: str, ca_file: Path | None = None) -> None:
        self._url = url
        self._tls = tls_context(url, ca_file)
        self._user = user
        self._password = password
        self._name = name
        self._client: Client | None = None
        self._jetstream: JetStreamContext | None = None
        self._connected = asyncio.Event()
        self._connecting = asyncio.Lock()
        self._users = 0
        self._listeners: list[Callable[[], None]] = []
        self._closed_by: str | None = None
        self._last_trouble: tuple[str, float] = ("", 0.0)
        self.epoch = 0
        self.answered_at: dict[str, float] = {}
        """When JetStream was last heard to answer for a stream, by the monotonic clock."""
        self.denied_subjects: set[str] = set()

    @classmethod
    def of(cls, settings: ServiceSettings, name: str) -> "Broker":
        """The connection of a service with these settings; ``name`` is shown in the server's list of connections."""
        password = settings.nats_password.get_secret_value()
        return cls(settings.nats_url, settings.nats_user, password, name, settings.nats_ca_file)

    @property
    def client(self) -> Client:
        """The nats-py client. Raises BrokerUnavailableError before the first connect."""
        if self._client is None:
            raise BrokerUnavailableError("not connected to the broker yet")
        return self._client

    @property
    def jetstream(self) -> JetStreamContext:
        """JetStream of the hub, as our account calls it. Raises BrokerUnavailableError before the first connect."""
        if self._jetstream is None:
            raise BrokerUnavailableError("not connected to the broker yet")
        return self._jetstream

    async def connect(self) -> None:
        """Connect, waiting for a server for as long as it takes. Does nothing on an open connection."""
        async with self._connecting:
            if self._client is not None:
                return
            client = HeaderClient()
            try:
                await client.connect(
                    servers=self._url.split(","),
                    user=self._user,
                    password=self._password,
                    name=self._name,
                    tls=self._tls,
                    inbox_prefix=inbox_prefix(self._user),
                    # A service that hears what others say does not hear itself.
                    no_echo=True,
                    max_reconnect_attempts=-1,
                    reconnect_time_wait=_RECONNECT_WAIT_SECONDS,  # type: ignore[arg-type] # a float works
                    ping_interval=_PING_SECONDS,
                    max_outstanding_pings=2,
                    pending_size=_PENDING_BYTES,
                    error_cb=self._on_error,
                    closed_cb=self._on_closed,
                    disconnected_cb=self._on_disconnect,
                    reconnected_cb=self._on_reconnect,
                )
            except BaseException:
                # Cancelled on the way: nothing else knows this client, and its tasks would run for ever.
                await asyncio.wait([asyncio.create_task(client.close())], timeout=_ABANDON_SECONDS)
                raise
            self._client = client
            self._jetstream = client.jetstream(prefix=API_PREFIX, timeout=_REQUEST_TIMEOUT_SECONDS)
            self._connected.set()

    async def close(self) -> None:
        """Flush what is buffered and close."""
        async with self._connecting:
            client, self._client, self._jetstream = self._client, None, None
            self._connected.clear()
            if client is None:
                return
            try:
                if client.is_connected:
                    await client.flush(timeout=2)
                await client.close()
            except (nats.errors.Error, OSError) as error:
                _log.warning("broker_closed_with_unsent_data", error=str(error))

    @asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        """A connection for as long as the block runs: the first user connects, the last one closes."""
        self._users += 1
        try:
            await self.connect()
            yield
        finally:
            self._users -= 1
            if self._users == 0:
                await self.close()

    async def connected(self) -> None:
        """Return as soon as there is a live connection.

        Raises BrokerUnavailableError if the client gave up for good (the server revoked this user): only a new process
        with other credentials can help.
        """
        await self._connected.wait()
        if self._closed_by is not None:
            raise BrokerUnavailableError(f"the broker closed the connection for good: {self._closed_by}")

    def note_answer(self, stream: str) -> None:
        """JetStream has just answered for ``stream``."""
        self.answered_at[stream] = time.monotonic()

    def on_reconnect(self, listener: Callable[[], None]) -> None:
        """Call ``listener`` after each reconnect, before anything else is asked of the broker."""
        self._listeners.append(listener)

    async def ready(self) -> None:
        """Return if the broker answers now. Raises BrokerUnavailableError if it does not."""
        if self._client is None or not self._client.is_connected:
            raise BrokerUnavailableError("not connected to the broker")
        try:
            await self._client.flush(timeout=2)
        except (nats.errors.Error, OSError) as error:
            raise BrokerUnavailableError("the broker does not answer") from error

    async def _on_error(self, error: Exception) -> None:
        denied = _DENIED_PUBLISH.search(str(error))
        if denied:
            self.denied_subjects.add(denied.group(1))
            _log.error("publish_denied", user=self._user, subject=denied.group(1))
            return
        trouble, now = f"{type(error).__name__}: {error}", time.monotonic()
        if trouble != self._last_trouble[0] or now - self._last_trouble[1] > _SAME_TROUBLE_SECONDS:
            self._last_trouble = (trouble, now)
            _log.warning("broker_connection_trouble", error=trouble)

    async def _on_closed(self) -> None:
        if self._client is None:
            return  # We closed it ourselves.
        self._closed_by = str(self._client.last_error)
        self._connected.set()
        for listener in self._listeners:
            listener()

    async def _on_disconnect(self) -> None:
        # From here on: what is said before the reconnect is buffered, and may reach a broker that forgot.
        self.epoch += 1
        self._connected.clear()
        if self._client is not None:
            _log.warning("broker_disconnected", name=self._name)

    async def _on_reconnect(self) -> None:
        self.epoch += 1
        self.denied_subjects.clear()
        self._connected.set()
        _log.info("broker_reconnected", name=self._name, epoch=self.epoch)
        for listener in self._listeners:
            listener()


def tls_context(url: str, ca_file: Path | None) -> ssl.SSLContext | None:
    """What the server's certificate is checked against; None without TLS."""
    if ca_file is None and not url.startswith("tls://"):
        return None
    return ssl.create_default_context(cafile=ca_file)
