"""Signatures for S3 are those that botocore makes, letter by letter."""

import hashlib
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final
from unittest.mock import patch
from urllib.parse import quote

import botocore.auth
import pytest
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from hypothesis import given, settings
from hypothesis import strategies as st

from service_runtime.s3_signing import S3Signer

REGION: Final = "auto"
CREDENTIALS: Final = Credentials("key-id", "a secret/with+other=letters")
ENDPOINTS: Final = (
    "https://account.r2.example.com",
    "https://ACCOUNT.r2.example.com:443/",
    "http://127.0.0.1:8333",
    "http://[::1]:8333",
    "http://store.example.com:80/behind/a/path",
)
KEYS: Final = st.text(st.characters(codec="utf-8", exclude_categories=["C"]), min_size=1, max_size=40)
VALUES: Final = st.text("abXY09 -_.~;=/+%\"*'(é", max_size=30)
HEADERS: Final = st.dictionaries(
    st.sampled_from(["Content-Type", "If-None-Match", "x-amz-meta-sha256", "x-amz-checksum-sha256"]), VALUES
)
PARAMETERS: Final = st.dictionaries(st.sampled_from(["list-type", "start-after", "start", "max-keys"]), VALUES)
MOMENTS: Final = st.integers(0, 4_000_000_000)


@pytest.mark.parametrize("endpoint", ENDPOINTS)
@settings(max_examples=30)
@given(key=KEYS, headers=HEADERS, body=st.binary(max_size=8), now=MOMENTS)
def test_a_request_is_signed_as_botocore_signs_it(
    endpoint: str, key: str, headers: dict[str, str], body: bytes, now: int
) -> None:
    signer, url = signer_of(endpoint), f"{endpoint.rstrip('/')}/library/{quote(key)}"
    sha256 = hashlib.sha256(body).hexdigest()
    theirs = AWSRequest("PUT", url, headers=dict(headers), data=body)
    signed(botocore.auth.S3SigV4Auth(CREDENTIALS, "s3", REGION), theirs, now)
    assert signer.url("library", key) == url
    assert lower(signer.headers("PUT", "library", key, headers, sha256, now)) == lower(theirs.headers)


@pytest.mark.parametrize("endpoint", ENDPOINTS)
@settings(max_examples=30)
@given(key=KEYS | st.none(), headers=HEADERS, parameters=PARAMETERS, now=MOMENTS)
def test_an_address_is_signed_as_botocore_signs_it(
    endpoint: str, key: str | None, headers: dict[str, str], parameters: dict[str, str], now: int
) -> None:
    path = "library" if key is None else f"library/{quote(key)}"
    theirs = AWSRequest("GET", f"{endpoint.rstrip('/')}/{path}", headers=dict(headers), params=dict(parameters))
    signed(botocore.auth.S3SigV4QueryAuth(CREDENTIALS, "s3", REGION, 600), theirs, now)
    ours = signer_of(endpoint).address(
        "GET", "library", key, seconds=600, now=now, headers=headers, parameters=parameters
    )
    assert ours == theirs.url


def test_the_next_day_has_another_key() -> None:
    signer, evening, morning = signer_of(ENDPOINTS[0]), 86_399, 86_400
    for now in (evening, morning, evening):
        anew = signer_of(ENDPOINTS[0])
        assert signer.headers("GET", "b", "k", {}, "0" * 64, now) == anew.headers("GET", "b", "k", {}, "0" * 64, now)


def signer_of(endpoint: str) -> S3Signer:
    return S3Signer(endpoint, REGION, CREDENTIALS.access_key, CREDENTIALS.secret_key)


def signed(auth: Any, request: AWSRequest, now: int) -> None:
    """Have botocore sign at this time."""
    with patch.object(botocore.auth, "get_current_datetime", lambda: datetime.fromtimestamp(now, UTC)):
        auth.add_auth(request)


def lower(headers: Mapping[str, str]) -> dict[str, str]:
    """Names of headers are of any case."""
    return {name.lower(): value for name, value in headers.items()}
