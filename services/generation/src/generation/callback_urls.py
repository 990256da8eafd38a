"""Callback addresses that only we can make. RunPod does not sign its webhooks, so the address itself is the proof."""

import hashlib
import hmac
from collections.abc import Sequence
from uuid import UUID

from generation.errors import CallbackExpired, InvalidCallbackSignature


class CallbackUrls:
    """Makes and checks ``…/webhooks/runpod/{attempt_id}/{expiry}.{hmac}``. The first secret signs; all are accepted."""

    def __init__(self, base_url: str, secrets: Sequence[str]) -> None:
        self._base_url = base_url.rstrip("/")
        self._secrets = [secret.encode() for secret in secrets]

    def url(self, attempt_id: UUID, expires_at_unix: int) -> str:
        """The address to which the provider reports this attempt."""
        signature = self._sign(self._secrets[0], attempt_id, str(expires_at_unix))
        return f"{self._base_url}/webhooks/runpod/{attempt_id}/{expires_at_unix}.{signature}"

    def check(self, attempt_id: UUID, token: str, now_unix: float) -> None:
        """Raises InvalidCallbackSignature or CallbackExpired. Compares in constant time, against every secret."""
        expiry, _, signature = token.partition(".")
        given = signature.encode("utf-8", "surrogateescape")
        matches = [
            hmac.compare_digest(self._sign(secret, attempt_id, expiry).encode(), given) for secret in self._secrets
        ]
        if not any(matches) or not expiry.isascii() or not expiry.isdigit():
            raise InvalidCallbackSignature
        if int(expiry) < now_unix:
            raise CallbackExpired

    @staticmethod
    def _sign(secret: bytes, attempt_id: UUID, expiry: str) -> str:
        return hmac.new(secret, f"{attempt_id}.{expiry}".encode("utf-8", "surrogateescape"), hashlib.sha256).hexdigest()
