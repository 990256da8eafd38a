"""One serverless endpoint: its queue, its jobs, its workers, and every change of a job's state."""

import asyncio
from collections import Counter, deque
from collections.abc import Callable
from typing import Any, Final, TypedDict

from local_platform.runpod_emulator.jobs import GoneBecause, Job, JobStatus, Submission
from local_platform.runpod_emulator.rules import Effect, Rule, Rulebook, Subject
from local_platform.runpod_emulator.settings import EmulatorSettings
from local_platform.runpod_emulator.workers import Worker, Workers

LOST_WORKER_ERROR: Final = "job timed out after {retries} retries"
_REMEMBERED_GONE: Final = 10_000


class HealthBody(TypedDict):
    """The answer of ``/health``."""

    jobs: dict[str, int]
    workers: dict[str, int]


class Endpoint:
    """Runs in one event loop, and no method waits. It calls ``send_webhook`` for jobs that end (see settings)."""

    def __init__(
        self,
        endpoint_id: str,
        settings: Callable[[], EmulatorSettings],
        rules: Rulebook,
        send_webhook: Callable[[Job], None],
    ) -> None:
        self.id = endpoint_id
        self._settings = settings
        self._rules = rules
        self._send_webhook = send_webhook
        self._loop = asyncio.get_running_loop()
        self._queue: deque[Job] = deque()
        self._jobs: dict[str, Job] = {}
        self._gone: deque[Job] = deque(maxlen=_REMEMBERED_GONE)
        self._totals: Counter[str] = Counter()
        self.billed_seconds = 0.0
        """What its workers spent on jobs. The real RunPod bills their starts and their idle time, too."""
        self._workers = Workers(self._recover)
        self.arrived = asyncio.Event()
        """Set, and replaced by a new event, when there is a job to take."""

    # For clients.

    def submit(self, submission: Submission, *, sync: bool) -> Job:
        """Accept a job. A rule can lose it at once, which shows only in its status."""
        job = Job(endpoint_id=self.id, submission=submission, sync=sync, submitted_at=self._loop.time())
        self._jobs[job.id] = job
        if self._strikes("lose_queued_job", job):
            self._forget(job, "lost_in_queue")
            return job
        self._set_timer(job, "ttl", submission.policy.ttl_ms / 1000, lambda: self._expire(job))
        if not self._strikes("stick_in_queue", job):
            self._enqueue(job)
        return job

    def find(self, job_id: str) -> Job | None:
        """The job, unless it is unknown or gone."""
        return self._jobs.get(job_id)

    def cancel(self, job: Job) -> None:
        """Cancel a queued or running job. A job that has ended stays as it is."""
        if not job.final:
            self._stop_worker(job)
            self._end(job, "CANCELLED")

    def retry(self, job: Job) -> bool:
        """Queue a FAILED or TIMED_OUT job again under its id. False for any other job."""
        if job.status not in ("FAILED", "TIMED_OUT"):
            return False
        job.cancel_timer("retention")
        job.done = asyncio.Event()
        job.output = job.error = None
        self._set_timer(job, "ttl", job.submission.policy.ttl_ms / 1000, lambda: self._expire(job))
        self._requeue(job)
        return True

    def purge_queue(self) -> int:
        """Remove the queued jobs. Returns their number."""
        waiting = [job for job in self._jobs.values() if job.status == "IN_QUEUE"]
        for job in waiting:
            self._forget(job, "purged")
        return len(waiting)

    def new_release(self) -> None:
        """Another image or environment: the workers that run now are stale."""
        self._workers.release += 1

    def workers(self) -> list[tuple[Worker, bool]]:
        """The workers, and whether each is stale."""
        return [(worker, worker.release < self._workers.release) for worker in self._workers.listed()]

    def health(self) -> HealthBody:
        """Jobs and workers by state. Completed, failed and retried are totals."""
        now = Counter(job.status for job in self._jobs.values())
        return {
            "jobs": {
                "completed": self._totals["COMPLETED"],
                "failed": self._totals["FAILED"],
                "inProgress": now["IN_PROGRESS"],
                "inQueue": now["IN_QUEUE"],
                "retried": self._totals["retried"],
            },
            "workers": self._workers.counts(),
        }

    def listed(self) -> list[Job]:
        """Every job, then the newest ten thousand that are gone."""
        return [*self._jobs.values(), *self._gone]

    # For workers.

    def seen(self, worker_id: str) -> Worker:
        """A sign of life of a worker. It is lost if there is no other within the lease."""
        return self._workers.seen(worker_id, self._settings().worker_lease_seconds)

    def idle(self, worker: Worker) -> None:
        """The worker reports that it has no job: the jobs that it took are lost."""
        lost = list(worker.jobs)
        worker.jobs.clear()
        self._recover(lost)

    def take(self, worker: Worker, most: int) -> list[Job]:
        """Give the oldest waiting jobs to a worker."""
        taken: list[Job] = []
        while self._queue and len(taken) < most:
            job = self._queue.popleft()
            if job.status != "IN_QUEUE" or job.gone_because is not None:
                continue
            if rule := self._strikes("fail_job", job):
                self._end(job, "FAILED", error=rule.error)
                continue
            self._start(job, worker)
            taken.append(job)
        return taken

    def report_progress(self, worker: Worker, job_id: str, output: Any) -> None:
        """Show the progress in ``/status``, if the job is this worker's."""
        if job_id in worker.jobs:
            self._jobs[job_id].progress = output

    def report_stream(self, worker: Worker, job_id: str, part: Any) -> None:
        """Add a part of the output to ``/stream``."""
        if job_id in worker.jobs:
            self._jobs[job_id].stream.append(part)

    def finish(self, worker: Worker, job_id: str, output: Any, error: str | None) -> bool:
        """The worker's result. False, and ignored, if the job is not or no longer this worker's."""
        if job_id not in worker.jobs:
            return False
        del worker.jobs[job_id]
        job = self._jobs[job_id]
        if self._strikes("lose_result", job):
            return True
        if error is not None:
            self._end(job, "FAILED", output=output, error=error)
        else:
            self._end(job, "COMPLETED", output=None if self._strikes("lose_output", job) else output)
        return True

    # Changes of jobs.

    def _enqueue(self, job: Job, *, first: bool = False) -> None:
        (self._queue.appendleft if first else self._queue.append)(job)
        self.arrived.set()
        self.arrived = asyncio.Event()

    def _start(self, job: Job, worker: Worker) -> None:
        job.status = "IN_PROGRESS"
        job.started_at = self._loop.time()
        job.finished_at = job.progress = None
        job.worker_id = worker.id
        worker.jobs[job.id] = None
        self._set_timer(
            job, "execution", job.submission.policy.execution_timeout_ms / 1000, lambda: self._time_out(job)
        )
        if rule := self._strikes("lose_running_job", job):
            self._set_unscaled_timer(job, "lose", rule.delay_seconds, lambda: self._lose_running(job))
        if rule := self._strikes("late_success", job):
            status = rule.status
            self._set_unscaled_timer(job, "late", rule.delay_seconds, lambda: self._give_up(job, status))

    def _end(self, job: Job, status: JobStatus, *, output: Any = None, error: str | None = None) -> None:
        job.status = status
        job.finished_at = self._loop.time()
        if job.started_at is not None:
            self.billed_seconds += job.finished_at - job.started_at
        job.output = output
        job.error = error
        self._totals[status] += 1
        self._cancel_timers(job)
        settings = self._settings()
        kept = settings.runsync_retention_seconds if job.sync else settings.run_retention_seconds
        self._set_timer(job, "retention", kept, lambda: self._forget(job, "retention"))
        job.done.set()
        if job.submission.webhook is not None and status in settings.webhook_statuses:
            self._send_webhook(job)

    def _time_out(self, job: Job) -> None:
        self._stop_worker(job)
        self._end(job, "TIMED_OUT", error="the job ran longer than its executionTimeout")

    def _expire(self, job: Job) -> None:
        self._stop_worker(job)
        self._forget(job, "ttl")

    def _give_up(self, job: Job, status: JobStatus) -> None:
        self._release_silently(job)
        self._end(job, status, error="the emulator was told to give up on this job")

    def _lose_running(self, job: Job) -> None:
        self._release_silently(job)
        self._forget(job, "lost_while_running")

    def _recover(self, job_ids: list[str]) -> None:
        """Put the jobs of a lost worker at the head of the queue, as often as RunPod does that."""
        for job in [self._jobs[job_id] for job_id in reversed(job_ids) if job_id in self._jobs]:
            if job.retries >= self._settings().max_retries:
                self._end(job, "FAILED", error=LOST_WORKER_ERROR.format(retries=job.retries))
            else:
                job.retries += 1
                self._totals["retried"] += 1
                self._requeue(job, first=True)

    def _requeue(self, job: Job, *, first: bool = False) -> None:
        for timer in ("execution", "lose", "late"):
            job.cancel_timer(timer)
        job.status = "IN_QUEUE"
        job.worker_id = job.started_at = job.finished_at = job.progress = None
        self._enqueue(job, first=first)

    def _forget(self, job: Job, because: GoneBecause) -> None:
        job.gone_because = because
        self._cancel_timers(job)
        self._jobs.pop(job.id, None)
        self._gone.append(job)
        job.done.set()

    def _stop_worker(self, job: Job) -> None:
        worker = self._workers.find(job.worker_id)
        if worker is not None and job.id in worker.jobs:
            worker.tell_to_stop(job.id)

    def _release_silently(self, job: Job) -> None:
        worker = self._workers.find(job.worker_id)
        if worker is not None:
            worker.jobs.pop(job.id, None)

    # Rules and timers.

    def _strikes(self, effect: Effect, job: Job) -> Rule | None:
        return self._rules.strike(effect, Subject(self.id, job_id=job.id, job_input=job.submission.input))

    def _set_timer(self, job: Job, name: str, seconds: float, act: Callable[[], None]) -> None:
        """A timer of RunPod's own. Such times pass ``time_scale`` times as fast."""
        self._set_unscaled_timer(job, name, seconds / self._settings().time_scale, act)

    def _set_unscaled_timer(self, job: Job, name: str, seconds: float, act: Callable[[], None]) -> None:
        job.cancel_timer(name)
        job.timers[name] = self._loop.call_later(seconds, act)

    def _cancel_timers(self, job: Job) -> None:
        for name in list(job.timers):
            job.cancel_timer(name)
