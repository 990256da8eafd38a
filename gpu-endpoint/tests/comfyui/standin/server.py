"""The HTTP API and the sockets."""

import asyncio
import hashlib
import json
import os
import sys
import time
import uuid
from collections.abc import Mapping, Sequence
from typing import Any, Final

import aiohttp
from aiohttp import web

from tests.comfyui.standin.executor import Executor, Queued
from tests.comfyui.standin.settings import StandInSettings, parse
from tests.comfyui.standin.validation import validate

VERSION: Final = "0.33.0"
"""Of the ComfyUI whose shapes were recorded."""
_GPU_BYTES: Final = 24 * 2**30


def serve(arguments: Sequence[str]) -> None:
    """Until killed."""
    settings = parse(arguments)
    counter = settings.user_directory / "boots"
    boots = int(counter.read_text()) + 1 if counter.exists() else 1
    counter.write_text(str(boots))
    if boots <= settings.broken_boots:
        sys.exit("this boot is broken")
    time.sleep(settings.boot_seconds)
    # Coloured, and with a bar, as what ComfyUI writes.
    print("  0%|   | 0/2\r100%|###| 2/2\r\x1b[32m[INFO]\x1b[0m Starting server", flush=True)  # noqa: T201
    web.run_app(StandIn(settings).app(), host="127.0.0.1", port=settings.port, print=None, access_log=None)


class StandIn:
    """One server. It is the audience of its executor."""

    def __init__(self, settings: StandInSettings) -> None:
        self._settings = settings
        self._executor = Executor(settings, self)
        self._sockets: dict[str, web.WebSocketResponse] = {}
        self._wants_metadata: set[str] = set()
        self._sending: asyncio.Queue[tuple[web.WebSocketResponse, str | bytes]] = asyncio.Queue()
        self._number = 0

    def app(self) -> web.Application:
        """The routes that a driver needs."""
        app = web.Application(client_max_size=100 * 2**20)
        app.add_routes(
            [
                web.get("/ws", self._socket),
                web.get("/system_stats", self._system_stats),
                web.post("/prompt", self._post_prompt),
                web.get("/queue", self._get_queue),
                web.get("/history/{prompt_id}", self._get_history),
                web.post("/history", self._post_history),
                web.get("/api/jobs/{prompt_id}", self._get_job),
                web.post("/api/jobs/{prompt_id}/cancel", self._cancel),
                web.post("/interrupt", self._interrupt),
                web.post("/free", self._free),
                web.post("/upload/image", self._upload),
                web.get("/standin/left", self._left),
            ]
        )
        app.on_startup.append(self._start)
        return app

    async def _start(self, _: web.Application) -> None:
        for directory in (self._settings.temp_directory, self._settings.user_directory):
            directory.mkdir(parents=True, exist_ok=True)
        self._tasks = [asyncio.create_task(self._executor.run()), asyncio.create_task(self._send_all())]
        for task in self._tasks:
            task.add_done_callback(_end_loudly)

    # What the executor says.

    def send(self, kind: str, data: dict[str, Any], client_id: str | None) -> None:
        """To one client's socket, if it has one."""
        if client_id in self._sockets:
            self._sending.put_nowait((self._sockets[client_id], json.dumps({"type": kind, "data": data})))

    def send_preview(self, metadata: dict[str, Any], picture: bytes, client_id: str | None) -> None:
        """With metadata if the client asked for it, else without."""
        if client_id is None or client_id not in self._sockets:
            return
        about = json.dumps(metadata).encode()
        with_metadata = (4).to_bytes(4, "big") + len(about).to_bytes(4, "big") + about + picture
        plain = (1).to_bytes(4, "big") + (1).to_bytes(4, "big") + picture
        frame = with_metadata if client_id in self._wants_metadata else plain
        self._sending.put_nowait((self._sockets[client_id], frame))

    def broadcast_status(self) -> None:
        """To every socket."""
        for client_id in self._sockets:
            self.send("status", self._status(), client_id)

    def close_sockets(self) -> None:
        """Cut them, without a word."""
        for socket in list(self._sockets.values()):
            transport = socket._req.transport if socket._req is not None else None
            if transport is not None:
                transport.abort()

    def mute_sockets(self) -> None:
        """Forget them all, as happens to a client's newer socket when its older one ends."""
        self._sockets.clear()

    async def _send_all(self) -> None:
        while True:
            socket, content = await self._sending.get()
            if not socket.closed:
                try:
                    await (socket.send_bytes(content) if isinstance(content, bytes) else socket.send_str(content))
                except ConnectionError:
                    continue  # the client is gone

    async def _socket(self, request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        client_id = request.query.get("clientId") or uuid.uuid4().hex
        self._sockets[client_id] = socket
        self._wants_metadata.discard(client_id)
        self.send("status", self._status() | {"sid": client_id}, client_id)
        if client_id == self._executor.client_id and self._executor.last_node is not None:
            self.send("executing", {"node": self._executor.last_node}, client_id)
        try:
            async for message in socket:
                if message.type is aiohttp.WSMsgType.TEXT:
                    said = json.loads(message.data)
                    if said["type"] == "feature_flags" and said["data"].get("supports_preview_metadata"):
                        self._wants_metadata.add(client_id)
                        self.send("feature_flags", {"supports_preview_metadata": True}, client_id)
        finally:
            # Whichever socket the client has by now: a newer one is forgotten, too, and stays open.
            self._sockets.pop(client_id, None)
        return socket

    def _status(self) -> dict[str, Any]:
        return {"status": {"exec_info": {"queue_remaining": self._executor.remaining}}}

    # What a client asks.

    async def _system_stats(self, _: web.Request) -> web.Response:
        used = 2**30 if self._executor.running is None else 8 * 2**30
        device: dict[str, Any] = {"name": "cpu", "type": "cpu", "index": None}
        if not self._settings.cpu:
            device = {"name": "cuda:0", "type": "cuda", "index": 0}
        memory = dict.fromkeys(("vram_total", "torch_vram_total"), _GPU_BYTES)
        memory |= dict.fromkeys(("vram_free", "torch_vram_free"), _GPU_BYTES - used)
        system = {"ram_total": 2**34, "ram_free": 2**33, "comfyui_version": VERSION, "argv": sys.argv}
        system |= {"python_version": sys.version, "pytorch_version": "none"}
        return web.json_response({"system": system, "devices": [device | memory]})

    async def _post_prompt(self, request: web.Request) -> web.Response:
        body = json.loads(await request.read())  # a body that is no JSON is answered with 500, as ComfyUI does
        print("got prompt", flush=True)  # noqa: T201 - as ComfyUI does
        if "prompt" not in body:
            return _rejected("no_prompt")
        prompt_id = body.get("prompt_id") or str(uuid.uuid4())
        if not _is_canonical(prompt_id):
            return _rejected("invalid_prompt_id")
        await asyncio.sleep(self._settings.validation_seconds)
        verdict = validate(body["prompt"], self._settings)
        if verdict.error is not None:
            return web.json_response({"error": verdict.error, "node_errors": verdict.node_errors}, status=400)
        number, self._number = self._number, self._number + 1
        extra = {"create_time": int(time.time() * 1000)}
        if "client_id" in body:
            extra["client_id"] = body["client_id"]
        self._executor.add(Queued(number, prompt_id, body["prompt"], extra, verdict.outputs))
        return web.json_response({"prompt_id": prompt_id, "number": number, "node_errors": verdict.node_errors})

    async def _get_queue(self, _: web.Request) -> web.Response:
        running = [] if self._executor.running is None else [self._executor.running.listed()]
        pending = [queued.listed() for queued in self._executor.pending]
        return web.json_response({"queue_running": running, "queue_pending": pending})

    async def _get_history(self, request: web.Request) -> web.Response:
        prompt_id = request.match_info["prompt_id"]
        found = self._executor.history.get(prompt_id)
        return web.json_response({} if found is None else {prompt_id: found})

    async def _post_history(self, request: web.Request) -> web.Response:
        for prompt_id in (await request.json())["delete"]:
            self._executor.history.pop(prompt_id, None)
        return web.Response()

    async def _get_job(self, request: web.Request) -> web.Response:
        prompt_id = request.match_info["prompt_id"]
        executor = self._executor
        for status, queued in [("in_progress", executor.running), *(("pending", item) for item in executor.pending)]:
            if queued is not None and queued.prompt_id == prompt_id:
                return web.json_response(_waiting(queued, status))
        if prompt_id in executor.history:
            return web.json_response(_ended(prompt_id, executor.history[prompt_id]))
        return web.json_response({"error": "Job not found"}, status=404)

    async def _cancel(self, request: web.Request) -> web.Response:
        prompt_id = request.match_info["prompt_id"]
        executor = self._executor
        cancelled = False
        if executor.running is not None and executor.running.prompt_id == prompt_id:
            executor.interrupt()
            cancelled = True
        for queued in [item for item in executor.pending if item.prompt_id == prompt_id]:
            executor.pending.remove(queued)
            cancelled = True
        return web.json_response({"cancelled": cancelled})

    async def _interrupt(self, request: web.Request) -> web.Response:
        prompt_id = (await request.json()).get("prompt_id")
        running = self._executor.running
        if prompt_id is None or (running is not None and running.prompt_id == prompt_id):
            self._executor.interrupt()
        return web.Response()

    async def _free(self, request: web.Request) -> web.Response:
        if (await request.json()).get("free_memory"):
            self._executor.forget_results()
        return web.Response()

    async def _left(self, _: web.Request) -> web.Response:
        """For tests: all that is known of prompts."""
        running = None if self._executor.running is None else self._executor.running.prompt_id
        pending = [queued.prompt_id for queued in self._executor.pending]
        history = list(self._executor.history)
        return web.json_response({"running": running, "pending": pending, "history": history})

    async def _upload(self, request: web.Request) -> web.Response:
        form = await request.post()
        image = form["image"]
        assert isinstance(image, web.FileField)
        content = image.file.read()
        path = self._settings.input_directory / image.filename
        number = 1
        while path.exists() and form.get("overwrite") != "true" and not _same(path.read_bytes(), content):
            path = self._settings.input_directory / f"{image.filename.rsplit('.', 1)[0]} ({number}).png"
            number += 1
        path.write_bytes(content)
        return web.json_response({"name": path.name, "subfolder": "", "type": "input"})


def _end_loudly(task: "asyncio.Task[None]") -> None:
    if not task.cancelled():
        # A stand-in that stands still would look like a ComfyUI that hangs.
        print(repr(task.exception()), flush=True)  # noqa: T201
        os._exit(70)


def _is_canonical(prompt_id: str) -> bool:
    try:
        return str(uuid.UUID(prompt_id)) == prompt_id
    except ValueError:
        return False


def _same(one: bytes, other: bytes) -> bool:
    return hashlib.sha256(one).digest() == hashlib.sha256(other).digest()


def _rejected(kind: str) -> web.Response:
    error = {"type": kind, "message": kind, "details": "", "extra_info": {}}
    return web.json_response({"error": error, "node_errors": {}}, status=400)


def _waiting(queued: Queued, status: str) -> dict[str, Any]:
    counts = {"outputs_count": 0, "previewable_outputs_count": 0}
    created = queued.extra_data["create_time"]
    return {"id": queued.prompt_id, "status": status, "priority": queued.number, "create_time": created, **counts}


def _ended(prompt_id: str, entry: Mapping[str, Any]) -> dict[str, Any]:
    number, _, prompt, extra_data, _ = entry["prompt"]
    messages = dict(entry["status"]["messages"])
    last, data = entry["status"]["messages"][-1]
    status = {"execution_success": "completed", "execution_error": "failed", "execution_interrupted": "cancelled"}[last]
    files = [
        item | {"nodeId": node_id, "mediaType": kind}
        for node_id, by_kind in entry["outputs"].items()
        for kind, items in by_kind.items()
        for item in (items if isinstance(items, list) else ())
        if isinstance(item, dict)
    ]
    job = {
        "id": prompt_id,
        "status": status,
        "priority": number,
        "create_time": extra_data["create_time"],
        "execution_start_time": messages["execution_start"]["timestamp"],
        "execution_end_time": data["timestamp"],
        "outputs_count": len(files),
        "previewable_outputs_count": len(files),
        "outputs": entry["outputs"],
        "execution_status": entry["status"],
        "workflow": {"prompt": prompt, "extra_data": extra_data},
    }
    if last == "execution_error":
        job["execution_error"] = data
    if files:
        job["preview_output"] = files[0]
    return job
