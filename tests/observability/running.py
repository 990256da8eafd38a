"""One platform that runs, is used, misused and watched once; what came out of it is looked at by many tests."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from prometheus_client import Metric

from benchmarks.order_cost import Log, Sent, log_statements, sent_for_order
from contracts.message import SERVICES
from local_platform.supervisor import PlatformOptions, Supervisor
from tests.observability.canaries import Misuse, misuse
from tests.observability.planning import Scan, scans_of
from tests.observability.scraping import Bought, buy_and_order, scrape
from tests.support.otlp import ReceivedSpan, collecting

MIN_SECRET_LENGTH: Final = 8
"""A shorter one would be found where it is not."""
ROOT: Final = Path(__file__).parents[2]


@dataclass(frozen=True, slots=True)
class Observed:
    """What came out: ``metrics`` after one purchase and one order, everything else after the misuse, too."""

    bought: Bought
    sent: Mapping[str, Sent]
    """What each service sent to the database for the order."""
    metrics: dict[str, dict[str, Metric]]
    spans: Sequence[ReceivedSpan]
    logs: Mapping[str, str]
    """By process: the services and the worker."""
    misuse: Misuse
    secrets: Mapping[str, str]
    """What the processes were told and must not tell, by name."""
    scans: Sequence[Scan]
    """What was sent to the database and would read a large table whole."""


async def observe(name: str) -> Observed:
    """Run a platform whose every trace is recorded."""
    async with collecting() as collector:
        environment: dict[str, dict[str, str]] = {
            service: {
                f"{service.upper()}_LOG_FORMAT": "json",
                f"{service.upper()}_OTLP_ENDPOINT": collector.endpoint,
                f"{service.upper()}_TRACE_SAMPLE_RATIO": "1",
                f"{service.upper()}_LOG_LEVEL": "DEBUG",
            }
            for service in SERVICES
        }
        supervisor = Supervisor(
            PlatformOptions(name=name, root=ROOT, workers=1, follow_logs=False, environment=environment)
        )
        try:
            platform = await supervisor.start()
            await log_statements(platform, "all")
            log = Log(supervisor)
            bought = await buy_and_order(platform)
            sent = await sent_for_order(platform, log, bought.generation_id)
            metrics = await scrape(platform)
            told = await misuse(platform, bought)
            scans = await scans_of(supervisor, platform, bought.user_id)
        finally:
            await supervisor.stop()
    logs = {
        process: (supervisor.log_directory / f"{process}.log").read_text(errors="replace")
        for process in platform.processes
        if process in SERVICES or process.startswith("worker")
    }
    return Observed(bought, sent, metrics, collector.spans, logs, told, _secrets(platform.environments), scans)


def _secrets(environments: Mapping[str, Mapping[str, str]]) -> dict[str, str]:
    told = {name: value for service in SERVICES for name, value in environments[service].items()}
    found = {name: value for name, value in told.items() if name.endswith(("PASSWORD", "SECRET", "_KEY"))}
    for name, value in told.items():
        if name.endswith("SECRETS"):
            found |= {f"{name}[{number}]": secret for number, secret in enumerate(json.loads(value))}
        elif name.endswith("DATABASE_URL"):
            found[name] = urlsplit(value).password or ""
    assert all(len(secret) >= MIN_SECRET_LENGTH for secret in found.values()), sorted(found)
    return found
