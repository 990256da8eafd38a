"""The management API: templates, network volumes and endpoints of REST version 1, workers of version 2.

It answers as RunPod does where that surprises: names need not be unique, templates of endpoints are listed only on
request, data centres are one text, and neither FlashBoot nor a list of volumes is shown.
"""

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from itertools import count
from typing import Any, ClassVar, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue, TypeAdapter, ValidationError
from pydantic.alias_generators import to_camel
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from local_platform.runpod_emulator.connections import ResetInsteadOfAnswer
from local_platform.runpod_emulator.emulator import Emulator
from local_platform.runpod_emulator.operations import Answer, Refused, authorise, misbehaving, read_body
from local_platform.runpod_emulator.rules import Subject
from local_platform.runpod_emulator.settings import Operation

_MAX_BODY_BYTES: Final = 1024 * 1024
_OBJECT: Final = TypeAdapter(dict[str, JsonValue])


class _Resource(BaseModel):
    model_config = ConfigDict(extra="forbid", alias_generator=to_camel, validate_by_name=False)

    fixed: ClassVar[frozenset[str]] = frozenset()
    """Only a creation takes them."""
    hidden: ClassVar[frozenset[str]] = frozenset()
    """Taken, and never shown."""
    name: str = Field(min_length=1)


class Template(_Resource):
    """The container of a worker. The defaults are RunPod's."""

    fixed = frozenset({"isServerless"})
    image_name: str = Field(min_length=1)
    container_disk_in_gb: int = Field(default=50, ge=1)
    container_registry_auth_id: str = ""
    docker_entrypoint: list[str] = []
    docker_start_cmd: list[str] = []
    env: dict[str, str] = {}
    is_serverless: bool = False
    volume_in_gb: int = 20


class NetworkVolume(_Resource):
    """A network volume."""

    fixed = frozenset({"dataCenterId"})
    size: int = Field(ge=1, le=4096)
    data_center_id: str


class ServerlessEndpoint(_Resource):
    """An endpoint. The defaults are RunPod's."""

    fixed = frozenset({"computeType"})
    hidden = frozenset({"flashboot", "networkVolumeIds"})
    template_id: str
    compute_type: Literal["GPU", "CPU"] = "GPU"
    gpu_type_ids: list[str] = []
    gpu_count: int = Field(default=1, ge=1)
    data_center_ids: list[str] = []
    network_volume_id: str = ""
    network_volume_ids: list[str] = []
    workers_min: int = Field(default=0, ge=0)
    workers_max: int = Field(default=3, ge=0)
    idle_timeout: int = Field(default=5, ge=1, le=3600)
    execution_timeout_ms: int = 600_000
    scaler_type: Literal["QUEUE_DELAY", "REQUEST_COUNT"] = "QUEUE_DELAY"
    scaler_value: int = Field(default=4, ge=1)
    flashboot: bool = False
    allowed_cuda_versions: list[str] = []


KINDS: Final[dict[str, type[_Resource]]] = {
    "templates": Template,
    "networkvolumes": NetworkVolume,
    "endpoints": ServerlessEndpoint,
}


class RestApi:
    """The handlers, and what was created."""

    def __init__(self, emulator: Emulator) -> None:
        self._emulator = emulator
        self._things: dict[str, dict[str, _Resource]] = {kind: {} for kind in KINDS}
        self._numbers = count(1)

    def routes(self) -> list[Route]:
        """All routes. They need the bearer token."""
        return [
            self._route("/v1/billing/endpoints", "rest-billing", self._billing, "GET"),
            self._route("/v1/{kind}", "rest-read", self._list, "GET"),
            self._route("/v1/{kind}", "rest-create", self._create, "POST"),
            self._route("/v1/{kind}/{id}", "rest-read", self._show, "GET"),
            self._route("/v1/{kind}/{id}", "rest-change", self._change, "PATCH"),
            self._route("/v1/{kind}/{id}", "rest-change", self._delete, "DELETE"),
            self._route("/v2/serverless/{id}/workers", "rest-workers", self._workers, "GET"),
        ]

    def _route(
        self, path: str, operation: Operation, handler: Callable[[Request], Awaitable[Response]], method: str
    ) -> Route:
        async def serve(request: Request) -> Any:
            answer = await self._answer(operation, handler, request)
            outcome = str(answer.status_code) if isinstance(answer, Response) else "reset"
            self._emulator.answers[operation, outcome] += 1
            return answer

        return Route(path, serve, methods=[method])

    async def _answer(
        self, operation: Operation, handler: Callable[[Request], Awaitable[Response]], request: Request
    ) -> Answer:
        subject = Subject(request.path_params.get("id", ""), operation)
        try:
            authorise(self._emulator, request, bearer=True)
            await read_body(request, _MAX_BODY_BYTES)
            _refuse_unknown_collection(request)
            answer = await misbehaving(self._emulator, lambda: subject, lambda: handler(request))
        except Refused as refusal:
            return _problem(refusal.status, refusal.reason)
        if isinstance(answer, ResetInsteadOfAnswer) or answer.status_code < 400:
            return answer
        headers = {name: value for name, value in answer.headers.items() if name == "retry-after"}
        return _problem(answer.status_code, "the emulator was told to answer so", headers)

    async def _list(self, request: Request) -> Response:
        kind = request.path_params["kind"]
        shown = self._things[kind]
        if kind == "templates" and request.query_params.get("includeEndpointBoundTemplates") != "true":
            bound = {endpoint.template_id for endpoint in self._endpoints().values()}
            shown = {identifier: thing for identifier, thing in shown.items() if identifier not in bound}
        return JSONResponse([_body(identifier, thing) for identifier, thing in shown.items()])

    async def _create(self, request: Request) -> Response:
        kind = request.path_params["kind"]
        thing = self._valid(KINDS[kind], request.state.body)
        self._hold_references(thing)
        identifier = f"{kind[:-1]}{next(self._numbers)}"
        self._things[kind][identifier] = thing
        return JSONResponse(_body(identifier, thing), status_code=201)

    async def _show(self, request: Request) -> Response:
        kind, identifier = request.path_params["kind"], request.path_params["id"]
        if kind == "endpoints" and identifier not in self._things[kind] and identifier in self._emulator.endpoints:
            # A client that names an endpoint has made it, with RunPod's defaults.
            return JSONResponse(_body(identifier, ServerlessEndpoint(name=identifier, templateId="any")))
        return JSONResponse(_body(identifier, self._thing(request)))

    async def _change(self, request: Request) -> Response:
        thing, identifier = self._thing(request), request.path_params["id"]
        changes = self._changes(type(thing), request.state.body)
        changed = self._valid(type(thing), thing.model_dump(by_alias=True) | changes)
        self._hold_references(changed)
        if isinstance(thing, NetworkVolume) and isinstance(changed, NetworkVolume) and changed.size < thing.size:
            raise Refused(400, "a network volume cannot shrink")
        self._things[request.path_params["kind"]][identifier] = changed
        for endpoint_id, endpoint in self._endpoints().items():
            names_another = endpoint_id == identifier and "templateId" in changes
            if changed != thing and (endpoint.template_id == identifier or names_another):
                self._emulator.endpoint(endpoint_id).new_release()
        return JSONResponse(_body(identifier, changed))

    async def _delete(self, request: Request) -> Response:
        self._thing(request)
        del self._things[request.path_params["kind"]][request.path_params["id"]]
        return Response(status_code=204)

    async def _workers(self, request: Request) -> Response:
        identifier = request.path_params["id"]
        if identifier not in self._things["endpoints"]:
            raise Refused(404, "no such endpoint")
        workers = [
            {"id": worker.id, "status": "RUNNING" if worker.jobs else "IDLE", "isStale": stale}
            for worker, stale in self._emulator.endpoint(identifier).workers()
        ]
        for status, number in self._emulator.settings.unavailable_workers.items():
            workers += [{"id": f"{status.lower()}{n}", "status": status, "isStale": False} for n in range(number)]
        return JSONResponse({"workers": workers})

    async def _billing(self, request: Request) -> Response:
        """All that was ever spent, in the hour of now: the emulator keeps no history."""
        settings = self._emulator.settings
        hour = datetime.now(UTC).replace(minute=0, second=0, microsecond=0)
        lines = [
            {
                "endpointId": endpoint.id,
                "gpuTypeId": settings.gpu_type,
                "amount": endpoint.billed_seconds * settings.usd_per_second,
                "timeBilledMs": round(1000 * endpoint.billed_seconds),
                "time": hour.isoformat(),
            }
            for endpoint in self._emulator.endpoints.values()
        ]
        return JSONResponse(lines)

    def _endpoints(self) -> dict[str, ServerlessEndpoint]:
        things = self._things["endpoints"].items()
        return {identifier: thing for identifier, thing in things if isinstance(thing, ServerlessEndpoint)}

    def _thing(self, request: Request) -> _Resource:
        found = self._things[request.path_params["kind"]].get(request.path_params["id"])
        if found is None:
            raise Refused(404, "not found")
        return found

    def _valid(self, kind: type[_Resource], body: bytes | dict[str, Any]) -> _Resource:
        try:
            return kind.model_validate_json(body) if isinstance(body, bytes) else kind.model_validate(body)
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            raise Refused(400, f"{'.'.join(map(str, first['loc'])) or 'body'}: {first['msg']}") from error

    def _changes(self, kind: type[_Resource], body: bytes) -> dict[str, Any]:
        """A change needs no required field, so only its shape is checked here."""
        try:
            changes = _OBJECT.validate_json(body)
        except ValidationError as error:
            raise Refused(400, "the body is not a JSON object") from error
        if refused := kind.fixed & changes.keys():
            raise Refused(400, f"{', '.join(sorted(refused))} cannot be changed")
        return changes

    def _hold_references(self, thing: _Resource) -> None:
        """An endpoint names a template, and volumes of its own data centres."""
        if not isinstance(thing, ServerlessEndpoint):
            return
        if thing.template_id not in self._things["templates"]:
            raise Refused(400, f"templateId: {thing.template_id} does not exist")
        for identifier in [thing.network_volume_id or None, *thing.network_volume_ids]:
            if identifier is not None and identifier not in self._things["networkvolumes"]:
                raise Refused(400, f"network volume {identifier} does not exist")


def _refuse_unknown_collection(request: Request) -> None:
    if request.path_params.get("kind", "templates") not in KINDS:
        raise Refused(404, "no such collection")


def _body(identifier: str, thing: _Resource) -> dict[str, Any]:
    shown = {name: value for name, value in thing.model_dump(by_alias=True).items() if name not in thing.hidden}
    if isinstance(thing, ServerlessEndpoint):
        shown["dataCenterIds"] = ",".join(thing.data_center_ids)
    return {"id": identifier, **shown}


def _problem(status: int, detail: str, headers: dict[str, str] | None = None) -> JSONResponse:
    body = {"type": "about:blank", "status": status, "detail": detail}
    return JSONResponse(body, status, headers, media_type="application/problem+json")
