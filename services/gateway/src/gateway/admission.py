"""What one process admits: requests by address and by user, and how many writes at once. Each replica counts alone.

A flood is refused here before it costs a query. What matters over all replicas (writes, uploads, cancels of running
work) is counted in PostgreSQL, by ``gateway.limits``.
"""

import contextlib
from collections import Counter
from collections.abc import Hashable, Iterator
from ipaddress import IPv6Address, IPv6Network, ip_address
from typing import Final
from uuid import UUID

from gateway.errors import NotAuthenticated, RateLimited
from gateway.metrics import REFUSED
from gateway.overload import BUSY, VerdictWaits, WriteQueue
from gateway.rate_limit_headers import Limit, report
from gateway.settings import Settings
from gateway.token_buckets import TokenBuckets

FILES_AT_ONCE: Final = 16
"""Files that are received for verification at a time. Each takes a connection, and a chunk of memory."""
FILES_OF_ONE_ADDRESS: Final = 2
HISTORIES_OF_ONE_USER: Final = 4
"""Answers of a user at a time that read as much as there is: of a long history each costs as much as thousands of other
reads."""
HISTORIES: Final = "histories"
"""Their name among the limits, for the metric."""
_MINUTE: Final = 60
_IPV6_SITE_BITS: Final = 64
"""One customer of a network provider has a /64 at least: single addresses of it are free to change."""


class Admission:
    """Refuses what is beyond a limit, or beyond what can be answered soon, before it costs anything.

    Under an overload a queue only makes everybody late: a caller that is refused at once can try again, and one that is
    admitted is answered.
    """

    def __init__(self, settings: Settings) -> None:
        self.writes = WriteQueue(settings.database_pool_size)
        self.verdicts = VerdictWaits()
        self._addresses = TokenBuckets(Limit("address", settings.anonymous_requests_per_minute, _MINUTE))
        # What writes does so after it has read, and a repeated or refused request only reads.
        self._requests = TokenBuckets(Limit("reads", settings.reads_per_minute, _MINUTE))
        self._quotes = TokenBuckets(Limit("quotes", settings.quotes_per_minute, _MINUTE))
        self._files = TokenBuckets(Limit("verified-files", settings.verified_files_per_minute, _MINUTE))
        self._files_under_way: Counter[Hashable] = Counter()
        self._histories_under_way: Counter[Hashable] = Counter()

    def take_anonymous(self, address: str) -> None:
        """Count a request that names no user. Raises ``RateLimited``."""
        _take(self._addresses, _site(address))

    @contextlib.contextmanager
    def signing_in(self, address: str) -> Iterator[None]:
        """Verify a token inside the block. A refused one counts for its address; raises ``RateLimited`` beforehand.

        It is counted before and given back after, so that a thousand forged ones at once do not all pass.
        """
        site = _site(address)
        allowance = self._addresses.take(site)
        if allowance is None:
            raise _refusal(self._addresses, site)
        refused = False
        try:
            yield
        except NotAuthenticated:
            refused = True
            report(allowance)
            raise
        finally:
            if not refused:
                self._addresses.give_back(site)

    def take_request(self, user_id: UUID) -> None:
        """Count a request of a user, whatever it asks for. Raises ``RateLimited``."""
        _take(self._requests, user_id)

    def take_quote(self, user_id: UUID) -> None:
        """Count a quote of a user. Raises ``RateLimited``."""
        _take(self._quotes, user_id)

    @contextlib.contextmanager
    def receiving_file(self, address: str) -> Iterator[None]:
        """Receive a file to verify inside the block, which can take minutes. Raises ``RateLimited``.

        An address with slow connections leaves places for others.
        """
        site = _site(address)
        _take(self._files, site)
        if self._files_under_way[site] >= FILES_OF_ONE_ADDRESS or self._files_under_way.total() >= FILES_AT_ONCE:
            REFUSED.labels(BUSY).inc()
            raise RateLimited("too many files are being sent; send the sha256", headers={"Retry-After": "10"})
        with _place(self._files_under_way, site):
            yield

    @contextlib.contextmanager
    def reading_history(self, user_id: UUID) -> Iterator[None]:
        """Read all that a user ever did inside the block, however much that is. Raises ``RateLimited``."""
        if self._histories_under_way[user_id] >= HISTORIES_OF_ONE_USER:
            REFUSED.labels(HISTORIES).inc()
            raise RateLimited("too many long answers are being made for you", headers={"Retry-After": "2"})
        with _place(self._histories_under_way, user_id):
            yield


@contextlib.contextmanager
def _place(under_way: Counter[Hashable], key: Hashable) -> Iterator[None]:
    under_way[key] += 1
    try:
        yield
    finally:
        under_way[key] -= 1
        if not under_way[key]:
            del under_way[key]


def _take(buckets: TokenBuckets, key: Hashable) -> None:
    allowance = buckets.take(key)
    if allowance is None:
        raise _refusal(buckets, key)
    report(allowance)


def _refusal(buckets: TokenBuckets, key: Hashable) -> RateLimited:
    limit, allowance = buckets.limit, buckets.exhausted(key)
    report(allowance)
    REFUSED.labels(limit.name).inc()
    return RateLimited(f"at most {limit.quota} a minute", headers={"Retry-After": str(allowance.seconds)})


def _site(address: str) -> Hashable:
    """The address whose requests count together."""
    try:
        parsed = ip_address(address)
    except ValueError:
        return address[:64]
    if isinstance(parsed, IPv6Address):
        return parsed.ipv4_mapped or IPv6Network((parsed.packed, _IPV6_SITE_BITS), strict=False)
    return parsed
