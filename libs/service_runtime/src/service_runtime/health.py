"""The ops listener: ``/livez`` (the process works), ``/readyz`` (it may be sent work), ``/metrics`` (Prometheus)."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Protocol, runtime_checkable

import msgspec
from prometheus_client import REGISTRY
from prometheus_client.exposition import choose_encoder
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from service_runtime.redaction import redact

ReadinessCheck = Callable[[], Awaitable[Any]]
"""Raises, or returns False, when the service should be sent no work. A mapping is shown as facts."""

CHECK_TIMEOUT_SECONDS: Final = 2.0


@runtime_checkable
class Heartbeating(Protocol):
    """A component that says when it last made a step. A component need not be one, nor import this to be one."""

    name: str
    heartbeat_limit_seconds: float
    """The age from which on the component counts as stuck, and the process as not alive."""

    def heartbeat_age_seconds(self) -> float:
        """Seconds since the last step."""


class Health:
    """What the process knows about itself. Not ready until ``ready`` is set, and not any more once it stops.

    A check in ``degraded_by`` must hold once, too, so that a roll-out of what cannot work stops. Later its failure is
    only told: without what it looks at, the service does a part of its work, and all replicas would go at once.
    """

    def __init__(
        self,
        checks: Mapping[str, ReadinessCheck],
        components: Iterable[object],
        degraded_by: Mapping[str, ReadinessCheck] | None = None,
    ) -> None:
        self.ready = False
        self.reason = "starting"
        self._tolerated = frozenset(degraded_by or {})
        self._checks = {**checks, **(degraded_by or {})}
        self._was_whole = False
        self._components = [component for component in components if isinstance(component, Heartbeating)]

    def stuck_components(self) -> dict[str, str]:
        """Components whose heartbeat is too old. That anybody can ask shows that the event loop itself is alive."""
        return {
            component.name: f"no heartbeat for {component.heartbeat_age_seconds():.0f} s"
            for component in self._components
            if component.heartbeat_age_seconds() > component.heartbeat_limit_seconds
        }

    async def readiness(self) -> "Readiness":
        """Ask every check."""
        names = list(self._checks)
        findings = await asyncio.gather(*(_find(self._checks[name]) for name in names))
        found = {"lifecycle": Finding(None if self.ready else self.reason)}
        found |= dict(zip(names, findings, strict=True))
        reasons = {name: finding.reason for name, finding in found.items() if finding.reason is not None}
        self._was_whole |= not reasons
        tolerated = self._tolerated if self._was_whole else frozenset()
        return Readiness(
            failing={name: reason for name, reason in reasons.items() if name not in tolerated},
            degraded={name: reason for name, reason in reasons.items() if name in tolerated},
            checks=list(found),
            facts={name: finding.facts for name, finding in found.items() if finding.facts},
        )


@dataclass(frozen=True, slots=True)
class Readiness:
    """What ``/readyz`` says. ``failing`` and ``degraded`` are reasons by check."""

    failing: Mapping[str, str]
    degraded: Mapping[str, str]
    checks: Sequence[str]
    facts: Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class Finding:
    """Why a check fails, if it does, and what else it says."""

    reason: str | None
    facts: Mapping[str, Any] = field(default_factory=dict)


async def _find(check: ReadinessCheck) -> Finding:
    try:
        async with asyncio.timeout(CHECK_TIMEOUT_SECONDS):
            outcome = await check()
    except TimeoutError:
        return Finding(f"no answer within {CHECK_TIMEOUT_SECONDS:g} s")
    except Exception as error:  # noqa: BLE001 - whatever it is, it is the answer
        return Finding(redact(f"{type(error).__name__}: {error}"))
    if isinstance(outcome, Mapping):
        return Finding(None, outcome)
    return Finding("not ready" if outcome is False else None)


def ops_app(health: Health) -> Starlette:
    """The application of the ops listener. Keep its port away from the public."""

    async def livez(_request: Request) -> Response:
        stuck = health.stuck_components()
        return _answer(not stuck, "alive", {"stuck": stuck})

    async def readyz(_request: Request) -> Response:
        found = await health.readiness()
        return _answer(
            not found.failing,
            "ready",
            {"failing": found.failing, "degraded": found.degraded, "checks": found.checks, "facts": found.facts},
        )

    async def metrics(request: Request) -> Response:
        # OpenMetrics, which carries exemplars, for a scraper that asks for it, as Prometheus does.
        encode, content_type = choose_encoder(request.headers.get("accept", ""))
        return Response(encode(REGISTRY), headers={"content-type": content_type})

    return Starlette(routes=[Route("/livez", livez), Route("/readyz", readyz), Route("/metrics", metrics)])


def _answer(good: bool, word: str, more: dict[str, Any]) -> Response:
    body = msgspec.json.encode({"status": word if good else f"not {word}", **more})
    return Response(body, status_code=200 if good else 503, media_type="application/json")
