"""Verifying Supabase access tokens: issuer and audience are pinned, and each key signs in one algorithm."""

import asyncio
import hashlib
import math
import time
from collections import OrderedDict
from typing import Any, Final
from uuid import UUID

import httpx
import jwt
import structlog

from gateway.domain import User, is_confirmed, lane_of
from gateway.errors import NotAuthenticated, SignInUnavailable
from gateway.settings import Settings
from service_runtime.bounded_http import bounded_client
from service_runtime.database_watch import DatabaseClock

LEEWAY_SECONDS: Final = 10
KEYS_FRESH_SECONDS: Final = 600.0
"""How old the keys may be, and how long a verified token is accepted without verifying it again."""
FETCH_TIMEOUT_SECONDS: Final = 5.0
MAX_STREAM_SECONDS: Final = 3600.0
"""An event stream ends after this time at the latest, whatever its token says: a key may have been revoked."""
UNKNOWN_KEY_PAUSE_SECONDS: Final = 30.0
"""Tokens with unknown key ids cause at most one fetch in this time, however many of them are sent."""
NO_KEYS_PAUSE_SECONDS: Final = 1.0
STALE_KEYS_PAUSE_SECONDS: Final = 30.0
"""How long a failed fetch is not repeated: without any keys, and with keys that still serve."""
CACHED_TOKENS: Final = 10_000
MAX_TOKEN_LENGTH: Final = 8_192

MAX_KEYS_BYTES: Final = 256 * 1024
_KEY_TYPES: Final = {"EC": "ES256", "RSA": "RS256"}
"""The one algorithm in which a key of each type signs."""
_UNREADABLE: Final = (jwt.PyJWTError, ArithmeticError, LookupError, RecursionError, TypeError, ValueError)
"""What reading a strange token raises: the library checks its shape only in part."""

log = structlog.get_logger(__name__)


class KeySet:
    """The identity provider's public keys, by key id; none without a ``url``."""

    def __init__(self, url: str | None) -> None:
        self._url = url
        self._http = bounded_client(MAX_KEYS_BYTES, timeout=FETCH_TIMEOUT_SECONDS)
        self._keys: dict[str, jwt.PyJWK] = {}
        self._stale_at = float("-inf")
        self._next_lookup_at = float("-inf")
        self._fetches = 0
        self._next_fetch_at = float("-inf")
        self._fetching = asyncio.Lock()
        self._refreshing: asyncio.Task[None] | None = None

    async def key(self, key_id: str) -> jwt.PyJWK | None:
        """The key; a key that is not there causes a fetch. Raises ``SignInUnavailable``.

        A request whose key is there does not wait for a refresh: it runs in the background.
        """
        if self._url is None:
            return None
        now = time.monotonic()
        if (known := self._keys.get(key_id)) is not None:
            if now >= self._stale_at and (self._refreshing is None or self._refreshing.done()):
                self._refreshing = asyncio.create_task(self._fetch())
            return known
        if now >= self._stale_at:
            await self._fetch()
        elif now >= self._next_lookup_at:
            self._next_lookup_at = now + UNKNOWN_KEY_PAUSE_SECONDS
            await self._fetch()
        if not self._keys:
            raise SignInUnavailable(headers={"Retry-After": "2"})
        return self._keys.get(key_id)

    async def close(self) -> None:
        """Close the connection."""
        if self._refreshing is not None:
            self._refreshing.cancel()
            await asyncio.wait([self._refreshing])
        await self._http.aclose()

    async def _fetch(self) -> None:
        assert self._url is not None
        before = self._fetches
        async with self._fetching:
            # Another request has fetched while this one waited: its result counts, even if it is a failure.
            if self._fetches != before or time.monotonic() < self._next_fetch_at:
                return
            try:
                # The client's own limit is one per read; a server that sends byte by byte never reaches it.
                async with asyncio.timeout(FETCH_TIMEOUT_SECONDS):
                    response = await self._http.get(self._url)
                response.raise_for_status()
                keys = self._usable_keys(response.json()["keys"])
            except (httpx.HTTPError, TimeoutError, ValueError, KeyError, TypeError) as error:
                log.warning("keys_not_fetched", reason=type(error).__name__)
                # Old keys are better than none.
                pause = STALE_KEYS_PAUSE_SECONDS if self._keys else NO_KEYS_PAUSE_SECONDS
                self._next_fetch_at = time.monotonic() + pause
            else:
                self._keys, self._stale_at = keys, time.monotonic() + KEYS_FRESH_SECONDS
            self._fetches += 1

    def _usable_keys(self, listed: list[Any]) -> dict[str, jwt.PyJWK]:
        """The keys of the algorithms that are taken; an unreadable key does not spoil the others."""
        keys: dict[str, jwt.PyJWK] = {}
        for key in listed:
            if not isinstance(key, dict) or "kid" not in key:
                continue
            algorithm = _KEY_TYPES.get(str(key.get("kty")))
            if algorithm is None or key.get("alg", algorithm) != algorithm:
                continue
            try:
                keys[key["kid"]] = jwt.PyJWK(key, algorithm)
            except _UNREADABLE as error:
                log.warning("key_not_usable", key_id=str(key["kid"])[:100], reason=type(error).__name__)
        return keys


class Tokens:
    """Turns an ``Authorization`` header into a user. Verified tokens are cached for a while.

    Times are compared with the database's clock: this host's may be wrong, and would then refuse every token or accept
    what has expired.
    """

    def __init__(self, settings: Settings, clock: DatabaseClock) -> None:
        self._clock = clock
        self._issuer = settings.jwt_issuer
        self._audience = settings.jwt_audience
        self._secret = settings.jwt_secret.get_secret_value() if settings.jwt_secret else None
        self._keys = KeySet(settings.jwks_url)
        self._takes_anonymous_users = settings.allow_anonymous_users
        self._known: OrderedDict[bytes, tuple[User, float]] = OrderedDict()

    def known_user(self, authorization: str | None) -> User | None:
        """The user of a token that was verified a while ago; None for any other."""
        token = _token_of(authorization)
        known, until = self._known.get(_digest(token), (None, 0.0)) if token is not None else (None, 0.0)
        return known if self._clock.now() < until else None

    async def user_of(self, authorization: str | None) -> User:
        """The signed-in user. Raises ``NotAuthenticated``, or ``SignInUnavailable`` if there is no key."""
        token = _token_of(authorization)
        if token is None:
            raise NotAuthenticated("send the access token as 'Authorization: Bearer <token>'")
        known = self.known_user(authorization)
        if known is not None:
            return known
        now = self._clock.now()
        user = self._user(await self._verified(token))
        self._known[_digest(token)] = user, min(user.token_expires_at, now + KEYS_FRESH_SECONDS)
        if len(self._known) > CACHED_TOKENS:
            self._known.popitem(last=False)
        return user

    async def close(self) -> None:
        """Close the connections."""
        await self._keys.close()

    async def _verified(self, token: str) -> dict[str, Any]:
        key, algorithm = await self._key_for(token)
        try:
            token_claims: dict[str, Any] = jwt.decode(
                token,
                key,
                # The key's own: a public key is never taken for a secret.
                algorithms=[algorithm],
                audience=self._audience,
                issuer=self._issuer,
                # The library knows this host's clock only.
                options={
                    "require": ["exp", "sub", "iss", "aud"],
                    "verify_exp": False,
                    "verify_nbf": False,
                    "verify_iat": False,
                },
            )
        except _UNREADABLE as error:
            raise NotAuthenticated(f"the token is not valid: {type(error).__name__}") from error
        self._check_times(token_claims)
        return token_claims

    def _check_times(self, token_claims: dict[str, Any]) -> None:
        now = self._clock.now()
        try:
            expires_at = float(token_claims["exp"])
            begins_at = max(float(token_claims.get(name, 0)) for name in ("nbf", "iat"))
        except (TypeError, ValueError, OverflowError) as error:
            raise NotAuthenticated("the token's times are no numbers") from error
        # Written so that a time that is not a number at all (NaN) is refused, too.
        if not now < expires_at + LEEWAY_SECONDS or expires_at == math.inf:
            raise NotAuthenticated("the token has expired")
        if not begins_at <= now + LEEWAY_SECONDS:
            raise NotAuthenticated("the token is not valid yet")

    async def _key_for(self, token: str) -> tuple[Any, str]:
        """The key that must have signed the token, and its algorithm.

        A project that moves from the legacy secret to keys has tokens of both for a while: each is taken where its key
        is configured. The token's header only chooses among those.
        """
        try:
            header = jwt.get_unverified_header(token)
        except _UNREADABLE as error:
            raise NotAuthenticated(f"the token is not valid: {type(error).__name__}") from error
        if header.get("alg") == "HS256" and self._secret is not None:
            return self._secret, "HS256"
        key_id = header.get("kid")
        key = await self._keys.key(key_id) if isinstance(key_id, str) else None
        if key is None:
            raise NotAuthenticated("the token was signed with an unknown key")
        return key, key.algorithm_name

    def _user(self, token_claims: dict[str, Any]) -> User:
        if token_claims.get("role") != "authenticated":
            raise NotAuthenticated("the token does not belong to a signed-in user")
        if token_claims.get("is_anonymous") and not self._takes_anonymous_users:
            raise NotAuthenticated("sign up first: this is an anonymous user's token")
        try:
            user_id = UUID(token_claims["sub"])
        except (ValueError, TypeError, AttributeError) as error:
            raise NotAuthenticated("the token's subject is no user id") from error
        return User(user_id, lane_of(token_claims), float(token_claims["exp"]), is_confirmed(token_claims))


def _token_of(authorization: str | None) -> str | None:
    scheme, _, token = (authorization or "").partition(" ")
    return token if scheme.lower() == "bearer" and 0 < len(token) <= MAX_TOKEN_LENGTH else None


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode()).digest()
