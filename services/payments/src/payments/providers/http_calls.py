"""One way to call a provider's JSON API over httpx, and to tell which failures repeating may help."""

from typing import Any, Final

import httpx

from payments.errors import CredentialsRefused, ProviderRefused, ProviderUnavailable
from service_runtime.bounded_http import bounded_client

MAX_ANSWER_BYTES: Final = 4 * 1024 * 1024
"""No answer that we ask for is larger; one that is would be an attack or a mistake."""


def provider_client(base_url: str, headers: dict[str, str]) -> httpx.AsyncClient:
    """A client for one provider's API."""
    return bounded_client(MAX_ANSWER_BYTES, base_url=base_url, headers=headers, timeout=httpx.Timeout(15.0))


async def call_json(client: httpx.AsyncClient, method: str, path: str, **arguments: Any) -> Any:
    """Send one request and return the decoded JSON body.

    Raises ``ProviderUnavailable`` on network errors, 408, 425, 429 and 5xx; ``CredentialsRefused``, which is one of
    these, on 401 and 403; ``ProviderRefused`` on any other 4xx.
    """
    try:
        response = await client.request(method, path, **arguments)
    except httpx.HTTPError as error:
        raise ProviderUnavailable(f"{method} {path}: {type(error).__name__}") from error
    if response.status_code in (401, 403):
        raise CredentialsRefused(f"{method} {path}: {response.status_code}")
    if response.status_code in (408, 425, 429) or response.status_code >= 500:
        raise ProviderUnavailable(f"{method} {path}: {response.status_code}")
    if response.status_code >= 400:
        raise ProviderRefused(f"{method} {path}: {response.status_code}")
    try:
        return response.json()
    except ValueError as error:
        raise ProviderUnavailable(f"{method} {path}: the answer is not JSON") from error
