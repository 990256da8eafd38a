"""The development identity provider signs in whoever asks, as Supabase would answer."""

from contextlib import AbstractAsyncContextManager
from pathlib import Path

import httpx
import jwt

from local_platform.identity import (
    AUDIENCE,
    DEVELOPMENT_ADDRESS,
    DEVELOPMENT_USER,
    JWKS_PATH,
    TOKEN_PATH,
    build_app,
    describe,
    new_private_key_pem,
)

IDENTITY = describe("http://localhost:9999", new_private_key_pem())


def client() -> AbstractAsyncContextManager[httpx.AsyncClient]:
    return httpx.AsyncClient(transport=httpx.ASGITransport(build_app(IDENTITY)), base_url="http://identity")


async def test_a_token_verifies_with_the_published_keys_and_names_the_plan() -> None:
    async with client() as http:
        answer = (await http.post(TOKEN_PATH, json={"email": "ada@example.test", "plan": "pro"})).json()
        (key,) = (await http.get(JWKS_PATH)).json()["keys"]
    claims = jwt.decode(
        answer["access_token"], jwt.PyJWK(key).key, algorithms=["ES256"], audience=AUDIENCE, issuer=IDENTITY.issuer
    )
    assert claims["sub"] == answer["user"]["id"]
    assert claims["app_metadata"]["plan"] == "pro"


async def test_the_same_address_is_the_same_user_and_another_is_another() -> None:
    async with client() as http:
        ids = [
            (await http.post(TOKEN_PATH, json={"email": email})).json()["user"]["id"]
            for email in ("ada@example.test", "ada@example.test", "bob@example.test")
        ]
    assert ids[0] == ids[1] != ids[2]


async def test_the_address_that_the_playground_proposes_is_the_development_user() -> None:
    async with client() as http:
        answer = (await http.post(TOKEN_PATH, json={"email": DEVELOPMENT_ADDRESS})).json()
    assert answer["user"]["id"] == str(DEVELOPMENT_USER)
    page = Path(__file__).parents[3] / "clients/playground/main.js"
    assert f'value: "{DEVELOPMENT_ADDRESS}"' in page.read_text(encoding="utf-8")


async def test_what_is_no_sign_in_is_refused() -> None:
    async with client() as http:
        assert (await http.post(TOKEN_PATH, content=b"{}")).status_code == 400
        assert (await http.post(TOKEN_PATH, content=b"nonsense")).status_code == 400
