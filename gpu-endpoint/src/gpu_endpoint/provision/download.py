"""Bring every file to the volume: resumed where it was cut, several at once, checked before it gets its name."""

import asyncio
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import httpx

from gpu_endpoint.provision.errors import DownloadFailed
from gpu_endpoint.provision.files import is_whole, quarantine, sha256_of
from gpu_endpoint.provision.manifest import Locked, LockFile, ModelFile, Source

_TRIES_WITHOUT_PROGRESS: Final = 5
_DAMAGED_AT_MOST: Final = 3
_PAUSE_SECONDS: Final = 1.0
_HUB: Final = "huggingface.co"


class _Interrupted(Exception):
    """The transfer ended early, and may be gone on with."""


@dataclass(frozen=True, kw_only=True)
class DownloadSettings:
    """Where to, and how."""

    directory: Path
    parallel: int = 4
    hub_token: str = ""
    """For files of the hub that need a login. It is sent to the hub alone."""


class Downloads:
    """One run. ``say`` gets a line for each file."""

    def __init__(
        self, http: httpx.AsyncClient, settings: DownloadSettings, lock: LockFile, say: Callable[[str], None]
    ) -> None:
        self._http = http
        self._settings = settings
        self._lock = lock
        self._say = say
        self._slots = asyncio.Semaphore(settings.parallel)

    async def all(self, files: list[ModelFile]) -> list[str]:
        """Bring them all. One that fails does not stop the others; what failed is returned."""
        outcomes = await asyncio.gather(*(self._one(file) for file in files))
        return [failure for failure in outcomes if failure is not None]

    async def _one(self, file: ModelFile) -> str | None:
        async with self._slots:
            try:
                self._say(f"{file.path}: {await self._bring(file)}")
            except DownloadFailed as error:
                self._say(f"{file.path}: failed: {error}")
                return f"{file.path}: {error}"
            return None

    async def _bring(self, file: ModelFile) -> str:
        path = self._settings.directory / file.path
        path.parent.mkdir(parents=True, exist_ok=True)
        expected = self._lock.expected(file)
        learned_from: Source = "manifest" if file.sha256 else "download"
        if expected is None and (expected := await self._hub_says(file)) is not None:
            learned_from = "hub"
        for _ in range(_DAMAGED_AT_MOST):
            what = "already there"
            if not path.exists():
                await self._transfer(file, path, expected)
                what = "downloaded"
            actual = await asyncio.to_thread(sha256_of, path)
            if actual == (expected or actual) and await asyncio.to_thread(is_whole, path):
                locked = Locked(sha256=actual, size_bytes=path.stat().st_size, learned_from=learned_from)
                self._lock.learn(file.path, locked)
                return what
            quarantine(self._settings.directory, path)
            self._say(f"{file.path}: damaged, in quarantine")
        raise DownloadFailed(f"damaged every time: {actual} instead of {expected or 'a whole file'}")

    async def _hub_says(self, file: ModelFile) -> str | None:
        """The SHA-256 that the hub tells with the address of a large file."""
        try:
            answer = await self._http.head(file.url, headers=self._headers(file))
        except httpx.TransportError:
            return None  # The download tells what is wrong.
        told = answer.headers.get("x-linked-etag", "").strip('"')
        return told if re.fullmatch(r"[0-9a-f]{64}", told) else None

    async def _transfer(self, file: ModelFile, path: Path, expected: str | None) -> None:
        partial = _Partial(path)
        without_progress = 0
        while True:
            before = partial.size()
            try:
                await self._continue(file, partial, expected)
            except (_Interrupted, httpx.TransportError) as error:
                without_progress = 0 if partial.size() > before else without_progress + 1
                if without_progress >= _TRIES_WITHOUT_PROGRESS:
                    raise DownloadFailed(f"{without_progress} tries without progress: {error!r}") from error
                await asyncio.sleep(_PAUSE_SECONDS * 2**without_progress)
            else:
                partial.finish()
                return

    async def _continue(self, file: ModelFile, partial: "_Partial", expected: str | None) -> None:
        headers = self._headers(file) | partial.range_headers(known=expected is not None)
        async with self._http.stream("GET", file.url, headers=headers, follow_redirects=True) as answer:
            if answer.status_code == 416:
                partial.discard()
                raise _Interrupted("416: the part is longer than the file")
            if answer.status_code in (408, 425, 429) or answer.status_code >= 500:
                raise _Interrupted(str(answer.status_code))
            if not answer.is_success:
                raise DownloadFailed(f"{urlsplit(file.url).hostname} answers {answer.status_code}")
            resumed = answer.status_code == 206
            if resumed and _first_byte(answer) != partial.size():
                partial.discard()
                raise _Interrupted("another part was sent than was asked for")
            partial.open(resumed=resumed, etag=answer.headers.get("etag", ""))
            with partial.path.open("ab") as out:
                async for chunk in answer.aiter_raw():
                    out.write(chunk)
                out.flush()
                os.fsync(out.fileno())

    def _headers(self, file: ModelFile) -> dict[str, str]:
        headers = {"accept-encoding": "identity"}
        if self._settings.hub_token and urlsplit(file.url).hostname == _HUB:
            headers["authorization"] = f"Bearer {self._settings.hub_token}"
        return headers


class _Partial:
    """A file on its way, beside its place, and the ETag of what it is a part of."""

    def __init__(self, final: Path) -> None:
        self._final = final
        self.path = final.with_name(f"{final.name}.part")
        self._etag = final.with_name(f"{final.name}.part.etag")

    def size(self) -> int:
        return self.path.stat().st_size if self.path.exists() else 0

    def range_headers(self, *, known: bool) -> dict[str, str]:
        """Go on only where the end result can be trusted: by ``If-Range``, or by a known SHA-256."""
        etag = self._etag.read_text() if self._etag.exists() else ""
        if self.size() == 0 or not (etag or known):
            return {}
        return {"range": f"bytes={self.size()}-"} | ({"if-range": etag} if etag else {})

    def open(self, *, resumed: bool, etag: str) -> None:
        """Before the first byte is written."""
        if not resumed:
            self.discard()
            if etag and not etag.startswith("W/"):
                self._etag.write_text(etag)

    def discard(self) -> None:
        self.path.unlink(missing_ok=True)
        self._etag.unlink(missing_ok=True)

    def finish(self) -> None:
        os.replace(self.path, self._final)
        self._etag.unlink(missing_ok=True)


def _first_byte(answer: httpx.Response) -> int | None:
    found = re.match(r"bytes (\d+)-", answer.headers.get("content-range", ""))
    return int(found[1]) if found else None
