"""Tokens: what verifies, what does not, and what a key server that is away does."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID, uuid4

import jwt
import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from gateway.errors import NotAuthenticated, SignInUnavailable
from gateway.settings import Settings
from gateway.tokens import KEYS_FRESH_SECONDS, LEEWAY_SECONDS, Tokens
from local_platform.identity import new_private_key_pem, public_jwk
from tests.support import eventually
from tests.support.serving import listening_socket, serving

USER = uuid4()


@dataclass
class Provider:
    """A key server that can be away, and counts how often it is asked."""

    url: str
    keys: list[str] = field(default_factory=lambda: [new_private_key_pem()])
    away: bool = False
    asked: int = 0
    others: list[Any] = field(default_factory=list)

    async def answer(self, _: Request) -> JSONResponse:
        self.asked += 1
        if self.away:
            return JSONResponse({}, status_code=500)
        return JSONResponse({"keys": [*self.others, *(public_jwk(key) for key in self.keys)]})

    def token(self, key: str | None = None, **changed: Any) -> str:
        signer = key or self.keys[0]
        return jwt.encode(self.claims(**changed), signer, "ES256", headers={"kid": public_jwk(signer)["kid"]})

    def claims(self, **changed: Any) -> dict[str, Any]:
        claims = {
            "iss": f"{self.url}/auth/v1",
            "aud": "authenticated",
            "sub": str(USER),
            "role": "authenticated",
            "exp": int(time.time()) + 60,
        }
        return {name: value for name, value in (claims | changed).items() if value is not None}


@pytest.fixture
async def provider() -> AsyncIterator[Provider]:
    listener, url = listening_socket()
    provider = Provider(url)
    async with serving(Starlette(routes=[Route("/keys", provider.answer)]), listener):
        yield provider


@pytest.fixture
async def tokens(provider: Provider) -> AsyncIterator[Tokens]:
    tokens = Tokens(settings(provider))
    yield tokens
    await tokens.close()


def settings(provider: Provider, **changed: Any) -> Settings:
    values = {
        "database_url": "postgresql://unused",
        "nats_url": "nats://unused",
        "nats_user": "gateway",
        "nats_password": "unused",
        "ops_port": 0,
        "http_port": 0,
        "jwt_issuer": f"{provider.url}/auth/v1",
        "jwks_url": f"{provider.url}/keys",
        "s3_endpoint_url": "http://unused",
        "s3_access_key_id": "unused",
        "s3_secret_access_key": "unused",
    }
    return Settings.model_validate(values | changed)


async def user_of(tokens: Tokens, token: str) -> UUID:
    return (await tokens.user_of(f"Bearer {token}")).user_id


async def test_a_signed_in_user_is_known_with_one_audience_or_a_list_of_them(
    provider: Provider, tokens: Tokens
) -> None:
    assert await user_of(tokens, provider.token()) == USER
    assert await user_of(tokens, provider.token(aud=["other", "authenticated"])) == USER
    assert (await tokens.user_of(f"bearer {provider.token(app_metadata={'plan': 'pro'})}")).lane == "pro"
    assert (await tokens.user_of(f"Bearer {provider.token(app_metadata={'plan': 'root'})}")).lane == "free"
    assert (await tokens.user_of(f"Bearer {provider.token(user_metadata={'plan': 'pro'})}")).lane == "free"
    assert provider.asked == 1


Forged = Callable[[Provider], str]


def unsigned(provider: Provider) -> str:
    return jwt.encode(provider.claims(), None, "none", headers={"kid": public_jwk(provider.keys[0])["kid"]})


def signed_with_the_public_key(provider: Provider) -> str:
    key = load_pem_private_key(provider.keys[0].encode(), None)
    public = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    # PyJWT refuses to make such a token: it is put together by hand, as an attacker would.
    signer = jwt.algorithms.HMACAlgorithm(jwt.algorithms.HMACAlgorithm.SHA256)
    head, body, _ = jwt.encode(
        provider.claims(), "x" * 32, "HS256", headers={"kid": public_jwk(provider.keys[0])["kid"]}
    ).split(".")
    return f"{head}.{body}.{jwt.utils.base64url_encode(signer.sign(f'{head}.{body}'.encode(), public)).decode()}"


FORGED: dict[str, Forged] = {
    "no algorithm": unsigned,
    "the public key as a secret": signed_with_the_public_key,
    "another issuer": lambda p: p.token(iss="https://evil.example/auth/v1"),
    "another audience": lambda p: p.token(aud="other"),
    "a list of other audiences": lambda p: p.token(aud=["other"]),
    "no audience": lambda p: p.token(aud=None),
    "expired": lambda p: p.token(exp=int(time.time()) - 60),
    "no expiry": lambda p: p.token(exp=None),
    "not valid yet": lambda p: p.token(nbf=int(time.time()) + 600),
    "anon": lambda p: p.token(role="anon"),
    "service_role": lambda p: p.token(role="service_role"),
    "no role": lambda p: p.token(role=None),
    "no subject": lambda p: p.token(sub=None),
    "a subject that is no user id": lambda p: p.token(sub="admin"),
    "another's signature": lambda p: jwt.encode(
        p.claims(), new_private_key_pem(), "ES256", headers={"kid": public_jwk(p.keys[0])["kid"]}
    ),
    "no key id": lambda p: jwt.encode(p.claims(), p.keys[0], "ES256"),
    "no token at all": lambda _: "x.y.z",
    "too long": lambda p: p.token(padding="x" * 10_000),
}


@pytest.mark.parametrize("forged", FORGED.values(), ids=FORGED.keys())
async def test_a_forged_token_signs_nobody_in(provider: Provider, tokens: Tokens, forged: Forged) -> None:
    with pytest.raises(NotAuthenticated) as refusal:
        await user_of(tokens, forged(provider))
    assert refusal.value.headers["WWW-Authenticate"] == "Bearer"


@pytest.mark.parametrize("header", [None, "", "Bearer", "Bearer ", "Basic abc"])
async def test_a_header_without_a_token_signs_nobody_in(tokens: Tokens, header: str | None) -> None:
    with pytest.raises(NotAuthenticated):
        await tokens.user_of(header)


async def test_a_new_key_is_fetched_at_once_and_strangers_cannot_make_us_ask_again(
    provider: Provider, tokens: Tokens
) -> None:
    await user_of(tokens, provider.token())
    rotated = new_private_key_pem()
    provider.keys.append(rotated)
    assert await user_of(tokens, provider.token(rotated)) == USER
    for _ in range(5):
        with pytest.raises(NotAuthenticated):
            await user_of(tokens, provider.token(new_private_key_pem()))
    assert provider.asked == 2


async def test_a_key_server_that_is_away_is_not_the_users_fault_and_recovers(
    provider: Provider, tokens: Tokens
) -> None:
    provider.away = True
    for _ in range(5):
        with pytest.raises(SignInUnavailable):
            await user_of(tokens, provider.token())
    assert provider.asked == 1, "while it is away it is not asked by every request"
    tokens._keys._attempt_again_at = time.monotonic()
    provider.away = False
    assert await user_of(tokens, provider.token()) == USER


async def test_known_keys_serve_on_while_the_key_server_is_away(provider: Provider, tokens: Tokens) -> None:
    await user_of(tokens, provider.token())
    provider.away = True
    tokens._keys._stale_at = time.monotonic()
    for number in range(5):
        assert await user_of(tokens, provider.token(jti=str(number))) == USER
    with pytest.raises(NotAuthenticated):
        await user_of(tokens, provider.token(new_private_key_pem()))
    assert provider.asked == 2


async def test_one_unreadable_key_does_not_take_the_others_with_it(provider: Provider, tokens: Tokens) -> None:
    good = public_jwk(provider.keys[0])
    provider.others = ["nonsense", {"kid": "a"}, good | {"kid": "b", "x": "!"}, good | {"kid": "c", "crv": "P-999"}]
    assert await user_of(tokens, provider.token()) == USER


async def test_the_legacy_secret_works_only_where_it_is_configured(provider: Provider) -> None:
    secret = "s" * 40
    legacy = Tokens(settings(provider, jwt_algorithm="HS256", jwks_url=None, jwt_secret=secret))
    assert await user_of(legacy, jwt.encode(provider.claims(), secret, "HS256")) == USER
    with pytest.raises(NotAuthenticated):
        await user_of(legacy, provider.token())
    await legacy.close()
    with pytest.raises(ValueError, match="needs jwt_secret"):
        settings(provider, jwt_algorithm="HS256")


async def test_a_token_that_was_good_is_refused_once_it_has_expired(provider: Provider, tokens: Tokens) -> None:
    token = provider.token(exp=int(time.time()) - LEEWAY_SECONDS + 2)
    assert await user_of(tokens, token) == USER

    async def refused() -> bool:
        try:
            return await user_of(tokens, token) is None
        except NotAuthenticated:
            return True

    await eventually(refused)


async def test_a_revoked_key_ends_the_tokens_that_were_believed_before(
    provider: Provider, tokens: Tokens, monkeypatch: pytest.MonkeyPatch
) -> None:
    forged = provider.token(exp=int(time.time()) + 10 * 365 * 86400)
    assert await user_of(tokens, forged) == USER
    provider.keys = [new_private_key_pem()]
    real, later = time, KEYS_FRESH_SECONDS + 1
    monkeypatch.setattr("gateway.tokens.time", Clock(later))
    assert await user_of(tokens, provider.token(exp=int(real.time() + later) + 60)) == USER
    with pytest.raises(NotAuthenticated):
        await user_of(tokens, forged)


class Clock:
    """The time module of somebody who lives ``seconds`` ahead."""

    def __init__(self, seconds: float) -> None:
        self.time = lambda: time.time() + seconds
        self.monotonic = lambda: time.monotonic() + seconds


@pytest.mark.parametrize("manner", ["silent", "dripping"])
async def test_nobody_whose_key_is_known_waits_for_a_key_server_that_hangs(
    monkeypatch: pytest.MonkeyPatch, manner: str
) -> None:
    listener, url = listening_socket()
    provider, hanging = Provider(url), asyncio.Event()

    async def drip() -> AsyncIterator[bytes]:
        while True:
            await asyncio.sleep(0.05 if manner == "dripping" else 60)
            yield b" "

    async def answer(request: Request) -> Response:
        return StreamingResponse(drip()) if hanging.is_set() else await provider.answer(request)

    async with serving(Starlette(routes=[Route("/keys", answer)]), listener):
        tokens = Tokens(settings(provider))
        assert await user_of(tokens, provider.token()) == USER
        hanging.set()
        monkeypatch.setattr("gateway.tokens.time", Clock(KEYS_FRESH_SECONDS + 1))
        monkeypatch.setattr("gateway.tokens.FETCH_TIMEOUT_SECONDS", 30.0)
        fresh = [provider.token(exp=int(time.time() + KEYS_FRESH_SECONDS) + 60, jti=str(n)) for n in range(5)]
        async with asyncio.timeout(5):
            assert set(await asyncio.gather(*(user_of(tokens, token) for token in fresh))) == {USER}
        await tokens.close()


async def test_a_key_server_that_drips_is_given_up_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.tokens.FETCH_TIMEOUT_SECONDS", 0.3)
    listener, url = listening_socket()
    provider = Provider(url)

    async def drip() -> AsyncIterator[bytes]:
        while True:
            await asyncio.sleep(0.05)
            yield b" "

    async def answer(_: Request) -> Response:
        return StreamingResponse(drip())

    async with serving(Starlette(routes=[Route("/keys", answer)]), listener):
        tokens = Tokens(settings(provider))
        with pytest.raises(SignInUnavailable):
            async with asyncio.timeout(10):
                await user_of(tokens, provider.token())
        await tokens.close()
