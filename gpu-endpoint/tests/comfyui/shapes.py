"""What a ComfyUI answers and says, reduced to keys, types and the words that mean something.

The same observation is made of the real one (``python -m tests.comfyui.shapes URL FILE`` records it) and of the
stand-in: the two must be equal.
"""

import asyncio
import json
import sys
import uuid
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

import aiohttp

from tests.comfyui import graphs
from tests.comfyui.graphs import Graph

TOLD: Final = frozenset({"type", "status", "status_str", "completed", "state", "exception_type", "image_type"})
TOLD_FOR: Final = frozenset({"node_type", "class_type", "cancelled", "animated"})
NAMES: Final = frozenset({"executed", "current_outputs", "traceback"})
"""Lists of texts that may as well be empty."""
OPAQUE: Final = frozenset({"input_config", "current_inputs", "linked_node", "workflow", "extra_data", "prompt"})
"""What a driver has no business to look into, or what is ComfyUI's own matter."""
SYSTEM: Final = ("comfyui_version", "pytorch_version", "python_version", "ram_free", "ram_total", "argv")

_TRIES_TO_BE_SILENT: Final = 10
_SILENCE_SECONDS: Final = 0.5


def shape(value: Any, key: str = "") -> Any:
    """The shape of a JSON value. Nodes and prompts are named ``<id>``."""
    if key in OPAQUE:
        return "opaque"
    if key in NAMES or (key == "nodes" and isinstance(value, list)):
        return "names"
    if key in ("queue_running", "queue_pending"):
        return [
            [shape(item) for item in (number, prompt_id)] + ["opaque"] * len(rest) for number, prompt_id, *rest in value
        ]
    if isinstance(value, dict):
        return {_name(name): shape(item, name) for name, item in value.items()}
    if isinstance(value, list):
        shapes = [shape(item, key) for item in value]
        return [item for number, item in enumerate(shapes) if item not in shapes[:number]]
    if key in TOLD or key in TOLD_FOR:
        return value
    if value is None:
        return None
    return "number" if type(value) in (int, float) else type(value).__name__


def _name(name: str) -> str:
    return "<id>" if name.isdigit() or (len(name) == 36 and name.count("-") == 4) else name


class Observer:
    """One client of a ComfyUI."""

    def __init__(self, http: aiohttp.ClientSession) -> None:
        self.http = http
        self.seen: dict[str, Any] = {}

    async def observe(self) -> dict[str, Any]:
        """Everything, in an order in which nothing disturbs what comes after it."""
        await self._standing()
        await self._rejections()
        await self._uploads()
        await self._success()
        await self._failure()
        await self._cancels()
        await self._sampling()
        await self._sockets()
        return self.seen

    async def call(self, method: str, path: str, body: Any = None, data: Any = None) -> tuple[int, Any]:
        """Status and decoded body, or None where there is no JSON."""
        async with self.http.request(method, path, json=body, data=data) as answer:
            content = await answer.read()
            try:
                return answer.status, json.loads(content)
            except ValueError:
                return answer.status, None

    async def note(self, name: str, method: str, path: str, body: Any = None) -> Any:
        """Make a call and keep its shape."""
        status, answer = await self.call(method, path, body)
        self.seen[name] = {"status": status, "body": shape(answer)}
        return answer

    async def post(self, graph: Graph, prompt_id: str | None = None, **more: Any) -> str:
        """Queue a workflow that is taken."""
        prompt_id = prompt_id or str(uuid.uuid4())
        status, _ = await self.call("POST", "/prompt", {"prompt": graph, "prompt_id": prompt_id, **more})
        assert status == 200
        return prompt_id

    async def job(self, prompt_id: str) -> Any:
        """What the jobs API says."""
        return (await self.call("GET", f"/api/jobs/{prompt_id}"))[1]

    async def until(self, prompt_id: str, *statuses: str) -> Any:
        """The job when it has one of these."""
        async with asyncio.timeout(120):
            while (job := await self.job(prompt_id))["status"] not in statuses:
                await asyncio.sleep(0.02)
        return job

    async def _standing(self) -> None:
        _, stats = await self.call("GET", "/system_stats")
        stats["system"] = {key: stats["system"][key] for key in SYSTEM}
        self.seen["system_stats"] = shape(stats)
        await self.note("queue", "GET", "/queue")
        await self.note("free", "POST", "/free", {"unload_models": True, "free_memory": True})
        await self.note("history.unknown", "GET", f"/history/{uuid.uuid4()}")
        await self.note("job.unknown", "GET", f"/api/jobs/{uuid.uuid4()}")
        await self.note("cancel.unknown", "POST", f"/api/jobs/{uuid.uuid4()}/cancel", {})
        await self.note("interrupt.unknown", "POST", "/interrupt", {"prompt_id": str(uuid.uuid4())})
        async with self.http.post("/prompt", data=b"{", headers={"content-type": "application/json"}) as answer:
            self.seen["malformed"] = answer.status

    async def _rejections(self) -> None:
        await self.note("rejected.no_prompt", "POST", "/prompt", {})
        await self.note("rejected.no_outputs", "POST", "/prompt", {"prompt": {}})
        await self.note("rejected.id", "POST", "/prompt", {"prompt": graphs.quick(), "prompt_id": "ABC"})
        unknown = graphs.quick() | {"9": graphs.node("NoSuchNode", "Mystery")}
        await self.note("rejected.missing_node", "POST", "/prompt", {"prompt": unknown})
        await self.note("rejected.missing_input", "POST", "/prompt", {"prompt": graphs.loading("missing.png")})
        large = graphs.quick()
        large["1"]["inputs"]["width"] = 10_000_000
        await self.note("rejected.too_big", "POST", "/prompt", {"prompt": large})
        del large["1"]["inputs"]["width"]
        await self.note("rejected.input_missing", "POST", "/prompt", {"prompt": large})
        model = graphs.sampled()
        model["2"]["inputs"]["vae_name"] = "missing.safetensors"
        await self.note("rejected.model", "POST", "/prompt", {"prompt": model})
        half = graphs.quick() | {f"2{key}": value for key, value in graphs.loading("missing.png").items()}
        half["22"]["inputs"]["images"] = ["21", 0]
        answer = await self.note("half_valid", "POST", "/prompt", {"prompt": half})
        await self.until(answer["prompt_id"], "completed")

    async def _uploads(self) -> None:
        for name, content in (("first", b"one"), ("same", b"one"), ("other", b"two")):
            form = aiohttp.FormData()
            form.add_field("image", content, filename="shape.png", content_type="image/png")
            _, answer = await self.call("POST", "/upload/image", data=form)
            self.seen[f"upload.{name}"] = {"body": shape(answer), "renamed": answer["name"] != "shape.png"}
        form = aiohttp.FormData()
        form.add_field("image", b"no picture", filename="broken.png", content_type="image/png")
        form.add_field("overwrite", "true")
        await self.call("POST", "/upload/image", data=form)

    async def _success(self) -> None:
        prompt_id = str(uuid.uuid4())
        graph = graphs.quick(f"shapes-{prompt_id}")
        self.seen["messages.success"] = await self._messages(graph, prompt_id)
        self.seen["job.completed"] = shape(first := await self.job(prompt_id))
        await self.note("history.completed", "GET", f"/history/{prompt_id}")
        again = str(uuid.uuid4())
        self.seen["messages.cached"] = await self._messages(graph, again)
        self.seen["cached.same_file"] = (await self.job(again))["outputs"] == first["outputs"]
        await self.note("history.delete", "POST", "/history", {"delete": [prompt_id]})
        await self.note("history.deleted", "GET", f"/history/{prompt_id}")
        await self.note("job.deleted", "GET", f"/api/jobs/{prompt_id}")
        self.seen["job.picture"] = shape(await self._finished(graphs.picture(prompt_id)))

    async def _finished(self, graph: Graph) -> Any:
        return await self.until(await self.post(graph), "completed", "failed")

    async def _failure(self) -> None:
        prompt_id = str(uuid.uuid4())
        self.seen["messages.failed"] = await self._messages(graphs.loading("broken.png"), prompt_id)
        self.seen["job.failed"] = shape(await self.job(prompt_id))

    async def _cancels(self) -> None:
        running = str(uuid.uuid4())
        async with self.http.ws_connect(f"/ws?clientId={running}", max_msg_size=0) as socket:
            await self.post(graphs.slow(), running, client_id=running)
            # The first node may be over at once, or not for a while: what is interrupted is one of the slow ones.
            while (await self._heard(socket, "executing"))["data"]["node"] == "1":
                pass
            waiting = await self.post(graphs.quick("waiting"))
            self.seen["job.pending"] = shape(await self.job(waiting))
            self.seen["job.in_progress"] = shape(await self.job(running))
            await self.note("queue.busy", "GET", "/queue")
            await self.note("cancel.pending", "POST", f"/api/jobs/{waiting}/cancel", {})
            await self.note("job.dequeued", "GET", f"/api/jobs/{waiting}")
            await self.note("cancel.running", "POST", f"/api/jobs/{running}/cancel", {})
            interrupted = await self._heard(socket, "execution_interrupted")
        self.seen["messages.interrupted"] = shape(interrupted["data"])
        self.seen["job.cancelled"] = shape(await self.until(running, "cancelled"))
        await self.note("cancel.ended", "POST", f"/api/jobs/{running}/cancel", {})

    async def _sampling(self) -> None:
        prompt_id = str(uuid.uuid4())
        async with self.http.ws_connect(f"/ws?clientId={prompt_id}", max_msg_size=0) as socket:
            await socket.send_json({"type": "feature_flags", "data": {"supports_preview_metadata": True}})
            await self.post(graphs.sampled(seed=uuid.uuid4().int % 2**32), prompt_id, client_id=prompt_id)
            counted: list[tuple[float, float]] = []
            async with asyncio.timeout(120):
                while (message := await socket.receive()).type is not aiohttp.WSMsgType.BINARY:
                    self._count(counted, message)
                frame = message.data
                length = int.from_bytes(frame[4:8], "big")
                self.seen["preview"] = {
                    "event": int.from_bytes(frame[:4], "big"),
                    "metadata": shape(json.loads(frame[8 : 8 + length])),
                    "jpeg": frame[8 + length :].startswith(b"\xff\xd8\xff"),
                }
                while not any(text == "execution_success" for text in self._count(counted, await socket.receive())):
                    pass
        self.seen["sampler_steps"] = counted

    def _count(self, counted: list[tuple[float, float]], message: aiohttp.WSMessage) -> Iterable[str]:
        if message.type is not aiohttp.WSMsgType.TEXT:
            return ()
        content = json.loads(message.data)
        if content["type"] == "progress":
            counted.append((content["data"]["value"], content["data"]["max"]))
        return (content["type"],)

    async def _sockets(self) -> None:
        client_id = str(uuid.uuid4())
        first = await self.http.ws_connect(f"/ws?clientId={client_id}")
        await first.receive()
        second = await self.http.ws_connect(f"/ws?clientId={client_id}")
        await second.receive()
        await first.close()
        # When the server sees the end of the first, it forgets the second: from then on nothing reaches it.
        messages: list[aiohttp.WSMessage] = []
        listening = asyncio.create_task(_collect(second, messages))
        silent = False
        for tries in range(_TRIES_TO_BE_SILENT):
            before = len(messages)
            prompt_id = await self.post(graphs.quick(f"silent-{client_id}-{tries}"), client_id=client_id)
            await self.until(prompt_id, "completed")
            await asyncio.wait([listening], timeout=_SILENCE_SECONDS)
            if silent := len(messages) == before:
                break
        self.seen["second_socket_silent"] = silent
        await second.close()
        await listening

    async def _messages(self, graph: Graph, prompt_id: str) -> list[Any]:
        """The shapes of all messages of a prompt, each once, in the order of their first appearance."""
        shapes: list[Any] = []
        async with self.http.ws_connect(f"/ws?clientId={prompt_id}", max_msg_size=0) as socket:
            await self.post(graph, prompt_id, client_id=prompt_id)
            async with asyncio.timeout(120):
                while True:
                    message = json.loads((await socket.receive()).data)
                    if (found := shape(message)) not in shapes:
                        shapes.append(found)
                    if message["type"] == "executing" and message["data"].get("node") is None:
                        return shapes

    async def _heard(self, socket: aiohttp.ClientWebSocketResponse, kind: str) -> Any:
        async with asyncio.timeout(120):
            while True:
                message = json.loads((await socket.receive()).data)
                if message["type"] == kind:
                    return message


async def _collect(socket: aiohttp.ClientWebSocketResponse, messages: list[aiohttp.WSMessage]) -> None:
    async for message in socket:
        messages.append(message)


async def observe(url: str) -> dict[str, Any]:
    """All shapes of the ComfyUI at ``url``, as JSON would give them back."""
    async with aiohttp.ClientSession(url) as http:
        seen: dict[str, Any] = json.loads(json.dumps(await Observer(http).observe()))
        return seen


if __name__ == "__main__":
    Path(sys.argv[2]).write_text(json.dumps(asyncio.run(observe(sys.argv[1])), indent=1, sort_keys=True) + "\n")
