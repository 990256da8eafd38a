"""What an operator is shown about an id: what it belongs to, and everything about that, at one moment."""

import asyncio
from uuid import UUID, uuid4

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from auditor.dossier import read_dossier, render_dossier
from auditor.dossier.identities import LONGEST_ARGUMENT
from auditor.dossier.reading import HOPS_SHOWN, ROWS_PER_SECTION
from auditor.errors import UnknownIdentity, UnusableIdentity
from messaging.ids import new_id
from tests.auditor.pages import as_text
from tests.auditor.platform_harness import PlatformHarness, add_row
from tests.support.databases import Database


async def shown(auditor: AsyncEngine, argument: object, all_rows: bool = False) -> str:
    return as_text(render_dossier(await read_dossier(auditor, str(argument), all_rows)))


def first_line(page: str) -> str:
    return page.splitlines()[0]


def section(page: str, title: str) -> str:
    (found,) = [part for part in page.split("\n## ") if part.startswith(title)]
    return found


def unfolded(page: str) -> str:
    """The text in one line, as if no value were folded."""
    return " ".join(page.split())


async def one(database: Database, query: str) -> object:
    async with database.superuser_engine().connect() as connection:
        return await connection.scalar(text(query))


async def add(database: Database, table: str, **values: object) -> None:
    async with database.superuser_engine().begin() as connection:
        await add_row(connection, table, **values)


async def add_finding(database: Database, code: str, subject: object) -> None:
    await add(database, "auditor.findings", code=code, severity="critical", subject_key=str(subject))


async def sent(database: Database, generation: UUID) -> UUID:
    """A message about ``generation`` that is in an outbox and in the journal."""
    query = f"SELECT message_id FROM billing.outbox_messages WHERE correlation_id = '{generation}' ORDER BY 1 LIMIT 1"
    message_id = await one(database, query)
    assert isinstance(message_id, UUID)
    return message_id


async def forget_in(database: Database, table: str, message_id: UUID) -> None:
    await database.tamper(f"DELETE FROM {table} WHERE message_id = '{message_id}'")


async def test_whatever_belongs_to_a_generation_leads_to_it(
    database: Database, platform: PlatformHarness, auditor: AsyncEngine
) -> None:
    attempt, callback = new_id(), new_id()
    await add(
        database,
        "generation.attempts",
        attempt_id=attempt,
        generation_id=platform.delivered,
        attempt_number=2,
        status="lost",
        ended_at="now",
        provider_job_id="0f6c-u1",
    )
    await add(database, "generation.provider_callbacks", callback_id=callback, attempt_id=attempt, source="webhook")
    of_generation = f"generation_id = '{platform.delivered}'"
    ids = {
        "a reservation": f"SELECT reservation_id FROM billing.reservations WHERE {of_generation}",
        "a transfer": f"""SELECT transfer_id FROM billing.balance_ledger
                          WHERE {of_generation} AND reason = 'capture' LIMIT 1""",
        "a file in the library": f"SELECT object_key FROM storage.assets WHERE asset_id = '{platform.asset}'",
    }
    found = {what: await one(database, query) for what, query in ids.items()}
    found |= {"a callback of the provider": callback, "an attempt": attempt, "an asset": platform.asset}
    found |= {"a job of the provider": "0f6c-u1"}
    for what, identity in found.items():
        page = await shown(auditor, identity)
        assert first_line(page) == f"# {identity} is {what} and belongs to generation {platform.delivered}"
        assert "## Timeline" in page
        assert "## Reservation" in page
    assert first_line(await shown(auditor, platform.delivered)) == f"# {platform.delivered} is a generation"
    assert "## Variants" not in await shown(auditor, platform.delivered)
    siblings = section(await shown(auditor, platform.second_variant), "Variants of the order")
    for variant in (platform.first_variant, platform.second_variant, platform.withdrawn_variant):
        assert str(variant) in unfolded(siblings)


async def test_whatever_belongs_to_a_payment_or_a_user_leads_to_it(
    database: Database, platform: PlatformHarness, auditor: AsyncEngine
) -> None:
    refund, review, clawback = new_id(), new_id(), new_id()
    of_payment = {"payment_id": platform.payment, "provider": "stripe"}
    await platform.corrupt(
        "UPDATE payments.payment_transactions SET provider_reference = 'cs_1', charge_reference = 'pi_1'"
        " WHERE payment_id = '{payment}'",
    )
    await add(database, "payments.refunds", **of_payment, refund_id=refund, provider_reference="re_1", state="pending")
    await add(database, "payments.disputes", **of_payment, provider_reference="dp_1", state="open")
    await add(database, "payments.provider_events", **of_payment, event_id="evt_1", reference="ch_1", source="webhook")
    await add(database, "payments.reviews", payment_id=platform.payment, review_id=review)
    await add(
        database,
        "billing.clawbacks",
        clawback_id=clawback,
        payment_id=platform.payment,
        user_id=platform.user,
        reason="refund",
        taken_credits=1,
        receivable_credits=0,
    )
    await add_finding(database, "money_that_came_twice", "dp_1")
    for identity, what in (
        (platform.purchase, "a grant and a movement of credits"),
        (clawback, "a clawback"),
        (refund, "a refund"),
        (review, "a review"),
        ("cs_1", "a checkout at the provider"),
        ("pi_1", "a charge at the provider"),
        ("re_1", "a refund at the provider"),
        ("dp_1", "a dispute at the provider"),
        ("evt_1", "an event of the provider"),
        ("ch_1", "what an event of the provider is about"),
    ):
        page = await shown(auditor, f" {identity} ")
        assert first_line(page) == f"# {identity} is {what} and belongs to payment {platform.payment}"
        assert "## Credits ordered for the payment" in page
    assert "money_that_came_twice" in section(await shown(auditor, "dp_1"), "Findings")
    gift = await one(database, f"SELECT grant_id FROM billing.grants WHERE user_id = '{platform.other_user}'")
    assert first_line(await shown(auditor, gift)) == f"# {gift} is a grant and belongs to user {platform.other_user}"
    assert first_line(await shown(auditor, platform.payment)) == f"# {platform.payment} is a payment"
    assert first_line(await shown(auditor, str(platform.user).upper())).endswith("is a user")


async def test_who_has_only_uploaded_a_file_is_known(
    database: Database, platform: PlatformHarness, auditor: AsyncEngine
) -> None:
    visitor, upload, asked = new_id(), new_id(), new_id()
    await add(database, "gateway.uploads", upload_id=upload, user_id=visitor, content_type="image/png")
    await add(database, "generation.cancellations", generation_id=asked, user_id=visitor)
    assert first_line(await shown(auditor, upload)) == f"# {upload} is an upload and belongs to user {visitor}"
    assert "image/png" in section(await shown(auditor, visitor), "Uploads")
    assert "## Cancellation" in await shown(auditor, asked)


async def test_what_two_services_hold_for_different_payments_is_told_for_both(
    database: Database, platform: PlatformHarness, auditor: AsyncEngine
) -> None:
    other = uuid4()
    await platform.corrupt(f"UPDATE billing.grants SET payment_id = '{other}' WHERE grant_id = '{platform.purchase}'")
    page = await shown(auditor, platform.purchase)
    assert f"# {platform.purchase} is a grant and belongs to payment {other}" in page
    assert f"# {platform.purchase} is a movement of credits and belongs to payment {platform.payment}" in page


async def test_a_review_without_a_payment_is_shown_alone(
    database: Database, platform: PlatformHarness, auditor: AsyncEngine
) -> None:
    review = new_id()
    await add(database, "payments.reviews", review_id=review, payment_id=None, found="a charge that nobody ordered")
    page = await shown(auditor, review)
    assert first_line(page) == f"# {review} is a review and belongs to no generation, payment or user"
    assert "a charge that nobody ordered" in page


async def test_a_message_is_shown_itself_and_then_what_it_is_about(
    database: Database, platform: PlatformHarness, auditor: AsyncEngine
) -> None:
    message_id = await sent(database, platform.delivered)
    page = await shown(auditor, message_id)
    subject = "billing.event.credits-reserved.v1"
    assert first_line(page) == f"# {message_id} is a message ({subject}) and belongs to generation {platform.delivered}"
    assert f'"generation_id":"{platform.delivered}"' in "".join(
        section(page, "This id in billing.outbox_messages").split()
    )
    assert "received_at" in section(page, "This id in auditor.journal")
    assert "gateway-billing" in section(page, "Receipts of the message")
    assert "## Reservation" in page


@pytest.mark.parametrize("kept", ["billing.outbox_messages", "auditor.journal", "generation.dead_letters"])
async def test_a_message_in_one_place_is_found_with_its_dead_letter_and_finding(
    database: Database, platform: PlatformHarness, auditor: AsyncEngine, kept: str
) -> None:
    message_id = await sent(database, platform.running)
    await add(
        database,
        "generation.dead_letters",
        consumer="generation-billing",
        message_id=message_id,
        subject="billing.event.credits-reserved.v1",
        correlation_id=platform.running if kept == "generation.dead_letters" else None,
        error="generation choked on it",
    )
    await add_finding(database, "no_dead_letters", message_id)
    for forgotten in {"billing.outbox_messages", "auditor.journal"} - {kept}:
        await forget_in(database, forgotten, message_id)
    for identity in (message_id, platform.running, platform.user):
        page = await shown(auditor, identity)
        assert "generation choked on it" in section(page, "Dead letters")
        assert str(message_id) in section(page, "Findings")
        assert ("are not in the journal" in page) == (kept == "billing.outbox_messages")


async def test_findings_about_what_belongs_to_a_user_are_shown_with_the_user(
    database: Database, platform: PlatformHarness, auditor: AsyncEngine
) -> None:
    transfer = await one(
        database, f"SELECT transfer_id FROM billing.balance_ledger WHERE user_id = '{platform.user}' LIMIT 1"
    )
    reservation = await one(
        database, f"SELECT reservation_id FROM billing.reservations WHERE generation_id = '{platform.running}'"
    )
    for subject in (platform.running, platform.payment, platform.purchase, platform.asset, transfer, reservation):
        await add_finding(database, f"about_{subject}", subject)
    gift = await one(
        database, f"SELECT transfer_id FROM billing.balance_ledger WHERE user_id = '{platform.other_user}' LIMIT 1"
    )
    await add_finding(database, "about_another_user", gift)
    await add_finding(database, "with_a_number_beside_it", f"{platform.user} line 3")
    findings = section(await shown(auditor, platform.user), "Findings")
    for subject in (platform.running, platform.payment, platform.purchase, platform.asset, transfer, reservation):
        assert f"about_{subject}" in findings
    assert "with_a_number_beside_it" in findings
    assert "about_another_user" not in findings
    assert "about_another_user" in section(await shown(auditor, platform.other_user), "Findings")
    assert f"about_{platform.payment}" in section(await shown(auditor, platform.payment), "Findings")
    assert f"about_{platform.purchase}" in section(await shown(auditor, platform.purchase), "Findings")


THEIRS = {
    "Request (gateway)",
    "Generation",
    "Reservation",
    "Refusal",
    "Request for a payment (gateway)",
    "Payment as the user is shown it (gateway)",
    "Payment",
    "Grants",
    "Clawbacks",
}


async def test_what_is_another_user_s_is_not_shown_as_theirs_whatever_their_postings_name(
    platform: PlatformHarness, auditor: AsyncEngine
) -> None:
    of_user = "WHERE user_id = '{user}' AND"
    await platform.corrupt(
        f"UPDATE billing.balance_ledger SET generation_id = '{{first_variant}}' {of_user} generation_id = '{{failed}}'",
        "UPDATE billing.balance_ledger SET generation_id = '{withdrawn_variant}'"
        f" {of_user} generation_id = '{{cancelled}}'",
        f"UPDATE billing.balance_ledger SET payment_id = '{{refunded}}' {of_user} grant_id = '{{purchase}}'",
        f"UPDATE billing.balance_ledger SET grant_id = '{{welcome}}' {of_user} grant_id = '{{bonus}}'",
    )
    strangers = {platform.first_variant, platform.withdrawn_variant, platform.refunded, platform.welcome}
    [chapter] = (await read_dossier(auditor, str(platform.user))).chapters
    rows = {section.title: section.rows for section in chapter.sections}
    named = {title for title, of_section in rows.items() if any(one in row for row in of_section for one in strangers)}
    assert "Postings (ledger), latest first" in named
    assert named.isdisjoint(THEIRS)
    [chapter] = (await read_dossier(auditor, str(platform.chooser))).chapters
    assert {"Request (gateway)", "Generation", "Reservation", "Refusal"} <= {one.title for one in chapter.sections}


async def test_messages_that_are_tried_again_or_waited_with_are_shown(
    database: Database, platform: PlatformHarness, auditor: AsyncEngine
) -> None:
    message_id = await sent(database, platform.running)
    await add(
        database,
        "generation.delivery_attempts",
        consumer="generation-billing",
        message_id=message_id,
        failures=3,
        deferrals=7,
        last_reason="the endpoint is unknown " * 20 + "and this is the end",
    )
    for identity in (platform.running, platform.user, message_id):
        told_again = section(await shown(auditor, identity), "Messages that are tried again")
        assert "credits-reserved" in told_again
        assert "failures     3" in told_again
        assert "deferrals    7" in told_again
        assert "this is the end" in unfolded(told_again)
    assert "tried again" not in await shown(auditor, platform.delivered)


async def test_what_is_left_out_is_counted_and_comes_with_all(
    database: Database, platform: PlatformHarness, auditor: AsyncEngine
) -> None:
    many, hops = ROWS_PER_SECTION + 7, HOPS_SHOWN + 9
    long_note = "why " * 60 + "the end of the note"
    async with database.superuser_engine().begin() as connection:
        await _add_requests(connection, platform.user, many)
        await _add_journal_entries(connection, platform, hops)
        await connection.execute(text("UPDATE billing.grants SET note = :note"), {"note": long_note})
    total = many + 6
    page = await shown(auditor, platform.user)
    assert section(page, "Request (gateway)").startswith(
        f"Request (gateway): {ROWS_PER_SECTION} of {total}, the rest with --all"
    )
    assert section(page, "Timeline").startswith(f"Timeline: {HOPS_SHOWN} of {hops}, the rest with --all")
    assert "request number 1 " not in page
    assert "the end of the note" not in unfolded(page)
    assert "cut at 100 characters: whole with --all" in section(page, "Grants")
    everything = await shown(auditor, platform.user, all_rows=True)
    assert "--all" not in everything
    assert "request number 1 " in everything
    assert "the end of the note" in unfolded(everything)
    assert "the end of the detail" in unfolded(section(everything, "Timeline"))


async def _add_requests(connection: AsyncConnection, user: UUID, count: int) -> None:
    for number in range(1, count + 1):
        await connection.execute(
            text(
                """
                INSERT INTO gateway.generation_requests (generation_id, user_id, idempotency_key, request_hash,
                                                         created_at)
                VALUES (:id, :user, :key, '', now() - make_interval(days => 9, mins => -CAST(:number AS integer)))
                """
            ),
            {"id": new_id(), "user": user, "key": f"request number {number} ", "number": number},
        )


async def _add_journal_entries(connection: AsyncConnection, platform: PlatformHarness, count: int) -> None:
    detail = "x" * 150 + " the end of the detail"
    for _ in range(count):
        await add_row(
            connection,
            "auditor.journal",
            message_id=new_id(),
            subject="generation.event.attempt-failed.v1",
            correlation_id=platform.running,
            user_id=platform.user,
            payload=f'{{"detail": "{detail}"}}',
        )


async def test_the_error_of_a_single_record_is_never_cut(
    database: Database, platform: PlatformHarness, auditor: AsyncEngine
) -> None:
    await platform.corrupt(
        f"UPDATE generation.video_generations SET failure_detail = '{'x' * 250} {'word ' * 60}the end'"
        " WHERE generation_id = '{failed}'",
    )
    page = await shown(auditor, platform.failed)
    assert "the end" in unfolded(section(page, "Generation\n"))
    assert "".join(section(page, "Generation\n").split()).count("x" * 250) == 1


async def test_everything_is_read_at_one_moment(
    database: Database, platform: PlatformHarness, auditor: AsyncEngine
) -> None:
    """A finding that is committed while the dossier is being read is in none of its sections."""
    async with database.superuser_engine().connect() as writer:
        await writer.execute(text("LOCK TABLE auditor.findings IN ACCESS EXCLUSIVE MODE"))
        reading = asyncio.create_task(shown(auditor, platform.running))
        waits = text(
            "SELECT EXISTS (SELECT FROM pg_locks WHERE NOT granted AND relation = 'auditor.findings'::regclass)"
        )
        while not await writer.scalar(waits):
            assert not reading.done()
            await asyncio.sleep(0.01)
        await add_row(
            writer, "auditor.findings", code="too_late", severity="critical", subject_key=str(platform.running)
        )
        await writer.commit()
    assert "too_late" not in await reading
    assert "too_late" in await shown(auditor, platform.running)


async def test_an_unknown_id_and_an_unusable_id_are_refused(
    database: Database, platform: PlatformHarness, auditor: AsyncEngine
) -> None:
    await add(database, "billing.dead_letters", consumer="billing-gateway", payload=b'{"credits": 1}')
    for unknown in (str(uuid4()), "cs_unknown", "1", "%", "credits"):
        with pytest.raises(UnknownIdentity, match="is unknown"):
            await read_dossier(auditor, unknown)
    for unusable in ("", "   ", "a\0b", "a\nb", "\udc80", "x" * (LONGEST_ARGUMENT + 1)):
        with pytest.raises(UnusableIdentity):
            await read_dossier(auditor, unusable)


async def test_an_id_that_only_a_finding_names_shows_the_finding(
    database: Database, platform: PlatformHarness, auditor: AsyncEngine
) -> None:
    lost = uuid4()
    await add_finding(database, "a_row_that_is_gone", lost)
    page = await shown(auditor, lost)
    assert first_line(page) == f"# {lost} is held by no service: only messages or findings mention it"
    assert "a_row_that_is_gone" in page
