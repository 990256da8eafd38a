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
from gateway.tokens import KEYS_FRESH_SECONDS, LEEWAY_SECONDS, MAX_KEYS_BYTES, Tokens
from local_platform.identity import new_private_key_pem, public_jwk
from local_platform.openapi import UNCONNECTED
from service_runtime.database_watch import DatabaseClock
from tests.support import eventually
from tests.support.serving import listening_socket, serving

USER = uuid4()


@dataclass
class KeyServer:
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
async def key_server() -> AsyncIterator[KeyServer]:
    listener, url = listening_socket()
    key_server = KeyServer(url)
    async with serving(Starlette(routes=[Route("/keys", key_server.answer)]), listener):
        yield key_server


@pytest.fixture
async def tokens(key_server: KeyServer) -> AsyncIterator[Tokens]:
    tokens = Tokens(settings(key_server), DatabaseClock())
    yield tokens
    await tokens.close()


def settings(key_server: KeyServer, **changed: Any) -> Settings:
    urls = {"jwt_issuer": f"{key_server.url}/auth/v1", "jwks_url": f"{key_server.url}/keys"}
    return Settings.model_validate(UNCONNECTED | urls | changed)


async def user_of(tokens: Tokens, token: str) -> UUID:
    return (await tokens.user_of(f"Bearer {token}")).user_id


async def test_one_audience_and_a_list_of_audiences_are_accepted(key_server: KeyServer, tokens: Tokens) -> None:
    assert await user_of(tokens, key_server.token()) == USER
    assert await user_of(tokens, key_server.token(aud=["other", "authenticated"])) == USER
    assert (await tokens.user_of(f"bearer {key_server.token(app_metadata={'plan': 'pro'})}")).lane == "pro"
    assert (await tokens.user_of(f"Bearer {key_server.token(app_metadata={'plan': 'root'})}")).lane == "free"
    assert (await tokens.user_of(f"Bearer {key_server.token(user_metadata={'plan': 'pro'})}")).lane == "free"
    assert key_server.asked == 1


Forged = Callable[[KeyServer], str]


def unsigned(key_server: KeyServer) -> str:
    return jwt.encode(key_server.claims(), "", "none", headers={"kid": public_jwk(key_server.keys[0])["kid"]})


def signed_with_the_public_key(key_server: KeyServer) -> str:
    key = load_pem_private_key(key_server.keys[0].encode(), None)
    public = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    # PyJWT refuses to make such a token: it is put together by hand, as an attacker would.
    signer = jwt.algorithms.HMACAlgorithm(jwt.algorithms.HMACAlgorithm.SHA256)
    head, body, _ = jwt.encode(
        key_server.claims(), "x" * 32, "HS256", headers={"kid": public_jwk(key_server.keys[0])["kid"]}
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
    "issued in the future": lambda p: p.token(iat=int(time.time()) + 600),
    "an expiry that is no number": lambda p: p.token(exp="never"),
    "an expiry beyond all numbers": lambda p: p.token(exp=10**400),
    "anon": lambda p: p.token(role="anon"),
    "service_role": lambda p: p.token(role="service_role"),
    "no role": lambda p: p.token(role=None),
    "no subject": lambda p: p.token(sub=None),
    "a subject that is no user id": lambda p: p.token(sub="admin"),
    "another's signature": lambda p: jwt.encode(
        p.claims(), new_private_key_pem(), "ES256", headers={"kid": public_jwk(p.keys[0])["kid"]}
    ),
    "no key id": lambda p: jwt.encode(p.claims(), p.keys[0], "ES256"),
    "an expiry of 400 digits": lambda p: p.token(exp=int("9" * 400)),
    "an expiry that is infinite": lambda p: p.token(exp=float("inf")),
    "an expiry that is a list": lambda p: p.token(exp=[1]),
    "a head that is a list": lambda p: f"{jwt.utils.base64url_encode(b'[]').decode()}.e30.x",
    "a head nested without end": lambda p: f"{jwt.utils.base64url_encode(b'[' * 5000).decode()}.e30.x",
    "no token at all": lambda _: "x.y.z",
    "too long": lambda p: p.token(padding="x" * 10_000),
}


@pytest.mark.parametrize("forged", FORGED.values(), ids=FORGED.keys())
async def test_a_forged_token_is_refused(key_server: KeyServer, tokens: Tokens, forged: Forged) -> None:
    with pytest.raises(NotAuthenticated) as refusal:
        await user_of(tokens, forged(key_server))
    assert refusal.value.headers["WWW-Authenticate"] == "Bearer"


@pytest.mark.parametrize("header", [None, "", "Bearer", "Bearer ", "Basic abc"])
async def test_a_header_without_a_token_is_refused(tokens: Tokens, header: str | None) -> None:
    with pytest.raises(NotAuthenticated):
        await tokens.user_of(header)


async def test_a_new_key_is_fetched_at_once_and_unknown_keys_cause_one_fetch(
    key_server: KeyServer, tokens: Tokens
) -> None:
    await user_of(tokens, key_server.token())
    rotated = new_private_key_pem()
    key_server.keys.append(rotated)
    assert await user_of(tokens, key_server.token(rotated)) == USER
    for _ in range(5):
        with pytest.raises(NotAuthenticated):
            await user_of(tokens, key_server.token(new_private_key_pem()))
    assert key_server.asked == 2


async def test_an_unavailable_key_server_is_503_until_it_recovers(key_server: KeyServer, tokens: Tokens) -> None:
    key_server.away = True
    for _ in range(5):
        with pytest.raises(SignInUnavailable):
            await user_of(tokens, key_server.token())
    assert key_server.asked == 1, "while it is away it is not asked by every request"
    tokens._keys._next_fetch_at = time.monotonic()
    key_server.away = False
    assert await user_of(tokens, key_server.token()) == USER


async def test_known_keys_work_while_the_key_server_is_away(key_server: KeyServer, tokens: Tokens) -> None:
    await user_of(tokens, key_server.token())
    key_server.away = True
    tokens._keys._stale_at = time.monotonic()
    for number in range(5):
        assert await user_of(tokens, key_server.token(jti=str(number))) == USER
    with pytest.raises(NotAuthenticated):
        await user_of(tokens, key_server.token(new_private_key_pem()))
    assert key_server.asked == 2


async def test_one_unreadable_key_does_not_spoil_the_others(key_server: KeyServer, tokens: Tokens) -> None:
    good = public_jwk(key_server.keys[0])
    key_server.others = ["nonsense", {"kid": "a"}, good | {"kid": "b", "x": "!"}, good | {"kid": "c", "crv": "P-999"}]
    assert await user_of(tokens, key_server.token()) == USER


async def test_the_legacy_secret_works_only_where_it_is_configured(key_server: KeyServer, tokens: Tokens) -> None:
    secret = "s" * 40
    old, new = jwt.encode(key_server.claims(), secret, "HS256"), key_server.token()
    legacy = Tokens(settings(key_server, jwks_url=None, jwt_secret=secret), DatabaseClock())
    assert await user_of(legacy, old) == USER
    with pytest.raises(NotAuthenticated):
        await user_of(legacy, new)
    await legacy.close()
    with pytest.raises(NotAuthenticated):
        await user_of(tokens, old)
    with pytest.raises(ValueError, match="jwks_url or jwt_secret"):
        settings(key_server, jwks_url=None)


async def test_a_project_that_moves_to_keys_has_tokens_of_both(key_server: KeyServer) -> None:
    secret = "s" * 40
    both = Tokens(settings(key_server, jwt_secret=secret), DatabaseClock())
    assert await user_of(both, jwt.encode(key_server.claims(), secret, "HS256")) == USER
    assert await user_of(both, key_server.token()) == USER
    for forged in (signed_with_the_public_key(key_server), jwt.encode(key_server.claims(), "x" * 40, "HS256")):
        with pytest.raises(NotAuthenticated):
            await user_of(both, forged)
    await both.close()


async def test_anonymous_users_are_taken_only_where_that_is_set(key_server: KeyServer, tokens: Tokens) -> None:
    anonymous = key_server.token(is_anonymous=True)
    with pytest.raises(NotAuthenticated, match="sign up"):
        await user_of(tokens, anonymous)
    open_to_all = Tokens(settings(key_server, allow_anonymous_users=True), DatabaseClock())
    assert await user_of(open_to_all, anonymous) == USER
    await open_to_all.close()


async def test_keys_that_unpack_to_gigabytes_are_not_read(key_server: KeyServer, tokens: Tokens) -> None:
    key_server.others = ["x" * (2 * MAX_KEYS_BYTES)]
    with pytest.raises(SignInUnavailable):
        await user_of(tokens, key_server.token())


async def test_a_cached_token_is_refused_once_it_has_expired(key_server: KeyServer, tokens: Tokens) -> None:
    token = key_server.token(exp=int(time.time()) - LEEWAY_SECONDS + 2)
    assert await user_of(tokens, token) == USER

    async def refused() -> bool:
        try:
            return await user_of(tokens, token) is None
        except NotAuthenticated:
            return True

    await eventually(refused)


async def test_a_revoked_key_ends_cached_tokens(
    key_server: KeyServer, tokens: Tokens, monkeypatch: pytest.MonkeyPatch
) -> None:
    forged = key_server.token(exp=int(time.time()) + 10 * 365 * 86400)
    assert await user_of(tokens, forged) == USER
    key_server.keys = [new_private_key_pem()]
    real, later = time, KEYS_FRESH_SECONDS + 1
    monkeypatch.setattr("gateway.tokens.time", Clock(later))
    tokens._clock.offset_seconds = later
    assert await user_of(tokens, key_server.token(exp=int(real.time() + later) + 60)) == USER
    with pytest.raises(NotAuthenticated):
        await user_of(tokens, forged)


async def test_an_hour_of_difference_to_the_database_changes_nothing(
    key_server: KeyServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """This host is an hour late: a token issued now is from the future by its clock, and one long expired is not."""
    clock = DatabaseClock()
    tokens = Tokens(settings(key_server), clock)
    monkeypatch.setattr("service_runtime.database_watch.time", Clock(-3600))
    issued = key_server.token(iat=int(time.time()), exp=int(time.time()) + 60)
    with pytest.raises(NotAuthenticated):
        await user_of(tokens, issued)
    clock.offset_seconds = 3600
    assert await user_of(tokens, issued) == USER
    with pytest.raises(NotAuthenticated):
        await user_of(tokens, key_server.token(exp=int(time.time()) - 60))
    await tokens.close()


class Clock:
    """A time module that is ``seconds`` ahead."""

    def __init__(self, seconds: float) -> None:
        self.time = lambda: time.time() + seconds
        self.monotonic = lambda: time.monotonic() + seconds


@pytest.mark.parametrize("manner", ["silent", "dripping"])
async def test_a_user_with_a_known_key_does_not_wait_for_a_hanging_key_server(
    monkeypatch: pytest.MonkeyPatch, manner: str
) -> None:
    listener, url = listening_socket()
    key_server, hanging = KeyServer(url), asyncio.Event()

    async def drip() -> AsyncIterator[bytes]:
        while True:
            await asyncio.sleep(0.05 if manner == "dripping" else 60)
            yield b" "

    async def answer(request: Request) -> Response:
        return StreamingResponse(drip()) if hanging.is_set() else await key_server.answer(request)

    async with serving(Starlette(routes=[Route("/keys", answer)]), listener):
        tokens = Tokens(settings(key_server), DatabaseClock())
        assert await user_of(tokens, key_server.token()) == USER
        hanging.set()
        monkeypatch.setattr("gateway.tokens.time", Clock(KEYS_FRESH_SECONDS + 1))
        monkeypatch.setattr("gateway.tokens.FETCH_TIMEOUT_SECONDS", 30.0)
        fresh = [key_server.token(exp=int(time.time() + KEYS_FRESH_SECONDS) + 60, jti=str(n)) for n in range(5)]
        async with asyncio.timeout(5):
            assert set(await asyncio.gather(*(user_of(tokens, token) for token in fresh))) == {USER}
        await tokens.close()


async def test_a_key_server_that_sends_byte_by_byte_times_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.tokens.FETCH_TIMEOUT_SECONDS", 0.3)
    listener, url = listening_socket()
    key_server = KeyServer(url)

    async def drip() -> AsyncIterator[bytes]:
        while True:
            await asyncio.sleep(0.05)
            yield b" "

    async def answer(_: Request) -> Response:
        return StreamingResponse(drip())

    async with serving(Starlette(routes=[Route("/keys", answer)]), listener):
        tokens = Tokens(settings(key_server), DatabaseClock())
        with pytest.raises(SignInUnavailable):
            async with asyncio.timeout(10):
                await user_of(tokens, key_server.token())
        await tokens.close()
