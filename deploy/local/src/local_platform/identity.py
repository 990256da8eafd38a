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
from uuid import NAMESPACE_URL, UUID, uuid5

import jwt
import msgspec
import uvicorn
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from local_platform.description import IdentityDescription

ALGORITHM = "ES256"
AUDIENCE = "authenticated"
JWKS_PATH = "/auth/v1/.well-known/jwks.json"
TOKEN_PATH = "/auth/v1/token"  # noqa: S105 - an address
TOKEN_SECONDS = 3600
DEVELOPMENT_USER = UUID("00000000-0000-7000-8000-000000000001")
"""Whose token `make up` and `make token` print."""
DEVELOPMENT_ADDRESS = "you@example.test"
"""Signs in as the same user. The playground proposes it."""
_COORDINATE_BYTES = 32


class SignIn(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is asked for a token. ``password`` is taken, as Supabase's clients send one, and not looked at."""

    email: str
    plan: str = "free"
    password: str = ""


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
    identity: IdentityDescription,
    user_id: UUID,
    plan: str = "free",
    lifetime_seconds: int = 3600,
) -> str:
    """An access token for a user, as Supabase issues it. ``plan`` becomes part of ``app_metadata``."""
    now = int(time.time())
    claims: dict[str, object] = {
        "iss": identity.issuer,
        "aud": identity.audience,
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
    return jwt.encode(claims, identity.private_key_pem, algorithm=ALGORITHM, headers={"kid": identity.key_id})


def build_app(identity: IdentityDescription) -> Starlette:
    """The provider: its key set, and Supabase's sign-in by e-mail address, which here asks for no password.

    ``POST /auth/v1/token?grant_type=password`` with ``{"email": …, "plan": …}`` answers like Supabase; the same address
    is always the same user.
    """
    key_set = {"keys": [public_jwk(identity.private_key_pem)]}

    async def keys(_: Request) -> JSONResponse:
        return JSONResponse(key_set, headers={"Cache-Control": "public, max-age=600"})

    async def token(request: Request) -> JSONResponse:
        try:
            signing_in = msgspec.json.decode(await request.body(), type=SignIn)
        except msgspec.DecodeError as error:
            return JSONResponse({"error": "invalid_request", "error_description": str(error)}, status_code=400)
        is_developer = signing_in.email == DEVELOPMENT_ADDRESS
        user_id = DEVELOPMENT_USER if is_developer else uuid5(NAMESPACE_URL, f"mailto:{signing_in.email}")
        signed = sign_token(identity, user_id, signing_in.plan, TOKEN_SECONDS)
        user = {"id": str(user_id), "email": signing_in.email, "app_metadata": {"plan": signing_in.plan}}
        answer = {"access_token": signed, "token_type": "bearer", "expires_in": TOKEN_SECONDS, "user": user}
        return JSONResponse(answer, headers={"Cache-Control": "no-store"})

    middleware = [Middleware(CORSMiddleware, allow_origins=["*"], allow_methods=["*"], allow_headers=["*"])]
    routes = [Route(JWKS_PATH, keys), Route(TOKEN_PATH, token, methods=["POST"])]
    return Starlette(routes=routes, middleware=middleware)


def _private_key(pem: str) -> ec.EllipticCurvePrivateKey:
    key = load_pem_private_key(pem.encode(), password=None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    return key


def _base64url(octets: bytes) -> str:
    return base64.urlsafe_b64encode(octets).rstrip(b"=").decode()


def main(arguments: Sequence[str] | None = None) -> None:
    """Serve until told to stop. A key file that is not there is made."""
    parser = argparse.ArgumentParser(prog="python -m local_platform.identity")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--public-url", help="where browsers reach it, if not at host and port; part of the issuer")
    parser.add_argument("--key-file", type=Path, required=True, help="private key, PEM")
    options = parser.parse_args(arguments)
    if not options.key_file.exists():
        options.key_file.touch(mode=0o600)
        options.key_file.write_text(new_private_key_pem())
    base_url = options.public_url or f"http://{options.host}:{options.port}"
    app = build_app(describe(base_url, options.key_file.read_text()))
    uvicorn.run(app, host=options.host, port=options.port, log_level="warning")


if __name__ == "__main__":
    main()
