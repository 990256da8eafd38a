"""Requests with a body say that it is JSON: anything else is answered 415, before it is read."""

import re
from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import Request, Response
from fastapi.routing import APIRoute

from service_runtime.problems import UnsupportedMediaType


class JsonRoute(APIRoute):
    """A route whose body, if it takes one, is JSON."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()
        if self.body_field is None:
            return handle

        async def only_json(request: Request) -> Response:
            media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
            if not re.fullmatch(r"application/(json|[\w.!#$&^-]+\+json)", media_type):
                taken = {"Accept": "application/json"}
                raise UnsupportedMediaType("send 'Content-Type: application/json'", headers=taken)
            return await handle(request)

        return only_json
