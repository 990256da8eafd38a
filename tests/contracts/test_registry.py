"""The list of messages holds together: owners, producers, consumers, examples and permissions."""

import re
from pathlib import Path

import msgspec
import pytest

from contracts.message import SERVICES, Message
from contracts.permissions import durable_name, permissions_of
from contracts.queries import QUERIES
from contracts.registry import BY_SUBJECT, MESSAGES, consumed_by, produced_by, stream_of
from contracts.streams import BY_NAME, STREAMS

EXAMPLES = Path(__file__).parents[2] / "libs/contracts/examples"
SUBJECT = re.compile(r"^(?P<owner>[a-z]+)\.(?P<form>event|command)\.[a-z]+(-[a-z]+)*\.v[1-9][0-9]*$")

each_message = pytest.mark.parametrize("message", MESSAGES, ids=lambda message: message.subject)


@each_message
def test_every_subject_names_an_owner_a_form_and_a_version(message: type[Message]) -> None:
    match = SUBJECT.match(message.subject)
    assert match is not None
    assert match["owner"] in SERVICES
    assert stream_of(message.subject) in BY_NAME


@each_message
def test_every_message_has_a_producer_and_a_consumer(message: type[Message]) -> None:
    assert message.producers
    assert [consumer for consumer in message.consumers if consumer != "auditor"]
    assert set(message.producers) | set(message.consumers) <= set(SERVICES)


@each_message
def test_an_event_is_produced_by_its_owner_and_a_command_is_consumed_by_its_owner(message: type[Message]) -> None:
    owner, form, *_ = message.subject.split(".")
    if form == "event":
        assert message.producers == (owner,)
    else:
        assert owner in message.consumers
        assert owner not in message.producers


@each_message
def test_a_subject_has_one_producer_so_that_it_proves_who_sent_the_message(message: type[Message]) -> None:
    assert len(message.producers) == 1


@each_message
def test_the_auditor_journals_every_message(message: type[Message]) -> None:
    assert "auditor" in message.consumers


@each_message
def test_every_message_has_an_example_that_parses_and_says_all(message: type[Message]) -> None:
    example = (EXAMPLES / f"{message.subject}.json").read_bytes()
    parsed = msgspec.json.decode(example, type=message)
    # Every field stands in the example, so that a reader of the file sees the whole message.
    assert set(msgspec.json.decode(example)) == set(message.__struct_fields__)
    assert msgspec.json.decode(msgspec.json.encode(parsed), type=message) == parsed


@each_message
def test_a_reader_ignores_fields_that_a_newer_producer_added(message: type[Message]) -> None:
    example = msgspec.json.decode((EXAMPLES / f"{message.subject}.json").read_bytes())
    msgspec.json.decode(msgspec.json.encode(example | {"added_later": 1}), type=message)


def test_no_example_is_left_without_a_message() -> None:
    assert {path.stem for path in EXAMPLES.glob("*.json")} == set(BY_SUBJECT)


def test_a_service_may_publish_what_it_produces_and_nothing_that_others_produce() -> None:
    for service in SERVICES:
        allowed = set(permissions_of(service).publish)
        produced = {message.subject for message in produced_by(service)}
        assert produced <= allowed
        assert not {message.subject for message in MESSAGES if message.subject not in produced} & allowed
        assert not [subject for subject in allowed if subject in (">", "*", "$JS.API.>")]


def test_a_query_belongs_to_no_stream_and_only_its_asker_may_ask() -> None:
    for query in QUERIES:
        assert re.fullmatch(rf"query\.{query.responder}\.[a-z]+(-[a-z]+)*\.v[1-9][0-9]*", query.subject)
        assert stream_of(query.subject) not in BY_NAME
        assert [one for one in SERVICES if query.subject in permissions_of(one).publish] == [query.asker]
        assert [one for one in SERVICES if query.subject in permissions_of(one).subscribe] == [query.responder]
    responders = {query.responder for query in QUERIES}
    assert {service for service in SERVICES if permissions_of(service).answers} == responders


def test_names_of_streams_and_consumers_are_short_and_free_of_dots() -> None:
    names = [stream.name for stream in STREAMS]
    names += [
        durable_name(service, stream_of(message.subject)) for service in SERVICES for message in consumed_by(service)
    ]
    for name in names:
        assert len(name) < 32
        assert re.fullmatch(r"[A-Za-z0-9_-]+", name)


def test_streams_keep_messages_longer_than_they_remember_ids() -> None:
    for stream in STREAMS:
        assert 2 * 3600 <= stream.duplicate_window_seconds <= stream.max_age_seconds


def test_history_is_what_nothing_waits_for() -> None:
    """Only what is shown and journalled: it is held back when its stream is nearly full."""
    history = [message for message in MESSAGES if message.history]
    assert history
    for message in history:
        assert ".event." in message.subject
        assert set(message.consumers) <= {"gateway", "auditor"}
