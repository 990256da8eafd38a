"""How long the public listener waits for a request."""

import asyncio
from dataclasses import replace

import pytest

from gateway.main import build, http_server
from gateway.routes import verification
from service_runtime.listener import Listener
from tests.gateway.unit.unconnected import settings


async def half_of(listener: Listener, path: str, media_type: str) -> bytes:
    """What is answered to a request whose body never ends."""
    host, port = listener.address.split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    head = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: {media_type}\r\nContent-Length: 99\r\n\r\nhalf"
    writer.write(head.encode())
    answer = await asyncio.wait_for(reader.read(), 20)
    writer.close()
    return answer


async def test_a_slow_file_is_answered_where_other_slow_requests_are_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verification, "RECEIVE_SECONDS", 1.0)
    local = settings(http_host="127.0.0.1", http_port=0)
    listener = Listener(replace(http_server(build(local).app, local), request_seconds=0.3), drain_seconds=1.0)
    await listener.start()
    slow_file = await half_of(listener, verification.PATH, "video/mp4")
    assert slow_file.startswith(b"HTTP/1.1 408 ")
    assert b'"code":"body_too_slow"' in slow_file
    assert await half_of(listener, "/v1/quotes", "application/json") == b""
    await listener.stop()
