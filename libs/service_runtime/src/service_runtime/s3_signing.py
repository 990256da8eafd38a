"""AWS Signature Version 4 for S3: of requests by their headers, of addresses by their query.

https://docs.aws.amazon.com/AmazonS3/latest/API/sig-v4-authenticating-requests.html
"""

import hmac
import time
from collections.abc import Iterable, Mapping
from hashlib import sha256 as sha256_of
from typing import Final
from urllib.parse import quote, urlsplit

_ALGORITHM: Final = "AWS4-HMAC-SHA256"
_TIME: Final = "%Y%m%dT%H%M%SZ"
_DAY_LETTERS: Final = 8
_UNSIGNED_BODY: Final = "UNSIGNED-PAYLOAD"
_DEFAULT_PORTS: Final = {"http": 80, "https": 443}


class S3Signer:
    """Signs what is asked of one endpoint, path style (``{endpoint}/{bucket}/{key}``), with one identity.

    ``now`` is the time of a signature, in seconds since 1970. The store compares it with its own.
    """

    def __init__(self, endpoint_url: str, region: str, access_key_id: str, secret_access_key: str) -> None:
        self._endpoint_url = endpoint_url.rstrip("/")
        endpoint = urlsplit(self._endpoint_url)
        self._base_path = endpoint.path
        self._host = endpoint.netloc.rpartition("@")[2].lower()
        if endpoint.port == _DEFAULT_PORTS.get(endpoint.scheme):
            self._host = self._host.removesuffix(f":{endpoint.port}")
        self._region = region
        self._access_key_id = access_key_id
        self._secret_access_key = secret_access_key
        self._keys: tuple[str, bytes] = ("", b"")

    def url(self, bucket: str, key: str | None = None) -> str:
        """The address of an object, or of a bucket."""
        return self._endpoint_url + _path(bucket, key)

    def headers(
        self, method: str, bucket: str, key: str, headers: Mapping[str, str], sha256: str, now: float
    ) -> dict[str, str]:
        """``headers``, and those that sign a request with them. ``sha256`` is that of the body, in hex."""
        moment = time.strftime(_TIME, time.gmtime(now))
        dated = {**headers, "X-Amz-Content-SHA256": sha256, "X-Amz-Date": moment}
        names, lines = self._canonical_headers(dated)
        signature = self._signature(
            moment, (method, self._base_path + _path(bucket, key), "", *lines, "", names, sha256)
        )
        credential = f"{self._access_key_id}/{self._scope(moment)}"
        dated["Authorization"] = f"{_ALGORITHM} Credential={credential}, SignedHeaders={names}, Signature={signature}"
        return dated

    def address(
        self,
        method: str,
        bucket: str,
        key: str | None,
        *,
        seconds: int,
        now: float,
        headers: Mapping[str, str] | None = None,
        parameters: Mapping[str, str] | None = None,
    ) -> str:
        """An address that takes this ``method`` for ``seconds``, with exactly these ``headers`` if there are any."""
        moment = time.strftime(_TIME, time.gmtime(now))
        names, lines = self._canonical_headers(headers or {})
        signed = {
            "X-Amz-Algorithm": _ALGORITHM,
            "X-Amz-Credential": f"{self._access_key_id}/{self._scope(moment)}",
            "X-Amz-Date": moment,
            "X-Amz-Expires": str(seconds),
            "X-Amz-SignedHeaders": names,
        }
        pairs = [(quote(name, ""), quote(value, "")) for name, value in {**(parameters or {}), **signed}.items()]
        request = (
            method,
            self._base_path + _path(bucket, key),
            _query(sorted(pairs)),
            *lines,
            "",
            names,
            _UNSIGNED_BODY,
        )
        return f"{self.url(bucket, key)}?{_query(pairs)}&X-Amz-Signature={self._signature(moment, request)}"

    def _canonical_headers(self, headers: Mapping[str, str]) -> tuple[str, list[str]]:
        """The names of the headers that are signed, and their lines."""
        signed = {name.lower(): " ".join(value.split()) for name, value in headers.items()} | {"host": self._host}
        names = sorted(signed)
        return ";".join(names), [f"{name}:{signed[name]}" for name in names]

    def _signature(self, moment: str, request: Iterable[str]) -> str:
        """Of the lines of a canonical request."""
        digest = sha256_of("\n".join(request).encode()).hexdigest()
        text = "\n".join((_ALGORITHM, moment, self._scope(moment), digest))
        return _mac(self._key(moment[:_DAY_LETTERS]), text).hex()

    def _scope(self, moment: str) -> str:
        return f"{moment[:_DAY_LETTERS]}/{self._region}/s3/aws4_request"

    def _key(self, day: str) -> bytes:
        """The key of a day. That of the last day that was asked for is kept."""
        if self._keys[0] != day:
            key = f"AWS4{self._secret_access_key}".encode()
            for part in (day, self._region, "s3", "aws4_request"):
                key = _mac(key, part)
            self._keys = (day, key)
        return self._keys[1]


def _path(bucket: str, key: str | None) -> str:
    return f"/{quote(bucket)}" if key is None else f"/{quote(bucket)}/{quote(key)}"


def _query(pairs: Iterable[tuple[str, str]]) -> str:
    return "&".join(f"{name}={value}" for name, value in pairs)


def _mac(key: bytes, text: str) -> bytes:
    return hmac.digest(key, text.encode(), "sha256")
