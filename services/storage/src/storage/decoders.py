"""A few warm decoder processes: a file that crashes or stalls one costs that file, and neither another nor the service.

Each process decodes one file at a time, so that whatever happens to it is that file's doing alone.
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
from storage.decoding import LENGTH_BYTES, READY, Answer, Inspection, Question
from storage.errors import DecoderFailed, DecoderNotStarted, Rejected

PICTURE_SECONDS: Final = 10.0
CLIP_SECONDS: Final = 60.0
"""How long a look may take: many times what it needs. A user can upload a picture that takes an hour."""
FILES_PER_PROCESS: Final = 1000
"""Decoders leak a little: a process is replaced after so many files."""
LARGEST_ANSWER_BYTES: Final = 32 * 1024 * 1024
"""A decoder that was taken over by its file could answer anything."""


class Decoders:
    """``processes`` files are decoded at a time; each look is bounded in time and memory, waiting not counted."""

    def __init__(self, processes: int, picture_seconds: float = PICTURE_SECONDS) -> None:
        self._seconds: dict[Kind, float] = {"image": picture_seconds, "video": CLIP_SECONDS}
        self._all = [_Decoder() for _ in range(processes)]
        self._idle: asyncio.LifoQueue[_Decoder] = asyncio.LifoQueue()
        for decoder in self._all:
            self._idle.put_nowait(decoder)

    async def warm(self) -> None:
        """Start the processes before the first file comes."""
        await asyncio.gather(*(decoder.start() for decoder in self._all))

    async def inspect(self, path: Path, kind: Kind, largest_pixels: int, *, is_input: bool = False) -> Inspection:
        """Decode a file. Raises ``Rejected`` for a bad one, ``DecoderFailed`` where the decoder died or ran late.

        What keeps a decoder from starting is let out as it is: no file has to do with it.
        """
        async with self._one() as decoder:
            await decoder.start()
            try:
                async with asyncio.timeout(self._seconds[kind]):
                    answer = await decoder.ask(Question(str(path), kind, largest_pixels, is_input))
            except (TimeoutError, ConnectionError, EOFError, msgspec.DecodeError) as error:
                raise DecoderFailed(type(error).__name__) from error
        if answer.inspection is not None:
            return answer.inspection
        raise Rejected(answer.code or "undecodable", answer.detail)

    async def close(self) -> None:
        """End every process now."""
        await asyncio.gather(*(decoder.end() for decoder in self._all))

    @contextlib.asynccontextmanager
    async def _one(self) -> AsyncIterator["_Decoder"]:
        decoder = await self._idle.get()
        try:
            yield decoder
        except BaseException:
            # Whether it died, stalls or was left in the middle of a file: it is not to be asked again.
            decoder.kill()
            raise
        finally:
            self._idle.put_nowait(decoder)


class _Decoder:
    """A place for one process; a new one starts when it is needed."""

    def __init__(self) -> None:
        self._process: Process | None = None
        self._files = 0

    async def start(self) -> None:
        """Start the process if none runs. Raises ``DecoderNotStarted`` or OSError."""
        if self._process is not None and self._process.returncode is None and self._files < FILES_PER_PROCESS:
            return
        await self.end()
        self._process = await asyncio.create_subprocess_exec(
            # Isolated: nothing is imported from where the service happens to be started.
            *(sys.executable, "-I", "-m", "storage.decoder_process"),
            stdin=PIPE,
            stdout=PIPE,
            # Its own words are few: the traceback of what is unexpected goes where the service's log goes.
            stderr=None,
            # The secrets of the service are not for a process that reads files from outside.
            env={},
        )
        self._files = 0
        assert self._process.stdout is not None
        if await self._process.stdout.read(len(READY)) != READY:
            raise DecoderNotStarted("a decoder process ended before it was ready: its own words are in this log")

    async def ask(self, question: Question) -> Answer:
        """One file. Raises EOFError or ConnectionError where the process dies over it."""
        process = self._process
        assert process is not None
        assert process.stdin is not None
        assert process.stdout is not None
        self._files += 1
        process.stdin.write(msgspec.json.encode(question) + b"\n")
        await process.stdin.drain()
        length = int.from_bytes(await process.stdout.readexactly(LENGTH_BYTES))
        if length > LARGEST_ANSWER_BYTES:
            raise EOFError(f"an answer of {length} bytes")
        return msgspec.json.decode(await process.stdout.readexactly(length), type=Answer)

    def kill(self) -> None:
        """End the process, whatever it is doing; the next file gets another one."""
        if self._process is not None and self._process.returncode is None:
            self._process.kill()
            self._files = FILES_PER_PROCESS

    async def end(self) -> None:
        """End the process and wait until it is gone."""
        self.kill()
        if self._process is not None:
            await self._process.wait()
            self._process = None
