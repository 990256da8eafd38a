"""The API for RunPod's worker SDK (runpod 1.12, ``serverless/modules``): take, stop, done, stream, ping."""

import asyncio
import json
from typing import Any, NotRequired, TypedDict

from pydantic import JsonValue
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from local_platform.runpod_emulator.emulator import Emulator
from local_platform.runpod_emulator.endpoint import Endpoint
from local_platform.runpod_emulator.jobs import Job
from local_platform.runpod_emulator.operations import Operations, Refused
from local_platform.runpod_emulator.polling import wait_for
from local_platform.runpod_emulator.workers import Worker


class WorkerApi:
    """The handlers. Each gets the endpoint of its path.

    The paths are ours: the SDK reads them from its settings, and derives ``/job-take-batch/`` and ``/job-stop/`` from
    ``/job-take/``.
    """

    def __init__(self, emulator: Emulator) -> None:
        self._emulator = emulator

    def routes(self) -> list[Route]:
        """All routes. They need the key in the form in which the SDK sends it."""
        operations = Operations(self._emulator)
        root = "/v2/{endpoint}"
        return [
            operations.route(f"{root}/job-take/{{worker}}", "job-take", self._take_one, ["GET"], bearer=False),
            operations.route(f"{root}/job-take-batch/{{worker}}", "job-take", self._take_batch, ["GET"], bearer=False),
            operations.route(f"{root}/job-stop/{{worker}}", "job-stop", self._stop, ["GET"], bearer=False),
            operations.route(f"{root}/job-done/{{worker}}/{{job}}", "job-done", self._done, ["POST"], bearer=False),
            operations.route(f"{root}/job-stream/{{worker}}/{{job}}", "job-stream", self._part, ["POST"], bearer=False),
            operations.route(f"{root}/ping/{{worker}}", "ping", self._ping, ["GET"], bearer=False),
        ]

    async def _take_one(self, endpoint: Endpoint, request: Request) -> Response:
        jobs = await self._take(endpoint, request, most=1)
        return JSONResponse(_taken(jobs[0])) if jobs else Response(status_code=204)

    async def _take_batch(self, endpoint: Endpoint, request: Request) -> Response:
        size = request.query_params.get("batch_size", "1")
        if not size.isdecimal() or not 1 <= int(size) <= 1000:
            raise Refused(400, "batch_size must be a number from 1 to 1000")
        jobs = await self._take(endpoint, request, most=int(size))
        return JSONResponse([_taken(job) for job in jobs]) if jobs else Response(status_code=204)

    async def _take(self, endpoint: Endpoint, request: Request, most: int) -> list[Job]:
        """Wait until there is a job, at most for the time of a poll."""
        worker = _worker(endpoint, request)
        if request.query_params.get("job_in_progress") == "0":
            endpoint.idle(worker)
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._emulator.settings.worker_poll_seconds
        while not (jobs := endpoint.take(worker, most)):
            remaining = deadline - loop.time()
            if remaining <= 0 or self._emulator.closing.is_set():
                break
            if not await wait_for(self._emulator, request, endpoint.arrived, remaining):
                break
        return jobs

    async def _stop(self, endpoint: Endpoint, request: Request) -> Response:
        worker = _worker(endpoint, request)
        there = await wait_for(self._emulator, request, worker.stop_signal, self._emulator.settings.worker_poll_seconds)
        orders = worker.take_stop_orders() if there else []
        return JSONResponse({"jobsToStop": orders}) if orders else Response(status_code=204)

    async def _done(self, endpoint: Endpoint, request: Request) -> Response:
        """A result, or progress if its status is ``IN_PROGRESS``. The body is JSON, whatever its content type is."""
        worker, job_id, result = _worker(endpoint, request), request.path_params["job"], _result(request)
        if result.get("status") == "IN_PROGRESS":
            endpoint.report_progress(worker, job_id, result.get("output"))
        elif not endpoint.finish(worker, job_id, result.get("output"), _error(result)):
            self._emulator.ignored_results += 1
        return JSONResponse({"status": "ok"})

    async def _part(self, endpoint: Endpoint, request: Request) -> Response:
        endpoint.report_stream(_worker(endpoint, request), request.path_params["job"], _result(request))
        return JSONResponse({"status": "ok"})

    async def _ping(self, endpoint: Endpoint, request: Request) -> Response:
        _worker(endpoint, request)
        return JSONResponse({"status": "ok"})


def _worker(endpoint: Endpoint, request: Request) -> Worker:
    """The worker of the path. The request is its sign of life."""
    return endpoint.seen(request.path_params["worker"])


class _TakenJob(TypedDict):
    """A job as a worker gets it."""

    id: str
    input: dict[str, JsonValue]
    webhook: NotRequired[str]


def _taken(job: Job) -> _TakenJob:
    taken: _TakenJob = {"id": job.id, "input": job.submission.input}
    if job.submission.webhook is not None:
        taken["webhook"] = job.submission.webhook
    return taken


def _result(request: Request) -> dict[str, Any]:
    try:
        result = json.loads(request.state.body)
    except ValueError as error:
        raise Refused(400, "the body is no JSON") from error
    if not isinstance(result, dict):
        raise Refused(400, "the body is no object")
    return result


def _error(result: dict[str, Any]) -> str | None:
    """The error of a failed job. It stands beside the output or inside it."""
    output = result.get("output")
    error = result.get("error") or (output.get("error") if isinstance(output, dict) else None)
    if not error:
        return None
    return error if isinstance(error, str) else json.dumps(error)
