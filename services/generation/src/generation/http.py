"""The webhook ingress: prove the address, have the body stored and acted on (``callback_intake``), answer."""

import asyncio
from contextlib import AbstractAsyncContextManager, nullcontext
from typing import Any, Final
from uuid import UUID

import msgspec
import structlog
from litestar import Litestar, Request, post
from litestar.params import FromPath
from litestar.response import Response

from generation.callback_intake import CallbackIntake
from generation.callback_urls import CallbackUrls
from generation.domain.loose_json import UNREADABLE
from generation.errors import CallbackExpired, InvalidCallbackSignature, MalformedProgress, TooManyCallbacks
from generation.metrics import CALLBACKS_ACCEPTED, REFUSED_CALLBACKS
from generation.progress import ProgressReport, ProgressReports
from generation.repository.callbacks import INLINE_BYTES
from messaging.failpoints import failpoint
from service_runtime.database_watch import DatabaseClock
from service_runtime.litestar_problems import install_litestar_handlers
from service_runtime.problems import Problem

MAX_BODY_BYTES: Final = 20 * 1024 * 1024
"""RunPod's own bound on a result."""
LARGE_BODIES_AT_ONCE: Final = 4
"""Each is held whole until it is stored, and a worker with one address may send any number. The others wait unread."""
MAX_PROGRESS_BYTES: Final = 48 * 1024
"""A preview of 32 KiB in base64, and the rest."""

log = structlog.get_logger(__name__)
_progress_decoder = msgspec.json.Decoder(ProgressReport)


def build_app(
    intake: CallbackIntake,
    callbacks: CallbackUrls,
    progress: ProgressReports,
    clock: DatabaseClock,
) -> Litestar:
    """The public application: the provider's webhook and the workers' progress."""
    large = asyncio.Semaphore(LARGE_BODIES_AT_ONCE)

    def prove(attempt_id: UUID, token: str) -> None:
        try:
            callbacks.check(attempt_id, token, clock.now())
        except (InvalidCallbackSignature, CallbackExpired) as refusal:
            raise _refused(attempt_id, refusal) from None

    @post("/webhooks/runpod/{attempt_id:uuid}/{token:str}", status_code=200)
    async def receive_callback(
        request: Request[Any, Any, Any], attempt_id: FromPath[UUID], token: FromPath[str]
    ) -> Response[None]:
        prove(attempt_id, token)
        place: AbstractAsyncContextManager[None] = large if _may_be_large(request) else nullcontext()
        async with place:
            body = await request.body()
            failpoint("ingress.before_store")
            if not await intake.take(attempt_id, body):
                # The next poll stores what the job came to.
                raise _refused(attempt_id, TooManyCallbacks())
        CALLBACKS_ACCEPTED.inc()
        failpoint("ingress.after_store")
        return Response(None, status_code=200)

    @post(
        "/webhooks/runpod/{attempt_id:uuid}/{token:str}/progress",
        status_code=204,
        request_max_body_size=MAX_PROGRESS_BYTES,
    )
    async def receive_progress(
        request: Request[Any, Any, Any], attempt_id: FromPath[UUID], token: FromPath[str]
    ) -> None:
        prove(attempt_id, token)
        try:
            report = _progress_decoder.decode(await request.body())
        except UNREADABLE as error:
            raise _refused(attempt_id, MalformedProgress(str(error))) from error
        await progress.forward(attempt_id, report)

    return Litestar(
        route_handlers=[receive_callback, receive_progress],
        exception_handlers=install_litestar_handlers(),
        request_max_body_size=MAX_BODY_BYTES,
        openapi_config=None,
        logging_config=None,
    )


def _may_be_large(request: Request[Any, Any, Any]) -> bool:
    declared = request.headers.get("content-length", "")
    return not declared.isdigit() or int(declared) > INLINE_BYTES


def _refused(attempt_id: UUID, refusal: Problem) -> Problem:
    REFUSED_CALLBACKS.labels(refusal.code).inc()
    log.warning("callback_refused", attempt_id=str(attempt_id), code=refusal.code)
    return refusal
