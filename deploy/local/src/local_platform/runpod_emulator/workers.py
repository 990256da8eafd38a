"""The workers of an endpoint: the jobs of each, the jobs that it must stop, and whether it is lost."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field


@dataclass
class Worker:
    """One worker, known by its pod id. ``jobs`` has the ids of its jobs as keys, in the order of their taking."""

    id: str
    release: int = 0
    """The release of its endpoint when it was first seen: image and environment."""
    jobs: dict[str, None] = field(default_factory=dict)
    to_stop: dict[str, None] = field(default_factory=dict)
    stop_signal: asyncio.Event = field(default_factory=asyncio.Event)
    lease: asyncio.TimerHandle | None = None

    def tell_to_stop(self, job_id: str) -> None:
        """Answer its long poll with this job."""
        self.jobs.pop(job_id, None)
        self.to_stop[job_id] = None
        self.stop_signal.set()

    def take_stop_orders(self) -> list[str]:
        """The jobs that it was not yet told to stop. RunPod tells a worker once."""
        orders = list(self.to_stop)
        self.to_stop.clear()
        self.stop_signal.clear()
        return orders


class Workers:
    """All workers of one endpoint. Calls ``on_lost`` with the jobs of a worker that gives no sign of life."""

    def __init__(self, on_lost: Callable[[list[str]], None]) -> None:
        self._on_lost = on_lost
        self._known: dict[str, Worker] = {}
        self.release = 0

    def seen(self, worker_id: str, lease_seconds: float) -> Worker:
        """A sign of life."""
        worker = self._known.setdefault(worker_id, Worker(worker_id, self.release))
        if worker.lease is not None:
            worker.lease.cancel()
        worker.lease = asyncio.get_running_loop().call_later(lease_seconds, self._lose, worker)
        return worker

    def find(self, worker_id: str | None) -> Worker | None:
        """The worker, unless it is unknown or lost."""
        return None if worker_id is None else self._known.get(worker_id)

    def listed(self) -> list[Worker]:
        """All that give signs of life."""
        return list(self._known.values())

    def counts(self) -> dict[str, int]:
        """The ``workers`` of ``/health``."""
        running = sum(1 for worker in self._known.values() if worker.jobs)
        idle = len(self._known) - running
        return {
            "idle": idle,
            "initializing": 0,
            "ready": idle,
            "running": running,
            "throttled": 0,
            "unhealthy": 0,
        }

    def _lose(self, worker: Worker) -> None:
        del self._known[worker.id]
        self._on_lost(list(worker.jobs))
