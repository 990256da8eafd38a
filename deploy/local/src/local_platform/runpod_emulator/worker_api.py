"""What RunPod's worker SDK uses (runpod 1.12, ``serverless/modules``): take, stop, done, stream, ping."""

import asyncio
import json
from typing import Any

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
    """Handlers, each given the endpoint that its path names. The paths are ours; the SDK takes them from its settings,
    and replaces ``/job-take/`` by ``/job-take-batch/`` and ``/job-stop/`` itself."""

    def __init__(self, emulator: Emulator) -> None:
        self._emulator = emulator

    def routes(self) -> list[Route]:
        """All of it, behind the key as the SDK sends it."""
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
        return JSONResponse(_given(jobs[0])) if jobs else Response(status_code=204)

    async def _take_batch(self, endpoint: Endpoint, request: Request) -> Response:
        size = request.query_params.get("batch_size", "1")
        if not size.isdecimal() or not 1 <= int(size) <= 1000:
            raise Refused(400, "batch_size must be a number from 1 to 1000")
        jobs = await self._take(endpoint, request, most=int(size))
        return JSONResponse([_given(job) for job in jobs]) if jobs else Response(status_code=204)

    async def _take(self, endpoint: Endpoint, request: Request, most: int) -> list[Job]:
        """Hold the request until there is a job, or as long as a poll may last."""
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
        """A result, or progress if it says ``"status": "IN_PROGRESS"``. The body is JSON, whatever its type says."""
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
    """The worker that the path names; being asked is its sign of life."""
    return endpoint.seen(request.path_params["worker"])


def _given(job: Job) -> dict[str, Any]:
    given: dict[str, Any] = {"id": job.id, "input": job.submission.input}
    if job.submission.webhook is not None:
        given["webhook"] = job.submission.webhook
    return given


def _result(request: Request) -> dict[str, Any]:
    try:
        result = json.loads(request.state.body)
    except ValueError as error:
        raise Refused(400, "the body is no JSON") from error
    if not isinstance(result, dict):
        raise Refused(400, "the body is no object")
    return result


def _error(result: dict[str, Any]) -> str | None:
    """A worker fails a job with ``error`` beside the output, or inside it."""
    output = result.get("output")
    error = result.get("error") or (output.get("error") if isinstance(output, dict) else None)
    if not error:
        return None
    return error if isinstance(error, str) else json.dumps(error)
