"""Presigned S3 addresses, made without a network call and without botocore's service models (30 MB, 100 ms).

Needs botocore, a dependency of the services that use this.
"""

import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Final
from urllib.parse import quote

from botocore.auth import SIGV4_TIMESTAMP, S3SigV4QueryAuth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

MAX_VALIDITY: Final = timedelta(days=7)
"""The longest that S3 and R2 allow."""


class PresignedUrls:
    """Signs with one identity for one S3 endpoint, path style: ``{endpoint}/{bucket}/{key}``.

    ``now`` is the time that an address is valid from, in seconds since 1970. The object store compares it with its own.
    """

    def __init__(
        self,
        endpoint_url: str,
        region: str,
        access_key_id: str,
        secret_access_key: str,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._now = now
        self._endpoint_url = endpoint_url.rstrip("/")
        self._region = region
        self._credentials = Credentials(access_key_id, secret_access_key)

    def put(self, bucket: str, key: str, validity: timedelta, headers: Mapping[str, str] | None = None) -> str:
        """An address that takes PUTs to exactly this key until it expires, with exactly these ``headers`` if given."""
        return self._sign("PUT", bucket, key, validity, headers=headers)

    def get(self, bucket: str, key: str, validity: timedelta, *, file_name: str | None = None) -> str:
        """An address from which exactly this object can be read until it expires.

        With ``file_name`` a browser saves it under that name. Use letters, digits, ``.``, ``-`` and ``_`` only.
        """
        if file_name is None:
            return self._sign("GET", bucket, key, validity)
        parameters = {"response-content-disposition": f'attachment; filename="{file_name}"'}
        return self._sign("GET", bucket, key, validity, parameters=parameters)

    def list(self, bucket: str, validity: timedelta, *, start_after: str, max_keys: int) -> str:
        """An address from which the keys after ``start_after`` can be listed, with keys encoded as in an address."""
        parameters = {
            "encoding-type": "url",
            "list-type": "2",
            "max-keys": str(max_keys),
            "start-after": start_after,
        }
        return self._sign("GET", bucket, None, validity, parameters=parameters)

    def _sign(
        self,
        method: str,
        bucket: str,
        key: str | None,
        validity: timedelta,
        *,
        headers: Mapping[str, str] | None = None,
        parameters: Mapping[str, str] | None = None,
    ) -> str:
        url = f"{self._endpoint_url}/{quote(bucket)}" + ("" if key is None else f"/{quote(key)}")
        request = AWSRequest(method, url, headers=dict(headers or {}), params=dict(parameters or {}))
        seconds = int(min(validity, MAX_VALIDITY).total_seconds())
        _DatedAuth(self._credentials, self._region, seconds, datetime.fromtimestamp(self._now(), UTC)).add_auth(request)
        return str(request.url)


class _DatedAuth(S3SigV4QueryAuth):  # type: ignore[misc] # botocore has no types
    """botocore's signer at a given time, instead of this host's."""

    def __init__(self, credentials: Credentials, region: str, seconds: int, time: datetime) -> None:
        super().__init__(credentials, "s3", region, seconds)
        self._timestamp = time.strftime(SIGV4_TIMESTAMP)

    def _modify_request_before_signing(self, request: AWSRequest) -> None:
        request.context["timestamp"] = self._timestamp
        super()._modify_request_before_signing(request)
