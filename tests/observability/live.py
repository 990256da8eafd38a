"""A local platform under traffic, watched by a real Prometheus: ``make observe``.

    python -m tests.observability.live [--pictures docs/images]

Printed is, for every panel, whether its queries return data, and whether every alert is valid. Then faults are caused
for real, and the alerts that name them must fire: a message that nobody can read, a killed service, a dead provider, a
dead database.
Times of the rules (``for``) are shortened to seconds; their expressions are the ones that production loads.
With ``--pictures`` (``make observe-pictures``) the Overview and One order are drawn with what their queries return.
Exit code 0 only if all of it held. Without a ``prometheus`` on PATH nothing is tried, and that is said.
"""

import argparse
import asyncio
import shutil
import signal
import sys
import tempfile
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from time import time
from typing import TYPE_CHECKING, Any, Final
from uuid import UUID, uuid4

import asyncpg
import httpx
import nats
import yaml

from contracts.billing import CreditsReserved
from deploy.observability.boards import ORDER, OVERVIEW
from deploy.observability.panels import Board, Query
from local_platform.api_client import ApiClient
from local_platform.console import say
from local_platform.description import PlatformDescription, platform_directory
from local_platform.servers.ports import free_port
from local_platform.supervisor import PlatformOptions, Supervisor
from tests.observability.expressions import OBSERVABILITY, filled, panel_queries, panels, rules
from tests.observability.scraping import buy_and_order, metrics_urls
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from tests.observability.pictures import Drawn

ROOT: Final = Path(__file__).parents[2]
SCRAPE: Final = "2s"
RATE_INTERVAL: Final = "20s"
ORDERS: Final = 4
DATA_SECONDS: Final = 90.0
FIRING_SECONDS: Final = 120.0
PICTURE_SECONDS: Final = 240.0
"""Of traffic before the pictures are drawn."""
PICTURE_USERS: Final = 3


@dataclass(frozen=True, slots=True)
class Prometheus:
    """A running Prometheus."""

    url: str
    http: httpx.AsyncClient

    async def query(self, expr: str) -> list[dict[str, Any]]:
        """The series that an expression has now. Raises AssertionError if it is no valid expression."""
        answer = await self.http.get(f"{self.url}/api/v1/query", params={"query": expr})
        body = answer.json()
        assert body["status"] == "success", f"{expr}: {body.get('error')}"
        found = body["data"]["result"]
        return [{"metric": {}, "value": found}] if body["data"]["resultType"] == "scalar" else list(found)

    async def series(self, expr: str, began: float) -> list[dict[str, Any]]:
        """The series of an expression since ``began``."""
        asked: dict[str, str | float] = {"query": expr, "start": began, "end": time(), "step": SCRAPE}
        body = (await self.http.get(f"{self.url}/api/v1/query_range", params=asked)).json()
        assert body["status"] == "success", f"{expr}: {body.get('error')}"
        return list(body["data"]["result"])

    async def firing(self, alert: str) -> bool:
        """Whether an alert fires."""
        return bool(await self.query(f'ALERTS{{alertname="{alert}", alertstate="firing"}}'))

    async def rule_errors(self) -> Mapping[str, str]:
        """The last error of each rule that has one; raises if a rule was not evaluated yet."""
        groups = (await self.http.get(f"{self.url}/api/v1/rules")).json()["data"]["groups"]
        loaded = [rule for group in groups for rule in group["rules"]]
        assert loaded, "no rule is loaded"
        assert all(rule["health"] != "unknown" for rule in loaded)
        return {rule["name"]: rule.get("lastError", "") for rule in loaded if rule["health"] != "ok"}


async def main(pictures: Path | None) -> int:
    """Everything, in order. Returns the exit code."""
    program = shutil.which("prometheus")
    if program is None:
        say("NOTHING IS OBSERVED: no `prometheus` on PATH (Debian: apt-get install --no-install-recommends prometheus)")
        return 0
    name = f"observe-{uuid4().hex[:8]}"
    supervisor = Supervisor(PlatformOptions(name=name, root=ROOT, workers=1, follow_logs=False))
    with tempfile.TemporaryDirectory() as work:
        try:
            platform = await supervisor.start()
            async with httpx.AsyncClient(trust_env=False) as http:
                prometheus = Prometheus(f"http://127.0.0.1:{free_port()}", http)
                process = await _start(program, prometheus, platform, Path(work))
                try:
                    return await _observe(prometheus, supervisor, platform, pictures)
                finally:
                    process.send_signal(signal.SIGTERM)
                    await process.wait()
        finally:
            await supervisor.stop()
            shutil.rmtree(platform_directory(name, ROOT), ignore_errors=True)


async def _observe(
    prometheus: Prometheus, supervisor: Supervisor, platform: PlatformDescription, pictures: Path | None
) -> int:
    began = time()
    say(f"Prometheus at {prometheus.url}; {ORDERS} users buy and order")
    await asyncio.gather(*(buy_and_order(platform) for _ in range(ORDERS)))
    failures = await _check_rules(prometheus)
    failures += await _check_panels(prometheus, platform)
    failures += await _check_order_board(platform)
    if pictures is not None:
        await _draw(prometheus, platform, pictures, began)
    for alert, cause, mend in _faults(supervisor, platform):
        failures += await _cause(prometheus, alert, cause)
        await mend()
    for failure in failures:
        say(f"FAILED: {failure}")
    say("All of it held" if not failures else f"{len(failures)} did not hold")
    return 1 if failures else 0


async def _start(
    program: str, prometheus: Prometheus, platform: PlatformDescription, work: Path
) -> asyncio.subprocess.Process:
    targets = [
        {"targets": [url.split("/")[2]], "labels": {"service": service}}
        for service, url in metrics_urls(platform).items()
    ]
    (work / "rules.yaml").write_text(yaml.safe_dump(_hurried()))
    scrape = {"job_name": "reelhouse", "honor_labels": True, "static_configs": targets}
    timing = {"scrape_interval": SCRAPE, "scrape_timeout": SCRAPE, "evaluation_interval": SCRAPE}
    config = {"global": timing, "rule_files": ["rules.yaml"], "scrape_configs": [scrape]}
    (work / "prometheus.yaml").write_text(yaml.safe_dump(config))
    address = prometheus.url.removeprefix("http://")
    with (work / "prometheus.log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            program,
            f"--config.file={work / 'prometheus.yaml'}",
            f"--storage.tsdb.path={work / 'data'}",
            f"--web.listen-address={address}",
            stdout=log,
            stderr=log,
        )

    async def ready() -> bool:
        assert process.returncode is None, (work / "prometheus.log").read_text()[-2000:]
        try:
            return (await prometheus.http.get(f"{prometheus.url}/-/ready")).status_code == 200
        except httpx.TransportError:
            return False

    await eventually(ready, 30, "Prometheus")
    return process


def _hurried() -> dict[str, Any]:
    """The rules of production, with seconds in place of minutes before an alert fires."""
    document: dict[str, Any] = yaml.safe_load((OBSERVABILITY / "rules/reelhouse.yaml").read_text())
    for group in document["groups"]:
        group.pop("interval", None)
        for rule in group["rules"]:
            if "alert" in rule:
                rule["for"] = "4s"
    return document


async def _check_rules(prometheus: Prometheus) -> list[str]:
    errors = await eventually(lambda: _listed(prometheus.rule_errors), 30, "the evaluation of every rule")
    failures = [f"rule {name}: {error}" for name, error in errors[0].items()]
    for rule in rules():
        await prometheus.query(rule["expr"])
    say(f"{len(rules())} rules are valid and evaluated")
    return failures


async def _listed(ask: Callable[[], Awaitable[Mapping[str, str]]]) -> list[Mapping[str, str]]:
    return [await ask()]


async def _check_panels(prometheus: Prometheus, platform: PlatformDescription) -> list[str]:
    failures = []
    waiting = panel_queries()
    deadline = asyncio.get_running_loop().time() + DATA_SECONDS
    while waiting and asyncio.get_running_loop().time() < deadline:
        # Rates need traffic that goes on.
        await buy_and_order(platform)
        waiting = [one for one in waiting if not await prometheus.query(filled(one.expr, RATE_INTERVAL))]
    failures += [f"{one.board}, {one.title}: no data for {one.expr}" for one in waiting]
    say(f"{len(panel_queries()) - len(waiting)} of {len(panel_queries())} queries of the panels return data")
    return failures


async def _check_order_board(platform: PlatformDescription) -> list[str]:
    """The SQL of "One order", as the auditor's role, with the id of an order that was delivered."""
    failures = []
    connection = await asyncpg.connect(platform.postgres.dsns["auditor"])
    try:
        order: UUID = await connection.fetchval(
            "SELECT generation_id FROM generation.video_generations WHERE status = 'completed' LIMIT 1"
        )
        asked = 0
        for board, panel in panels():
            for target in panel["targets"]:
                if "rawSql" in target:
                    asked += 1
                    if not await connection.fetch(target["rawSql"].replace("${generation_id}", str(order))):
                        failures.append(f"{board}, {panel['title']}: no rows")
    finally:
        await connection.close()
    say(f"{asked} panels of one order were asked in PostgreSQL")
    return failures


async def _draw(prometheus: Prometheus, platform: PlatformDescription, directory: Path, began: float) -> None:
    """Write the pictures of two dashboards, after some minutes of traffic."""
    # Here, because only who draws has the library.
    from tests.observability import pictures

    say(f"{PICTURE_USERS} users at a time buy and order for {PICTURE_SECONDS:g} s")
    until = began + PICTURE_SECONDS

    async def traffic() -> str:
        last = await buy_and_order(platform)
        while time() < until:
            last = await buy_and_order(platform)
        return last.generation_id

    order, *_ = await asyncio.gather(*(traffic() for _ in range(PICTURE_USERS)))
    for board, name in ((OVERVIEW, "overview.png"), (ORDER, "one-order.png")):
        shown = {one.title: await _shown(prometheus, platform, one.queries, order, began) for one in board.panels}
        pictures.draw(board, shown, directory / name, _note(board))
        say(f"{directory / name}: {(directory / name).stat().st_size / 1000:.0f} kB")


def _note(board: Board) -> str:
    return (
        f"Drawn by `make observe-pictures` from the queries of deploy/observability/dashboards/{board.uid}.json, on a"
        f" local platform under traffic ({datetime.now(UTC):%Y-%m-%d}). It is no screenshot of Grafana."
    )


async def _shown(
    prometheus: Prometheus, platform: PlatformDescription, queries: Sequence[Query], order: str, began: float
) -> "Drawn":
    from tests.observability.pictures import Drawn, Series, legend_of

    if queries[0].expr.startswith("SELECT"):
        connection = await asyncpg.connect(platform.postgres.dsns["auditor"])
        try:
            rows = await connection.fetch(queries[0].expr.replace("${generation_id}", order))
        finally:
            await connection.close()
        return Drawn(columns=list(rows[0].keys()), rows=[list(row.values()) for row in rows])
    return Drawn(
        [
            Series(
                legend_of(query.legend, one["metric"]),
                [seconds for seconds, _ in one["values"]],
                [float(value) for _, value in one["values"]],
            )
            for query in queries
            for one in await prometheus.series(filled(query.expr, RATE_INTERVAL), began)
        ]
    )


Step = Callable[[], Awaitable[None]]


def _faults(supervisor: Supervisor, platform: PlatformDescription) -> list[tuple[str, Step, Step]]:
    """The alert, what causes it, and what mends it."""

    async def nothing() -> None: ...

    async def send_nonsense() -> None:
        client = await nats.connect(platform.nats.url, user="admin", password=platform.nats.users["admin"])
        await client.jetstream().publish(CreditsReserved.subject, b"no message of ours")
        await client.close()

    async def kill_storage() -> None:
        supervisor.kill("storage")

    async def revive_storage() -> None:
        await supervisor.revive("storage")

    async def kill_provider() -> None:
        supervisor.kill("runpod")
        async with ApiClient(platform, uuid4(), plan="pro") as api:
            await _order_without_end(api)

    async def revive_provider() -> None:
        await supervisor.revive("runpod")

    async def kill_database() -> None:
        supervisor.kill("postgres")

    async def revive_database() -> None:
        await supervisor.revive("postgres")

    return [
        ("ReelhouseDeadLetter", send_nonsense, nothing),
        ("ReelhouseServiceDown", kill_storage, revive_storage),
        ("ReelhouseQueuePaused", kill_provider, revive_provider),
        ("ReelhouseDatabaseAway", kill_database, revive_database),
    ]


async def _order_without_end(api: ApiClient) -> None:
    """Buy, and order what nobody can render now."""
    pack = (await api.get("/v1/credit-packs"))["items"][-1]
    payment = await api.post("/v1/payments", {"pack_id": pack["id"], "provider": "btcpay"}, key="buy")
    async with httpx.AsyncClient(trust_env=False) as browser:
        await browser.post(payment["checkout_url"], data={})

    async def rich() -> bool:
        return bool((await api.get("/v1/balance"))["available_credits"] > 0)

    await eventually(rich, 60, "credits")
    model = next(one for one in (await api.get("/v1/models"))["items"] if one["kind"] == "image")
    for number in range(3):
        order = {"model_id": model["id"], "parameters": {"prompt": "a lighthouse in the rain"}}
        await api.post("/v1/generations", order, key=f"order-{number}")


async def _cause(prometheus: Prometheus, alert: str, cause: Step) -> list[str]:
    if await prometheus.firing(alert):
        return [f"{alert} fires before its fault"]
    await cause()
    try:
        await eventually(lambda: prometheus.firing(alert), FIRING_SECONDS, alert)
    except (AssertionError, TimeoutError) as error:
        return [f"{alert} did not fire: {error}"]
    say(f"{alert} fires on its fault")
    return []


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pictures", type=Path, help="a folder for pictures of the dashboards; needs matplotlib")
    sys.exit(asyncio.run(main(parser.parse_args().pictures)))
