"""The process table: every process except the three servers. To add one, add a line to ``PROCESSES``."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, Literal, TypedDict

from catalogue import load_catalogue
from contracts.message import SERVICES, Service
from contracts.payments import PROVIDERS, Provider
from local_platform.payment_providers.emulation import Account
from local_platform.payment_providers.table import EMULATIONS
from local_platform.wiring import Wiring, python_module

Stage = Literal["provider", "service", "worker"]
STAGES: tuple[Stage, ...] = ("provider", "service", "worker")
"""The order of starting. Stopping goes the other way."""


@dataclass(frozen=True, kw_only=True)
class ProcessSpec:
    """How to run one process.

    ``listeners`` names the ports that it opens; the first one is its printed address. The process is ready when
    ``ready_path`` on ``ready_listener`` answers without a server error: a service that is not ready answers 503, and
    an emulator that listens is ready, even if it has no such path. Without listeners, it is ready when it runs.
    ``service`` is whose schema and settings it uses, if it is a replica of a service.
    """

    name: str
    stage: Stage
    command: Callable[[Wiring], Sequence[str]]
    environment: Callable[[Wiring], Mapping[str, str]]
    directory: Callable[[Wiring], Path] = lambda wiring: wiring.data_directory
    listeners: tuple[str, ...] = ()
    ready_listener: str | None = None
    ready_path: str = "/readyz"
    service: Service | None = None


_PLAYGROUND: Final = Path(__file__).parents[4] / "clients/playground"
ENDPOINT_ID = "preview"
"""The one RunPod endpoint of the emulator."""


def _no_environment(_: Wiring) -> Mapping[str, str]:
    return {}


def _common_settings(wiring: Wiring, service: Service) -> dict[str, str]:
    """The settings that all services have; see ``service_runtime.settings``."""
    prefix = service.upper()
    return {
        f"{prefix}_DATABASE_URL": wiring.dsns[service],
        f"{prefix}_NATS_URL": wiring.nats.url,
        f"{prefix}_NATS_USER": service,
        f"{prefix}_NATS_PASSWORD": wiring.nats.users[service],
        f"{prefix}_OPS_HOST": "127.0.0.1",
        f"{prefix}_OPS_PORT": str(wiring.ports[f"{service}-ops"]),
        f"{prefix}_LOG_FORMAT": "console",
        f"{prefix}_DRAIN_SECONDS": "5",
    }


def _http(wiring: Wiring, service: Service) -> dict[str, str]:
    prefix = service.upper()
    return {f"{prefix}_HTTP_HOST": "127.0.0.1", f"{prefix}_HTTP_PORT": str(wiring.ports[service])}


def _s3(wiring: Wiring, service: Service) -> dict[str, str]:
    prefix = service.upper()
    access_key, secret_key = wiring.s3.credentials[service]
    return {
        f"{prefix}_S3_ENDPOINT_URL": wiring.s3.endpoint_url,
        f"{prefix}_S3_REGION": wiring.s3.region,
        f"{prefix}_S3_ACCESS_KEY_ID": access_key,
        f"{prefix}_S3_SECRET_ACCESS_KEY": secret_key,
    }


def _gateway(wiring: Wiring) -> Mapping[str, str]:
    return {
        **_common_settings(wiring, "gateway"),
        **_http(wiring, "gateway"),
        **_s3(wiring, "gateway"),
        "GATEWAY_JWT_ISSUER": wiring.identity.issuer,
        "GATEWAY_JWKS_URL": wiring.identity.jwks_url,
        "GATEWAY_CORS_LOCALHOST": "true",
        "GATEWAY_PLAYGROUND_DIRECTORY": str(_PLAYGROUND),
    }


def _billing(wiring: Wiring) -> Mapping[str, str]:
    return _common_settings(wiring, "billing")


def _generation(wiring: Wiring) -> Mapping[str, str]:
    return {
        **_common_settings(wiring, "generation"),
        **_http(wiring, "generation"),
        **_s3(wiring, "generation"),
        "GENERATION_RUNPOD_API_BASE": wiring.url("runpod"),
        "GENERATION_RUNPOD_REST_BASE": wiring.url("runpod"),
        "GENERATION_RUNPOD_API_KEY": wiring.secret("runpod-api-key"),
        "GENERATION_ENDPOINTS": json.dumps(_endpoints(wiring)),
        "GENERATION_CALLBACK_BASE_URL": wiring.url("generation"),
        "GENERATION_RETRY_BACKOFF_SECONDS": "1",
        "GENERATION_CALLBACK_SECRETS": json.dumps([wiring.secret("runpod-callback")]),
    }


class _Endpoint(TypedDict):
    """One entry of ``GENERATION_ENDPOINTS``."""

    id: str
    max_active: int


def _endpoints(wiring: Wiring) -> dict[str, _Endpoint]:
    """Every logical endpoint of the catalogue is the one emulated endpoint: the preview renderer makes everything.

    A platform without workers is for workers from outside, for example of a benchmark, of unknown number.
    """
    names = {model.endpoint for model in load_catalogue().models}
    return {name: {"id": ENDPOINT_ID, "max_active": 4 * wiring.workers or 32} for name in sorted(names)}


def _storage(wiring: Wiring) -> Mapping[str, str]:
    return {
        **_common_settings(wiring, "storage"),
        **_s3(wiring, "storage"),
        "STORAGE_MARKING_KEY": wiring.marking.key,
        "STORAGE_MARKING_CERTIFICATES": wiring.marking.certificates,
    }


def _payments(wiring: Wiring) -> Mapping[str, str]:
    return {
        **_common_settings(wiring, "payments"),
        **_http(wiring, "payments"),
        "PAYMENTS_PUBLIC_BASE_URL": wiring.url("payments"),
        "PAYMENTS_CHECKOUT_SUCCESS_URL": f"{wiring.url('gateway')}/playground/#/credits",
        "PAYMENTS_CHECKOUT_CANCEL_URL": f"{wiring.url('gateway')}/playground/#/credits",
        "PAYMENTS_POLL_SECONDS": "1",
        **{
            variable: value
            for provider, emulation in EMULATIONS.items()
            for variable, value in emulation.settings(_account(wiring, provider)).items()
        },
    }


def _auditor(wiring: Wiring) -> Mapping[str, str]:
    return {**_common_settings(wiring, "auditor"), **_s3(wiring, "auditor")}


_ENVIRONMENTS: dict[Service, Callable[[Wiring], Mapping[str, str]]] = {
    "gateway": _gateway,
    "billing": _billing,
    "generation": _generation,
    "storage": _storage,
    "payments": _payments,
    "auditor": _auditor,
}

WITH_PUBLIC_HTTP: tuple[Service, ...] = ("gateway", "generation", "payments")


def _service(service: Service) -> ProcessSpec:
    listeners = (service, f"{service}-ops") if service in WITH_PUBLIC_HTTP else (f"{service}-ops",)
    return ProcessSpec(
        name=service,
        stage="service",
        command=lambda _: python_module(f"{service}.main", "serve"),
        environment=_ENVIRONMENTS[service],
        listeners=listeners,
        ready_listener=f"{service}-ops",
        service=service,
    )


def replica_name(service: Service, number: int) -> str:
    """The process of a replica: the first one is called like its service."""
    return service if number == 1 else f"{service}-{number}"


def _replica(service: Service, number: int) -> ProcessSpec:
    """A replica with listeners of its own; the service's own port belongs to the proxy."""
    name, prefix = replica_name(service, number), service.upper()
    has_http = service in WITH_PUBLIC_HTTP

    def environment(wiring: Wiring) -> Mapping[str, str]:
        own = {f"{prefix}_OPS_PORT": str(wiring.ports[f"{name}-ops"])}
        if has_http:
            own[f"{prefix}_HTTP_PORT"] = str(wiring.ports[f"{name}-http"])
        return {**_ENVIRONMENTS[service](wiring), **own}

    return replace(
        _service(service),
        name=name,
        environment=environment,
        listeners=(f"{name}-http", f"{name}-ops") if has_http else (f"{name}-ops",),
        ready_listener=f"{name}-ops",
    )


def _proxy(replicas: int) -> ProcessSpec:
    """The proxy before the replicas of every service with a public listener."""

    def command(wiring: Wiring) -> Sequence[str]:
        services = {
            service: {
                "port": wiring.ports[service],
                "replicas": {
                    name: {"url": wiring.url(f"{name}-http"), "ready_url": f"{wiring.url(f'{name}-ops')}/readyz"}
                    for name in (replica_name(service, number) for number in range(1, replicas + 1))
                },
            }
            for service in WITH_PUBLIC_HTTP
        }
        port = str(wiring.ports["proxy"])
        return python_module("local_platform.reverse_proxy", "--port", port, "--services", json.dumps(services))

    return ProcessSpec(
        name="proxy",
        stage="provider",
        command=command,
        environment=_no_environment,
        listeners=("proxy", *WITH_PUBLIC_HTTP),
        ready_listener="proxy",
        ready_path="/replicas",
    )


def _runpod(wiring: Wiring) -> Sequence[str]:
    port, api_key = str(wiring.ports["runpod"]), wiring.secret("runpod-api-key")
    return python_module("local_platform.runpod_emulator", "--port", port, "--api-key", api_key)


def _identity(wiring: Wiring) -> Sequence[str]:
    port, key_file = str(wiring.ports["identity"]), str(wiring.data_directory / "identity.pem")
    return python_module("local_platform.identity", "--port", port, "--key-file", key_file)


def _account(wiring: Wiring, provider: Provider) -> Account:
    """Our account at an emulated payment provider; its webhooks go to the payments service."""
    return Account(
        url=wiring.url(provider),
        api_key=wiring.secret(f"{provider}-api-key"),
        webhook_url=f"{wiring.url('payments')}/webhooks/{provider}",
        webhook_secret=wiring.secret(f"{provider}-webhook"),
        name=EMULATIONS[provider].account_name,
        password=wiring.secret(f"{provider}-password"),
    )


def _payment_provider(provider: Provider) -> ProcessSpec:
    """The emulator of one payment provider."""

    def command(wiring: Wiring) -> Sequence[str]:
        account = _account(wiring, provider)
        return python_module(
            "local_platform.payment_providers",
            *(provider, "--port", str(wiring.ports[provider])),
            *("--api-key", account.api_key, "--name", account.name, "--password", account.password),
            *("--webhook-url", account.webhook_url, "--webhook-secret", account.webhook_secret),
        )

    return ProcessSpec(
        name=provider,
        stage="provider",
        command=command,
        environment=_no_environment,
        listeners=(provider,),
        ready_listener=provider,
        ready_path="/",
    )


_PROVIDERS: tuple[ProcessSpec, ...] = (
    ProcessSpec(
        name="identity",
        stage="provider",
        command=_identity,
        environment=_no_environment,
        listeners=("identity",),
        ready_listener="identity",
        ready_path="/auth/v1/.well-known/jwks.json",
    ),
    ProcessSpec(
        name="runpod",
        stage="provider",
        command=_runpod,
        environment=_no_environment,
        listeners=("runpod",),
        ready_listener="runpod",
        ready_path="/healthz",
    ),
    *(_payment_provider(provider) for provider in PROVIDERS),
)
PROCESSES: tuple[ProcessSpec, ...] = (*_PROVIDERS, *(_service(service) for service in SERVICES))


def _worker(number: int) -> ProcessSpec:
    """The GPU worker as RunPod runs it: in its own environment, with the emulator's addresses for its SDK."""
    worker_id = f"worker-{number}"

    def environment(wiring: Wiring) -> Mapping[str, str]:
        base = f"{wiring.url('runpod')}/v2/{ENDPOINT_ID}"
        return {
            "RENDERER": "preview",
            "RUNPOD_WEBHOOK_GET_JOB": f"{base}/job-take/$ID?gpu=none",
            "RUNPOD_WEBHOOK_POST_OUTPUT": f"{base}/job-done/$RUNPOD_POD_ID/$ID?gpu=none",
            "RUNPOD_WEBHOOK_POST_STREAM": f"{base}/job-stream/$RUNPOD_POD_ID/$ID?gpu=none",
            "RUNPOD_WEBHOOK_PING": f"{base}/ping/$RUNPOD_POD_ID",
            "RUNPOD_AI_API_KEY": wiring.secret("runpod-api-key"),
            "RUNPOD_POD_ID": worker_id,
            "RUNPOD_ENDPOINT_ID": ENDPOINT_ID,
            # Otherwise the SDK checks memory, disk and access to a public name server, as on a rented machine.
            "RUNPOD_SKIP_AUTO_SYSTEM_CHECKS": "true",
        }

    return ProcessSpec(
        name=worker_id,
        stage="worker",
        command=lambda wiring: [str(wiring.root / "gpu-endpoint/.venv/bin/python"), "-m", "gpu_endpoint"],
        environment=environment,
        directory=lambda wiring: wiring.root / "gpu-endpoint",
    )


def processes(workers: int, replicas: int = 1) -> tuple[ProcessSpec, ...]:
    """The process table with ``workers`` GPU workers and ``replicas`` of each service, behind a proxy if several."""
    rendering = [_worker(number) for number in range(1, workers + 1)]
    if replicas == 1:
        return (*PROCESSES, *rendering)
    serving = [_replica(service, number) for service in SERVICES for number in range(1, replicas + 1)]
    return (*_PROVIDERS, _proxy(replicas), *serving, *rendering)
