"""A gateway as its users meet it: replicas over real sockets, PostgreSQL and NATS, with the services around it.

Billing is the real service. Of generation, storage and payments there is only an outbox: a test publishes their
messages itself, and so decides what happens and when.
"""

import contextlib
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any
from uuid import UUID, uuid4

import httpx
import jwt
import msgspec
import sqlalchemy as sa

from billing import consumers as billing_consumers
from contracts.billing import GrantCredits
from contracts.generation import GenerationCompleted
from contracts.message import Message, Service
from contracts.object_keys import animated_preview_key, thumbnail_key
from contracts.storage import AssetStored, Preview, PreviewsStored
from contracts.values import GenerationOrder, MediaProperties
from gateway.errors import NotListening
from gateway.main import Gateway, build
from gateway.settings import Settings
from local_platform.identity import build_app as identity_app
from local_platform.identity import describe, new_private_key_pem, public_jwk
from local_platform.servers import NatsServer, S3Server
from messaging.ids import new_id
from messaging.runtime import Messaging
from provisioning.after_restore import empty_streams
from service_runtime.authorities import trusted_authorities
from service_runtime.settings import ServiceSettings
from tests.gateway.description import check_answer, check_event, described
from tests.support.components import running
from tests.support.databases import Database
from tests.support.serving import listening_socket, serving
from tests.support.waiting import eventually

CLIP: dict[str, Any] = {"model_id": "wan-2.2-t2v", "parameters": {"prompt": "a lighthouse in a storm"}}
PICTURE: dict[str, Any] = {"model_id": "flux-schnell", "parameters": {"prompt": "a paper boat"}}
SERVICES: tuple[Service, ...] = ("gateway", "billing", "generation", "storage", "payments")


@dataclass
class Identity:
    """The identity provider of the tests and the key it signs with."""

    url: str
    private_key: str = field(default_factory=new_private_key_pem)

    @property
    def issuer(self) -> str:
        return f"{self.url}/auth/v1"

    def claims(self, user_id: UUID, **changed: Any) -> dict[str, Any]:
        """What Supabase would put into an access token; a claim that is changed to None is left out."""
        now = int(time.time())
        claims: dict[str, Any] = {
            "iss": self.issuer,
            "aud": "authenticated",
            "sub": str(user_id),
            "role": "authenticated",
            "app_metadata": {"provider": "email", "plan": "free"},
            "iat": now,
            "exp": now + 600,
        }
        return {name: value for name, value in (claims | changed).items() if value is not None}

    def token(self, user_id: UUID, **changed: Any) -> str:
        key_id = public_jwk(self.private_key)["kid"]
        return jwt.encode(self.claims(user_id, **changed), self.private_key, "ES256", headers={"kid": key_id})


@dataclass(frozen=True)
class Event:
    """One event of the stream as a browser would dispatch it."""

    id: str | None
    name: str
    data: Any


class Client:
    """One signed-in user."""

    def __init__(self, http: httpx.AsyncClient, user_id: UUID, token: str, document: dict[str, Any]) -> None:
        self.http = http
        self.document = document
        self.user_id = user_id
        self.token = token

    async def get(self, path: str, headers: dict[str, str] | None = None, **params: Any) -> httpx.Response:
        return await self.http.get(path, params=params, headers=self.headers(headers))

    async def post(
        self, path: str, body: Any = None, key: str | None = None, headers: dict[str, str] | None = None
    ) -> httpx.Response:
        more = {"Idempotency-Key": key} if key is not None else {}
        return await self.http.post(path, json=body, headers=self.headers({**more, **(headers or {})}))

    async def order(self, body: Any = None, key: str | None = None) -> httpx.Response:
        return await self.post("/v1/generations", body or PICTURE, key or str(uuid4()))

    @contextlib.asynccontextmanager
    async def events(self, last_event_id: str | int | None = None) -> AsyncIterator[AsyncIterator[Event]]:
        headers = {"Last-Event-ID": str(last_event_id)} if last_event_id is not None else {}
        async with self.http.stream("GET", "/v1/events", headers=self.headers(headers)) as response:
            assert response.status_code == 200, await response.aread()
            yield _events(response, self.document)

    def headers(self, headers: dict[str, str] | None) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.token}", **(headers or {})}


async def _events(response: httpx.Response, document: dict[str, Any]) -> AsyncIterator[Event]:
    fields: dict[str, str] = {}
    async for line in response.aiter_lines():
        if line and not line.startswith(":"):
            name, _, value = line.partition(":")
            fields[name] = value.strip()
        elif not line:
            if "data" in fields:
                data = json.loads(fields["data"])
                check_event(document, {**fields, "data": data})
                yield Event(fields.get("id"), fields["event"], data)
            fields = {}


@dataclass
class Replica:
    """One gateway with its own listener, in the process of the test."""

    gateway: Gateway
    url: str
    http: httpx.AsyncClient
    stack: contextlib.AsyncExitStack


class GatewayHarness:
    """Starts the services that a test needs; everything stops with the test."""

    def __init__(
        self,
        database: Database,
        nats: NatsServer,
        broker_settings: Callable[[str], ServiceSettings],
        identity: Identity,
        stack: contextlib.AsyncExitStack,
    ) -> None:
        self.database = database
        self.nats = nats
        self.identity = identity
        self.broker_settings = broker_settings
        self.s3: S3Server | None = None
        self.admin = database.superuser_engine()
        self._producers: dict[Service, Messaging] = {}
        self._stack = stack

    def settings(self, **changed: Any) -> Settings:
        s3 = {
            "s3_endpoint_url": self.s3.endpoint_url if self.s3 else "http://127.0.0.1:9",
            "s3_access_key_id": self.s3.credentials["gateway"][0] if self.s3 else "unused-here",
            "s3_secret_access_key": self.s3.credentials["gateway"][1] if self.s3 else "unused-here",
        }
        values: dict[str, Any] = {
            "database_url": self.database.dsn("gateway"),
            "nats_url": self.nats.url,
            "nats_user": "gateway",
            "nats_password": self.nats.users["gateway"],
            "ops_port": 0,
            "http_port": 0,
            "jwt_issuer": self.identity.issuer,
            "jwks_url": f"{self.identity.url}/auth/v1/.well-known/jwks.json",
            # Longer than production waits: on a slow machine an answer without the reply would be right, too.
            "verdict_wait_seconds": 30,
            "checkout_wait_seconds": 30,
            **s3,
        }
        return Settings(**(values | changed))

    async def gateway(self, **changed: Any) -> Replica:
        """Start another replica."""
        stack = contextlib.AsyncExitStack()
        await self._stack.enter_async_context(stack)
        gateway = build(self.settings(**changed))
        listener, url = listening_socket()
        stack.push_async_callback(gateway.stop)
        await stack.enter_async_context(running(gateway.components))
        proxies = [str(network) for network in gateway.dependencies.settings.trusted_proxies]
        await stack.enter_async_context(serving(gateway.app, listener, proxies))
        hooks: dict[str, list[Callable[..., Any]]] = {"response": [partial(check_answer, described())]}
        http = await stack.enter_async_context(
            httpx.AsyncClient(
                base_url=url, timeout=30, trust_env=False, verify=trusted_authorities(), event_hooks=hooks
            )
        )
        stack.callback(gateway.drain)
        await eventually(lambda: _listening(gateway), what="the gateway's readiness")
        return Replica(gateway, url, http, stack)

    async def producer(self, service: Service) -> Messaging:
        """The messaging of ``service``, to publish with."""
        if service not in self._producers:
            await self._start(service, ())
        return self._producers[service]

    async def billing(self, max_signup_credits: int = 0) -> None:
        """Start the real billing service."""
        await self._start("billing", billing_consumers.subscriptions(max_signup_credits))

    async def _start(self, service: Service, subscriptions: Any) -> None:
        messaging = Messaging(
            service=service,
            engine=self.database.engine(service),
            settings=self.broker_settings(service),
            subscriptions=subscriptions,
        )
        self._producers[service] = messaging
        await self._stack.enter_async_context(running(messaging.components()))

    async def purge(self, stream: str) -> bool:
        """Remove every message of ``stream``; whether there was one."""
        removed = await empty_streams(self.nats.url, "admin", self.nats.users["admin"])
        return removed.get(stream, 0) > 0

    async def publish(self, service: Service, *messages: Message, about: UUID) -> list[UUID]:
        """Publish ``messages`` from ``service`` in one transaction."""
        producer = await self.producer(service)
        async with producer.transactions.begin() as tx:
            return [tx.publish(message, correlation_id=about) for message in messages]

    async def grant(self, user_id: UUID, credits: int, note: str | None = None) -> None:
        """Grant credits through billing and wait until the gateway shows them."""
        command = GrantCredits(
            grant_id=new_id(), user_id=user_id, amount_credits=credits, reason="goodwill", actor="test", note=note
        )
        arrived = "SELECT 1 FROM gateway.ledger_lines WHERE user_id = :id AND reason = 'goodwill'"
        before = len(await self.rows(arrived, id=user_id))
        await self.publish("payments", command, about=command.grant_id)
        await eventually(lambda: self._more(arrived, user_id, before), 30, "the granted credits")

    async def _more(self, statement: str, user_id: UUID, before: int) -> bool:
        return len(await self.rows(statement, id=user_id)) > before

    def user(self, replica: Replica, user_id: UUID | None = None, **claims: Any) -> Client:
        """A signed-in user at ``replica``, by default a new one."""
        chosen = user_id or new_id()
        return Client(replica.http, chosen, self.identity.token(chosen, **claims), described())

    async def rows(self, statement: str, **values: Any) -> Sequence[sa.Row[Any]]:
        """Read the database as superuser."""
        async with self.admin.begin() as connection:
            found = await connection.execute(sa.text(statement), values)
            return found.all() if found.returns_rows else []


async def _listening(gateway: Gateway) -> bool:
    try:
        await gateway.dependencies.live_events.ready()
    except NotListening:
        return False
    return True


def now() -> datetime:
    return datetime.now(UTC)


def order_of(user_id: UUID, requested_at: datetime | None = None) -> GenerationOrder:
    """An order of a picture."""
    requested_at = requested_at or now()
    return GenerationOrder(
        generation_id=new_id(),
        user_id=user_id,
        model_id="flux-schnell",
        kind="image",
        parameters={"prompt": "x"},
        price_credits=10,
        lane="free",
        requested_at=requested_at,
        expires_at=requested_at + timedelta(hours=1),
    )


def asset_of(generation_id: UUID, user_id: UUID) -> AssetStored:
    """A stored file of 3 bytes under the key that storage would use."""
    return AssetStored(
        asset_id=new_id(),
        generation_id=generation_id,
        user_id=user_id,
        attempt_id=new_id(),
        attempt_number=1,
        object_key=f"{user_id}/{generation_id}/output.mp4",
        poster_object_key=f"{user_id}/{generation_id}/poster.jpg",
        size_bytes=3,
        sha256="0" * 64,
        media=MediaProperties(
            content_type="video/mp4", width_pixels=832, height_pixels=480, codec="h264", duration_ms=5063
        ),
        stored_at=now(),
    )


def previews_of(asset: AssetStored) -> PreviewsStored:
    """A thumbnail of 9 bytes and an animated preview of 6, under the keys that storage would use."""
    owned = (asset.user_id, asset.generation_id, asset.sha256)
    thumbnail = Preview(
        object_key=thumbnail_key(*owned, 256),
        content_type="image/webp",
        width_pixels=256,
        height_pixels=148,
        size_bytes=9,
        sha256="1" * 64,
    )
    moving = msgspec.structs.replace(thumbnail, object_key=animated_preview_key(*owned), size_bytes=6)
    return PreviewsStored(
        generation_id=asset.generation_id,
        user_id=asset.user_id,
        asset_id=asset.asset_id,
        thumbnails=(thumbnail,),
        animated_preview=moving,
        stored_at=now(),
    )


def completion_of(
    asset: AssetStored, *, capture_credits: int, late: bool = False, version: int = 5
) -> GenerationCompleted:
    """The generation whose file that is was delivered."""
    return GenerationCompleted(
        generation_id=asset.generation_id,
        user_id=asset.user_id,
        version=version,
        attempt_number=asset.attempt_number,
        asset_id=asset.asset_id,
        capture_credits=capture_credits,
        late=late,
        media=asset.media,
        completed_at=now(),
    )


@contextlib.asynccontextmanager
async def gateway_harness(
    make_database: Callable[..., Awaitable[Database]],
    nats_server: NatsServer,
    broker_settings: Callable[[str], ServiceSettings],
) -> AsyncIterator[GatewayHarness]:
    """PostgreSQL, NATS and an identity provider, and the means to start services."""
    database = await make_database(*SERVICES)
    listener, url = listening_socket()
    identity = Identity(url)
    async with contextlib.AsyncExitStack() as stack:
        await stack.enter_async_context(serving(identity_app(describe(url, identity.private_key)), listener))
        yield GatewayHarness(database, nats_server, broker_settings, identity, stack)
