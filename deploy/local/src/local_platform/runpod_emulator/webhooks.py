"""Webhooks about jobs that ended: up to three tries, and faults."""

import asyncio
import json
from collections import Counter
from collections.abc import Callable, Coroutine
from typing import Any

import httpx

from local_platform.runpod_emulator.jobs import Job
from local_platform.runpod_emulator.rules import Effect, Rule, Rulebook, Subject
from local_platform.runpod_emulator.settings import EmulatorSettings
from service_runtime.authorities import trusted_authorities


class Webhooks:
    """Sends in the background. ``counts`` counts deliveries, tries and their outcomes."""

    def __init__(self, settings: Callable[[], EmulatorSettings], rules: Rulebook) -> None:
        self._settings = settings
        self._rules = rules
        self._tasks: set[asyncio.Task[None]] = set()
        self._delayed: list[tuple[str, bytes, int]] = []
        self._client: httpx.AsyncClient | None = None
        self.counts: Counter[str] = Counter(deliveries=0, tries=0, delivered=0, given_up=0, dropped=0)

    def send(self, job: Job) -> None:
        """Send the job's present state, unless a rule forbids it."""
        url = job.submission.webhook
        assert url is not None, "only jobs with a webhook are announced"
        if self._strike("drop_webhook", job):
            self.counts["dropped"] += 1
            return
        body = json.dumps(job.webhook_body()).encode()
        double = self._strike("double_webhook", job)
        copies = double.copies if double else 1
        if reorder := self._strike("reorder_webhooks", job):
            self._delayed.append((url, body, copies))
            if len(self._delayed) == 1:
                self._start(self._release_reversed(reorder.delay_seconds))
            return
        delay = self._strike("delay_webhook", job)
        for _ in range(copies):
            self._start(self._deliver(url, body, delay.delay_seconds if delay else 0))

    async def close(self) -> None:
        """Cancel the deliveries in progress."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._client is not None:
            await self._client.aclose()

    def _strike(self, effect: Effect, job: Job) -> Rule | None:
        return self._rules.strike(effect, Subject(job.endpoint_id, job_id=job.id, job_input=job.submission.input))

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _release_reversed(self, seconds: float) -> None:
        await asyncio.sleep(seconds)
        delayed, self._delayed = self._delayed, []
        for url, body, copies in reversed(delayed):
            for _ in range(copies):
                await self._deliver(url, body, 0)

    async def _deliver(self, url: str, body: bytes, delay_seconds: float) -> None:
        self.counts["deliveries"] += 1
        await asyncio.sleep(delay_seconds)
        tries = self._settings().webhook_tries
        for number in range(1, tries + 1):
            if await self._try(url, body):
                self.counts["delivered"] += 1
                return
            if number < tries:
                settings = self._settings()
                await asyncio.sleep(settings.webhook_retry_seconds / settings.time_scale)
        self.counts["given_up"] += 1

    async def _try(self, url: str, body: bytes) -> bool:
        self._client = self._client or httpx.AsyncClient(trust_env=False, verify=trusted_authorities())
        self.counts["tries"] += 1
        headers = {"content-type": "application/json"}
        timeout = self._settings().webhook_timeout_seconds
        try:
            answer = await self._client.post(url, content=body, headers=headers, timeout=timeout)
        except httpx.HTTPError:
            return False
        return answer.status_code == 200
