"""A secret that is sent through every input of a running platform, and must come out nowhere.

What users, strangers and webhooks send is a secret whole. The words of a provider or a worker are logged, because an
operator needs them; there the secret has the shapes in which secrets occur in such words.
"""

import json
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final
from uuid import uuid4

import asyncpg
import httpx
import stripe

from generation.callback_urls import CallbackUrls
from local_platform.api_client import ApiClient
from local_platform.description import PlatformDescription
from local_platform.identity import sign_token
from tests.observability.scraping import OPEN_METRICS, Bought, metrics_urls
from tests.support.waiting import eventually

CANARY: Final = "c4nary0f5ecrets"
GIVE_ACCESS: Final = {
    "presigned URL": r"(?i)X-Amz-(Signature|Credential|Security-Token)=(?!\[redacted\])",
    "callback URL": r"\d{10}\.[0-9a-f]{64}",
    "token of a user": r"eyJ[\w-]{10,}\.[\w-]{10,}",
}
"""What services make themselves, by its shape."""
WORDS: Final = (
    f"cannot reach https://hook.example/x?token={CANARY}&X-Amz-Signature={CANARY} with Bearer {CANARY}: "
    f"postgresql://user:{CANARY}@db/x, rpa_{CANARY}, sk_live_{CANARY}, api_key={CANARY}"
)
"""What a worker says that was given more than it should repeat."""


@dataclass(frozen=True, slots=True)
class Misuse:
    """What came back: the answer to each request by what was sent, and each service's metrics as text."""

    answers: Mapping[str, httpx.Response]
    metrics: Mapping[str, str]


async def misuse(platform: PlatformDescription, bought: Bought) -> Misuse:
    """Send the canary everywhere, and return when all of it was acted on."""
    async with httpx.AsyncClient(trust_env=False, timeout=30) as http:
        answers = {
            **await _send_to_gateway(http, platform),
            **await _send_payment_webhooks(http, platform),
            **await _fail_a_job(http, platform, bought),
        }
        metrics: dict[str, str] = {
            service: (await http.get(url, headers=OPEN_METRICS)).text for service, url in metrics_urls(platform).items()
        }
    return Misuse(answers, metrics)


async def _send_to_gateway(http: httpx.AsyncClient, platform: PlatformDescription) -> dict[str, httpx.Response]:
    gateway = platform.urls["gateway"]
    headers = {
        "authorization": f"Bearer {CANARY}",
        "cookie": f"session={CANARY}",
        "x-api-key": CANARY,
        "traceparent": CANARY,
        "idempotency-key": CANARY,
    }
    query = {"token": CANARY, "code": CANARY, "cursor": CANARY, "traceparent": CANARY}
    answers = {
        "a strange token": await http.get(f"{gateway}/v1/balance", headers=headers, params=query),
        "an unknown route": await http.post(f"{gateway}/v1/nothing", headers=headers, params=query, content=CANARY),
    }
    token = sign_token(platform.identity, uuid4(), "free")
    async with httpx.AsyncClient(
        base_url=gateway, headers={"authorization": f"Bearer {token}"}, trust_env=False, timeout=30
    ) as client:
        model = {"model_id": "flux-schnell", "parameters": {"prompt": CANARY, "unknown": CANARY}}
        signed = {name: value for name, value in headers.items() if name != "authorization"}
        for name, body in {
            "unknown fields": json.dumps({**model, "password": CANARY, "nested": {"key": CANARY}}),
            "unknown parameters": json.dumps(model),
            "a wrong type": json.dumps({"model_id": {"secret": CANARY}, "parameters": CANARY}),
            "no JSON": f'{{"prompt": "{CANARY}',
        }.items():
            json_headers = {**signed, "content-type": "application/json"}
            answers[f"an order with {name}"] = await client.post(
                "/v1/generations", headers=json_headers, params=query, content=body
            )
        answers["a strange cursor"] = await client.get("/v1/generations", params=query)
        answers["an order without credits"] = await client.post(
            "/v1/generations", headers=signed, json={**model, "parameters": {"prompt": CANARY}}
        )
    return answers


async def _send_payment_webhooks(http: httpx.AsyncClient, platform: PlatformDescription) -> dict[str, httpx.Response]:
    payments = platform.urls["payments"]
    (stripe_secret,) = json.loads(platform.environments["payments"]["PAYMENTS_STRIPE_WEBHOOK_SECRETS"])
    signatures = {"stripe-signature": CANARY, "btcpay-sig": CANARY, "x-nowpayments-sig": CANARY}
    body = json.dumps({"id": CANARY, "object": CANARY, "type": CANARY, "data": {"object": {"id": CANARY}}})
    answers = {
        f"a forged webhook of {provider}": await http.post(
            f"{payments}/webhooks/{provider}", headers=signatures, params={"key": CANARY}, content=body
        )
        for provider in ("stripe", "btcpay", "nowpayments")
    }
    for name, signed in {"an odd": body, "a broken": f'{{"id": "{CANARY}'}.items():
        header = stripe.WebhookSignature.generate_signature_header(signed, stripe_secret)
        answers[f"{name} signed webhook"] = await http.post(
            f"{payments}/webhooks/stripe", headers={"stripe-signature": header}, content=signed
        )
    return answers


async def _fail_a_job(
    http: httpx.AsyncClient, platform: PlatformDescription, bought: Bought
) -> dict[str, httpx.Response]:
    """A job that fails in the canary's words, and calls of its address by strangers and by itself."""
    rule = {"effect": "fail_job", "error": WORDS}
    (await http.post(f"{platform.urls['runpod']}/admin/rules", json=rule)).raise_for_status()
    async with ApiClient(platform, bought.user_id) as api:
        order = {"model_id": "flux-schnell", "parameters": {"prompt": CANARY}}
        placed = await api.post("/v1/generations", order, key=CANARY)
    connection = await asyncpg.connect(platform.postgres.superuser_dsn)
    try:

        async def failed() -> bool:
            return bool(await connection.fetchval(_FAILED, placed["id"]))

        await eventually(failed, 60, "the failure of the job")
        attempt_id = await connection.fetchval(_ATTEMPT, placed["id"])
        generation = platform.urls["generation"]
        secrets = json.loads(platform.environments["generation"]["GENERATION_CALLBACK_SECRETS"])
        address = CallbackUrls(generation, secrets).url(attempt_id, int(time.time()) + 3600)
        forged = f"{generation}/webhooks/runpod/{attempt_id}/9999999999.{CANARY}"
        report = {"status": "FAILED", "id": "x", "error": WORDS, "webhook": address, "input": {"put_url": CANARY}}
        answers = {
            "a forged callback": await http.post(forged, params={"token": CANARY}, content=CANARY),
            "forged progress": await http.post(f"{forged}/progress", content=CANARY),
            "a callback that is no JSON": await http.post(address, content=f'{{"status": "{CANARY}'),
            "a callback of an unknown status": await http.post(address, json={"status": CANARY, "id": CANARY}),
            "a failure": await http.post(address, json=report),
            "progress of another shape": await http.post(f"{address}/progress", json={"stage": {"key": CANARY}}),
            "progress that is no JSON": await http.post(f"{address}/progress", content=CANARY),
        }

        async def processed() -> bool:
            return not await connection.fetchval(_UNPROCESSED)

        await eventually(processed, 30, "the processing of every callback")
        return answers
    finally:
        await connection.close()


_FAILED: Final = "SELECT count(*) FROM generation.attempts WHERE generation_id = $1 AND status = 'failed'"
_ATTEMPT: Final = "SELECT attempt_id FROM generation.attempts WHERE generation_id = $1 ORDER BY attempt_number LIMIT 1"
_UNPROCESSED: Final = "SELECT count(*) FROM generation.provider_callbacks WHERE processed_at IS NULL"


def found_in(text: str, secrets: Mapping[str, str]) -> Sequence[str]:
    """The names of ``secrets`` (regular expressions) that ``text`` holds, each with the line."""
    held = {name: secret for name, secret in secrets.items() if re.search(secret, text)}
    return [
        f"{name}: {line[:300]}"
        for line in text.splitlines()
        for name, secret in held.items()
        if re.search(secret, line)
    ]
