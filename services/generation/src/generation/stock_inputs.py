"""The input of a job for the stock ``worker-comfyui``: the workflow, and the user's pictures inside it."""

import asyncio
import base64
from collections.abc import Collection
from datetime import timedelta
from typing import Final

import httpx

from catalogue import Model
from generation.repository.fair_queue import ClaimedOrder
from generation.runpod.answers import ProviderRefused, ProviderRejected
from generation.runpod.job import StockImage, StockInput
from service_runtime.presigned_urls import PresignedUrls

MAX_PICTURE_BYTES: Final = 7 * 1024 * 1024
"""All of an order together: ``/run`` takes 10 MB, and base64 makes four bytes of three."""
_VALIDITY: Final = timedelta(minutes=15)
_LONGEST_SECONDS: Final = 20.0
"""For all pictures of an order, within the lease of its submission."""


class StockInputs:
    """Builds the input for the endpoints that run the stock worker."""

    def __init__(
        self, endpoints: Collection[str], http: httpx.AsyncClient, urls: PresignedUrls, uploads_bucket: str
    ) -> None:
        self._endpoints = endpoints
        self._http = http
        self._urls = urls
        self._bucket = uploads_bucket

    def serve(self, endpoint: str) -> bool:
        """Whether this endpoint runs the stock worker."""
        return endpoint in self._endpoints

    async def build(self, order: ClaimedOrder, model: Model) -> StockInput:
        """Raises ProviderRefused if the bucket does not answer, and ProviderRejected for pictures that do not fit."""
        images: list[StockImage] = []
        room = MAX_PICTURE_BYTES
        try:
            async with asyncio.timeout(_LONGEST_SECONDS):
                for parameter, key in order.input_object_keys.items():
                    content = await self._read(key, room)
                    room -= len(content)
                    encoded = base64.b64encode(content).decode()
                    images.append(StockImage(name=model.upload_name(parameter), image=encoded))
        except (TimeoutError, httpx.HTTPError) as error:
            raise ProviderRefused(f"an upload cannot be read now: {type(error).__name__}") from error
        return StockInput(workflow=model.bind_workflow(order.parameters), images=tuple(images))

    async def _read(self, key: str, room: int) -> bytes:
        content = bytearray()
        async with self._http.stream("GET", self._urls.get(self._bucket, key, _VALIDITY)) as answer:
            answer.raise_for_status()
            async for chunk in answer.aiter_bytes():
                content += chunk
                if len(content) > room:
                    raise ProviderRejected(f"more than {MAX_PICTURE_BYTES} bytes of uploads do not fit into a job")
        return bytes(content)
