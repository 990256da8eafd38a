"""The tree over the sealed ledger: every line has a proof, and what was altered has none and is named."""

import asyncio
from uuid import UUID, uuid4

import pytest

from billing import handlers
from billing.errors import HeadContradicted
from billing.loops import tree_grower
from billing.loops.tree_grower import TreeGrower
from billing.proofs import prove_line, prove_prefix
from billing.repository import seals, tree
from billing.verification import LedgerReport, verify
from contracts.ledger_tree import TreeHead, is_prefix
from contracts.queries import (
    LedgerLineAltered,
    LedgerLineAnswer,
    LedgerLineNotSealed,
    LedgerLineProof,
    ProveLedgerLine,
    ProveLedgerPrefix,
)
from tests.billing.ledger_harness import LedgerHarness, completed
from tests.support import eventually
from tests.support.databases import Database


async def publish(ledger: LedgerHarness) -> TreeHead:
    """Seal everything and publish a head, whatever the time."""
    await ledger.seal()
    await TreeGrower(ledger.transactions, head_seconds=0).grow()
    return await newest_head(ledger)


async def newest_head(ledger: LedgerHarness) -> TreeHead:
    async with ledger.engine.connect() as connection:
        head = await tree.find_head(connection)
    assert head is not None
    return head.head


async def prove(ledger: LedgerHarness, user: UUID, line: int, head: TreeHead) -> LedgerLineAnswer:
    query = ProveLedgerLine(user_id=user, line_number=line, tree_size=head.tree_size)
    return await prove_line(ledger.engine, query)


def named(report: LedgerReport) -> list[tuple[str, str]]:
    return [(finding.kind, finding.subject.split(":")[0]) for finding in report.findings]


@pytest.fixture
async def user() -> UUID:
    return uuid4()


@pytest.fixture
async def heads(ledger: LedgerHarness, user: UUID) -> list[TreeHead]:
    """A grant, a reservation, and another user's grant, each under a seal and a head of its own, and then a capture."""
    await ledger.grant(user, 100, note="wélcome")
    heads = [await publish(ledger)]
    generation = await ledger.reserve(user, 30)
    heads.append(await publish(ledger))
    await ledger.grant(uuid4(), 100)
    heads.append(await publish(ledger))
    await ledger.handle(handlers.resolve, completed(user, generation, 10))
    heads.append(await publish(ledger))
    return heads


async def test_every_line_is_proven_to_every_head_that_contains_it(
    ledger: LedgerHarness, user: UUID, heads: list[TreeHead]
) -> None:
    assert [head.tree_size for head in heads] == [2, 4, 6, 10]
    for line, first_head in ((1, 0), (2, 1), (3, 3), (4, 3)):
        for number, head in enumerate(heads):
            answer = await prove(ledger, user, line, head)
            assert isinstance(answer, LedgerLineProof if number >= first_head else LedgerLineNotSealed)
    for first in heads:
        for second in heads[heads.index(first) :]:
            query = ProveLedgerPrefix(first_tree_size=first.tree_size, second_tree_size=second.tree_size)
            path = (await prove_prefix(ledger.engine, query)).path
            assert path is not None
            assert is_prefix(first, second, path)
    beyond = await prove_prefix(ledger.engine, ProveLedgerPrefix(first_tree_size=2, second_tree_size=11))
    assert beyond.path is None
    assert (await verify(ledger.engine)).sound


async def test_what_is_not_under_that_head_is_said_to_be_not_sealed(
    ledger: LedgerHarness, user: UUID, heads: list[TreeHead]
) -> None:
    unsealed, stranger = uuid4(), uuid4()
    await ledger.grant(unsealed, 5)
    never_published = TreeHead(5, heads[0].root_hash)
    for who, line, head in ((unsealed, 1, heads[-1]), (stranger, 1, heads[-1]), (user, 1, never_published)):
        assert isinstance(await prove(ledger, who, line, head), LedgerLineNotSealed)


NEIGHBOUR = (
    "UPDATE billing.ledger_tree SET node_hashes = set_byte(node_hashes, {byte}, get_byte(node_hashes, {byte}) # 1)"
)


@pytest.mark.parametrize(
    ("change", "kind", "subject", "is_provable"),
    [
        (
            "UPDATE billing.balance_ledger SET amount_credits = 101 WHERE note IS NOT NULL AND user_id IS NOT NULL",
            "edited",
            "posting ",
            False,
        ),
        (f"{NEIGHBOUR.format(byte=70)} WHERE seal_number = 2", "tree", "the tree's part of seal 2", False),
        (f"{NEIGHBOUR.format(byte=40)} WHERE seal_number = 3", "tree", "the tree's part of seal 3", True),
        ("DELETE FROM billing.ledger_tree WHERE seal_number = 2", "tree", "the tree's part of seal 2", False),
        ("DELETE FROM billing.ledger_tree WHERE seal_number >= 3", "tree", "the published head 6", False),
        (
            "UPDATE billing.ledger_tree SET nonce_seed = sha256('x') WHERE seal_number = 1",
            "tree",
            "the tree's part of seal 1",
            False,
        ),
        (
            "UPDATE billing.tree_heads SET root_hash = sha256('x') WHERE tree_size = 10",
            "tree",
            "the published head 10",
            False,
        ),
    ],
    ids=["posting", "inner node", "leaf of another", "part removed", "truncated", "seed", "head"],
)
async def test_an_alteration_is_named_and_is_never_proven(
    ledger: LedgerHarness,
    user: UUID,
    heads: list[TreeHead],
    database: Database,
    change: str,
    kind: str,
    subject: str,
    is_provable: bool,
) -> None:
    await database.tamper(change)
    report = await verify(ledger.engine)
    assert any(found == kind and what.startswith(subject) for found, what in named(report)), report.findings
    answer = await prove(ledger, user, 1, heads[-1])
    assert isinstance(answer, LedgerLineProof if is_provable else LedgerLineAltered)


async def test_a_tree_that_was_made_anew_lacks_the_head_that_somebody_kept(
    ledger: LedgerHarness, heads: list[TreeHead], database: Database
) -> None:
    await database.tamper("DELETE FROM billing.ledger_tree", "DELETE FROM billing.tree_heads")
    await publish(ledger)
    assert (await verify(ledger.engine)).sound
    report = await verify(ledger.engine, exported_tree=heads[1])
    assert named(report) == [("tree", "the published head 4")]


async def test_no_head_is_published_that_does_not_continue_the_last_one(
    ledger: LedgerHarness, heads: list[TreeHead], database: Database
) -> None:
    await database.tamper(f"{NEIGHBOUR.format(byte=130)} WHERE seal_number = 4")
    await ledger.grant(uuid4(), 1)
    with pytest.raises(HeadContradicted):
        await publish(ledger)
    assert await newest_head(ledger) == heads[-1]


async def test_an_old_ledger_gets_its_tree_in_bounded_rounds(
    ledger: LedgerHarness, heads: list[TreeHead], database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    await database.tamper("DELETE FROM billing.ledger_tree", "DELETE FROM billing.tree_heads")
    monkeypatch.setattr(tree_grower, "SEALS_PER_TRANSACTION", 1)
    monkeypatch.setattr(tree_grower, "SEALS_PER_ROUND", 2)
    growers = [TreeGrower(ledger.transactions, head_seconds=0) for _ in range(2)]
    await growers[0].grow()
    async with ledger.engine.connect() as connection:
        assert (await tree.get_end(connection)).seal_number == 2
        last_seal = (await seals.get_head(connection)).seal_number

    async def has_grown() -> bool:
        # Two replicas at once grow one tree.
        await asyncio.gather(*(grower.grow() for grower in growers))
        async with ledger.engine.connect() as connection:
            return (await tree.get_end(connection)) == (last_seal, heads[-1].tree_size)

    await eventually(has_grown)
    assert (await verify(ledger.engine)).sound


async def test_a_head_stands_for_its_time_and_is_announced_once(ledger: LedgerHarness, heads: list[TreeHead]) -> None:
    announced = "SELECT count(*) FROM billing.outbox_messages WHERE subject = 'billing.event.ledger-head-published.v1'"
    assert await ledger.scalar(announced) == len(heads)
    await ledger.grant(uuid4(), 1)
    await ledger.seal()
    patient = TreeGrower(ledger.transactions, head_seconds=600)
    await patient.grow()
    assert await newest_head(ledger) == heads[-1]
    await TreeGrower(ledger.transactions, head_seconds=0).grow()
    await TreeGrower(ledger.transactions, head_seconds=0).grow()
    assert (await newest_head(ledger)).tree_size == 12
    assert await ledger.scalar(announced) == len(heads) + 1
