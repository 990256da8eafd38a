"""ComfyUI's HTTP API, typed. What it tells of users' inputs is not even decoded."""

import asyncio
from types import TracebackType
from typing import Any, Final, Self

import aiohttp
import msgspec

_SUBMIT_TIMEOUT: Final = aiohttp.ClientTimeout(total=60.0)
"""Validation looks into every folder that a node offers files from, on a volume that may be slow."""


class Unreachable(Exception):
    """No answer, or none that ComfyUI gives."""


class ExtraInfo(msgspec.Struct, frozen=True):
    """Of an error found before execution."""

    input_name: str | None = None
    received_value: Any = None
    node_id: str | None = None
    class_type: str | None = None
    node_title: str | None = None


class FoundError(msgspec.Struct, frozen=True):
    """One error found before execution. ``details`` may hold a user's words."""

    type: str
    message: str = ""
    details: str = ""
    extra_info: ExtraInfo = ExtraInfo()


class NodeErrors(msgspec.Struct, frozen=True):
    """What is wrong with one node."""

    errors: list[FoundError]
    class_type: str = ""


class PromptRejected(Exception):
    """The prompt is not executed, or only in part. ``error`` is about the whole, ``node_errors`` by node."""

    def __init__(self, error: FoundError | None, node_errors: dict[str, NodeErrors]) -> None:
        super().__init__(error.type if error is not None else "partly invalid")
        self.error = error
        self.node_errors = node_errors


class ExecutionError(msgspec.Struct, frozen=True):
    """Why a node failed. ComfyUI says more: inputs and a traceback."""

    node_id: str
    node_type: str
    exception_type: str
    exception_message: str


class Job(msgspec.Struct, frozen=True):
    """A prompt as ``/api/jobs`` tells of it."""

    status: str
    outputs: dict[str, Any] = {}
    """By node, then by kind: lists, of files and of anything else."""
    execution_error: ExecutionError | None = None
    execution_start_time: int | None = None
    execution_end_time: int | None = None

    @property
    def ended(self) -> bool:
        """Whether nothing more will happen."""
        return self.status in ("completed", "failed", "cancelled")


class _System(msgspec.Struct, frozen=True):
    comfyui_version: str = ""


class _Device(msgspec.Struct, frozen=True):
    type: str = ""
    vram_total: int = 0
    vram_free: int = 0


class SystemStats(msgspec.Struct, frozen=True):
    """Version and memory."""

    system: _System
    devices: list[_Device] = []

    @property
    def used_vram_bytes(self) -> int:
        """Of all GPUs together, by whatever process."""
        return sum(device.vram_total - device.vram_free for device in self.devices if device.type != "cpu")


class _Accepted(msgspec.Struct, frozen=True):
    node_errors: dict[str, NodeErrors] = {}


class _Rejected(msgspec.Struct, frozen=True):
    error: FoundError
    node_errors: dict[str, NodeErrors] | list[Any] = {}


class ComfyUIClient:
    """Calls of one job. Raises Unreachable for whatever keeps an answer away."""

    def __init__(self, url: str, answer_seconds: float) -> None:
        self._url = url
        self._timeout = aiohttp.ClientTimeout(total=answer_seconds)

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession(self._url, timeout=self._timeout)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._session.close()

    async def stats(self) -> SystemStats:
        """Also the sign that ComfyUI is ready."""
        return msgspec.json.decode(await self._get("/system_stats"), type=SystemStats)

    async def submit(self, prompt_id: str, workflow: dict[str, Any]) -> None:
        """Queue a workflow under an id of ours, a lowercase UUID; messages go to the socket of the same id.

        Raises:
            PromptRejected: it is invalid, or a part of it is: the good part then runs, and must be cancelled.
        """
        body = msgspec.json.encode({"prompt": workflow, "prompt_id": prompt_id, "client_id": prompt_id})
        status, answer = await self._call("POST", "/prompt", body, _SUBMIT_TIMEOUT)
        try:
            if status == 200:
                if found := msgspec.json.decode(answer, type=_Accepted).node_errors:
                    raise PromptRejected(None, found)
                return
            if status == 400:
                rejected = msgspec.json.decode(answer, type=_Rejected)
                by_node = rejected.node_errors if isinstance(rejected.node_errors, dict) else {}
                raise PromptRejected(rejected.error, by_node)
        except msgspec.DecodeError as error:
            raise Unreachable(f"POST /prompt: {status} with an unreadable body") from error
        # It answers 500, without a word, to a prompt that it cannot even look through. Nothing was queued.
        raise PromptRejected(FoundError(type=f"HTTP {status}"), {})

    async def job(self, prompt_id: str) -> Job | None:
        """What became of a prompt so far; None if ComfyUI does not know it."""
        status, answer = await self._call("GET", f"/api/jobs/{prompt_id}")
        if status == 404:
            return None
        if status != 200:
            raise Unreachable(f"GET /api/jobs: HTTP {status}")
        try:
            return msgspec.json.decode(answer, type=Job)
        except msgspec.DecodeError as error:
            raise Unreachable("GET /api/jobs: an unreadable body") from error

    async def cancel(self, prompt_id: str) -> None:
        """Interrupt it or take it from the queue. It may not listen, and what has ended stays as it is."""
        await self._post(f"/api/jobs/{prompt_id}/cancel", {})

    async def free(self, *, forget_results: bool) -> None:
        """Unload the models as soon as nothing runs; with ``forget_results`` also what nodes computed."""
        await self._post("/free", {"unload_models": True, "free_memory": forget_results})

    async def delete_history(self, prompt_id: str) -> None:
        """Forget a prompt: its history holds the user's words."""
        await self._post("/history", {"delete": [prompt_id]})

    async def socket(self, prompt_id: str) -> aiohttp.ClientWebSocketResponse:
        """Open the socket that hears of a prompt."""
        try:
            # Previews are large, and so is the state of many nodes.
            return await self._session.ws_connect(f"/ws?clientId={prompt_id}", max_msg_size=0, heartbeat=20.0)
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            raise Unreachable(f"the socket: {type(error).__name__}") from error

    async def _get(self, path: str) -> bytes:
        status, answer = await self._call("GET", path)
        if status != 200:
            raise Unreachable(f"GET {path}: HTTP {status}")
        return answer

    async def _post(self, path: str, body: object) -> None:
        status, _ = await self._call("POST", path, msgspec.json.encode(body))
        if status != 200:
            raise Unreachable(f"POST {path.split('?')[0]}: HTTP {status}")

    async def _call(
        self, method: str, path: str, body: bytes | None = None, timeout: aiohttp.ClientTimeout | None = None
    ) -> tuple[int, bytes]:
        headers = {"content-type": "application/json"} if body is not None else None
        try:
            async with self._session.request(
                method, path, data=body, headers=headers, timeout=timeout or self._timeout
            ) as answer:
                return answer.status, await answer.read()
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            raise Unreachable(f"{method} {path.split('?')[0]}: {type(error).__name__}") from error


async def pause_until_freed() -> None:
    """ComfyUI frees memory in its own time once idle, and tells nobody when it has."""
    await asyncio.sleep(0.5)
