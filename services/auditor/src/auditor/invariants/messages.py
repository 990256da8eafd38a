"""Messages in every schema: sent, received, and none given up on."""

from typing import Final

from auditor.domain import Invariant
from contracts.message import SERVICES
from contracts.registry import consumed_by

_RECORDED: Final = ", ".join(f"'{message.subject}'" for message in consumed_by("auditor"))


def _for_each_schema(query: str) -> str:
    return " UNION ALL ".join(query.replace("{schema}", service) for service in SERVICES)


MESSAGES: Final = (
    Invariant(
        code="outboxes_are_published",
        severity="critical",
        meaning="A committed message reaches the broker soon",
        query=_for_each_schema(
            """
            SELECT message_id::text AS subject, format('{schema} publishes %s', subject) AS expected,
                   format('waiting since %s', created_at) AS found
            FROM {schema}.outbox_messages
            WHERE published_at IS NULL AND created_at <= now() - make_interval(secs => :tolerance)
            """
        ),
    ),
    Invariant(
        code="no_dead_letters",
        severity="warning",
        meaning="No message was given up on and not replayed",
        query=_for_each_schema(
            """
            SELECT message_id::text AS subject, format('%s handles %s', consumer, subject) AS expected,
                   format('dead since %s (%s): %s', dead_at, reason, left(error, 200)) AS found
            FROM {schema}.dead_letters
            WHERE replayed_at IS NULL
            """
        ),
    ),
    Invariant(
        code="the_journal_is_complete",
        severity="critical",
        meaning="Every message that was published was received",
        query=_for_each_schema(
            f"""
            SELECT o.message_id::text AS subject, format('%s of {{schema}} in the journal', o.subject) AS expected,
                   format('published at %s and not received', o.published_at) AS found
            FROM {{schema}}.outbox_messages AS o
            WHERE o.published_at <= now() - make_interval(secs => :tolerance)
              AND o.subject IN ({_RECORDED})
              AND NOT EXISTS (SELECT FROM auditor.journal AS j WHERE j.message_id = o.message_id)
            """  # noqa: S608 - subjects are constants of the contracts
        ),
    ),
)
