"""The webhook ingress: prove the sender, store the event, answer. What it means is looked up later."""

from collections.abc import Mapping
from typing import Annotated, Final

import structlog
from litestar import Litestar, Request, post
from litestar.params import Parameter
from litestar.response import Response

from contracts.payments import Provider
from messaging.transaction import Transactions
from payments.errors import InvalidWebhookSignature, ProviderNotConfigured
from payments.handlers.provider_events import store_event
from payments.metrics import provider_events_total, webhooks_ignored_total, webhooks_refused_total
from payments.providers.interface import PaymentProvider
from payments.providers.reading import read_or_set_aside
from payments.wake_ups import WakeUps
from service_runtime.litestar_problems import install_litestar_handlers
from service_runtime.problems import BodyTooLarge

MAX_WEBHOOK_BYTES: Final = 256 * 1024
"""What the listener takes; a provider whose proof costs more than a hash has a lower limit of its own."""

log = structlog.get_logger(__name__)


def build_app(transactions: Transactions, providers: Mapping[Provider, PaymentProvider], wake_ups: WakeUps) -> Litestar:
    """The public application: one route, ``POST /webhooks/{provider}``."""

    @post("/webhooks/{provider_name:str}", status_code=200)
    async def receive(
        request: Request[None, None, None],  # type: ignore[type-var]
        provider_name: Annotated[str, Parameter(max_length=20)],
    ) -> Response[None]:
        provider = next((adapter for name, adapter in providers.items() if name == provider_name), None)
        if provider is None:
            raise ProviderNotConfigured(f"no provider '{provider_name}' is configured here")
        body = await request.body()
        try:
            _prove(provider, request.headers, body)
        except (BodyTooLarge, InvalidWebhookSignature) as refusal:
            webhooks_refused_total.labels(provider.name, refusal.code).inc()
            log.warning("webhook_refused", provider=provider.name, code=refusal.code)
            raise
        event = read_or_set_aside(provider.name, provider.read_webhook, body)
        if event is None:
            webhooks_ignored_total.labels(provider.name).inc()
            return Response(None, status_code=200)
        async with transactions.begin() as tx:
            if await store_event(tx, provider.name, event, "webhook", wake_ups):
                provider_events_total.labels(provider.name, "webhook").inc()
        return Response(None, status_code=200)

    return Litestar(
        route_handlers=[receive],
        exception_handlers=install_litestar_handlers(),
        request_max_body_size=MAX_WEBHOOK_BYTES,
        openapi_config=None,
        logging_config=None,  # the service's own logging stays in charge
    )


def _prove(provider: PaymentProvider, headers: Mapping[str, str], body: bytes) -> None:
    if len(body) > provider.max_webhook_bytes:
        raise BodyTooLarge(max_bytes=provider.max_webhook_bytes)
    provider.prove_webhook(headers, body)
