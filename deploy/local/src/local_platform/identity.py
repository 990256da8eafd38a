"""A development identity provider like Supabase: a JWKS endpoint, and tokens that are signed with its key.

    python -m local_platform.identity --port 9999 --key-file key.pem

The platform makes a new ES256 key at every start. No token outlives the platform.
"""

import argparse
import base64
import hashlib
import time
from collections.abc import Sequence
from pathlib import Path
from uuid import UUID

import jwt
import uvicorn
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from local_platform.description import IdentityDescription, PlatformDescription

ALGORITHM = "ES256"
AUDIENCE = "authenticated"
JWKS_PATH = "/auth/v1/.well-known/jwks.json"
_COORDINATE_BYTES = 32


def new_private_key_pem() -> str:
    """A new P-256 key as unencrypted PKCS#8."""
    key = ec.generate_private_key(ec.SECP256R1())
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()


def describe(base_url: str, private_key_pem: str) -> IdentityDescription:
    """What services and scripts need to know about the provider at ``base_url``."""
    return IdentityDescription(
        issuer=f"{base_url}/auth/v1",
        audience=AUDIENCE,
        jwks_url=f"{base_url}{JWKS_PATH}",
        key_id=public_jwk(private_key_pem)["kid"],
        private_key_pem=private_key_pem,
    )


def public_jwk(private_key_pem: str) -> dict[str, str]:
    """The public half as a JWK whose ``kid`` is its RFC 7638 thumbprint."""
    numbers = _private_key(private_key_pem).public_key().public_numbers()
    x, y = _base64url(numbers.x.to_bytes(_COORDINATE_BYTES)), _base64url(numbers.y.to_bytes(_COORDINATE_BYTES))
    canonical = f'{{"crv":"P-256","kty":"EC","x":"{x}","y":"{y}"}}'
    key_id = _base64url(hashlib.sha256(canonical.encode()).digest())
    return {"kty": "EC", "crv": "P-256", "x": x, "y": y, "kid": key_id, "alg": ALGORITHM, "use": "sig"}


def sign_token(
    platform: PlatformDescription,
    user_id: UUID,
    plan: str = "free",
    lifetime_seconds: int = 3600,
) -> str:
    """An access token for a user, as Supabase issues it. ``plan`` becomes part of ``app_metadata``."""
    now = int(time.time())
    claims: dict[str, object] = {
        "iss": platform.identity.issuer,
        "aud": platform.identity.audience,
        "sub": str(user_id),
        "role": "authenticated",
        "aal": "aal1",
        "is_anonymous": False,
        "email": f"{str(user_id)[-12:]}@example.test",
        "app_metadata": {"provider": "email", "plan": plan},
        "user_metadata": {},
        "iat": now,
        "exp": now + lifetime_seconds,
    }
    return jwt.encode(
        claims, platform.identity.private_key_pem, algorithm=ALGORITHM, headers={"kid": platform.identity.key_id}
    )


def build_app(private_key_pem: str) -> Starlette:
    """The provider: it publishes its key set."""
    key_set = {"keys": [public_jwk(private_key_pem)]}

    async def keys(_: Request) -> JSONResponse:
        return JSONResponse(key_set, headers={"Cache-Control": "public, max-age=600"})

    return Starlette(routes=[Route(JWKS_PATH, keys)])


def _private_key(pem: str) -> ec.EllipticCurvePrivateKey:
    key = load_pem_private_key(pem.encode(), password=None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    return key


def _base64url(octets: bytes) -> str:
    return base64.urlsafe_b64encode(octets).rstrip(b"=").decode()


def main(arguments: Sequence[str] | None = None) -> None:
    """Serve the key set on 127.0.0.1 until told to stop."""
    parser = argparse.ArgumentParser(prog="python -m local_platform.identity")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--key-file", type=Path, required=True, help="private key, PEM")
    options = parser.parse_args(arguments)
    app = build_app(options.key_file.read_text())
    uvicorn.run(app, host="127.0.0.1", port=options.port, log_level="warning")


if __name__ == "__main__":
    main()
