"""Callback addresses that only we can make."""

from uuid import UUID, uuid4

import pytest

from generation.callback_urls import CallbackUrls
from generation.errors import CallbackExpired, InvalidCallbackSignature

EXPIRY = 2_000_000_000


def parts(url: str) -> tuple[UUID, str]:
    attempt_id, token = url.rsplit("/", 2)[1:]
    return UUID(attempt_id), token


def test_a_signed_address_is_accepted_until_it_expires() -> None:
    urls = CallbackUrls("https://hooks.example.com/", ["secret"])
    attempt_id, token = parts(urls.url(uuid4(), EXPIRY))
    urls.check(attempt_id, token, EXPIRY - 1)
    with pytest.raises(CallbackExpired):
        urls.check(attempt_id, token, EXPIRY + 1)


def test_an_address_is_valid_for_its_own_attempt_only() -> None:
    urls = CallbackUrls("https://hooks.example.com", ["secret"])
    _, token = parts(urls.url(uuid4(), EXPIRY))
    with pytest.raises(InvalidCallbackSignature):
        urls.check(uuid4(), token, 0)


def test_an_address_signed_with_the_older_of_two_secrets_is_accepted() -> None:
    attempt_id, token = parts(CallbackUrls("https://x", ["old"]).url(uuid4(), EXPIRY))
    CallbackUrls("https://x", ["new", "old"]).check(attempt_id, token, 0)
    with pytest.raises(InvalidCallbackSignature):
        CallbackUrls("https://x", ["new"]).check(attempt_id, token, 0)


@pytest.mark.parametrize(
    "token", ["", ".", "2000000000", "2000000000.", "2000000000.00", "x.y", "-1.é", "٣.a", "1.\udcff"]
)
def test_a_forged_token_is_refused(token: str) -> None:
    with pytest.raises(InvalidCallbackSignature):
        CallbackUrls("https://x", ["secret"]).check(uuid4(), token, 0)


def test_a_later_expiry_needs_another_signature() -> None:
    urls = CallbackUrls("https://x", ["secret"])
    attempt_id, token = parts(urls.url(uuid4(), EXPIRY))
    with pytest.raises(InvalidCallbackSignature):
        urls.check(attempt_id, f"{EXPIRY + 1}.{token.partition('.')[2]}", 0)
