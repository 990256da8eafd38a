"""Many publishes at once, each answered by its own PubAck.

nats-py's ``publish_async`` does the same, but in 2.16 an error in the answer never reaches the caller: its handler
raises instead of failing the future, so that a full stream looks like a silent one.
"""

import asyncio
from collections.abc import Mapping
from itertools import count
from typing import Final

import msgspec
import structlog
from nats.aio.msg import Msg
from nats.js.api import Header

from messaging.broker import Broker

_log = structlog.get_logger("messaging.publisher")

_NO_RESPONDERS: Final = "503"


class PublishRefusedError(Exception):
    """The broker answered, and said no. ``code`` is JetStream's error code; 503 means that no stream listens."""

    def __init__(self, code: int, description: str) -> None:
        super().__init__(f"{code} {description}")
        self.code = code
        self.description = description


class _Error(msgspec.Struct):
    code: int
    err_code: int = 0
    description: str = ""


class _Answer(msgspec.Struct):
    stream: str = ""
    seq: int = 0
    duplicate: bool = False
    error: _Error | None = None


class PubAck(msgspec.Struct, frozen=True):
    """Where a message is stored, or was when it came first: ``duplicate`` says that the id was known."""

    stream: str
    sequence: int
    duplicate: bool


class Publisher:
    """Publishes on one connection. After a reconnect the answers of before never come; the caller bounds its wait."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker
        self._prefix = ""
        self._subscribed_to: object = None
        self._numbers = count(1)
        self._waiting: dict[str, asyncio.Future[PubAck]] = {}
        self._decoder = msgspec.json.Decoder(_Answer)

    async def publish(
        self, subject: str, payload: bytes, values: Mapping[str, str], stream: str
    ) -> "asyncio.Future[PubAck]":
        """Send now; the future gives the PubAck or PublishRefusedError. ``stream`` is where the message must end up.

        Raises nats.errors.MaxPayloadError at once for what the connection cannot carry.
        """
        client = self._broker.client
        if self._subscribed_to is not client:
            self._prefix = client.new_inbox()
            await client.subscribe(f"{self._prefix}.*", cb=self._on_answer)
            self._subscribed_to = client
        token = str(next(self._numbers))
        future: asyncio.Future[PubAck] = asyncio.get_running_loop().create_future()
        self._waiting[token] = future
        future.add_done_callback(lambda _: self._waiting.pop(token, None))
        try:
            await client.publish(
                subject,
                payload,
                reply=f"{self._prefix}.{token}",
                headers={**values, Header.EXPECTED_STREAM.value: stream},
            )
        except BaseException:
            future.cancel()
            raise
        return future

    async def _on_answer(self, message: Msg) -> None:
        future = self._waiting.get(message.subject.rpartition(".")[2])
        if future is None or future.done():
            return
        if message.headers and message.headers.get("Status") == _NO_RESPONDERS:
            future.set_exception(PublishRefusedError(int(_NO_RESPONDERS), "no stream listens on this subject"))
            return
        try:
            answer = self._decoder.decode(message.data)
        except msgspec.MsgspecError as error:
            _log.warning("broker_answer_unreadable", error=str(error))
            return
        if answer.error is not None:
            error_code = answer.error.err_code or answer.error.code
            future.set_exception(PublishRefusedError(error_code, answer.error.description))
        else:
            future.set_result(PubAck(answer.stream, answer.seq, answer.duplicate))
