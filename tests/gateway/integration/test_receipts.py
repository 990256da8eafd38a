"""A user's receipt: proven by the real billing, checked by the script of the documentation, without us."""

import asyncio
import json
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx

from billing.loops.tree_grower import TreeGrower
from billing.proofs import prove_line, prove_prefix
from contracts.billing import LedgerHeadPublished
from contracts.queries import ProveLedgerLine, ProveLedgerPrefix
from messaging.queries import Responder
from tests.billing.ledger_harness import LedgerHarness
from tests.gateway.harness import GatewayHarness, Replica
from tests.support.components import running
from tests.support.waiting import eventually

CHECKER = Path(__file__).parents[3] / "docs/check_receipt.py"
RECEIPT = "/v1/ledger/{}/receipt"


@asynccontextmanager
async def answering(harness: GatewayHarness) -> AsyncIterator[None]:
    """Billing answers queries inside the block."""
    messaging = await harness.producer("billing")
    engine = harness.database.engine("billing")
    answers: dict[Any, Callable[[Any], Awaitable[Any]]] = {
        ProveLedgerLine: partial(prove_line, engine),
        ProveLedgerPrefix: partial(prove_prefix, engine),
    }
    async with running([Responder(messaging.broker, answers)]):
        yield


async def publish_head(harness: GatewayHarness) -> None:
    """Seal all that is there, publish its head, and wait until the gateway has it."""
    await LedgerHarness(harness.database.engine("billing")).seal()
    await TreeGrower((await harness.producer("billing")).transactions, head_seconds=0).grow()

    async def arrived() -> bool:
        published = await harness.rows("SELECT max(tree_size) FROM billing.tree_heads")
        return published == await harness.rows("SELECT max(tree_size) FROM gateway.ledger_heads")

    await eventually(arrived, 30, "the published head")


async def checked(folder: Path, answer: httpx.Response, **changed: Any) -> tuple[int, str]:
    """What the script says of an answer of the API."""
    file = folder / "answer.json"
    file.write_text(json.dumps(answer.json() | changed))
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-I", str(CHECKER), str(file), stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    out, err = await process.communicate()
    assert process.returncode is not None
    return process.returncode, out.decode() + err.decode()


def problem(answer: httpx.Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["code"]


async def test_a_line_has_a_receipt_once_it_is_sealed_that_anybody_can_check(
    harness: GatewayHarness, tmp_path: Path
) -> None:
    await harness.billing()
    replica: Replica = await harness.gateway()
    client, stranger = harness.user(replica), harness.user(replica)
    await harness.grant(client.user_id, 100, note="for your wédding")
    assert problem(await client.get(RECEIPT.format(2))) == (404, "ledger_line_not_found")
    assert problem(await stranger.get(RECEIPT.format(1))) == (404, "ledger_line_not_found")
    unsealed = await client.get(RECEIPT.format(1))
    assert (problem(unsealed), unsealed.headers["Retry-After"]) == ((409, "line_not_sealed"), "30")
    assert (await checked(tmp_path, unsealed))[0] == 1, "a refusal proves nothing"
    await publish_head(harness)
    silent = await client.get(RECEIPT.format(1))
    assert (problem(silent), silent.json()["retryable"]) == ((503, "receipts_unavailable"), True)

    async with answering(harness):

        async def is_given() -> httpx.Response | None:
            # The subscription may take a moment to reach the server.
            answer = await client.get(RECEIPT.format(1))
            return answer if answer.is_success else None

        receipt = await eventually(is_given)
        code, said = await checked(tmp_path, receipt)
        assert code == 0, said
        [posting] = [json.loads(line.partition(": ")[2]) for line in said.splitlines() if line.startswith("in the")]
        assert posting[2:7] == ["user:available", 100, "goodwill", str(client.user_id), 1]
        assert posting[11] == "for your wédding"
        [proof] = receipt.json()["postings"]
        forged = [proof | {"posting": proof["posting"].replace("100", "900", 1)}]
        assert (await checked(tmp_path, receipt, postings=forged))[0] == 1
        assert (await checked(tmp_path, receipt, postings=[]))[0] == 1, "nor does a receipt of nothing"

        # A longer ledger proves the old line, and that it continues the old head.
        await harness.grant(stranger.user_id, 7)
        assert problem(await stranger.get(RECEIPT.format(1))) == (409, "line_not_sealed")
        await publish_head(harness)
        old, new = (await client.get("/v1/ledger/heads", limit=1)).json(), receipt.json()["head"]
        assert (old["next_before"], old["items"][0]["tree_size"], new["tree_size"]) == (4, 4, 2)
        assert (await client.get("/v1/ledger/heads", before=4)).json() == {"items": [new], "next_before": None}
        assert (await checked(tmp_path, await client.get(RECEIPT.format(1))))[0] == 0
        growth = await stranger.get("/v1/ledger/heads/2/consistency")
        assert (growth.json()["first"], growth.json()["second"]) == (new, old["items"][0])
        assert (await checked(tmp_path, growth))[0] == 0
        assert (await checked(tmp_path, growth, first=new | {"root_hash": "00" * 32}))[0] == 1
        assert problem(await client.get("/v1/ledger/heads/3/consistency")) == (404, "ledger_head_not_found")

        # What billing proves must lead to the head that arrived here, and be what the statement shows.
        await harness.rows("UPDATE gateway.ledger_lines SET available_delta_credits = 6 WHERE note IS NULL")
        assert problem(await stranger.get(RECEIPT.format(1))) == (500, "receipt_not_provable")
        await harness.rows("UPDATE gateway.ledger_heads SET root_hash = sha256('x') WHERE tree_size = 4")
        for path in (RECEIPT.format(1), "/v1/ledger/heads/2/consistency"):
            assert problem(await client.get(path)) == (500, "receipt_not_provable")


async def test_a_head_that_is_known_is_not_replaced_by_a_later_message(harness: GatewayHarness) -> None:
    await harness.gateway()
    for size, root in ((2, "11"), (2, "22"), (3, "33")):
        head = LedgerHeadPublished(tree_size=size, root_hash=root * 32, published_at=datetime.now(UTC))
        await harness.publish("billing", head, about=uuid4())
    heads = "SELECT tree_size, encode(root_hash, 'hex') FROM gateway.ledger_heads ORDER BY tree_size"

    async def both_arrived() -> bool:
        return len(await harness.rows(heads)) == 2

    await eventually(both_arrived, 30, "the published heads")
    assert [tuple(row) for row in await harness.rows(heads)] == [(2, "11" * 32), (3, "33" * 32)]
