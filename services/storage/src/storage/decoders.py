"""A pool of decoder processes: a file that crashes or stalls one affects neither another file nor the service.

Each process decodes one file at a time, so that a failure has exactly one cause.
"""

import asyncio
import contextlib
import errno
import os
import sys
import tempfile
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Final

import msgspec

from contracts.values import Kind
from service_runtime.tracing import step
from storage.decoding import (
    BACKGROUND,
    LENGTH_BYTES,
    READY,
    DecodeRequest,
    DecodeResult,
    Inspection,
    Marking,
    RenderedPreview,
    Signature,
)
from storage.errors import DecoderFailed, DecoderNotStarted, Rejected, SignerUnavailable, Unmarkable
from storage.metrics import markings_total
from storage.signing import Signer

PICTURE_SECONDS: Final = 10.0
CLIP_SECONDS: Final = 60.0
"""The longest that decoding may take: many times what it needs. A user can upload a picture that takes an hour."""
FILES_PER_PROCESS: Final = 1000
"""Decoders leak a little memory: a process is replaced after this number of files."""
MAX_RESULT_BYTES: Final = 32 * 1024 * 1024
"""A decoder that a hostile file controls could write anything."""
PREVIEW_SECONDS: Final = 300.0
"""Many times more: in the background it gets little of a busy processor."""
MAX_SIGNATURES: Final = 2
"""Of one file: its own and that of its poster. A decoder that a hostile file controls could ask for any number."""
MAX_PREVIEW_SIGNATURES: Final = 4
"""Of the previews of one file: three thumbnails, and one that moves."""
MAX_CLAIM_BYTES: Final = 16 * 1024
"""What is signed names the file by its hash: 1.4 kB."""


class Decoders:
    """Decodes ``processes`` files at a time, each within bounded time and memory. Waiting for a process is unbounded.

    ``picture_seconds`` is the bound for a picture. Files are marked by ``signer``, if there is one.
    ``background``: nobody waits for the files, so the processes have a low priority.
    """

    def __init__(
        self,
        processes: int,
        picture_seconds: float = PICTURE_SECONDS,
        signer: Signer | None = None,
        *,
        background: bool = False,
    ) -> None:
        self._signer = signer
        self._seconds: dict[Kind, float] = {"image": picture_seconds, "video": CLIP_SECONDS}
        self._all = [_Decoder(background) for _ in range(processes)]
        self._idle: asyncio.LifoQueue[_Decoder] = asyncio.LifoQueue()
        for decoder in self._all:
            self._idle.put_nowait(decoder)

    async def start(self) -> None:
        """Start the processes before the first file comes. Raises ``DecoderNotStarted`` or OSError."""
        await asyncio.gather(*(decoder.start() for decoder in self._all))

    async def inspect(self, path: Path, kind: Kind, max_pixels: int, *, is_input: bool = False) -> Inspection:
        """Decode a file.

        Raises ``Rejected`` for a bad file, ``DecoderFailed`` if the decoder died or ran out of time, and
        ``DecoderNotStarted`` or OSError if no decoder starts or the disk is full, which says nothing about the file.
        """
        with step("decode"):
            result = await self._decode(DecodeRequest(str(path), kind, max_pixels, is_input))
        if result.inspection is not None:
            return result.inspection
        raise Rejected(result.code or "undecodable", result.detail)

    @property
    def mark_outputs(self) -> bool:
        """Whether there is a signer."""
        return self._signer is not None

    async def mark(self, path: Path, marked: Path | None, kind: Kind, max_pixels: int) -> Inspection:
        """Mark a file as made by AI and decode the marked one. With its poster, which is marked as well.

        The marked file is written to ``marked``; None if the file has its mark already, and only the poster needs one.
        The file at ``path`` may be changed. Raises what ``inspect`` raises, ``Unmarkable`` for a good file that cannot
        carry the mark, and ``SignerUnavailable``.
        """
        assert self._signer is not None
        marking = Marking(self._signer.certificates, None if marked is None else str(marked))
        try:
            with step("decode"):
                result = await self._decode(DecodeRequest(str(path), kind, max_pixels, marking=marking))
        except SignerUnavailable:
            markings_total.labels("signer_unavailable").inc()
            raise
        if result.inspection is not None:
            markings_total.labels("marked").inc()
            return result.inspection
        if result.unmarkable:
            markings_total.labels("unmarkable").inc()
            raise Unmarkable(result.detail)
        raise Rejected(result.code or "undecodable", result.detail)

    async def render_previews(self, path: Path, kind: Kind, max_pixels: int) -> Sequence[RenderedPreview]:
        """Small pictures of an output, marked if there is a signer. Raises what ``inspect`` and ``mark`` raise."""
        marking = None if self._signer is None else Marking(self._signer.certificates)
        with step("previews"):
            result = await self._decode(
                DecodeRequest(str(path), kind, max_pixels, marking=marking, previews=True), PREVIEW_SECONDS
            )
        if result.previews is not None:
            return result.previews
        if result.unmarkable:
            raise Unmarkable(result.detail)
        raise Rejected(result.code or "undecodable", result.detail)

    async def _decode(self, request: DecodeRequest, seconds: float | None = None) -> DecodeResult:
        async with self._borrowed() as decoder:
            await decoder.start()
            try:
                async with asyncio.timeout(seconds or self._seconds[request.kind]):
                    result = await decoder.decode(request, self._signer)
            except (TimeoutError, ConnectionError, EOFError, msgspec.DecodeError) as error:
                raise DecoderFailed(type(error).__name__) from error
        if result.no_space:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return result

    async def stop(self) -> None:
        """Kill every process."""
        await asyncio.gather(*(decoder.stop() for decoder in self._all))

    @contextlib.asynccontextmanager
    async def _borrowed(self) -> AsyncIterator["_Decoder"]:
        decoder = await self._idle.get()
        try:
            yield decoder
        except SignerUnavailable:
            # It has given up the file, and waits for the next one.
            raise
        except BaseException:
            # It died, stalls, or was interrupted in the middle of a file: it must not be used again.
            decoder.kill()
            raise
        finally:
            self._idle.put_nowait(decoder)


class _Decoder:
    """A slot for one process. A new process starts when one is needed."""

    def __init__(self, background: bool) -> None:
        self._arguments = (BACKGROUND,) if background else ()
        self._process: Process | None = None
        self._files = 0

    async def start(self) -> None:
        """Start the process if none runs. Raises ``DecoderNotStarted`` or OSError."""
        if self._process is not None and self._process.returncode is None and self._files < FILES_PER_PROCESS:
            return
        await self.stop()
        self._process = await asyncio.create_subprocess_exec(
            # Isolated: it imports nothing from the working directory of the service.
            *(sys.executable, "-I", "-m", "storage.decoder_process", *self._arguments),
            stdin=PIPE,
            stdout=PIPE,
            # A traceback goes where the service's log goes.
            stderr=None,
            # A process that reads files from outside does not get the service's secrets.
            env={"TMPDIR": tempfile.gettempdir()},
            # The library of the marks is looked for in the working directory first: nobody writes to this one.
            cwd="/",
        )
        self._files = 0
        assert self._process.stdout is not None
        if await self._process.stdout.read(len(READY)) != READY:
            raise DecoderNotStarted("a decoder process ended before it was ready: see its traceback in this log")

    async def decode(self, request: DecodeRequest, signer: Signer | None) -> DecodeResult:
        """Decode one file, and sign what the process asks to sign for it.

        Raises EOFError or ConnectionError if the process dies meanwhile, and ``SignerUnavailable`` after the process
        has given up the file.
        """
        self._files += 1
        await self._write(request)
        most = MAX_PREVIEW_SIGNATURES if request.previews else MAX_SIGNATURES
        result, signatures, unavailable = await self._read(), 0, None
        while result.to_sign is not None:
            signatures += 1
            if request.marking is None or signer is None or signatures > most:
                raise EOFError("a signature that nobody asked for")
            if len(result.to_sign) > MAX_CLAIM_BYTES:
                raise EOFError(f"a claim of {len(result.to_sign)} bytes")
            try:
                signature = await signer.sign(result.to_sign)
            except SignerUnavailable as error:
                signature, unavailable = b"", error
            await self._write(Signature(signature))
            result = await self._read()
        if unavailable is not None:
            raise unavailable
        return result

    async def _write(self, line: DecodeRequest | Signature) -> None:
        assert self._process is not None
        assert self._process.stdin is not None
        self._process.stdin.write(msgspec.json.encode(line) + b"\n")
        await self._process.stdin.drain()

    async def _read(self) -> DecodeResult:
        assert self._process is not None
        assert self._process.stdout is not None
        length = int.from_bytes(await self._process.stdout.readexactly(LENGTH_BYTES))
        if length > MAX_RESULT_BYTES:
            raise EOFError(f"a result of {length} bytes")
        return msgspec.json.decode(await self._process.stdout.readexactly(length), type=DecodeResult)

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
