"""The operator's commands, as they are typed."""

import json
from hashlib import sha256
from pathlib import Path
from uuid import UUID, uuid4

import httpx
from sqlalchemy import text

from local_platform.servers import S3Server
from tests.auditor.platform_harness import PlatformHarness
from tests.support.databases import Database
from tests.support.fork_server import Finished, run_forked


async def auditor_command(*arguments: str, dsn: str | None = None, **settings: str) -> Finished:
    environment = settings if dsn is None else {**settings, "AUDITOR_DATABASE_URL": dsn}
    return await run_forked("auditor.main", *arguments, environment=environment)


async def test_a_healthy_platform_passes_with_exit_code_0(database: Database, platform: PlatformHarness) -> None:
    code, out, err = await auditor_command("check", "--settled", dsn=database.dsn("auditor"))
    assert code == 0, err
    assert "no violations of" in out
    assert "transfers_sum_to_zero" in out


async def test_a_violation_is_shown_with_both_sides_and_exit_code_1(
    database: Database, platform: PlatformHarness
) -> None:
    await platform.corrupt("UPDATE billing.users SET reserved_credits = 7 WHERE user_id = '{user}'")
    code, out, _ = await auditor_command("check", dsn=database.dsn("auditor"))
    assert code == 1
    assert "VIOLATED" in out
    line = next(
        line
        for line in out.splitlines()
        if line.startswith("held_reservations_are_backed") and str(platform.user) in line
    )
    assert "9 credits reserved, held for 1 order(s)" in line
    assert "7 credits reserved" in line

    code, out, _ = await auditor_command("check", "--json", dsn=database.dsn("auditor"))
    assert code == 1
    document = json.loads(out)
    violated = {one["code"]: one["listed"] for one in document["invariants"] if one["violations"]}
    assert violated["held_reservations_are_backed"][0]["subject"] == str(platform.user)
    assert document["tolerance_seconds"] == 60


async def test_an_invariant_that_cannot_be_checked_is_named_with_exit_code_1(
    database: Database, platform: PlatformHarness
) -> None:
    await platform.corrupt("ALTER TABLE storage.assets RENAME COLUMN asset_id TO id")
    code, out, _ = await auditor_command("check", "--settled", "--patience", "0", dsn=database.dsn("auditor"))
    assert code == 1
    assert "no violations, " in out
    reason = next(
        line
        for line in out.splitlines()
        if line.startswith("completed_generations_have_an_asset could not be checked: ")
    )
    assert "asset_id does not exist" in reason

    code, out, _ = await auditor_command("check", "--json", dsn=database.dsn("auditor"))
    assert code == 1
    failures = {one["code"]: one["failure"] for one in json.loads(out)["invariants"]}
    assert "asset_id does not exist" in failures["completed_generations_have_an_asset"]
    assert failures["transfers_sum_to_zero"] is None


async def test_the_database_is_found_through_the_file_of_a_running_platform(
    database: Database, platform: PlatformHarness, tmp_path: Path
) -> None:
    file = tmp_path / "platform.json"
    file.write_text(json.dumps({"postgres": {"dsns": {"auditor": database.dsn("auditor")}}}))
    code, out, _ = await auditor_command("check", "--platform", str(file))
    assert code == 0
    assert "no violations" in out


async def test_without_a_database_the_command_says_how_to_name_one() -> None:
    code, _, err = await auditor_command("check")
    assert code == 1
    assert "AUDITOR_DATABASE_URL" in err


async def shown(database: Database, identity: UUID) -> str:
    code, out, err = await auditor_command("show", str(identity), dsn=database.dsn("auditor"))
    assert code == 0, err
    return out


async def test_a_generation_is_shown_with_everything_that_the_services_hold(
    database: Database, platform: PlatformHarness
) -> None:
    await platform.corrupt(
        """
        INSERT INTO generation.dead_letters (consumer, message_id, subject, stream, payload, headers, reason, error,
                                             deliveries)
        VALUES ('generation-storage', gen_random_uuid(), 'storage.event.asset-stored.v1', 'STORAGE',
                convert_to('{{"generation_id":"{delivered}"}}', 'UTF8'), '{{}}', 'poison', 'it broke', 5)
        """,
    )
    out = await shown(database, platform.delivered)
    for heading in (
        "## Timeline",
        "## Request (gateway)",
        "## Generation",
        "## Attempts",
        "## Reservation",
        "## Asset",
        "## Postings (ledger)",
        "## Balance of the user",
        "## Dead letters",
    ):
        assert heading in out
    assert "credits-reserved" in out
    assert str(platform.asset) in out
    assert "it broke" in out


async def test_a_payment_and_a_user_are_shown(database: Database, platform: PlatformHarness) -> None:
    payment = await shown(database, platform.payment)
    assert "## Payment" in payment
    assert "## Credits ordered for the payment" in payment
    assert "purchase" in payment
    user = await shown(database, platform.user)
    assert "## Balance of the user" in user
    assert str(platform.running) in user
    assert str(platform.refused) in user


async def test_an_unknown_id_is_said_to_be_unknown(database: Database, platform: PlatformHarness) -> None:
    for unknown in (str(uuid4()), "pi_unknown"):
        code, out, err = await auditor_command("show", unknown, dsn=database.dsn("auditor"))
        assert code == 1
        assert out == ""
        assert f"{unknown} is unknown: no service knows it" in err


async def test_what_cannot_be_an_id_is_refused_without_a_traceback(
    database: Database, platform: PlatformHarness
) -> None:
    code, out, err = await auditor_command("show", "x" * 1000, dsn=database.dsn("auditor"))
    assert code == 1
    assert out == ""
    assert err == "an id has 1 to 255 printable characters\n"


async def test_show_tells_every_row_when_asked_for_all(database: Database, platform: PlatformHarness) -> None:
    await platform.corrupt(
        """
        INSERT INTO gateway.generation_requests (generation_id, user_id, idempotency_key, request_hash)
        SELECT gen_random_uuid(), '{user}', format('request %s', number), '' FROM generate_series(1, 100) AS number
        """,
    )
    assert "Request (gateway): 50 of 106, the rest with --all" in await shown(database, platform.user)
    code, out, err = await auditor_command("show", "--all", str(platform.user), dsn=database.dsn("auditor"))
    assert code == 0, err
    assert all(f"request {number} " in out for number in range(1, 101))


async def test_show_reads_the_files_of_an_order_now_and_links_to_them(
    database: Database, platform: PlatformHarness, s3_server: S3Server
) -> None:
    key = await object_key(database, platform.delivered, "output")
    poster = await object_key(database, platform.delivered, "output", "poster_object_key")
    writer = s3_server.client("storage")
    writer.put_object(Bucket="library", Key=key, Body=b"of somebody else")
    writer.put_object(Bucket="library", Key=poster, Body=b"p", Metadata={"sha256": sha256(b"p").hexdigest()})
    access_key, secret_key = s3_server.credentials["auditor"]
    code, out, err = await auditor_command(
        "show",
        str(platform.delivered),
        dsn=database.dsn("auditor"),
        AUDITOR_S3_ENDPOINT_URL=s3_server.endpoint_url,
        AUDITOR_S3_ACCESS_KEY_ID=access_key,
        AUDITOR_S3_SECRET_ACCESS_KEY=secret_key,
    )
    assert code == 0, err
    _, _, files = out.partition("## Files in the library, read now\n")
    by_key = {part.splitlines()[0].removeprefix("file").strip(): part for part in files.strip().split("\n\n")}
    assert "SIZE: expected " in by_key[key]
    assert "as recorded" in by_key[poster]
    missing = by_key[await object_key(database, platform.delivered, "another")]
    assert "MISSING: expected " in missing
    assert "link" not in missing
    async with httpx.AsyncClient() as browser:
        links = [by_key[one].split()[-1] for one in (key, poster)]
        assert [(await browser.get(link)).content for link in links] == [b"of somebody else", b"p"]


async def test_show_says_why_the_files_were_not_read(database: Database, platform: PlatformHarness) -> None:
    assert "not read: set AUDITOR_S3_ENDPOINT_URL" in await shown(database, platform.delivered)


async def object_key(database: Database, generation_id: UUID, role: str, column: str = "object_key") -> str:
    statement = text(f"SELECT {column} FROM storage.assets WHERE generation_id = :id AND role = :role")
    async with database.superuser_engine(1).begin() as connection:
        key = await connection.scalar(statement, {"id": generation_id, "role": role})
    return str(key)
