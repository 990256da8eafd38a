"""Presigned S3 addresses, made without a network call and without botocore's service models (30 MB, 100 ms).

Needs botocore, a dependency of the services that use this.
"""

from collections.abc import Mapping
from datetime import timedelta
from typing import Final
from urllib.parse import quote

from botocore.auth import S3SigV4QueryAuth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

MAX_VALIDITY: Final = timedelta(days=7)
"""The longest that S3 and R2 allow."""


class PresignedUrls:
    """Signs with one identity for one S3 endpoint, path style: ``{endpoint}/{bucket}/{key}``."""

    def __init__(self, endpoint_url: str, region: str, access_key_id: str, secret_access_key: str) -> None:
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

    def _sign(
        self,
        method: str,
        bucket: str,
        key: str,
        validity: timedelta,
        *,
        headers: Mapping[str, str] | None = None,
        parameters: Mapping[str, str] | None = None,
    ) -> str:
        url = f"{self._endpoint_url}/{quote(bucket)}/{quote(key)}"
        request = AWSRequest(method, url, headers=dict(headers or {}), params=dict(parameters or {}))
        seconds = int(min(validity, MAX_VALIDITY).total_seconds())
        S3SigV4QueryAuth(self._credentials, "s3", self._region, seconds).add_auth(request)
        return str(request.url)
