"""Telling the platform how far a job is: best effort, at most once a second, never a reason to fail."""

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Callable
from typing import Final, Literal

import httpx
import msgspec

INTERVAL_SECONDS: Final = 1.1
"""The platform drops what comes within a second of the last one, whichever of the two the network delayed."""
_TIMEOUT_SECONDS: Final = 3.0

Stage = Literal["rendering", "encoding", "uploading"]

_log = logging.getLogger(__name__)


class Progress(msgspec.Struct, frozen=True, kw_only=True):
    """How far the job is as a whole (``percent``, 0 to 100) and inside a sampler (``step`` of ``steps``).

    ``node`` is the title of what runs. ``preview`` is the newest small JPEG of what comes about; it is posted once.
    """

    percent: int
    stage: Stage
    step: int | None = None
    steps: int | None = None
    node: str | None = None
    preview: bytes | None = None


ReportProgress = Callable[[Progress], None]
"""May be called from any thread, as often as one likes."""


@contextlib.asynccontextmanager
async def progress_posts(http: httpx.AsyncClient, url: str | None, job_id: str) -> AsyncIterator[ReportProgress]:
    """Post the newest progress to ``url`` while the block runs; without a URL, reports go nowhere.

    Each report names the job: the answer to its submission may have been lost, and then nothing else would, in time.
    """
    if url is None:
        yield lambda _: None
        return
    poster = _Poster(http, url, job_id)
    task = asyncio.create_task(poster.run())
    try:
        yield poster.report
    finally:
        task.cancel()
        await asyncio.wait([task])


class _Poster:
    def __init__(self, http: httpx.AsyncClient, url: str, job_id: str) -> None:
        self._http = http
        self._url = url
        self._job_id = job_id
        self._loop = asyncio.get_running_loop()
        self._news = asyncio.Event()
        self._newest: Progress | None = None

    def report(self, progress: Progress) -> None:
        self._newest = progress
        self._loop.call_soon_threadsafe(self._news.set)

    async def run(self) -> None:
        posted: Progress | None = None
        while True:
            await self._news.wait()
            self._news.clear()
            newest = self._newest
            if newest is None or newest == posted:
                continue
            began = time.monotonic()
            seen_before = posted is not None and newest.preview == posted.preview
            if not await self._post(msgspec.structs.replace(newest, preview=None) if seen_before else newest):
                return
            posted = newest
            await asyncio.sleep(max(0.0, INTERVAL_SECONDS - (time.monotonic() - began)))

    async def _post(self, progress: Progress) -> bool:
        """Whether it is worth posting again: an address that refuses us will go on refusing."""
        headers = {"content-type": "application/json"}
        stated = msgspec.structs.asdict(progress) | {"job_id": self._job_id}
        for name in ("node", "preview"):
            if stated[name] is None:
                del stated[name]
        body = msgspec.json.encode(stated)
        try:
            answer = await self._http.post(self._url, content=body, headers=headers, timeout=_TIMEOUT_SECONDS)
        except httpx.HTTPError as error:
            _log.info("progress_not_delivered", extra={"reason": type(error).__name__})
            return True
        if answer.is_client_error and answer.status_code != 429:
            _log.warning("progress_refused", extra={"status": answer.status_code})
            return False
        return True
