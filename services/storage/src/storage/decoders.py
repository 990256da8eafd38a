"""A pool of decoder processes: a file that crashes or stalls one affects neither another file nor the service.

Each process decodes one file at a time, so that a failure has exactly one cause.
"""

import asyncio
import contextlib
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final

import msgspec

from contracts.values import Kind
from service_runtime.tracing import step
from storage.decoding import LENGTH_BYTES, READY, DecodeRequest, DecodeResult, Inspection
from storage.errors import DecoderFailed, DecoderNotStarted, Rejected

PICTURE_SECONDS: Final = 10.0
CLIP_SECONDS: Final = 60.0
"""The longest that decoding may take: many times what it needs. A user can upload a picture that takes an hour."""
FILES_PER_PROCESS: Final = 1000
"""Decoders leak a little memory: a process is replaced after this number of files."""
MAX_RESULT_BYTES: Final = 32 * 1024 * 1024
"""A decoder that a hostile file controls could write anything."""


class Decoders:
    """Decodes ``processes`` files at a time, each within bounded time and memory. Waiting for a process is unbounded.

    ``picture_seconds`` is the bound for a picture.
    """

    def __init__(self, processes: int, picture_seconds: float = PICTURE_SECONDS) -> None:
        self._seconds: dict[Kind, float] = {"image": picture_seconds, "video": CLIP_SECONDS}
        self._all = [_Decoder() for _ in range(processes)]
        self._idle: asyncio.LifoQueue[_Decoder] = asyncio.LifoQueue()
        for decoder in self._all:
            self._idle.put_nowait(decoder)

    async def start(self) -> None:
        """Start the processes before the first file comes. Raises ``DecoderNotStarted`` or OSError."""
        await asyncio.gather(*(decoder.start() for decoder in self._all))

    async def inspect(self, path: Path, kind: Kind, max_pixels: int, *, is_input: bool = False) -> Inspection:
        """Decode a file.

        Raises ``Rejected`` for a bad file, ``DecoderFailed`` if the decoder died or ran out of time, and
        ``DecoderNotStarted`` or OSError if no decoder starts, which says nothing about the file.
        """
        with step("decode"):
            result = await self._decode(path, kind, max_pixels, is_input)
        if result.inspection is not None:
            return result.inspection
        raise Rejected(result.code or "undecodable", result.detail)

    async def _decode(self, path: Path, kind: Kind, max_pixels: int, is_input: bool) -> DecodeResult:
        async with self._borrowed() as decoder:
            await decoder.start()
            try:
                async with asyncio.timeout(self._seconds[kind]):
                    return await decoder.decode(DecodeRequest(str(path), kind, max_pixels, is_input))
            except (TimeoutError, ConnectionError, EOFError, msgspec.DecodeError) as error:
                raise DecoderFailed(type(error).__name__) from error

    async def stop(self) -> None:
        """Kill every process."""
        await asyncio.gather(*(decoder.stop() for decoder in self._all))

    @contextlib.asynccontextmanager
    async def _borrowed(self) -> AsyncIterator["_Decoder"]:
        decoder = await self._idle.get()
        try:
            yield decoder
        except BaseException:
            # It died, stalls, or was interrupted in the middle of a file: it must not be used again.
            decoder.kill()
            raise
        finally:
            self._idle.put_nowait(decoder)


class _Decoder:
    """A slot for one process. A new process starts when one is needed."""

    def __init__(self) -> None:
        self._process: Process | None = None
        self._files = 0

    async def start(self) -> None:
        """Start the process if none runs. Raises ``DecoderNotStarted`` or OSError."""
        if self._process is not None and self._process.returncode is None and self._files < FILES_PER_PROCESS:
            return
        await self.stop()
        self._process = await asyncio.create_subprocess_exec(
            # Isolated: it imports nothing from the working directory of the service.
            *(sys.executable, "-I", "-m", "storage.decoder_process"),
            stdin=PIPE,
            stdout=PIPE,
            # A traceback goes where the service's log goes.
            stderr=None,
            # A process that reads files from outside does not get the service's secrets.
            env={},
        )
        self._files = 0
        assert self._process.stdout is not None
        if await self._process.stdout.read(len(READY)) != READY:
            raise DecoderNotStarted("a decoder process ended before it was ready: see its traceback in this log")

    async def decode(self, request: DecodeRequest) -> DecodeResult:
        """Decode one file. Raises EOFError or ConnectionError if the process dies meanwhile."""
        process = self._process
        assert process is not None
        assert process.stdin is not None
        assert process.stdout is not None
        self._files += 1
        process.stdin.write(msgspec.json.encode(request) + b"\n")
        await process.stdin.drain()
        length = int.from_bytes(await process.stdout.readexactly(LENGTH_BYTES))
        if length > MAX_RESULT_BYTES:
            raise EOFError(f"a result of {length} bytes")
        return msgspec.json.decode(await process.stdout.readexactly(length), type=DecodeResult)

    def kill(self) -> None:
        """Kill the process. The next file gets a new one."""
        if self._process is not None and self._process.returncode is None:
            self._process.kill()
            self._files = FILES_PER_PROCESS

    async def stop(self) -> None:
        """Kill the process and wait until it is gone."""
        self.kill()
        if self._process is not None:
            await self._process.wait()
            self._process = None
