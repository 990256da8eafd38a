"""Tokens that were forged, borrowed or kept for too long open nothing."""

import base64
import json
import time
from collections.abc import Callable
from typing import Any
from uuid import uuid4

import jwt
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key

from local_platform.identity import new_private_key_pem, public_jwk
from tests.gateway.harness import GatewayHarness, Identity

Forge = Callable[[Identity], str]


def _encoded(part: dict[str, Any]) -> str:
    return base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=").decode()


def _unsigned(identity: Identity) -> str:
    return f"{_encoded({'alg': 'none', 'typ': 'JWT'})}.{_encoded(identity.claims(uuid4()))}."


def _signed_with_the_public_key_as_secret(identity: Identity) -> str:
    """The classic confusion: the public key, which everybody has, used as an HMAC secret."""
    import hashlib
    import hmac

    public = load_pem_private_key(identity.private_key.encode(), None).public_key()
    pem = public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    header = {"alg": "HS256", "typ": "JWT", "kid": public_jwk(identity.private_key)["kid"]}
    signed = f"{_encoded(header)}.{_encoded(identity.claims(uuid4()))}"
    mac = hmac.new(pem, signed.encode(), hashlib.sha256).digest()
    return f"{signed}.{base64.urlsafe_b64encode(mac).rstrip(b'=').decode()}"


def _signed_with_another_key(identity: Identity) -> str:
    kid = public_jwk(identity.private_key)["kid"]
    return jwt.encode(identity.claims(uuid4()), new_private_key_pem(), "ES256", headers={"kid": kid})


def _of_an_unknown_key(identity: Identity) -> str:
    return jwt.encode(identity.claims(uuid4()), new_private_key_pem(), "ES256", headers={"kid": "unknown"})


def _without_a_key_id(identity: Identity) -> str:
    return jwt.encode(identity.claims(uuid4()), identity.private_key, "ES256")


def _tampered(identity: Identity) -> str:
    header, _, signature = identity.token(uuid4()).split(".")
    return f"{header}.{_encoded(identity.claims(uuid4()))}.{signature}"


def _claiming(**claims: Any) -> Forge:
    return lambda identity: identity.token(uuid4(), **claims)


FORGERIES: dict[str, Forge] = {
    "unsigned": _unsigned,
    "public key as secret": _signed_with_the_public_key_as_secret,
    "another key": _signed_with_another_key,
    "unknown key": _of_an_unknown_key,
    "no key id": _without_a_key_id,
    "tampered": _tampered,
    "another issuer": _claiming(iss="https://evil.supabase.co/auth/v1"),
    "another audience": _claiming(aud="anon"),
    "expired": _claiming(exp=int(time.time()) - 60),
    "without an end": _claiming(exp=None),
    "without a subject": _claiming(sub=None),
    "a subject that is no user": _claiming(sub="admin"),
    "anonymous key": _claiming(role="anon"),
    "service key": _claiming(role="service_role"),
    "no role": _claiming(role=None),
    "not a token": lambda _: "garbage",
}


async def test_a_forged_token_is_refused_with_the_scheme_to_use(harness: GatewayHarness) -> None:
    gateway = await harness.gateway()
    for name, forge in FORGERIES.items():
        headers = {"Authorization": f"Bearer {forge(harness.identity)}"}
        answer = await gateway.http.get("/v1/balance", headers=headers)
        assert answer.status_code == 401, name
        assert answer.json()["code"] == "not_authenticated", name
        assert answer.headers["WWW-Authenticate"].startswith("Bearer"), name


async def test_every_route_needs_a_token_but_the_offers_and_verify(harness: GatewayHarness) -> None:
    gateway = await harness.gateway()
    document = (await gateway.http.get("/openapi.json")).json()
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            public = operation["operationId"] in ("listModels", "listCreditPacks", "verifyFile")
            address = path.replace("{generation_id}", str(uuid4())).replace("{payment_id}", str(uuid4()))
            answer = await gateway.http.request(method, address, json={} if "requestBody" in operation else None)
            assert (answer.status_code == 401) is not public, (path, answer.status_code)
            assert ("security" in operation) is not public, path
