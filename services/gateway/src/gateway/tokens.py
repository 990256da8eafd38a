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
"""How old the keys may be, and how long a token is believed without another look at its signature."""
FETCH_TIMEOUT_SECONDS: Final = 5.0
LONGEST_TRUST_SECONDS: Final = 3600.0
"""An event stream ends after this time at the latest, whatever its token says: a key may have been revoked."""
UNKNOWN_KEY_PAUSE_SECONDS: Final = 30.0
"""Tokens with unknown key ids cause at most one fetch in this time: strangers cannot make us ask more often."""
NO_KEYS_PAUSE_SECONDS: Final = 1.0
STALE_KEYS_PAUSE_SECONDS: Final = 30.0
"""After a failed fetch: how long not to ask again without any keys, and with keys that still do."""
REMEMBERED_TOKENS: Final = 10_000
LONGEST_TOKEN: Final = 8_192

_KEY_TYPES: Final = {"ES256": "EC", "RS256": "RSA"}

log = structlog.get_logger(__name__)


class KeySet:
    """The identity provider's public keys, by key id."""

    def __init__(self, url: str, algorithm: str) -> None:
        self._url = url
        self._algorithm = algorithm
        self._http = httpx.AsyncClient(timeout=FETCH_TIMEOUT_SECONDS)
        self._keys: dict[str, jwt.PyJWK] = {}
        self._stale_at = float("-inf")
        self._seek_again_at = float("-inf")
        self._attempts = 0
        self._attempt_again_at = float("-inf")
        self._fetching = asyncio.Lock()
        self._refreshing: asyncio.Task[None] | None = None

    async def key(self, key_id: str) -> jwt.PyJWK | None:
        """The key, fetching the set where it does not have it. Raises ``SignInUnavailable``.

        Nobody waits for a refresh whose key is there: the set is brought up to date beside.
        """
        now = time.monotonic()
        if (known := self._keys.get(key_id)) is not None:
            if now >= self._stale_at and (self._refreshing is None or self._refreshing.done()):
                self._refreshing = asyncio.create_task(self._fetch())
            return known
        if now >= self._stale_at:
            await self._fetch()
        elif now >= self._seek_again_at:
            self._seek_again_at = now + UNKNOWN_KEY_PAUSE_SECONDS
            await self._fetch()
        if not self._keys:
            raise SignInUnavailable(headers={"Retry-After": "2"})
        return self._keys.get(key_id)

    async def close(self) -> None:
        """Let the connection go."""
        if self._refreshing is not None:
            self._refreshing.cancel()
            await asyncio.wait([self._refreshing])
        await self._http.aclose()

    async def _fetch(self) -> None:
        before = self._attempts
        async with self._fetching:
            # Whoever waited takes the outcome of the attempt that it waited for, be it a failure.
            if self._attempts != before or time.monotonic() < self._attempt_again_at:
                return
            try:
                # The client's own limit is one per read, which a server that drips never reaches.
                async with asyncio.timeout(FETCH_TIMEOUT_SECONDS):
                    response = await self._http.get(self._url)
                response.raise_for_status()
                keys = self._usable_keys(response.json()["keys"])
            except (httpx.HTTPError, TimeoutError, ValueError, KeyError, TypeError) as error:
                log.warning("keys_not_fetched", reason=type(error).__name__)
                # Old keys are better than none.
                pause = STALE_KEYS_PAUSE_SECONDS if self._keys else NO_KEYS_PAUSE_SECONDS
                self._attempt_again_at = time.monotonic() + pause
            else:
                self._keys, self._stale_at = keys, time.monotonic() + KEYS_FRESH_SECONDS
            self._attempts += 1

    def _usable_keys(self, listed: list[Any]) -> dict[str, jwt.PyJWK]:
        """The keys of the pinned algorithm; one that cannot be read does not take the others with it."""
        keys: dict[str, jwt.PyJWK] = {}
        for key in listed:
            if not isinstance(key, dict) or "kid" not in key or key.get("kty") != _KEY_TYPES.get(self._algorithm):
                continue
            if key.get("alg", self._algorithm) != self._algorithm:
                continue
            try:
                keys[key["kid"]] = jwt.PyJWK(key, self._algorithm)
            except jwt.PyJWTError as error:
                log.warning("key_not_usable", key_id=str(key["kid"])[:100], reason=type(error).__name__)
        return keys


class Tokens:
    """Turns an ``Authorization`` header into a user. Verified tokens are remembered for a while."""

    def __init__(self, settings: Settings) -> None:
        self._algorithm = settings.jwt_algorithm
        self._issuer = settings.jwt_issuer
        self._audience = settings.jwt_audience
        self._secret = settings.jwt_secret.get_secret_value() if settings.jwt_secret else None
        self._keys = KeySet(settings.jwks_url or "", self._algorithm)
        self._known: OrderedDict[bytes, tuple[User, float]] = OrderedDict()

    async def user_of(self, authorization: str | None) -> User:
        """The signed-in user. Raises ``NotAuthenticated``, or ``SignInUnavailable`` where no key can be had."""
        scheme, _, token = (authorization or "").partition(" ")
        if scheme.lower() != "bearer" or not token or len(token) > LONGEST_TOKEN:
            raise NotAuthenticated("send the access token as 'Authorization: Bearer <token>'")
        digest = hashlib.sha256(token.encode()).digest()
        now = time.time()
        known, until = self._known.get(digest, (None, 0.0))
        if known is not None and now < until:
            return known
        user = self._user(await self._verified(token))
        self._known[digest] = user, min(user.token_expires_at, now + KEYS_FRESH_SECONDS)
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
