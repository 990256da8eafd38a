"""Workers and jobs of each endpoint, as the provider counts them; and a job now and then for an endpoint that is idle.

RunPod lowers the workers of an endpoint without requests to 2 after three days and to none after seven, until somebody
raises them by hand. Any request counts as one, so a keep-alive job prevents that. It costs a cold start.
"""

import asyncio
from collections.abc import Mapping
from typing import Final

import structlog

from generation import metrics
from generation.domain.policy import HealthPolicy
from generation.repository.endpoint_health import (
    get_health,
    record_health,
    repeat_keep_alive,
    take_due_endpoints,
    take_keep_alive,
)
from generation.runpod.answers import SubmissionFailed
from generation.runpod.client import EndpointHealth, ProviderUnavailable, RunPodClient
from generation.runpod.job import JobPolicy, KeepAliveRequest
from messaging.database import single_statements
from messaging.transaction import Transactions

KEEP_ALIVE: Final = KeepAliveRequest(JobPolicy(execution_timeout=60_000, ttl=3_600_000))
_PAUSE_SECONDS: Final = 3600.0
"""Before a keep-alive job that was not taken is submitted again."""
_OLDEST_INTERVALS: Final = 5
"""An answer that is older than so many intervals is shown no more."""
_JOB_STATES: Final[Mapping[str, str]] = {"queued": "inQueue", "running": "inProgress"}

log = structlog.get_logger(__name__)


class EndpointHealthChecks:
    """``measure`` is the round of a loop. Each endpoint is asked about by one replica, and shown by all."""

    def __init__(
        self, transactions: Transactions, client: RunPodClient, endpoint_ids: Mapping[str, str], policy: HealthPolicy
    ) -> None:
        self._transactions = transactions
        self._client = client
        self._endpoint_ids = endpoint_ids
        self._policy = policy

    async def measure(self) -> None:
        """Ask about the endpoints that are due, and show what is known of all."""
        async with self._transactions.begin() as tx:
            due = await take_due_endpoints(tx.connection, self._endpoint_ids, self._policy.interval_seconds)
        await asyncio.gather(*(self._check(endpoint) for endpoint in due))
        await self._show()

    async def _check(self, endpoint: str) -> None:
        health, max_workers = await self._ask(endpoint)
        async with self._transactions.begin() as tx:
            workers, jobs = (None, None) if health is None else (health.workers, health.jobs)
            await record_health(tx.connection, endpoint, workers, jobs, max_workers)
        if self._policy.keep_alive_seconds is not None:
            await self._keep_alive(endpoint, self._policy.keep_alive_seconds)

    async def _ask(self, endpoint: str) -> tuple[EndpointHealth | None, int | None]:
        endpoint_id = self._endpoint_ids[endpoint]
        try:
            health = await self._client.health(endpoint_id)
        except ProviderUnavailable as error:
            log.warning("provider_health_unavailable", endpoint=endpoint, reason=str(error))
            return None, None
        try:
            return health, await self._client.max_workers(endpoint_id)
        except ProviderUnavailable as error:
            log.warning("max_workers_unavailable", endpoint=endpoint, reason=str(error))
            return health, None

    async def _keep_alive(self, endpoint: str, idle_seconds: float) -> None:
        async with self._transactions.begin() as tx:
            if not await take_keep_alive(tx.connection, endpoint, idle_seconds):
                return
        try:
            job_id = await self._client.run(self._endpoint_ids[endpoint], KEEP_ALIVE)
        except SubmissionFailed as failure:
            log.warning("keep_alive_failed", endpoint=endpoint, reason=str(failure))
            metrics.KEEP_ALIVES.labels(endpoint, "failed").inc()
            async with self._transactions.begin() as tx:
                await repeat_keep_alive(tx.connection, endpoint, idle_seconds, _PAUSE_SECONDS)
        else:
            log.info("keep_alive_submitted", endpoint=endpoint, job_id=job_id)
            metrics.KEEP_ALIVES.labels(endpoint, "submitted").inc()

    async def _show(self) -> None:
        oldest_seconds = self._policy.interval_seconds * _OLDEST_INTERVALS
        async with single_statements(self._transactions.engine) as connection:
            known = {one.endpoint: one for one in await get_health(connection, self._endpoint_ids, oldest_seconds)}
        for endpoint in self._endpoint_ids:
            health = known.get(endpoint)
            if health is None or health.max_workers is None:
                metrics.MAX_WORKERS.remove_by_labels({"endpoint": endpoint})
            else:
                metrics.MAX_WORKERS.labels(endpoint).set(health.max_workers)
            if health is None:
                metrics.WORKERS.remove_by_labels({"endpoint": endpoint})
                metrics.JOBS.remove_by_labels({"endpoint": endpoint})
                continue
            for state in metrics.WORKER_STATES:
                metrics.WORKERS.labels(endpoint, state).set(health.workers.get(state, 0))
            for state in metrics.JOB_STATES:
                metrics.JOBS.labels(endpoint, state).set(health.jobs.get(_JOB_STATES[state], 0))
