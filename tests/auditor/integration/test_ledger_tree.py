"""The tree over the ledger, continuously: what was altered is found, and growth is proven on one command."""

import asyncio
import json
import sys
from pathlib import Path
from uuid import uuid4

import pytest

from auditor.commands import growth
from auditor.loops import seal_verifier
from auditor.loops.seal_verifier import SealVerifier
from billing.loops.tree_grower import TreeGrower
from contracts.ledger_tree import TreeHead
from tests.auditor.integration.test_ledger_seals import a_whole_pass, open_findings, restarted
from tests.billing.ledger_harness import LedgerHarness
from tests.support.databases import Database

CHECKER = Path(__file__).parents[3] / "docs/check_receipt.py"
GATEWAY_KEEPS = (
    "INSERT INTO gateway.ledger_heads SELECT tree_size, root_hash, published_at FROM billing.tree_heads"
    " ON CONFLICT DO NOTHING"
)
ONE_BIT = "UPDATE billing.ledger_tree SET node_hashes = set_byte(node_hashes, 70, get_byte(node_hashes, 70) # 1)"
FORGET = ("DELETE FROM billing.ledger_tree", "DELETE FROM billing.tree_heads")


@pytest.fixture
async def ledger(database: Database) -> LedgerHarness:
    """Six transfers of one user, each under a seal and a head of its own, which the gateway has, too."""
    ledger = LedgerHarness(database.engine("billing"))
    user = uuid4()
    for amount in range(1, 7):
        await ledger.grant(user, amount, note="welcome")
        await ledger.seal()
        await grow(ledger)
    await database.tamper(GATEWAY_KEEPS)
    return ledger


async def grow(ledger: LedgerHarness) -> None:
    await TreeGrower(ledger.transactions, head_seconds=0).grow()


async def head(ledger: LedgerHarness, size: int) -> TreeHead:
    query = f"SELECT tree_size || ':' || encode(root_hash, 'hex') FROM billing.tree_heads WHERE tree_size = {size}"
    return TreeHead.parse(await ledger.scalar(query))


@pytest.mark.parametrize(
    ("change", "subjects"),
    [
        (f"{ONE_BIT} WHERE seal_number = 4", ["the tree's part of seal 4"]),
        (
            "DELETE FROM billing.ledger_tree WHERE seal_number = 5",
            ["head 10", "head 12", "the tree's part of seal 5"],
        ),
        ("DELETE FROM billing.ledger_tree WHERE seal_number = 6", ["head 12"]),
        ("UPDATE billing.tree_heads SET root_hash = sha256('x') WHERE tree_size = 6", ["head 6"]),
        ("UPDATE gateway.ledger_heads SET root_hash = sha256('x') WHERE tree_size = 6", ["head 6"]),
        ("UPDATE billing.tree_heads SET tree_size = 13 WHERE tree_size = 12", ["head 13"]),
    ],
    ids=["node", "part removed", "truncated", "head", "the gateway's head", "head beyond"],
)
async def test_an_altered_tree_is_a_finding(
    database: Database,
    ledger: LedgerHarness,
    monkeypatch: pytest.MonkeyPatch,
    change: str,
    subjects: list[str],
) -> None:
    monkeypatch.setattr(seal_verifier, "SEALS_PER_ROUND", 4)
    verifier = restarted(database)
    await a_whole_pass(verifier)
    assert await open_findings(database) == {}
    await database.tamper(change)
    await a_whole_pass(verifier)
    found = await open_findings(database)
    assert sorted(subject.split(":")[0].replace("the published ", "") for subject in found) == subjects


async def test_a_tree_that_was_made_anew_contradicts_the_heads_that_others_have(
    database: Database, ledger: LedgerHarness
) -> None:
    await database.tamper(*FORGET)
    await grow(ledger)
    await a_whole_pass(restarted(database))
    found = await open_findings(database)
    assert len(found) == 6
    assert set(found.values()) == {f"{subject} is not that of the ledger" for subject in found}


async def test_a_tree_that_grows_during_a_pass_is_no_finding(
    database: Database, ledger: LedgerHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    await ledger.grant(uuid4(), 7)
    await ledger.seal()
    await ledger.grant(uuid4(), 8)
    await ledger.seal()
    monkeypatch.setattr(seal_verifier, "SEALS_PER_ROUND", 7)
    verifier: SealVerifier = restarted(database)
    await verifier.run_round()
    await grow(ledger)
    await a_whole_pass(verifier)
    assert await open_findings(database) == {}
    await a_whole_pass(verifier)
    assert await open_findings(database) == {}


async def test_growth_since_a_head_that_was_kept_is_proven_by_a_command(
    database: Database, ledger: LedgerHarness, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kept = await head(ledger, 6)
    reading = database.engine("auditor")
    capsys.readouterr()
    assert await growth(reading, kept) == 0
    out = capsys.readouterr().out
    assert json.loads(out)["second"]["tree_size"] == 12
    proof = tmp_path / "growth.json"
    proof.write_text(out)
    assert await check(proof) == (0, f"head {kept} \nhead {await head(ledger, 12)}")
    proof.write_text(out.replace(kept.root_hash.hex(), "00" * 32))
    assert await check(proof) == (1, "")

    await database.tamper(*FORGET)
    await grow(ledger)
    assert await growth(reading, kept) == 1
    assert f"NOT PROVEN: the ledger does not continue the head {kept}" in capsys.readouterr().err


async def check(file: Path) -> tuple[int, str]:
    """What the script of the documentation says, without the times."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-I", str(CHECKER), str(file), stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    out, _ = await process.communicate()
    assert process.returncode is not None
    return process.returncode, out.decode().rpartition(" ")[0]
