"""The admin API: faults on and off, and the state. See README.md. It needs no key, because it listens locally."""

from typing import Final

from pydantic import JsonValue, TypeAdapter, ValidationError
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from local_platform.runpod_emulator.emulator import Emulator
from local_platform.runpod_emulator.rules import Rule
from local_platform.runpod_emulator.settings import EmulatorSettings

_CHANGES: Final = TypeAdapter(dict[str, JsonValue])


class AdminApi:
    """``/admin/rules``, ``/admin/settings``, ``/admin/jobs``, ``/admin/requests``."""

    def __init__(self, emulator: Emulator) -> None:
        self._emulator = emulator

    def routes(self) -> list[Route]:
        """All routes."""
        return [
            Route("/admin/rules", self._list_rules, methods=["GET"]),
            Route("/admin/rules", self._add_rule, methods=["POST"]),
            Route("/admin/rules", self._clear_rules, methods=["DELETE"]),
            Route("/admin/rules/{rule}", self._remove_rule, methods=["DELETE"]),
            Route("/admin/settings", self._show_settings, methods=["GET"]),
            Route("/admin/settings", self._change_settings, methods=["PATCH"]),
            Route("/admin/jobs", self._list_jobs, methods=["GET"]),
            Route("/admin/requests", self._count_requests, methods=["GET"]),
        ]

    async def _list_rules(self, request: Request) -> Response:
        return JSONResponse(self._emulator.rules.listed())

    async def _add_rule(self, request: Request) -> Response:
        try:
            rule = Rule.model_validate_json(await request.body())
        except ValidationError as error:
            return _unprocessable(error)
        return JSONResponse(self._emulator.rules.add(rule), status_code=201)

    async def _clear_rules(self, request: Request) -> Response:
        self._emulator.rules.clear()
        return Response(status_code=204)

    async def _remove_rule(self, request: Request) -> Response:
        found = self._emulator.rules.remove(request.path_params["rule"])
        return Response(status_code=204 if found else 404)

    async def _show_settings(self, request: Request) -> Response:
        return JSONResponse(self._emulator.settings.model_dump(mode="json"))

    async def _change_settings(self, request: Request) -> Response:
        """Replace each given field as a whole. Timers that run are not changed."""
        try:
            changes = _CHANGES.validate_json(await request.body())
            present = self._emulator.settings.model_dump(mode="json")
            self._emulator.settings = EmulatorSettings.model_validate(present | changes)
        except ValidationError as error:
            return _unprocessable(error)
        return await self._show_settings(request)

    async def _list_jobs(self, request: Request) -> Response:
        wanted = {key: request.query_params[key] for key in ("endpoint", "status", "id") if key in request.query_params}
        jobs = [job.admin_body() for endpoint in self._emulator.endpoints.values() for job in endpoint.listed()]
        return JSONResponse([job for job in jobs if all(job[key] == value for key, value in wanted.items())])

    async def _count_requests(self, request: Request) -> Response:
        answers: dict[str, dict[str, int]] = {}
        for (operation, outcome), count in self._emulator.answers.items():
            answers.setdefault(operation, {})[outcome] = count
        body: dict[str, object] = {
            "answers": answers,
            "webhooks": dict(self._emulator.webhooks.counts),
            "ignored_results": self._emulator.ignored_results,
        }
        return JSONResponse(body)


def _unprocessable(error: ValidationError) -> JSONResponse:
    return JSONResponse(
        {"errors": error.errors(include_url=False, include_context=False, include_input=False)}, status_code=422
    )
