"""The playground is served where its folder is configured, with a policy that lets it run nothing else."""

import re
from pathlib import Path

import httpx
import pytest

from gateway.main import build
from gateway.settings import Settings
from local_platform.openapi import UNCONNECTED

FOLDER = Path(__file__).parents[3] / "clients/playground"


def client(folder: Path | None) -> httpx.AsyncClient:
    values = UNCONNECTED | {
        "jwt_issuer": "https://project.supabase.test/auth/v1",
        "s3_endpoint_url": "http://s3.internal",
        "s3_public_endpoint_url": "https://files.test",
        "playground_directory": folder,
    }
    app = build(Settings.model_validate(values)).app
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://gateway.test")


@pytest.mark.parametrize("path", ["/playground", "/playground/", "/playground/main.js", "/playground/config.json"])
async def test_there_is_no_playground_by_default(path: str) -> None:
    async with client(None) as http:
        answer = await http.get(path)
    assert (answer.status_code, answer.json()["code"]) == (404, "not_found")


async def test_the_playground_may_run_only_its_own_files_and_reach_what_it_needs() -> None:
    async with client(FOLDER) as http:
        page = await http.get("/playground/")
        assert page.text == (FOLDER / "index.html").read_text()
        assert (await http.get("/playground")).headers["location"] == "/playground/"
        assert "javascript" in (await http.get("/playground/main.js")).headers["content-type"]
        missing = await http.get("/playground/nothing.js")
        config = await http.get("/playground/config.json")
    policy = dict(part.split(" ", 1) for part in page.headers["content-security-policy"].split("; "))
    assert policy["default-src"] == "'none'"
    assert policy["script-src"] == policy["style-src"] == "'self'"
    assert policy["connect-src"] == "'self' https://files.test https://project.supabase.test"
    assert policy["frame-ancestors"] == "'none'"
    assert (missing.status_code, missing.json()["code"]) == (404, "not_found")
    assert config.json() == {"api_url": "/", "auth_url": "https://project.supabase.test/auth/v1"}


def test_the_page_has_no_inline_code_and_loads_nothing_from_elsewhere() -> None:
    page = (FOLDER / "index.html").read_text()
    assert " style=" not in page
    assert "<style" not in page
    assert page.count("<script") == page.count('<script type="module" src=') == 1
    for file in FOLDER.iterdir():
        if file.suffix in (".html", ".css"):
            assert "//" not in file.read_text().replace("<!--", ""), file.name


def test_every_module_is_asked_for_at_once() -> None:
    """Otherwise the browser would learn of each module only from the one that imports it."""
    page = (FOLDER / "index.html").read_text()
    modules = {file.name for file in FOLDER.glob("*.js")}
    assert set(re.findall(r'<link rel="modulepreload" href="([^"]+)">', page)) == modules - {"main.js"}
