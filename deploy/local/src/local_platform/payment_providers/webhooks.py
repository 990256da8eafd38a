"""Sending webhooks as providers do, and, on request, as they do on a bad day."""

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any

import httpx
from pydantic import BaseModel, ConfigDict, Field
from starlette.requests import Request
from starlette.responses import Response

from service_runtime.authorities import trusted_authorities


class Misbehaviour(BaseModel):
    """How deliveries go wrong. Probabilities are from 0 to 1; ``seed`` makes the draws repeatable.

    ``reorder_window_seconds`` collects the deliveries of that time and then sends them in reverse.
    ``corrupt`` changes a byte of the body after it was signed. A dropped delivery is never retried.
    """

    model_config = ConfigDict(extra="forbid")

    drop: float = Field(default=0, ge=0, le=1)
    double: float = Field(default=0, ge=0, le=1)
    corrupt: float = Field(default=0, ge=0, le=1)
    delay_seconds: float = Field(default=0, ge=0, le=3600)
    reorder_window_seconds: float = Field(default=0, ge=0, le=3600)
    copies: int = Field(default=1, ge=1, le=20)
    seed: int = 0


@dataclass
class Delivery:
    """One webhook to one receiver. ``sign`` makes the headers anew for each try, as signatures carry the time."""

    url: str
    body: bytes
    sign: Callable[[bytes], dict[str, str]]
    done: Callable[[bool], None] = lambda delivered: None


@dataclass
class WebhookSender:
    """Delivers with retries. ``retry_delays_seconds`` are the pauses before each further try."""

    retry_delays_seconds: tuple[float, ...]
    timeout_seconds: float = 10.0
    misbehaviour: Misbehaviour = field(default_factory=Misbehaviour)
    tries: int = 0
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)
    _held: list[Delivery] = field(default_factory=list)
    _random: random.Random = field(default_factory=lambda: random.Random(0))
    _client: httpx.AsyncClient | None = None

    def behave(self, misbehaviour: Misbehaviour) -> None:
        """Change how deliveries go from now on."""
        self.misbehaviour = misbehaviour
        self._random = random.Random(misbehaviour.seed)

    async def misbehave(self, request: Request) -> Response:
        """``PUT /admin/misbehaviour``: :meth:`behave` as the body says."""
        self.behave(Misbehaviour.model_validate(await request.json()))
        return Response(status_code=204)

    def send(self, delivery: Delivery) -> None:
        """Take a delivery on; it happens in the background."""
        rules = self.misbehaviour
        if self._random.random() < rules.drop:
            delivery.done(False)
            return
        if rules.reorder_window_seconds:
            self._held.append(delivery)
            if len(self._held) == 1:
                self._start(self._release_reversed(rules.reorder_window_seconds))
            return
        copies = rules.copies + (self._random.random() < rules.double)
        for _ in range(copies):
            self._start(self._deliver(delivery, rules.delay_seconds))

    @property
    def idle(self) -> bool:
        """Whether nothing is being delivered, retried or held back."""
        return not self._tasks

    async def close(self) -> None:
        """Stop retrying and let the connections go."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._client is not None:
            await self._client.aclose()

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _release_reversed(self, window_seconds: float) -> None:
        await asyncio.sleep(window_seconds)
        held, self._held = self._held, []
        for delivery in reversed(held):
            await self._deliver(delivery, 0)

    async def _deliver(self, delivery: Delivery, delay_seconds: float) -> None:
        await asyncio.sleep(delay_seconds)
        for pause_seconds in (0.0, *self.retry_delays_seconds):
            await asyncio.sleep(pause_seconds)
            if await self._try(delivery):
                delivery.done(True)
                return
        delivery.done(False)

    async def _try(self, delivery: Delivery) -> bool:
        self._client = self._client or httpx.AsyncClient(timeout=self.timeout_seconds, verify=trusted_authorities())
        headers = {"content-type": "application/json", **delivery.sign(delivery.body)}
        body = delivery.body
        if self._random.random() < self.misbehaviour.corrupt:
            position = self._random.randrange(len(body))
            body = body[:position] + bytes([body[position] ^ 1]) + body[position + 1 :]
        self.tries += 1
        try:
            response = await self._client.post(delivery.url, content=body, headers=headers)
        except httpx.HTTPError:
            return False
        return 200 <= response.status_code < 300


def closing(sender: WebhookSender) -> Callable[[Any], contextlib.AbstractAsyncContextManager[None]]:
    """A Starlette lifespan that ends the sender's retries with the application."""

    @contextlib.asynccontextmanager
    async def lifespan(_: Any) -> AsyncIterator[None]:
        try:
            yield
        finally:
            await sender.close()

    return lifespan
