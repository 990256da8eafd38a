"""What surrounds every request of clients and workers: authorisation, rate limits and faults."""

import asyncio
import hmac
import json
from collections.abc import Awaitable, Callable
from typing import Any, Final

from pydantic import JsonValue, ValidationError
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from local_platform.runpod_emulator.connections import ResetInsteadOfAnswer
from local_platform.runpod_emulator.emulator import Emulator
from local_platform.runpod_emulator.endpoint import Endpoint
from local_platform.runpod_emulator.jobs import Job, Submission
from local_platform.runpod_emulator.limits import TooManyRequests
from local_platform.runpod_emulator.rules import Rule, Subject
from local_platform.runpod_emulator.settings import Operation

Answer = Response | ResetInsteadOfAnswer
Handler = Callable[[Endpoint, Request], Awaitable[Response]]

MAX_BODY_BYTES: Final[dict[Operation, int]] = {
    "run": 10 * 1024 * 1024,
    "runsync": 20 * 1024 * 1024,
    "job-done": 20 * 1024 * 1024,
    "job-stream": 20 * 1024 * 1024,
}


class Refused(Exception):
    """The request is refused with this status."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status
        self.reason = reason


class Operations:
    """Builds routes whose handlers run behind authorisation, limits and rules."""

    def __init__(self, emulator: Emulator) -> None:
        self._emulator = emulator

    def route(self, path: str, operation: Operation, handler: Handler, methods: list[str], *, bearer: bool) -> Route:
        """``bearer``: the key must be a bearer token. The SDK sends it without that word."""

        async def serve(request: Request) -> Any:
            answer = await self._answer(operation, handler, request, bearer)
            outcome = str(answer.status_code) if isinstance(answer, Response) else "reset"
            self._emulator.answers[operation, outcome] += 1
            return answer

        return Route(path, serve, methods=methods)

    async def _answer(self, operation: Operation, handler: Handler, request: Request, bearer: bool) -> Answer:
        endpoint_id = request.path_params["endpoint"]
        limit = self._emulator.settings.limits.get(operation)
        now = asyncio.get_running_loop().time()
        try:
            authorise(self._emulator, request, bearer)
            await read_body(request, MAX_BODY_BYTES.get(operation, 0))
            with self._emulator.limiter.admitted((endpoint_id, operation), limit, now):
                endpoint = self._emulator.endpoint(endpoint_id)
                return await misbehaving(
                    self._emulator, lambda: _subject(operation, endpoint, request), lambda: handler(endpoint, request)
                )
        except Refused as refusal:
            return JSONResponse({"error": refusal.reason}, status_code=refusal.status)
        except TooManyRequests:
            return JSONResponse({"error": "too many requests"}, status_code=429)


def authorise(emulator: Emulator, request: Request, bearer: bool) -> None:
    """Raises Refused with 401."""
    given = request.headers.get("authorization", "")
    if bearer and not given.startswith("Bearer "):
        raise Refused(401, "a bearer token is required")
    if not hmac.compare_digest(given.removeprefix("Bearer ").encode(), emulator.api_key.encode()):
        raise Refused(401, "the API key is wrong")


async def misbehaving(
    emulator: Emulator, subject: Callable[[], Subject], handle: Callable[[], Awaitable[Response]]
) -> Answer:
    """Handle a request under the rules. ``subject`` is asked before and after: a submission makes its job."""
    rules = emulator.rules
    if not rules:
        return await handle()
    if rule := rules.strike("answer_error", subject()):
        return _error_response(rule)
    answer = await handle()
    after = subject()
    if rule := rules.strike("slow_response", after):
        await asyncio.sleep(rule.delay_seconds)
    if rules.strike("accept_then_reset", after):
        return ResetInsteadOfAnswer(emulator.connections)
    if rule := rules.strike("accept_then_error", after):
        return _error_response(rule)
    return answer


def submission_of(request: Request) -> Submission:
    """The body of ``/run``. Raises Refused with 400, naming what is wrong with it."""
    try:
        return Submission.model_validate_json(request.state.body)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        raise Refused(400, f"{'.'.join(map(str, first['loc'])) or 'body'}: {first['msg']}") from error


def job_of(endpoint: Endpoint, request: Request) -> Job:
    """The job that the path names. Raises Refused with 404."""
    job = endpoint.find(request.path_params["job"])
    if job is None:
        raise Refused(404, "job not found")
    return job


def remember_job(request: Request, job: Job) -> None:
    """Note the job, so that rules about the answer to a submission can match it."""
    request.state.job = job


async def read_body(request: Request, most: int) -> None:
    """Into ``request.state.body``. Raises Refused with 400 if it is larger."""
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > most:
            raise Refused(400, f"the body is larger than {most} bytes")
    request.state.body = bytes(body)


def _subject(operation: Operation, endpoint: Endpoint, request: Request) -> Subject:
    job: Job | None = getattr(request.state, "job", None) or endpoint.find(request.path_params.get("job", ""))
    if job is not None:
        return Subject(endpoint.id, operation, job.id, job.submission.input)
    return Subject(endpoint.id, operation, request.path_params.get("job"), _unchecked_input(request.state.body))


def _unchecked_input(body: bytes) -> dict[str, JsonValue] | None:
    """The input of a submission that is not accepted yet, if it has one."""
    try:
        submission = json.loads(body) if body else None
    except ValueError:
        return None
    found = submission.get("input") if isinstance(submission, dict) else None
    return found if isinstance(found, dict) else None


def _error_response(rule: Rule) -> JSONResponse:
    headers = {} if rule.retry_after_seconds is None else {"Retry-After": str(rule.retry_after_seconds)}
    return JSONResponse({"error": "the emulator was told to answer so"}, rule.http_status, headers)
