"""The page to try the API: everything on it comes from the gateway, and it can be switched off."""

import re

from tests.gateway.unit.unconnected import UnconnectedHarness


async def test_the_page_loads_nothing_from_anywhere_else() -> None:
    harness = UnconnectedHarness()
    page = await harness.send("GET", "/docs")
    assert page.headers["Content-Type"].startswith("text/html")
    policy = page.headers["Content-Security-Policy"]
    assert policy.startswith("default-src 'none'; script-src 'self';")
    assert "http" not in policy
    assert "frame-ancestors 'none'" in policy
    named = re.findall(r'(?:src|href)="([^"]+)"', page.text)
    assert len(named) == 4
    for address in (*named, "openapi.json"):
        assert not re.match(r"[a-z]+:|//", address)
        for method in ("GET", "HEAD"):
            assert (await harness.send(method, f"/{address}")).status_code == 200, address
    assert "<script>" not in page.text, "the policy allows no script in the page"


async def test_the_description_is_not_sent_again_to_who_has_it() -> None:
    harness = UnconnectedHarness()
    first = await harness.send("GET", "/openapi.json")
    again = await harness.send("GET", "/openapi.json", headers={"If-None-Match": f"W/{first.headers['ETag']}"})
    assert (first.json()["info"]["title"], again.status_code, again.content) == ("Reelhouse", 304, b"")


async def test_the_page_can_be_switched_off_and_the_description_stays() -> None:
    harness = UnconnectedHarness(docs=False)
    for path in ("/docs", "/docs/start.js", "/docs/assets/swagger-ui-bundle.js", "/redoc"):
        assert (await harness.send("GET", path)).status_code == 404, path
    assert (await harness.send("GET", "/openapi.json")).status_code == 200
