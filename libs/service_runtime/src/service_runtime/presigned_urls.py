"""Presigned S3 addresses, made without a network call."""

import time
from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import Final

from service_runtime.s3_signing import S3Signer

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
        self._signer = S3Signer(endpoint_url, region, access_key_id, secret_access_key)

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
        seconds = int(min(validity, MAX_VALIDITY).total_seconds())
        return self._signer.address(
            method, bucket, key, seconds=seconds, now=self._now(), headers=headers, parameters=parameters
        )
