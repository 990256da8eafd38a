"""Scraping the services of a running platform, and an order and a purchase that give them something to count."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final
from uuid import UUID, uuid4

import httpx
from prometheus_client import Metric
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from contracts.message import SERVICES, Service
from local_platform.api_client import ApiClient
from local_platform.description import PlatformDescription
from tests.support.waiting import eventually

OPEN_METRICS: Final = {"accept": "application/openmetrics-text; version=1.0.0"}


def metrics_urls(platform: PlatformDescription) -> dict[Service, str]:
    """Where each service is scraped."""
    urls = {service: platform.processes[service].ready_url for service in SERVICES}
    return {service: url.replace("/readyz", "/metrics") for service, url in urls.items() if url is not None}


async def scrape(platform: PlatformDescription) -> dict[str, dict[str, Metric]]:
    """Each service's metrics by name, as OpenMetrics has them (a counter without its ``_total``)."""
    found: dict[str, dict[str, Metric]] = {}
    async with httpx.AsyncClient(trust_env=False, headers=OPEN_METRICS) as http:
        for service, url in metrics_urls(platform).items():
            answer = await http.get(url)
            assert answer.headers["content-type"].startswith("application/openmetrics-text"), answer.headers
            families = text_string_to_metric_families(answer.text)  # type: ignore[no-untyped-call]
            found[service] = {family.name: family for family in families}
    return found


@dataclass(frozen=True, slots=True)
class Bought:
    """A purchase and the order that it paid for."""

    user_id: UUID
    payment_id: str
    generation_id: str


async def buy_and_order(platform: PlatformDescription) -> Bought:
    """One user buys credits and has one picture made of them."""
    async with ApiClient(platform, uuid4(), plan="pro") as api, httpx.AsyncClient(trust_env=False) as browser:
        pack = (await api.get("/v1/credit-packs"))["items"][0]
        payment = await api.post("/v1/payments", {"pack_id": pack["id"], "provider": "btcpay"}, key="buy")
        await browser.post(payment["checkout_url"], data={})
        bought = pack["credits"] + pack["bonus_credits"]

        async def available() -> int:
            return int((await api.get("/v1/balance"))["available_credits"])

        await eventually(lambda: _equal(available, bought), 60, "the credits that were bought")
        model = next(model for model in (await api.get("/v1/models"))["items"] if model["kind"] == "image")
        order = {"model_id": model["id"], "parameters": {"prompt": "a lighthouse in the rain"}}
        placed = await api.post("/v1/generations", order, key="order")

        async def completed() -> bool:
            return bool((await api.get(f"/v1/generations/{placed['id']}"))["status"] == "completed")

        await eventually(completed, 120, "the picture")
        await eventually(lambda: _equal(available, bought - placed["price_credits"]), 30, "the charge")
        return Bought(api.user_id, payment["id"], placed["id"])


async def _equal(ask: Callable[[], Awaitable[int]], wanted: int) -> bool:
    return await ask() == wanted
