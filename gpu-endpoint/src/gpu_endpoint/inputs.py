"""Fetching the pictures that a job starts from, within bounds."""

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import httpx

from gpu_endpoint.failures import InputUnavailable, InvalidInput
from gpu_endpoint.job import InputImage

MAX_IMAGE_BYTES: Final = 32 * 1024 * 1024
_DEADLINE_SECONDS: Final = 60.0
_PAUSES_SECONDS: Final = (0.5, 2.0)


class _TryAgain(Exception):
    pass


async def fetch_images(http: httpx.AsyncClient, images: Sequence[InputImage], directory: Path) -> list[Path]:
    """Download each picture into ``directory``, which is made, under its name.

    Raises:
        InputUnavailable: it could not be fetched, after three tries or 60 seconds.
        InvalidInput: it is larger than 32 MiB.
    """
    await asyncio.to_thread(directory.mkdir)
    paths = []
    for image in images:
        path = directory / image.name
        try:
            async with asyncio.timeout(_DEADLINE_SECONDS):
                await _fetch_repeatedly(http, image, path)
        except TimeoutError as error:
            raise InputUnavailable(f"image {image.name}: not there after {_DEADLINE_SECONDS:.0f} s") from error
        paths.append(path)
    return paths


async def _fetch_repeatedly(http: httpx.AsyncClient, image: InputImage, path: Path) -> None:
    for pause in (*_PAUSES_SECONDS, None):
        try:
            await _fetch(http, image, path)
        except _TryAgain as reason:
            if pause is None:
                raise InputUnavailable(f"image {image.name}: {reason}") from reason
            await asyncio.sleep(pause)
        else:
            return


async def _fetch(http: httpx.AsyncClient, image: InputImage, path: Path) -> None:
    size_bytes = 0
    try:
        # As storage asked when it looked: whoever uploaded it may have stated any encoding, which a store may undo.
        async with http.stream("GET", image.url, headers={"accept-encoding": "identity"}) as answer:
            if answer.is_server_error or answer.status_code == 429:
                raise _TryAgain(f"HTTP {answer.status_code}")
            if answer.status_code != 200:
                raise InputUnavailable(f"image {image.name}: HTTP {answer.status_code}")
            with path.open("wb") as file:
                async for chunk in answer.aiter_raw():
                    size_bytes += len(chunk)
                    if size_bytes > MAX_IMAGE_BYTES:
                        raise InvalidInput(f"image {image.name} is larger than {MAX_IMAGE_BYTES} bytes")
                    await asyncio.to_thread(file.write, chunk)
    except httpx.HTTPError as error:
        raise _TryAgain(type(error).__name__) from error
