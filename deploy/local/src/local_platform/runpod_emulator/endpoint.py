"""One serverless endpoint: its queue, its jobs, its workers, and every change of a job's state."""

import asyncio
from collections import Counter, deque
from collections.abc import Callable
from typing import Any, Final

from local_platform.runpod_emulator.jobs import GoneBecause, Job, JobStatus, Submission
from local_platform.runpod_emulator.rules import Effect, Rule, Rulebook, Subject
from local_platform.runpod_emulator.settings import EmulatorSettings
from local_platform.runpod_emulator.workers import Worker, Workers

LOST_WORKER_ERROR: Final = "job timed out after {retries} retries"
_REMEMBERED_GONE: Final = 10_000


class Endpoint:
    """Runs in one event loop; no method waits. ``send_webhook`` is called for each job that ends (see settings)."""

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
        self._workers = Workers(self._recover)
        self.arrived = asyncio.Event()
        """Set, and replaced by a new one, when there is something to take."""

    # What clients do.

    def submit(self, submission: Submission, *, sync: bool) -> Job:
        """Accept a job. It may be lost at once, if a rule says so; nobody notices but by asking."""
        job = Job(endpoint_id=self.id, submission=submission, sync=sync, submitted_at=self._loop.time())
        self._jobs[job.id] = job
        if self._strikes("lose_queued_job", job):
            self._forget(job, "lost_in_queue")
            return job
        self._appoint(job, "ttl", submission.policy.ttl_ms / 1000, lambda: self._expire(job))
        if not self._strikes("stick_in_queue", job):
            self._enqueue(job)
        return job

    def find(self, job_id: str) -> Job | None:
        """The job, unless it was never here or is gone."""
        return self._jobs.get(job_id)

    def cancel(self, job: Job) -> None:
        """CANCELLED, wherever it is; a job that has ended stays as it ended."""
        if not job.final:
            self._stop_worker(job)
            self._end(job, "CANCELLED")

    def retry(self, job: Job) -> bool:
        """Queue a FAILED or TIMED_OUT job again under its id; False for any other."""
        if job.status not in ("FAILED", "TIMED_OUT"):
            return False
        job.cancel_timer("retention")
        job.done = asyncio.Event()
        job.output = job.error = None
        self._appoint(job, "ttl", job.submission.policy.ttl_ms / 1000, lambda: self._expire(job))
        self._requeue(job)
        return True

    def purge_queue(self) -> int:
        """Remove what waits, and say how much it was."""
        waiting = [job for job in self._jobs.values() if job.status == "IN_QUEUE"]
        for job in waiting:
            self._forget(job, "purged")
        return len(waiting)

    def health(self) -> dict[str, Any]:
        """Jobs and workers by state; completed, failed and retried are totals."""
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
        """Every job, then those that are gone (the newest ten thousand)."""
        return [*self._jobs.values(), *self._gone]

    # What workers do.

    def seen(self, worker_id: str) -> Worker:
        """A worker showed itself; it is lost if it does not do so again within the lease."""
        return self._workers.seen(worker_id, self._settings().worker_lease_seconds)

    def idle(self, worker: Worker) -> None:
        """The worker says that it works on nothing: whatever we thought it held is lost."""
        lost = list(worker.holds)
        worker.holds.clear()
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
        """Progress becomes visible in ``/status``, if the job is this worker's."""
        if job_id in worker.holds:
            self._jobs[job_id].progress = output

    def report_stream(self, worker: Worker, job_id: str, part: Any) -> None:
        """A part of the output becomes readable at ``/stream``."""
        if job_id in worker.holds:
            self._jobs[job_id].stream.append(part)

    def finish(self, worker: Worker, job_id: str, output: Any, error: str | None) -> bool:
        """The worker's last word on a job. False if the job is not (or no longer) this worker's: then it is ignored."""
        if job_id not in worker.holds:
            return False
        del worker.holds[job_id]
        job = self._jobs[job_id]
        if self._strikes("lose_result", job):
            return True
        if error is not None:
            self._end(job, "FAILED", output=output, error=error)
        else:
            self._end(job, "COMPLETED", output=None if self._strikes("lose_output", job) else output)
        return True

    # How jobs change.

    def _enqueue(self, job: Job, *, first: bool = False) -> None:
        (self._queue.appendleft if first else self._queue.append)(job)
        self.arrived.set()
        self.arrived = asyncio.Event()

    def _start(self, job: Job, worker: Worker) -> None:
        job.status = "IN_PROGRESS"
        job.started_at = self._loop.time()
        job.finished_at = job.progress = None
        job.worker_id = worker.id
        worker.holds[job.id] = None
        self._appoint(job, "execution", job.submission.policy.execution_timeout_ms / 1000, lambda: self._time_out(job))
        if rule := self._strikes("lose_running_job", job):
            self._appoint_unscaled(job, "lose", rule.delay_seconds, lambda: self._lose_running(job))
        if rule := self._strikes("late_success", job):
            status = rule.status
            self._appoint_unscaled(job, "late", rule.delay_seconds, lambda: self._give_up(job, status))

    def _end(self, job: Job, status: JobStatus, *, output: Any = None, error: str | None = None) -> None:
        job.status = status
        job.finished_at = self._loop.time()
        job.output = output
        job.error = error
        self._totals[status] += 1
        self._cancel_timers(job)
        settings = self._settings()
        kept = settings.runsync_retention_seconds if job.sync else settings.run_retention_seconds
        self._appoint(job, "retention", kept, lambda: self._forget(job, "retention"))
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
        """Their worker is gone: back to the head of the queue, as often as RunPod does that."""
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
        if worker is not None and job.id in worker.holds:
            worker.tell_to_stop(job.id)

    def _release_silently(self, job: Job) -> None:
        worker = self._workers.find(job.worker_id)
        if worker is not None:
            worker.holds.pop(job.id, None)

    # Rules and timers.

    def _strikes(self, effect: Effect, job: Job) -> Rule | None:
        return self._rules.strike(effect, Subject(self.id, job_id=job.id, job_input=job.submission.input))

    def _appoint(self, job: Job, name: str, seconds: float, act: Callable[[], None]) -> None:
        """RunPod's own times pass ``time_scale`` times as fast."""
        self._appoint_unscaled(job, name, seconds / self._settings().time_scale, act)

    def _appoint_unscaled(self, job: Job, name: str, seconds: float, act: Callable[[], None]) -> None:
        job.cancel_timer(name)
        job.timers[name] = self._loop.call_later(seconds, act)

    def _cancel_timers(self, job: Job) -> None:
        for name in list(job.timers):
            job.cancel_timer(name)
