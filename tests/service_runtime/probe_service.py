"""A service as small as can be, as a process: ``python -m tests.service_runtime.probe_service <how> <ops> <http>``."""

import asyncio
import sys
import threading
from typing import Any

from service_runtime.database import create_engine
from service_runtime.lifecycle import HttpServer, run_process, run_service
from service_runtime.logging import configure_logging
from service_runtime.loops import Every
from tests.service_runtime.settings import settings

release = asyncio.Event()


async def app(scope: Any, receive: Any, send: Any) -> None:
    """``/slow`` answers when the service begins to drain; ``/never`` does not answer at all; the rest at once."""
    if scope["type"] != "http":
        raise RuntimeError("only http")
    if scope["path"] == "/slow":
        print("slow request arrived", flush=True)
        await release.wait()
    if scope["path"] == "/never":
        print("endless request arrived", flush=True)
        await asyncio.Event().wait()
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"ok"})


class Component:
    def __init__(self, how: str) -> None:
        self.name = "worker"
        self._how = how

    async def run(self) -> None:
        if self._how == "blocks":
            await asyncio.to_thread(threading.Event().wait)
        if self._how in ("dies", "dies-and-stays"):
            await asyncio.sleep(0.1)
            raise RuntimeError("the broker refused us")
        if self._how == "returns":
            return
        while True:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                print("component cancelled", flush=True)
                if self._how != "stubborn":
                    raise


async def tick() -> None:
    pass


async def serve(how: str) -> None:
    chosen = settings(ops_port=int(sys.argv[2]), drain_seconds=2)
    engine = create_engine(chosen)

    async def start() -> None:
        if how == "start-fails":
            raise RuntimeError("the schema is older than the code")
        if how == "start-hangs":
            print("start hangs", flush=True)
            await asyncio.Event().wait()

    async def stop() -> None:
        await engine.dispose()
        print("on_stop ran", flush=True)
        if how == "dies-and-stays":
            await asyncio.Event().wait()

    await run_service(
        "probe",
        chosen,
        components=[Component(how), Every("tick", 0.1, tick)],
        http=[HttpServer(app, "127.0.0.1", int(sys.argv[3]))],
        on_start=start,
        on_drain=release.set,
        on_stop=stop,
    )


if __name__ == "__main__":
    configure_logging("probe", settings())
    run_process(serve(sys.argv[1]))
