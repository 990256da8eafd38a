"""The rate limit of one process: its arithmetic, its memory, and what it tells the caller."""

from gateway.rate_limit_headers import Limit
from gateway.token_buckets import TokenBuckets


class Clock:
    """A clock that stands until it is moved."""

    def __init__(self) -> None:
        self.seconds = 1000.0

    def __call__(self) -> float:
        return self.seconds


def buckets(clock: Clock, quota: int = 3, window: int = 60, most_keys: int = 100) -> TokenBuckets:
    return TokenBuckets(Limit("reads", quota, window), clock, most_keys)


def taken(made: TokenBuckets, key: str, tries: int) -> int:
    """How many of so many tries succeed."""
    return sum(made.take(key) is not None for _ in range(tries))


def test_a_bucket_holds_its_quota_and_refills_evenly() -> None:
    clock = Clock()
    made = buckets(clock)
    assert taken(made, "a", 5) == 3
    for seconds, tokens in ((19.9, 0), (0.1, 1), (41.0, 2), (3600.0, 3)):
        clock.seconds += seconds
        assert taken(made, "a", 5) == tokens, seconds


def test_a_full_quota_can_be_used_whatever_its_size() -> None:
    for quota in (1, 7, 97, 1200, 9973):
        assert taken(buckets(Clock(), quota), "a", quota + 3) == quota


def test_keys_do_not_concern_each_other() -> None:
    made = buckets(Clock())
    assert [taken(made, key, 5) for key in ("a", "b")] == [3, 3]


def test_a_caller_is_told_how_many_remain_and_when_there_is_one_more() -> None:
    clock = Clock()
    made = buckets(clock)
    told = [str(made.take("a")) for _ in range(3)]
    assert told == ['"reads";r=2;t=20', '"reads";r=1;t=20', '"reads";r=0;t=20']
    clock.seconds += 5
    assert str(made.exhausted("a")) == '"reads";r=0;t=15'
    clock.seconds += 15
    assert str(made.take("a")) == '"reads";r=0;t=20'


def test_what_was_given_back_can_be_taken_again() -> None:
    made = buckets(Clock())
    assert taken(made, "a", 3) == 3
    made.give_back("a")
    assert taken(made, "a", 3) == 1
    made.give_back("unknown")
    assert taken(made, "unknown", 5) == 3


def test_however_many_keys_come_the_memory_stays_bounded() -> None:
    clock = Clock()
    made = buckets(clock, most_keys=10)
    for number in range(1000):
        made.take(str(number))
    assert len(made._full_at) == 10
    clock.seconds += 60
    made.take("later")
    assert list(made._full_at) == ["later"], "a full bucket need not be remembered"


def test_a_limit_of_bytes_names_its_unit() -> None:
    limit = Limit("upload-bytes", 1000, 86_400, "content-bytes")
    assert str(limit) == '"upload-bytes";q=1000;qu="content-bytes";w=86400'
