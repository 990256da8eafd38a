"""What strangers may do to a listener before they have sent a whole request."""

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

import pytest

from service_runtime.listener import HttpServer, Listener
from tests.support import eventually

REQUEST_SECONDS = 0.5


async def app(scope: Any, receive: Any, send: Any) -> None:
    """Reads the body, and answers in two pieces that are further apart than a request may take."""
    if scope["type"] != "http":
        return
    while (await receive()).get("more_body"):
        pass
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"4")]})
    await send({"type": "http.response.body", "body": b"ab", "more_body": True})
    if scope["path"] == "/slow":
        await asyncio.sleep(2 * REQUEST_SECONDS)
    await send({"type": "http.response.body", "body": b"cd"})


@pytest.fixture
async def listener() -> AsyncIterator[Listener]:
    slow_paths = {"/file": 30.0, "/small-file": 1.2 * REQUEST_SECONDS}
    server = HttpServer(app, "127.0.0.1", 0, request_seconds=REQUEST_SECONDS, slow_paths=slow_paths)
    made = Listener(server, drain_seconds=1.0)
    await made.start()
    yield made
    await made.stop()


async def connect(listener: Listener) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    host, port = listener.address.split(":")
    return await asyncio.open_connection(host, int(port))


@pytest.mark.parametrize(
    "begun",
    [
        b"",
        b"GET / HT",
        b"GET / HTTP/1.1\r\nhost: x\r\nx-a: b",
        b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\none",
        b"POST /small-file HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\none",
        b"GET /file HT",
        b"POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n3\r\none\r\n",
    ],
)
async def test_a_request_that_does_not_come_to_its_end_is_cut_off(listener: Listener, begun: bytes) -> None:
    reader, writer = await connect(listener)
    writer.write(begun)
    assert await asyncio.wait_for(reader.read(), 10) == b""
    writer.close()


async def test_a_path_that_takes_files_has_a_time_of_its_own(listener: Listener) -> None:
    reader, writer = await connect(listener)
    writer.write(b"POST /file HTTP/1.1\r\nhost: x\r\ncontent-length: 4\r\n\r\nab")
    other, other_writer = await connect(listener)
    assert await asyncio.wait_for(other.read(), 10) == b"", "the time of other requests is over"
    other_writer.close()
    writer.write(b"cd")
    head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 10)
    assert head.startswith(b"HTTP/1.1 200 ")
    writer.close()


async def test_a_head_of_any_size_is_not_read_to_its_end(listener: Listener) -> None:
    _, writer = await connect(listener)

    async def send_headers(count: int) -> None:
        writer.write(b"GET / HTTP/1.1\r\nhost: x\r\n")
        for _ in range(count):
            writer.write(b"x-a: " + b"b" * 100_000 + b"\r\n")
            await writer.drain()

    # The connection is gone long before all of this has been taken.
    with pytest.raises(ConnectionError):
        await send_headers(1000)


CHUNKED = b"POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n2\r\n{}\r\n"


@pytest.mark.parametrize(
    "more",
    [b"0\r\n" + b"x: ", b"0\r\n", b"2;"],
    ids=["one trailer", "many trailers", "an extension of a chunk"],
)
async def test_what_comes_beside_a_body_is_not_read_to_its_end(listener: Listener, more: bytes) -> None:
    _, writer = await connect(listener)
    piece = b"x-a: " + b"b" * 4000 + b"\r\n" if more == b"0\r\n" else b"c" * 4000
    writer.write(CHUNKED + more)

    async def send(count: int) -> None:
        for _ in range(count):
            writer.write(piece)
            await writer.drain()

    # The connection is gone long before all of this has been taken.
    with pytest.raises(ConnectionError):
        await send(5000)


async def test_small_trailers_and_large_bodies_are_fine(listener: Listener) -> None:
    reader, writer = await connect(listener)
    for body in (b"0\r\nx: y\r\n\r\n", (b"2710\r\n" + b"x" * 10_000 + b"\r\n") * 50 + b"0\r\n\r\n") * 2:
        writer.write(CHUNKED + body)
        head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 10)
        assert head.startswith(b"HTTP/1.1 200 ")
        assert await asyncio.wait_for(reader.readexactly(4), 10) == b"abcd"
    writer.close()


async def test_a_head_that_is_too_large_gets_431_and_a_problem(listener: Listener) -> None:
    reader, writer = await connect(listener)
    for part in (b"GET / HTTP/1.1\r\nhost: x\r\n", b"x-a: " + b"b" * 70_000):
        writer.write(part)
        await writer.drain()
    answer = await asyncio.wait_for(reader.read(), 10)
    assert answer.startswith(b"HTTP/1.1 431 ")
    assert b'"code":"headers_too_large"' in answer
    assert re.search(rb"\r\ntrace-id: [0-9a-f]{32}\r\n", answer)
    writer.close()


@pytest.mark.parametrize(
    "nonsense",
    [
        b"nonsense\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"GET / HTTP/1.1\r\nhost: x\r\nx y: z\r\n\r\n",
        b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: -1\r\n\r\n",
        b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 1\r\ntransfer-encoding: chunked\r\n\r\n",
    ],
    ids=["no HTTP", "TLS", "a space in a name", "a negative length", "two lengths"],
)
async def test_what_is_no_http_gets_400_and_a_problem(listener: Listener, nonsense: bytes) -> None:
    reader, writer = await connect(listener)
    writer.write(nonsense)
    answer = await asyncio.wait_for(reader.read(), 10)
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert b'"code":"malformed_request"' in answer
    assert re.search(rb"\r\ntrace-id: [0-9a-f]{32}\r\n", answer)
    writer.close()


@pytest.mark.parametrize(("trusted", "believed"), [((), "127.0.0.1"), (("127.0.0.0/8",), "198.51.100.7")])
async def test_only_a_trusted_proxys_word_on_the_caller_is_believed(trusted: tuple[str, ...], believed: str) -> None:
    seen: list[Any] = []

    async def remember(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            seen.append(scope["client"][0])
        await app(scope, receive, send)

    made = Listener(HttpServer(remember, "127.0.0.1", 0, trusted_proxies=trusted), drain_seconds=1.0)
    await made.start()
    reader, writer = await connect(made)
    writer.write(b"GET / HTTP/1.1\r\nhost: x\r\nx-forwarded-for: 1.2.3.4, 198.51.100.7, 127.0.0.3\r\n\r\n")
    await asyncio.wait_for(reader.readuntil(b"abcd"), 10)
    assert seen == [believed]
    writer.close()
    await made.stop()


async def test_answers_say_what_time_it_is(listener: Listener) -> None:
    reader, writer = await connect(listener)

    async def date() -> str:
        writer.write(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
        answer = await asyncio.wait_for(reader.readuntil(b"abcd"), 10)
        (found,) = re.findall(rb"\r\ndate: ([^\r]+)\r\n", answer)
        return str(found.decode())

    first = parsedate_to_datetime(await date())
    assert abs((datetime.now(UTC) - first).total_seconds()) < 5
    later = await eventually(lambda: _another(date, first))
    assert 0 < (later - first).total_seconds() < 5
    writer.close()


async def _another(date: Callable[[], Awaitable[str]], first: datetime) -> datetime | None:
    found = parsedate_to_datetime(await date())
    return found if found != first else None


async def test_a_listener_that_is_told_to_stop_waits_for_no_tick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service_runtime.listener.DATE_SECONDS", 3600.0)
    made = Listener(HttpServer(app, "127.0.0.1", 0), drain_seconds=1.0)
    await made.start()
    async with asyncio.timeout(10):
        await made.stop()


async def test_an_answer_may_take_longer_and_a_connection_may_rest(listener: Listener) -> None:
    reader, writer = await connect(listener)
    for path in (b"/slow", b"/", b"/slow"):
        writer.write(b"GET " + path + b" HTTP/1.1\r\nhost: x\r\n\r\n")
        head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 10)
        assert head.startswith(b"HTTP/1.1 200 ")
        assert await asyncio.wait_for(reader.readexactly(4), 10) == b"abcd"
    writer.close()
