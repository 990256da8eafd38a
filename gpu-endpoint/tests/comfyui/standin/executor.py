"""The queue, the one running prompt, the cache of results, and the history."""

import asyncio
import hashlib
import json
import time
from dataclasses import dataclass, field
from typing import Any, Protocol

from tests.comfyui.standin.nodes import NODES, Interrupted, NodeError
from tests.comfyui.standin.settings import StandInSettings
from tests.comfyui.standin.validation import links, upstream


class Audience(Protocol):
    """Who is told what happens."""

    def send(self, kind: str, data: dict[str, Any], client_id: str | None) -> None:
        """To one client's socket, if it has one."""

    def send_preview(self, metadata: dict[str, Any], picture: bytes, client_id: str | None) -> None:
        """A picture."""

    def broadcast_status(self) -> None:
        """To every socket."""

    def close_sockets(self) -> None:
        """Lose every connection."""

    def mute_sockets(self) -> None:
        """Say nothing to anybody any more, and leave the connections open."""


@dataclass
class Queued:
    """One posted prompt."""

    number: int
    prompt_id: str
    prompt: dict[str, Any]
    extra_data: dict[str, Any]
    outputs: list[str]
    messages: list[tuple[str, dict[str, Any]]] = field(default_factory=list)

    def listed(self) -> list[Any]:
        """As the queue is shown."""
        return [self.number, self.prompt_id, self.prompt, self.extra_data, self.outputs]


class Executor:
    """Runs prompts one after the other."""

    def __init__(self, settings: StandInSettings, audience: Audience) -> None:
        self.settings = settings
        self.prompt: dict[str, Any] = {}
        self.pending: list[Queued] = []
        self.running: Queued | None = None
        self.history: dict[str, dict[str, Any]] = {}
        self.last_node: str | None = None
        self._audience = audience
        self._cache: dict[str, dict[str, Any] | None] = {}
        self._states: dict[str, dict[str, Any]] = {}
        self._interrupted = False
        self._forgotten = False
        self._more = asyncio.Event()
        self._node_id = ""

    @property
    def remaining(self) -> int:
        """Prompts that have not ended."""
        return len(self.pending) + (self.running is not None)

    @property
    def client_id(self) -> str | None:
        """Of the running prompt."""
        return None if self.running is None else self.running.extra_data.get("client_id")

    def add(self, queued: Queued) -> None:
        """Queue it."""
        self.pending.append(queued)
        self._more.set()
        self._audience.broadcast_status()

    def interrupt(self) -> None:
        """Whatever runs."""
        self._interrupted = True

    def forget_results(self) -> None:
        """As ``/free`` with ``free_memory`` does."""
        self._cache.clear()

    def check(self) -> None:
        """Raises Interrupted."""
        if self._interrupted:
            raise Interrupted

    def step(self, value: int, of: int, picture: bytes | None = None) -> None:
        """Say how far the running node is."""
        self._state(self._node_id, "running", value, of)
        assert self.running is not None
        if picture is not None:
            about = _identity(self._node_id) | {"prompt_id": self.running.prompt_id, "image_type": "image/jpeg"}
            self._audience.send_preview(about, picture, self.client_id)
        progress = {"value": value, "max": of, "prompt_id": self.running.prompt_id, "node": self._node_id}
        self._audience.send("progress", progress, self.client_id)

    def close_sockets(self) -> None:
        """Lose every connection."""
        self._audience.close_sockets()

    def mute_sockets(self) -> None:
        """Say nothing to anybody any more, and leave the connections open."""
        self._audience.mute_sockets()

    def forget(self) -> None:
        """Know nothing of the prompt any more, when it has ended, either."""
        self._forgotten = True

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            self._more.clear()
            while self.pending:
                self.running = self.pending.pop(0)
                self._forgotten = False
                await self._execute(self.running)
                client_id, prompt_id = self.client_id, self.running.prompt_id
                self.running = None
                self._audience.broadcast_status()
                self._audience.send("executing", {"node": None, "prompt_id": prompt_id}, client_id)
            await self._more.wait()

    async def _execute(self, queued: Queued) -> None:
        self._interrupted = False
        self._states = {}
        self.prompt = queued.prompt
        self._tell("execution_start", {})
        signatures = self._signatures(queued)
        cached = [node_id for node_id in queued.prompt if signatures.get(node_id) in self._cache]
        self._tell("execution_cached", {"nodes": cached})
        outputs: dict[str, Any] = {}
        executed: list[str] = []
        completed = False
        try:
            for node_id in dict.fromkeys(node for output in queued.outputs for node in upstream(queued.prompt, output)):
                await self._execute_node(queued, node_id, signatures[node_id], outputs)
                executed.append(node_id)
            self._tell("execution_success", {})
            completed = True
        except Interrupted:
            self._tell("execution_interrupted", self._where(queued, executed))
        except NodeError as error:
            # As ComfyUI, it says on its output what the node was given.
            print("!!! Exception during processing !!!", error, queued.prompt[self._node_id]["inputs"], flush=True)  # noqa: T201
            self._tell(
                "execution_error",
                self._where(queued, executed)
                | {
                    "exception_message": str(error),
                    "exception_type": error.exception_type,
                    "traceback": ["somewhere\n"],
                    "current_inputs": {name: [str(v)] for name, v in queued.prompt[self._node_id]["inputs"].items()},
                    "current_outputs": executed,
                },
            )
        self.last_node = None
        if not self._forgotten:
            self.history[queued.prompt_id] = {
                "prompt": queued.listed(),
                "outputs": outputs,
                "status": {
                    "status_str": "success" if completed else "error",
                    "completed": completed,
                    "messages": queued.messages,
                },
                "meta": {
                    node_id: {"node_id": node_id, "display_node": node_id, "parent_node": None, "real_node_id": node_id}
                    for node_id in outputs
                },
            }

    async def _execute_node(self, queued: Queued, node_id: str, signature: str, outputs: dict[str, Any]) -> None:
        self._node_id = node_id
        node = queued.prompt[node_id]
        if signature in self._cache:
            if (known := self._cache[signature]) is not None:
                outputs[node_id] = known
                self._executed(queued, node_id, known)
                self._state(node_id, "finished")
            return
        self._state(node_id, "running", 0)
        self.last_node = node_id
        about = {"node": node_id, "display_node": node_id, "prompt_id": queued.prompt_id}
        self._audience.send("executing", about, self.client_id)
        # The server goes on while a node runs, as ComfyUI's does in its own thread.
        await asyncio.sleep(0)
        said = await NODES[node["class_type"]].run(self, node["inputs"])
        if said is not None:
            outputs[node_id] = said
            self._executed(queued, node_id, said)
        self._state(node_id, "finished")
        self._cache[signature] = said

    def _executed(self, queued: Queued, node_id: str, said: dict[str, Any]) -> None:
        about = {"node": node_id, "display_node": node_id, "output": said, "prompt_id": queued.prompt_id}
        self._audience.send("executed", about, self.client_id)

    def _state(self, node_id: str, state: str, value: float = 1, of: float = 1) -> None:
        assert self.running is not None
        prompt_id = self.running.prompt_id
        said = {"value": float(value), "max": float(of), "state": state, "prompt_id": prompt_id}
        self._states[node_id] = said | _identity(node_id)
        self._audience.send("progress_state", {"prompt_id": prompt_id, "nodes": self._states}, self.client_id)

    def _tell(self, kind: str, data: dict[str, Any]) -> None:
        assert self.running is not None
        said = {"prompt_id": self.running.prompt_id, **data, "timestamp": int(time.time() * 1000)}
        self.running.messages.append((kind, said))
        self._audience.send(kind, said, self.client_id)

    def _where(self, queued: Queued, executed: list[str]) -> dict[str, Any]:
        kind = queued.prompt[self._node_id]["class_type"]
        return {"node_id": self._node_id, "node_type": kind, "executed": list(executed)}

    def _signatures(self, queued: Queued) -> dict[str, str]:
        """By node: what its result depends on. A trap's result depends on the moment."""
        found: dict[str, str] = {}
        for output in queued.outputs:
            for node_id in upstream(queued.prompt, output):
                node = queued.prompt[node_id]
                own = json.dumps([node["class_type"], node["inputs"]], sort_keys=True)
                if node["class_type"] == "LoadImage":
                    own += hashlib.sha256(
                        (self.settings.input_directory / node["inputs"]["image"]).read_bytes()
                    ).hexdigest()
                sources = [found[source] for source in links(node)]
                fresh = queued.prompt_id if node["class_type"].startswith("Trap") else ""
                found[node_id] = hashlib.sha256("".join([own, *sources, fresh]).encode()).hexdigest()
        return found


def _identity(node_id: str) -> dict[str, Any]:
    return {"node_id": node_id, "display_node_id": node_id, "parent_node_id": None, "real_node_id": node_id}
