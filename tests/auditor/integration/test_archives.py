"""What was archived is proven like everything else, and `show` has it."""

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from auditor.checking import check
from auditor.dossier import read_dossier, render_dossier
from auditor.proving import Prover, Round
from messaging.ids import FIRST_ID
from tests.auditor.pages import as_text
from tests.auditor.platform_harness import PlatformHarness
from tests.support import eventually
from tests.support.databases import Database

AT_REST = 0.0
ENOUGH_SECONDS = 60.0
ARCHIVE = text("SELECT orders FROM gateway.archive_timelines(30, 100, :first)")


def codes(proven: Round) -> set[str]:
    return {one.code for one in proven.report.violations}


async def test_an_old_archive_is_proven_by_the_pass_and_a_new_one_by_the_next_round(
    database: Database, platform: PlatformHarness, auditor: AsyncEngine
) -> None:
    news, whole = Prover(auditor, auditor, AT_REST, 0), Prover(auditor, auditor, AT_REST, ENOUGH_SECONDS)
    assert codes(await whole.prove()) == set()
    for _ in range(2):
        await news.prove()
    # An archive of long ago was changed: its id is older than everything that is new.
    await platform.corrupt(
        "UPDATE gateway.timeline_archives SET archive_id = '01900000-0000-7000-8000-000000000000'",
        "UPDATE gateway.archived_timelines SET archive_id = '01900000-0000-7000-8000-000000000000', last_sequence = 2",
    )
    assert codes(await news.prove()) == set()
    assert codes(await whole.prove()) == {"archived_timelines_are_whole"}
    await platform.corrupt("UPDATE gateway.archived_timelines SET last_sequence = 3")
    assert codes(await news.prove()) == set()

    # Another order ages, is archived, and one of its entries is lost.
    await platform.corrupt(
        "UPDATE gateway.generations SET updated_at = now() - interval '50 days' WHERE generation_id = '{delivered}'",
        "INSERT INTO gateway.activity (user_id, sequence, message_id, subject_id, event, name, data, occurred_at)"
        " SELECT '{user}', n, gen_random_uuid(), '{delivered}', 'generation.updated', 'queued',"
        " jsonb_build_object('generation_id', '{delivered}', 'name', 'queued'), now() - interval '50 days'"
        " FROM generate_series(1, 2) AS n",
    )
    async with database.superuser_engine().begin() as connection:
        assert await connection.scalar(ARCHIVE, {"first": FIRST_ID}) == 1
    assert codes(await news.prove()) == set()
    await platform.corrupt(
        "UPDATE gateway.archived_timelines SET entries = entries - 0 WHERE generation_id = '{delivered}'"
    )
    assert codes(await news.prove()) == {"archived_timelines_are_whole", "archives_add_up"}
    report = await check(auditor, AT_REST)
    assert {one.code for one in report.violations} == {"archived_timelines_are_whole", "archives_add_up"}


async def test_an_entry_that_an_archive_left_outside_is_named_by_the_next_round(
    database: Database, platform: PlatformHarness, auditor: AsyncEngine
) -> None:
    news = Prover(auditor, auditor, AT_REST, 0)
    async with auditor.connect() as connection:
        made_at = await connection.scalar(text("SELECT clock_timestamp()"))

    async def is_proven() -> bool:
        return bool((await news.prove()).proven_through > made_at)

    await eventually(is_proven)
    # Of its order no message and no posting is new. Its archive is.
    await platform.corrupt(
        "INSERT INTO gateway.activity (user_id, sequence, message_id, subject_id, event, name, data, occurred_at)"
        " SELECT user_id, 2, gen_random_uuid(), generation_id, 'generation.updated', 'running', '{{}}', now()"
        " FROM gateway.archived_timelines"
    )
    assert codes(await news.prove()) == {"archived_orders_have_ended"}
    report = await check(auditor, AT_REST)
    assert [one.code for one in report.violations] == ["archived_orders_have_ended"]


async def test_show_has_the_timeline_of_an_archived_order(platform: PlatformHarness, auditor: AsyncEngine) -> None:
    page = as_text(render_dossier(await read_dossier(auditor, str(platform.delivered_to_debtor))))
    (section,) = [part for part in page.split("\n## ") if part.startswith("Archived timeline (gateway)")]
    for name in ("queued", "running", "completed"):
        assert name in section
