"""The API for clients of RunPod: ``/v2/{endpoint}/run`` and the like."""

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from local_platform.runpod_emulator.emulator import Emulator
from local_platform.runpod_emulator.endpoint import Endpoint
from local_platform.runpod_emulator.operations import Operations, Refused, job_of, remember_job, submission_of
from local_platform.runpod_emulator.polling import wait_for


class PublicApi:
    """The handlers. Each gets the endpoint of its path."""

    def __init__(self, emulator: Emulator) -> None:
        self._emulator = emulator

    def routes(self) -> list[Route]:
        """All routes. They need the bearer token."""
        operations = Operations(self._emulator)
        return [
            operations.route("/v2/{endpoint}/run", "run", self._run, ["POST"], bearer=True),
            operations.route("/v2/{endpoint}/runsync", "runsync", self._runsync, ["POST"], bearer=True),
            operations.route("/v2/{endpoint}/status/{job}", "status", self._status, ["GET", "POST"], bearer=True),
            operations.route("/v2/{endpoint}/stream/{job}", "stream", self._stream, ["GET", "POST"], bearer=True),
            operations.route("/v2/{endpoint}/cancel/{job}", "cancel", self._cancel, ["POST"], bearer=True),
            operations.route("/v2/{endpoint}/retry/{job}", "retry", self._retry, ["POST"], bearer=True),
            operations.route("/v2/{endpoint}/purge-queue", "purge-queue", self._purge, ["POST"], bearer=True),
            operations.route("/v2/{endpoint}/health", "health", self._health, ["GET"], bearer=True),
        ]

    async def _run(self, endpoint: Endpoint, request: Request) -> Response:
        job = endpoint.submit(submission_of(request), sync=False)
        remember_job(request, job)
        return JSONResponse({"id": job.id, "status": "IN_QUEUE"})

    async def _runsync(self, endpoint: Endpoint, request: Request) -> Response:
        job = endpoint.submit(submission_of(request), sync=True)
        remember_job(request, job)
        await wait_for(self._emulator, request, job.done, self._emulator.settings.runsync_wait_seconds)
        return JSONResponse(job.status_body())

    async def _status(self, endpoint: Endpoint, request: Request) -> Response:
        return JSONResponse(job_of(endpoint, request).status_body())

    async def _stream(self, endpoint: Endpoint, request: Request) -> Response:
        job = job_of(endpoint, request)
        parts, job.stream = job.stream, []
        return JSONResponse({"status": job.status, "stream": parts})

    async def _cancel(self, endpoint: Endpoint, request: Request) -> Response:
        job = job_of(endpoint, request)
        endpoint.cancel(job)
        return JSONResponse({"id": job.id, "status": job.status})

    async def _retry(self, endpoint: Endpoint, request: Request) -> Response:
        job = job_of(endpoint, request)
        if not endpoint.retry(job):
            raise Refused(400, f"only a FAILED or TIMED_OUT job can be retried, and this one is {job.status}")
        return JSONResponse({"id": job.id, "status": job.status})

    async def _purge(self, endpoint: Endpoint, request: Request) -> Response:
        return JSONResponse({"removed": endpoint.purge_queue(), "status": "completed"})

    async def _health(self, endpoint: Endpoint, request: Request) -> Response:
        return JSONResponse(endpoint.health())


async def healthz(request: Request) -> Response:
    """Whether the emulator runs. Needs no key."""
    return JSONResponse({"status": "ok"})
