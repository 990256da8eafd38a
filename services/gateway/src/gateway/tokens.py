"""Verifying Supabase access tokens: pinned issuer, audience and algorithm, keys fetched without blocking."""

import asyncio
import hashlib
import time
from collections import OrderedDict
from typing import Any, Final
from uuid import UUID

import httpx
import jwt
import structlog

from gateway.domain import User, lane_of
from gateway.errors import NotAuthenticated, SignInUnavailable
from gateway.settings import Settings

LEEWAY_SECONDS: Final = 10
KEYS_FRESH_SECONDS: Final = 600.0
UNKNOWN_KEY_PAUSE_SECONDS: Final = 30.0
"""A token with an unknown key id causes at most one fetch in this time: strangers cannot make us ask more often."""
REMEMBERED_TOKENS: Final = 10_000
LONGEST_TOKEN: Final = 8_192

log = structlog.get_logger(__name__)


class KeySet:
    """The identity provider's public keys, by key id."""

    def __init__(self, url: str, algorithm: str) -> None:
        self._url = url
        self._algorithm = algorithm
        self._http = httpx.AsyncClient(timeout=5.0)
        self._keys: dict[str, jwt.PyJWK] = {}
        self._fetched_at = float("-inf")
        self._fetching = asyncio.Lock()

    async def key(self, key_id: str) -> jwt.PyJWK | None:
        """The key, fetching the set where it is old or does not have it. Raises ``SignInUnavailable``."""
        age = time.monotonic() - self._fetched_at
        if age > KEYS_FRESH_SECONDS or (key_id not in self._keys and age > UNKNOWN_KEY_PAUSE_SECONDS):
            await self._fetch()
        return self._keys.get(key_id)

    async def close(self) -> None:
        """Let the connection go."""
        await self._http.aclose()

    async def _fetch(self) -> None:
        before = self._fetched_at
        async with self._fetching:
            if self._fetched_at != before:
                return
            try:
                response = await self._http.get(self._url)
                response.raise_for_status()
                listed = response.json()["keys"]
                keys = {key["kid"]: jwt.PyJWK(key, self._algorithm) for key in listed if self._usable(key)}
            except (httpx.HTTPError, ValueError, KeyError, TypeError, jwt.PyJWKError) as error:
                log.warning("keys_not_fetched", reason=type(error).__name__)
                if not self._keys:
                    raise SignInUnavailable from error
                # Old keys are better than none: they are asked for again at the next token of an unknown key.
                self._fetched_at = time.monotonic() - KEYS_FRESH_SECONDS + UNKNOWN_KEY_PAUSE_SECONDS
                return
            self._keys, self._fetched_at = keys, time.monotonic()

    def _usable(self, key: dict[str, Any]) -> bool:
        return "kid" in key and key.get("alg", self._algorithm) == self._algorithm and key.get("kty") in ("EC", "RSA")


class Tokens:
    """Turns an ``Authorization`` header into a user. Verified tokens are remembered until they expire."""

    def __init__(self, settings: Settings) -> None:
        self._algorithm = settings.jwt_algorithm
        self._issuer = settings.jwt_issuer
        self._audience = settings.jwt_audience
        self._secret = settings.jwt_secret.get_secret_value() if settings.jwt_secret else None
        self._keys = KeySet(settings.jwks_url or "", self._algorithm)
        self._known: OrderedDict[bytes, User] = OrderedDict()

    async def user_of(self, authorization: str | None) -> User:
        """The signed-in user. Raises ``NotAuthenticated``, or ``SignInUnavailable`` where no key can be had."""
        scheme, _, token = (authorization or "").partition(" ")
        if scheme.lower() != "bearer" or not token or len(token) > LONGEST_TOKEN:
            raise NotAuthenticated("send the access token as 'Authorization: Bearer <token>'")
        digest = hashlib.sha256(token.encode()).digest()
        known = self._known.get(digest)
        if known is not None and known.token_expires_at > time.time():
            return known
        user = self._user(await self._verified(token))
        self._known[digest] = user
        if len(self._known) > REMEMBERED_TOKENS:
            self._known.popitem(last=False)
        return user

    async def close(self) -> None:
        """Let the connections go."""
        await self._keys.close()

    async def _verified(self, token: str) -> dict[str, Any]:
        try:
            claims: dict[str, Any] = jwt.decode(
                token,
                await self._key_for(token),
                # From the settings, never from the token's own header.
                algorithms=[self._algorithm],
                audience=self._audience,
                issuer=self._issuer,
                leeway=LEEWAY_SECONDS,
                options={"require": ["exp", "sub", "iss", "aud"]},
            )
        except jwt.PyJWTError as error:
            raise NotAuthenticated(f"the token is not valid: {type(error).__name__}") from error
        return claims

    async def _key_for(self, token: str) -> Any:
        if self._algorithm == "HS256":
            return self._secret
        key_id = jwt.get_unverified_header(token).get("kid")
        key = await self._keys.key(key_id) if isinstance(key_id, str) else None
        if key is None:
            raise NotAuthenticated("the token was signed with an unknown key")
        return key

    def _user(self, claims: dict[str, Any]) -> User:
        if claims.get("role") != "authenticated":
            raise NotAuthenticated("the token does not belong to a signed-in user")
        try:
            user_id = UUID(claims["sub"])
        except (ValueError, TypeError, AttributeError) as error:
            raise NotAuthenticated("the token's subject is no user id") from error
        return User(user_id, lane_of(claims), float(claims["exp"]))
