"""Hearing how far a prompt is, over a socket that may fall silent: nothing that matters depends on it."""

import asyncio
import logging
import time
from collections.abc import Callable

import aiohttp
import msgspec

from gpu_endpoint.progress import Progress
from gpu_endpoint.renderers.comfyui.client import ComfyUIClient, Unreachable
from gpu_endpoint.renderers.comfyui.messages import (
    ENDINGS,
    HELLO,
    Preview,
    PromptMessage,
    read_message,
    read_preview,
)
from gpu_endpoint.renderers.comfyui.scale import ProgressScale
from gpu_endpoint.renderers.previews import INTERVAL_SECONDS, UnusablePreview, small_jpeg

_PAUSE_SECONDS = 0.5

_log = logging.getLogger(__name__)


class Listener:
    """Of one run of a workflow. ``news`` is set when it is worth asking ComfyUI how the prompt is."""

    def __init__(
        self,
        client: ComfyUIClient,
        prompt_id: str,
        scale: ProgressScale,
        report_progress: Callable[[Progress], None],
        patience_seconds: float,
    ) -> None:
        self._client = client
        self._prompt_id = prompt_id
        self._scale = scale
        self._report_progress = report_progress
        self._patience_seconds = patience_seconds
        self._progress = Progress(percent=0, stage="rendering")
        self._preview: bytes | None = None
        self._preview_at = -INTERVAL_SECONDS
        self.listening = asyncio.Event()
        self.news = asyncio.Event()
        self.heard_at = time.monotonic()
        self.began_at: float | None = None
        self.ended_at: float | None = None

    async def run(self) -> None:
        """Listen until cancelled, through whatever happens to the socket."""
        while True:
            try:
                await self._listen()
            except (Unreachable, aiohttp.ClientError, OSError, msgspec.DecodeError) as error:
                _log.info("socket_lost", extra={"reason": type(error).__name__})
            self.news.set()
            await asyncio.sleep(_PAUSE_SECONDS)

    async def _listen(self) -> None:
        # Before another is opened, this one is closed and its end waited for: ComfyUI keeps one socket per id, and
        # forgets the newer one when it notices that the older one is gone. One that was forgotten falls silent; it is
        # closed and opened again, too.
        async with await self._client.socket(self._prompt_id) as socket:
            await socket.send_str(HELLO.decode())
            while True:
                try:
                    message = await socket.receive(timeout=self._patience_seconds)
                except TimeoutError:
                    return
                if message.type is aiohttp.WSMsgType.TEXT:
                    # The first one says that the socket is registered: what is said from now on is heard.
                    self.listening.set()
                    if (heard := read_message(message.data)) is not None and heard[1].prompt_id == self._prompt_id:
                        self._hear(*heard)
                elif message.type is aiohttp.WSMsgType.BINARY:
                    if (preview := read_preview(message.data)) is not None and preview.prompt_id == self._prompt_id:
                        await self._show(preview)
                else:
                    return

    def _hear(self, kind: str, message: PromptMessage) -> None:
        self.heard_at = time.monotonic()
        if kind in ENDINGS or kind == "executing":
            self.ended_at = self.heard_at if kind in ENDINGS else self.ended_at
            self.news.set()
            return
        if self.began_at is None:
            self.began_at = self.heard_at
        if isinstance(message.nodes, dict):
            self._tell(self._scale.update(message.nodes))
        elif message.nodes:
            self._tell(self._scale.cached(message.nodes))

    async def _show(self, preview: Preview) -> None:
        self.heard_at = time.monotonic()
        if self.heard_at - self._preview_at < INTERVAL_SECONDS:
            return
        self._preview_at = self.heard_at
        try:
            self._preview = await asyncio.to_thread(small_jpeg, preview.picture)
        except UnusablePreview as error:
            _log.info("preview_not_usable", extra={"reason": str(error)})
            return
        self._tell(self._progress)

    def _tell(self, progress: Progress) -> None:
        self._progress = msgspec.structs.replace(progress, preview=self._preview)
        self._report_progress(self._progress)
