"""The key that signs the marks. It stays in the service: decoder processes, which parse files, ask it to sign."""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Final, Protocol

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from storage.errors import SignerUnavailable
from storage.settings import Settings

SIGNATURE_SECONDS: Final = 5.0
"""The longest wait for one signature: half of the time that a picture has."""
_COORDINATE_BYTES: Final = 32


class SigningKey(Protocol):
    """A private key on P-256. It may be at a key management service."""

    async def sign(self, data: bytes) -> bytes:
        """The ES256 signature of ``data``: r and s, 64 bytes. Raises ``SignerUnavailable``."""
        ...


class LocalKey:
    """A key in the memory of the service."""

    def __init__(self, key: ec.EllipticCurvePrivateKey) -> None:
        self._key = key

    async def sign(self, data: bytes) -> bytes:
        """Sign in well below a millisecond."""
        r, s = decode_dss_signature(self._key.sign(data, ec.ECDSA(SHA256())))
        return r.to_bytes(_COORDINATE_BYTES) + s.to_bytes(_COORDINATE_BYTES)


@dataclass(frozen=True, slots=True)
class Signer:
    """A key with its certificates in PEM, the key's own first. ``now`` is the time, in seconds since 1970."""

    key: SigningKey
    certificates: str
    expires_at: datetime
    now: Callable[[], float] = time.time

    async def sign(self, data: bytes) -> bytes:
        """Sign the claim of one manifest. Raises ``SignerUnavailable``, also with an expired certificate.

        Files must not be rejected for a certificate of ours: they wait for a new one.
        """
        if self.now() >= self.expires_at.timestamp():
            raise SignerUnavailable(f"the certificate expired at {self.expires_at:%Y-%m-%d %H:%M}")
        try:
            async with asyncio.timeout(SIGNATURE_SECONDS):
                return await self.key.sign(data)
        except TimeoutError as error:
            raise SignerUnavailable("the key gave no signature in time") from error


def signer_of(settings: Settings, now: Callable[[], float] = time.time) -> Signer | None:
    """The signer that is configured; None where files are delivered unmarked. Raises ValueError."""
    if settings.marking == "off":
        return None
    assert settings.marking_key is not None
    assert settings.marking_certificates is not None
    return local_signer(settings.marking_key.get_secret_value(), settings.marking_certificates, now)


def local_signer(key_text: str, certificates: str, now: Callable[[], float] = time.time) -> Signer:
    """The signer with a key in PEM, and its certificates. Raises ValueError."""
    # Some secret stores hold a text in one line.
    key_text, certificates = key_text.replace("\\n", "\n"), certificates.replace("\\n", "\n")
    try:
        key = load_pem_private_key(key_text.encode(), password=None)
        [leaf, *_] = x509.load_pem_x509_certificates(certificates.encode())
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        # The message of the error could contain the key.
        raise ValueError(f"marking_key or marking_certificates is not PEM: {type(error).__name__}") from None
    if not isinstance(key, ec.EllipticCurvePrivateKey) or key.curve.name != ec.SECP256R1.name:
        raise ValueError("marking_key must be a key on P-256")
    if leaf.public_key() != key.public_key():
        raise ValueError("the first certificate of marking_certificates must be that of marking_key")
    return Signer(LocalKey(key), certificates, leaf.not_valid_after_utc, now)
