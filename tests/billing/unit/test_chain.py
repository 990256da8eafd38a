"""The hash chain, without a database."""

from datetime import UTC, datetime, timedelta
from uuid import UUID

import msgspec
import pytest

from contracts.ledger_chain import NO_SEALS, Head, SealedPosting, check_link, check_postings, head_of, link


def posting(posting_id: int, amount: int = 5) -> SealedPosting:
    return SealedPosting(
        posting_id=posting_id,
        transfer_id=UUID(int=posting_id),
        account="user:available",
        amount_credits=amount,
        reason="goodwill",
        user_id=UUID(int=7),
        line_number=posting_id,
        generation_id=None,
        payment_id=None,
        grant_id=UUID(int=9),
        clawback_id=None,
        note="thanks",
        occurred_at=datetime(2026, 11, 23, 10, 0, 0, 123456, tzinfo=UTC),
    )


POSTINGS = [posting(1), posting(2), posting(4)]
SEAL = link(NO_SEALS, 4, POSTINGS)


def test_an_untouched_range_gives_no_finding() -> None:
    assert list(check_postings(SEAL, POSTINGS)) == []
    assert list(check_link(NO_SEALS, SEAL)) == []


@pytest.mark.parametrize("field", SealedPosting.__struct_fields__[1:])
def test_a_change_of_any_column_is_named(field: str) -> None:
    values = {"occurred_at": POSTINGS[1].occurred_at + timedelta(microseconds=1)}
    changed = msgspec.structs.replace(POSTINGS[1], **{field: values.get(field, "other")})
    (finding,) = check_postings(SEAL, [POSTINGS[0], changed, POSTINGS[2]])
    assert finding.kind == "edited"
    assert finding.subject.startswith("posting 2 ")


def test_a_removed_posting_is_named() -> None:
    (finding,) = check_postings(SEAL, [POSTINGS[0], POSTINGS[2]])
    assert str(finding) == "posting 2 was removed after seal 1"


def test_a_posting_inserted_into_a_gap_is_named() -> None:
    (finding,) = check_postings(SEAL, [*POSTINGS[:2], posting(3), POSTINGS[2]])
    assert finding.kind == "inserted"
    assert finding.subject.startswith("posting 3 ")


def test_a_seal_whose_leaves_were_adapted_to_an_edit_is_named() -> None:
    forged = msgspec.structs.replace(POSTINGS[0], amount_credits=6)
    adapted = link(NO_SEALS, 4, [forged, *POSTINGS[1:]])
    half_forged = type(SEAL)(
        seal_number=1,
        after_posting_id=0,
        through_posting_id=4,
        posting_ids=SEAL.posting_ids,
        leaf_hashes=adapted.leaf_hashes,
        previous_hash=SEAL.previous_hash,
        seal_hash=SEAL.seal_hash,
    )
    assert [finding.kind for finding in check_link(NO_SEALS, half_forged)] == ["seal"]


def test_a_seal_that_was_forged_whole_breaks_the_next_one() -> None:
    following = link(head_of(SEAL), 5, [posting(5)])
    forged = link(NO_SEALS, 4, [msgspec.structs.replace(POSTINGS[0], amount_credits=6), *POSTINGS[1:]])
    assert [str(finding) for finding in check_link(head_of(forged), following)] == ["seal 2 does not continue seal 1"]


def test_a_missing_seal_is_named() -> None:
    following = link(head_of(SEAL), 5, [posting(5)])
    assert [str(finding) for finding in check_link(NO_SEALS, following)] == ["seal 1 is missing"]


def test_an_exported_head_reads_back() -> None:
    assert Head.parse(f"{head_of(SEAL)}\n") == head_of(SEAL)


def test_the_form_of_a_posting_never_changes() -> None:
    assert POSTINGS[0].leaf_hash().hex() == ("022a639857d175d6b42dd78205b56825737b7c3a78b42c8ca64dc1dc2a97ae83")
