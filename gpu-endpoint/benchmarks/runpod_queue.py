"""What RunPod's SDK asks: one job for each worker, and when it was taken and answered."""

import asyncio
import json
import time
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web


@dataclass
class RunPodQueue:
    """``taken_at`` and ``done_at`` are of the one job, in seconds of the wall clock."""

    job_input: dict[str, Any]
    url: str = ""
    taken_at: float | None = None
    done_at: float | None = None
    result: dict[str, Any] = field(default_factory=dict)
    done: asyncio.Event = field(default_factory=asyncio.Event)

    async def start(self) -> web.AppRunner:
        """Serve on a free port."""
        app = web.Application(client_max_size=2**28)
        app.add_routes(
            [
                web.get("/job-take/{worker}", self._take),
                web.get("/job-stop/{worker}", self._nothing),
                web.get("/ping/{worker}", self._nothing),
                web.post("/job-done/{worker}/{job}", self._finish),
                web.put("/put", self._put),
            ]
        )
        runner = web.AppRunner(app)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        self.url = "http://{}:{}".format(*runner.addresses[0][:2])
        return runner

    def environment(self) -> dict[str, str]:
        """For a worker."""
        return {
            "RUNPOD_WEBHOOK_GET_JOB": f"{self.url}/job-take/$ID?gpu=none",
            "RUNPOD_WEBHOOK_POST_OUTPUT": f"{self.url}/job-done/$RUNPOD_POD_ID/$ID?gpu=none",
            "RUNPOD_WEBHOOK_PING": f"{self.url}/ping/$RUNPOD_POD_ID",
            "RUNPOD_AI_API_KEY": "key",
            "RUNPOD_POD_ID": "worker",
            "RUNPOD_ENDPOINT_ID": "endpoint",
            "RUNPOD_SKIP_AUTO_SYSTEM_CHECKS": "true",
        }

    async def _take(self, _: web.Request) -> web.Response:
        if self.taken_at is not None:
            return await self._nothing(_)
        self.taken_at = time.time()
        return web.json_response({"id": "job-1", "input": self.job_input})

    async def _nothing(self, _: web.Request) -> web.Response:
        await asyncio.sleep(1)
        return web.Response(status=204)

    async def _finish(self, request: web.Request) -> web.Response:
        self.done_at = time.time()
        self.result = json.loads(await request.read())
        self.done.set()
        return web.Response()

    async def _put(self, request: web.Request) -> web.Response:
        await request.read()
        return web.Response()
