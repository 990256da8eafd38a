"""Messages in every schema: sent, received, and none given up on."""

from typing import Final

from auditor.domain import Invariant
from auditor.schemas import for_each_schema
from contracts.generation import CancelGeneration, OutputReady, OutputSought
from contracts.message import Message, Service
from contracts.permissions import durable_name
from contracts.registry import consumed_by, stream_of
from contracts.storage import AssetRejected, DeleteFiles, VerifyInputs

INBOXES: Final[dict[Service, tuple[type[Message], ...]]] = {
    "gateway": consumed_by("gateway"),
    "billing": consumed_by("billing"),
    "payments": consumed_by("payments"),
    # To the other messages the order's own state is the inbox: they leave no trace of their own.
    "generation": (CancelGeneration, AssetRejected),
}
"""Which messages leave a row in the inbox of which service; a test holds the services' subscriptions against it."""

_QUESTION: Final = "storage.verifications AS i WHERE i.message_id = o.message_id"
WRITTEN_DOWN: Final[dict[type[Message], str]] = {
    OutputReady: _QUESTION,
    OutputSought: _QUESTION,
    VerifyInputs: _QUESTION,
    # Of what is said again of the same generation, the newest message is kept.
    DeleteFiles: "storage.deletions AS i WHERE i.generation_id = o.correlation_id AND i.message_id >= o.message_id",
}
"""Where storage, which has no inbox, writes down what message ``o`` asks of it."""


# The day in the id is the inbox's partition, so one is looked into. A row under another day would dedupe nothing.
_DAY: Final = """CASE WHEN uuid_extract_version(o.message_id) = 7
                        THEN CAST(uuid_extract_timestamp(o.message_id) AT TIME ZONE 'UTC' AS date)
                        ELSE date '1970-01-01' END"""


def _subjects(messages: tuple[type[Message], ...]) -> str:
    return ", ".join(f"'{message.subject}'" for message in messages)


def _was_passed(consumer: Service, stream: str) -> str:
    """Whether ``consumer`` has received what was stored in ``stream`` after message ``o``, and not just now.

    What lies above its position only waits for a consumer that was stopped; at rest (no tolerance) nothing may wait.
    Of positions that have been verified, those of the last minutes are kept: a lost message is named minutes later.
    """
    return f"""(:tolerance = 0 OR o.published_sequence <= (
                  SELECT max(p.sequence) FROM {consumer}.relay_positions AS p
                  WHERE p.holder = '{durable_name(consumer, stream)}' AND p.stream = '{stream}'
                    AND p.verified_at IS NOT NULL AND p.recorded_at <= now() - make_interval(secs => :tolerance)))"""  # noqa: S608 - names of the contracts


def _unrecorded(producer: Service, stream: str) -> str:
    """What ``producer`` published on ``stream`` and the journal does not have."""
    recorded = tuple(m for m in consumed_by("auditor") if producer in m.producers and stream_of(m.subject) == stream)
    return f"""
            SELECT o.message_id::text AS subject, format('%s of {producer} in the journal', o.subject) AS expected,
                   format('published at %s and not received', o.published_at) AS found
            FROM ROWS_OF_MESSAGES({producer}.outbox_messages) AS o
            WHERE o.published_at <= now() - make_interval(secs => :tolerance)
              AND o.subject IN ({_subjects(recorded)})
              AND {_was_passed("auditor", stream)}
              AND NOT EXISTS (SELECT FROM auditor.journal AS j WHERE j.message_id = o.message_id ONE_BY_ONE())
        """  # noqa: S608 - names of the contracts


def _unconsumed(
    producer: Service, consumer: Service, stream: str, messages: tuple[type[Message], ...], received: str
) -> str:
    """What ``producer`` sent of ``messages`` on ``stream``, and ``consumer`` has not received, given up or deferred."""
    durable = durable_name(consumer, stream)
    sent = tuple(m for m in messages if producer in m.producers and stream_of(m.subject) == stream)
    return f"""
            SELECT o.message_id::text AS subject, format('{consumer} handles %s', o.subject) AS expected,
                   format('published by {producer} at %s (%s), and no trace of it', o.published_at, o.correlation_id)
                       AS found
            FROM ROWS_OF_MESSAGES({producer}.outbox_messages) AS o
            WHERE o.published_at <= now() - make_interval(secs => :tolerance)
              AND o.subject IN ({_subjects(sent)})
              AND {_was_passed(consumer, stream)}
              AND NOT EXISTS (SELECT FROM {received} ONE_BY_ONE())
              AND NOT EXISTS (SELECT FROM {consumer}.dead_letters AS d
                              WHERE d.consumer = '{durable}' AND d.message_id = o.message_id ONE_BY_ONE())
              AND NOT EXISTS (SELECT FROM {consumer}.delivery_attempts AS t
                              WHERE t.consumer = '{durable}' AND t.message_id = o.message_id
                                AND t.last_at > now() - make_interval(secs => 2 * :tolerance) ONE_BY_ONE())
        """  # noqa: S608 - names of the contracts


def _first_unproven(producer: Service) -> str:
    """The first message of ``producer`` from ``:first`` on of which a service may still have to leave a trace."""
    waits = []
    for consumer in (*INBOXES, "storage", "auditor"):
        messages = tuple(m for m in consumed_by(consumer) if producer in m.producers)
        for stream in sorted({stream_of(message.subject) for message in messages}):
            sent = tuple(message for message in messages if stream_of(message.subject) == stream)
            waits.append(f"""(o.subject IN ({_subjects(sent)})
                    AND (o.published_at <= now() - make_interval(secs => :tolerance)
                         AND {_was_passed(consumer, stream)}) IS NOT TRUE)""")
    return f"""
            (SELECT o.message_id FROM {producer}.outbox_messages AS o
             WHERE o.message_id >= :first AND ({" OR ".join(waits)})
             ORDER BY o.message_id LIMIT 1)
        """  # noqa: S608 - names of the contracts


def _tried_again(consumer: Service) -> str:
    """The messages from ``:first`` on that ``consumer`` tries again: they are neither lost nor handled yet."""
    return f"""
            SELECT t.message_id FROM {consumer}.delivery_attempts AS t
            WHERE t.message_id >= :first AND t.last_at > now() - make_interval(secs => 2 * :tolerance)
        """  # noqa: S608 - names of the contracts


def _owners() -> str:
    """The service that owns each subject, as rows."""
    return ", ".join(
        f"('{message.subject}', '{producer}')" for message in consumed_by("auditor") for producer in message.producers
    )


def _routes(messages: tuple[type[Message], ...]) -> list[tuple[Service, str]]:
    """Who publishes ``messages``, and on which streams."""
    return sorted({(producer, stream_of(message.subject)) for message in messages for producer in message.producers})


def _all_unconsumed() -> str:
    queries = [
        _unconsumed(
            producer,
            consumer,
            stream,
            messages,
            f"{consumer}.inbox_messages AS i WHERE i.consumer = '{durable_name(consumer, stream)}'"
            f" AND i.message_id = o.message_id AND i.message_day = {_DAY}",
        )
        for consumer, messages in INBOXES.items()
        for producer, stream in _routes(messages)
    ]
    queries += [
        _unconsumed(producer, "storage", stream, (message,), WRITTEN_DOWN[message])
        for message in consumed_by("storage")
        for producer, stream in _routes((message,))
    ]
    return " UNION ALL ".join(queries)


_PRODUCERS: Final = sorted({producer for producer, _ in _routes(consumed_by("auditor"))})
_READERS: Final[tuple[Service, ...]] = (*INBOXES, "storage")
FIRST_UNPROVEN: Final = (
    "SELECT min(message_id::text)::uuid FROM ("  # noqa: S608 - names of the contracts
    + " UNION ALL ".join([*map(_first_unproven, _PRODUCERS), *map(_tried_again, _READERS)])
    + ") AS firsts (message_id)"
)
"""Where the proof of messages has to go on: at the first one that was not passed everywhere, or is tried again."""

MESSAGES: Final = (
    Invariant(
        code="outboxes_are_published",
        severity="critical",
        meaning="A committed message reaches the broker soon",
        query=for_each_schema(
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
        meaning="No message was given up on and neither replayed nor discarded",
        query=for_each_schema(
            """
            SELECT message_id::text AS subject, format('%s handles %s', consumer, subject) AS expected,
                   format('dead since %s (%s): %s', dead_at, reason, left(error, 200)) AS found
            FROM {schema}.dead_letters
            WHERE replayed_at IS NULL AND discarded_at IS NULL
            """
        ),
    ),
    Invariant(
        code="messages_are_consumed",
        severity="critical",
        meaning="A message that was published was handled, or given up on, by each service that reads it",
        query=_all_unconsumed(),
    ),
    Invariant(
        code="messages_come_from_their_owner",
        severity="critical",
        meaning="Every message names the service that owns its subject as its producer",
        query=f"""
            SELECT j.message_id::text AS subject, format('%s from %s', j.subject, coalesce(o.owner, 'its owner'))
                       AS expected,
                   format('from %s, about %s, received at %s', j.producer, j.correlation_id, j.received_at) AS found
            FROM auditor.journal AS j
            LEFT JOIN (VALUES {_owners()}) AS o (subject, owner) ON o.subject = j.subject
            WHERE j.is_foreign
        """,  # noqa: S608 - names of the contracts
    ),
    Invariant(
        code="the_journal_is_complete",
        severity="critical",
        meaning="No message that was published is missing in the journal, up to where the auditor has read",
        query=" UNION ALL ".join(_unrecorded(*route) for route in _routes(consumed_by("auditor"))),
    ),
)
