"""aioboto3's client, for what is rare: it lists and deletes. Loading this module takes half a second and 20 MB."""

from collections.abc import Iterator
from contextlib import AbstractAsyncContextManager, contextmanager
from typing import Any

import aioboto3
import aiohttp
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from storage.errors import StoreUnavailable
from storage.settings import Settings


def open_client(settings: Settings) -> AbstractAsyncContextManager[Any]:
    """A client with its own connections."""
    session = aioboto3.Session(
        aws_access_key_id=settings.s3_access_key_id.get_secret_value(),
        aws_secret_access_key=settings.s3_secret_access_key.get_secret_value(),
        region_name=settings.s3_region,
    )
    config = Config(
        signature_version="s3v4",
        # R2 refuses boto's default checksum trailers.
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
        connect_timeout=5,
        read_timeout=30,
        max_pool_connections=4,
        retries={"mode": "standard", "max_attempts": 2},
        s3={"addressing_style": "path"},
    )
    client: AbstractAsyncContextManager[Any] = session.client(
        "s3", endpoint_url=settings.s3_endpoint_url, config=config
    )
    return client


@contextmanager
def client_errors() -> Iterator[None]:
    """Turn every failure of the store or of the network to it into ``StoreUnavailable``."""
    try:
        yield
    except ClientError as error:
        status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
        code = error.response.get("Error", {}).get("Code", "")
        raise StoreUnavailable(f"{error.operation_name}: {status} {code}") from error
    except (BotoCoreError, aiohttp.ClientError, TimeoutError) as error:
        raise StoreUnavailable(type(error).__name__) from error
