"""A service's broker password, tried out: every call of JetStream, every subject, every detour.

Each service attacks twice: with its own user, and with a user of its account whom no permission holds, because the
accounts alone must confine it; permissions are the second layer.
"""

import json
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import pytest
from nats.aio.client import Client
from nats.aio.msg import Msg

from contracts.billing import CreditsReserved, GrantCredits
from contracts.message import SERVICES, Service
from contracts.permissions import (
    API_PREFIX,
    LIVE_PUBLISH,
    calls_of,
    consumed_subjects,
    durable_name,
    heard_by,
    inbox_prefix,
    known_subjects,
    sources_of,
    streams_of,
    verifier_name,
)
from contracts.queries import QUERIES
from contracts.registry import MESSAGES, produced_by, stream_of
from contracts.streams import STREAMS
from local_platform.servers import NatsServer
from local_platform.servers.nats import ADMIN
from tests.support.waiting import eventually

PREFIXES: Final = ("$JS.API", API_PREFIX)
CONSUMERS: Final = sorted(
    {(stream, durable_name(service, stream)) for service in SERVICES for stream in sources_of(service)}
    | {(stream, verifier_name(service, stream)) for service in SERVICES for stream in streams_of(service)}
)
GRANT: Final = GrantCredits.subject

STREAM_BODIES: Final[dict[str, dict[str, Any]]] = {
    "republish": {"republish": {"src": ">", "dest": GRANT}},
    "republish into a purge": {"republish": {"src": ">", "dest": "$JS.API.STREAM.PURGE.BILLING"}},
    "sources": {"sources": [{"name": stream.name} for stream in STREAMS]},
    "mirror": {"mirror": {"name": "BILLING"}},
    "transform": {"subject_transform": {"src": ">", "dest": GRANT}},
    "direct get": {"allow_direct": True},
    "every subject": {"subjects": [">"]},
}
CONSUMER_BODIES: Final[dict[str, dict[str, Any]]] = {
    "wider filter": {"filter_subject": ">", "ack_policy": "explicit"},
    "push": {"deliver_subject": GRANT, "ack_policy": "none"},
    "push into a purge": {"deliver_subject": "$JS.API.STREAM.PURGE.BILLING", "ack_policy": "none"},
}
STREAM_CALLS: Final = (
    "STREAM.CREATE", "STREAM.UPDATE", "STREAM.DELETE", "STREAM.PURGE", "STREAM.INFO", "STREAM.MSG.GET",
    "STREAM.MSG.DELETE", "STREAM.SNAPSHOT", "STREAM.RESTORE", "STREAM.PEER.REMOVE", "STREAM.LEADER.STEPDOWN",
    "DIRECT.GET", "CONSUMER.LIST", "CONSUMER.NAMES", "CONSUMER.CREATE",
)  # fmt: skip
CONSUMER_CALLS: Final = (
    "CONSUMER.CREATE", "CONSUMER.DURABLE.CREATE", "CONSUMER.DELETE", "CONSUMER.INFO", "CONSUMER.MSG.NEXT",
    "CONSUMER.RESET", "CONSUMER.PAUSE", "CONSUMER.UNPIN", "CONSUMER.LEADER.STEPDOWN",
)  # fmt: skip
ACCOUNT_CALLS: Final = (
    "INFO", "STREAM.LIST", "STREAM.NAMES", "STREAM.TEMPLATE.NAMES", "META.LEADER.STEPDOWN", "SERVER.REMOVE",
    "ACCOUNT.PURGE.HUB", "ACCOUNT.STREAM.MOVE.HUB.BILLING",
)  # fmt: skip
REPLIES: Final = (
    *(f"{prefix}.STREAM.{call}.BILLING" for prefix in PREFIXES for call in ("DELETE", "PURGE")),
    *(f"{prefix}.CONSUMER.DELETE.BILLING.gateway-billing" for prefix in PREFIXES),
    CreditsReserved.subject,
    GrantCredits.subject,
)
"""Where an answer of the broker would do what the asker may not."""


def replies_for(service: Service) -> list[str]:
    """The same, without what the service may publish itself."""
    own = {message.subject for message in produced_by(service)}
    return [reply for reply in REPLIES if reply not in own]


@dataclass
class Attacker:
    """One user of a service's account, and what its tries were answered with."""

    service: Service
    user: str
    client: Client
    tries: int = 0
    granted: set[str] = field(default_factory=set)
    denied: int = 0
    _asked: list[str] = field(default_factory=list)

    async def listen(self) -> None:
        """Collect the answers to :meth:`ask`."""
        await self.client.subscribe(f"{inbox_prefix(self.user)}.tries.*", cb=self._note)

    async def ask(self, subject: str, body: dict[str, Any] | None = None) -> None:
        """Call a subject, with a way back of our own."""
        reply = f"{inbox_prefix(self.user)}.tries.{len(self._asked)}"
        self._asked.append(subject)
        await self.send(subject, json.dumps(body).encode() if body is not None else b"", reply)

    async def send(self, subject: str, payload: bytes, reply: str = "") -> None:
        """Publish anything anywhere."""
        self.tries += 1
        await self.client.publish(subject, payload, reply)

    async def settled(self) -> None:
        """Return when the server has taken everything that was said: it reads a connection in order."""
        await self.client.request(f"{API_PREFIX}.STREAM.INFO.{streams_of(self.service)[0]}", timeout=10)

    async def on_error(self, error: Exception) -> None:
        """The server says of each violation that it happened."""
        assert "violation" in str(error), error
        self.denied += 1

    async def _note(self, message: Msg) -> None:
        if message.headers and "Status" in message.headers:
            return
        text = message.data.decode()
        if '"error"' not in text:
            self.granted.add(self._asked[int(message.subject.rpartition(".")[2])] if _is_ours(message) else "a message")


def _is_ours(message: Msg) -> bool:
    return ".tries." in message.subject


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NatsServer]:
    """A broker on which each service has a second user in its account, without permissions."""
    made = BareUsers(tmp_path_factory.mktemp("nats"))
    made.start_blocking()
    yield made
    made.stop_blocking()


class BareUsers(NatsServer):
    """A server whose service accounts have one more user each, which may say and hear anything."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self.users |= {f"{service}-bare": f"password-of-{service}-bare" for service in SERVICES}

    def _configuration(self) -> dict[str, Any]:
        configuration: dict[str, Any] = super()._configuration()
        for service in SERVICES:
            user = f"{service}-bare"
            configuration["accounts"][service]["users"].append({"user": user, "password": self.users[user]})
        return configuration


@asynccontextmanager
async def attackers(server: NatsServer) -> AsyncIterator[tuple[list[Attacker], Client]]:
    """A connection for each user of a service, and one that sees everything."""
    async with AsyncExitStack() as stack:

        async def connect(user: str, on_error: Any = None) -> Client:
            client = Client()
            await client.connect(
                server.url,
                user=user,
                password=server.users[user],
                inbox_prefix=inbox_prefix(user),
                error_cb=on_error,
            )
            stack.push_async_callback(client.close)
            return client

        made = []
        for service in SERVICES:
            for user in (service, f"{service}-bare"):
                attacker = Attacker(service, user, Client())
                attacker.client = await connect(user, attacker.on_error)
                await attacker.listen()
                made.append(attacker)
        yield made, await connect(ADMIN)


async def state_of(admin: Client) -> dict[str, Any]:
    """Every stream and consumer with its configuration, and how many messages there are of each subject."""
    jetstream = admin.jetstream()
    state: dict[str, Any] = {}
    for info in await jetstream.streams_info():
        consumers = await jetstream.consumers_info(info.config.name or "")
        counted = await jetstream.stream_info(info.config.name or "", subjects_filter=">")
        state[info.config.name or ""] = {
            "config": info.config,
            "consumers": {one.name: one.config for one in consumers},
            "first": counted.state.first_seq,
            "messages": dict(counted.state.subjects or {}),
        }
    return state


def calls() -> Iterator[tuple[str, dict[str, Any] | None]]:
    """Every call of the API for every stream and consumer there is, with the bodies that would matter."""
    for prefix in PREFIXES:
        for call in ACCOUNT_CALLS:
            yield f"{prefix}.{call}", {}
        for stream in STREAMS:
            for call in STREAM_CALLS:
                yield f"{prefix}.{call}.{stream.name}", {"seq": 1} if "GET" in call else {}
            yield f"{prefix}.DIRECT.GET.{stream.name}.>", None
            for extra in STREAM_BODIES.values():
                body = {"name": stream.name, "subjects": list(stream.subjects)} | extra
                yield f"{prefix}.STREAM.UPDATE.{stream.name}", body
                yield f"{prefix}.STREAM.CREATE.STOLEN", body | {"name": "STOLEN"}
        for stream_name, consumer in CONSUMERS:
            for call in CONSUMER_CALLS:
                yield (
                    f"{prefix}.{call}.{stream_name}.{consumer}",
                    {"batch": 1, "no_wait": True} if "NEXT" in call else {},
                )
            for extra in CONSUMER_BODIES.values():
                config = {"name": consumer, "durable_name": consumer} | extra
                yield (
                    f"{prefix}.CONSUMER.CREATE.{stream_name}.{consumer}",
                    {"stream_name": stream_name, "config": config},
                )


async def test_no_password_of_a_service_does_more_than_the_registry_says(
    server: NatsServer, capsys: pytest.CaptureFixture[str]
) -> None:
    async with attackers(server) as (users, admin):
        before = await state_of(admin)
        everything = list(calls())
        published: Counter[str] = Counter()
        for attacker in users:
            for message in MESSAGES:
                await attacker.send(message.subject, attacker.user.encode())
            published.update(message.subject for message in produced_by(attacker.service))
            for subject, body in everything:
                await attacker.ask(subject, body)
            await attacker.settled()
            await detours(attacker)
            published.update(
                {message.subject: len(replies_for(attacker.service)) for message in produced_by(attacker.service)}
            )

        for attacker in users:
            own = {call.local_subject for call in calls_of(attacker.service)}
            informed = {subject for subject in own if ".INFO." in subject or ".RESET." in subject}
            # Every right call is answered: the accounts work, and an answer would have been noticed.
            await eventually(lambda: informed <= attacker.granted, what=f"answers for {attacker.user}")  # noqa: B023
            assert attacker.granted - {"a message"} <= own, attacker.user
            if not attacker.user.endswith("-bare"):
                assert attacker.denied > 100, "permissions are the second layer"

        expected = {
            name: stream | {"messages": {s: n for s, n in published.items() if stream_of(s) == name}, "first": 1}
            for name, stream in before.items()
        }

        async def nothing_else_happened() -> bool:
            assert await state_of(admin) == expected
            return True

        await eventually(nothing_else_happened)
    tries = sum(attacker.tries for attacker in users)
    with capsys.disabled():
        print(f"\n{len(users)} users of {len(SERVICES)} services made {tries} tries: all refused or harmless")


async def detours(attacker: Attacker) -> None:
    """Ask what we may, and let the broker send its answer to where it would do harm."""
    service = attacker.service
    for reply in replies_for(service):
        for message in produced_by(service):
            await attacker.send(message.subject, attacker.user.encode(), reply)
        for call in calls_of(service):
            if call.subject.startswith("$JS.API"):
                # The answer of an empty pull is an empty message: a valid request to delete something.
                await attacker.send(call.local_subject, b'{"batch":1,"no_wait":true}', reply)
                await attacker.send(call.local_subject, b'{"batch":1,"expires":1000000}', reply)
        for stream in sources_of(service):
            for answer in (b"+ACK", b"+WPI", b'+NXT {"batch":1,"no_wait":true}'):
                await attacker.send(f"$JS.ACK.{stream}.{durable_name(service, stream)}.1.1.1.1.0", answer, reply)
        for stream, consumer in CONSUMERS:
            await attacker.send(f"$JS.ACK.{stream}.{consumer}.1.1.1.1.0", b"+TERM", reply)
    await attacker.settled()


async def test_a_service_reads_what_it_may_know_and_hears_its_own_account(server: NatsServer) -> None:
    async with attackers(server) as (users, admin):
        bare = [attacker for attacker in users if attacker.user.endswith("-bare")]
        heard: dict[Service, set[tuple[str, str]]] = {attacker.service: set() for attacker in bare}
        for attacker in bare:

            async def note(message: Msg, service: Service = attacker.service) -> None:
                # What its own account asks, and is answered, is no news.
                if not message.subject.startswith((API_PREFIX, inbox_prefix(service))):
                    heard[service].add((message.subject, message.data.decode()))

            await attacker.client.subscribe(">", cb=note)
            await attacker.settled()
        # All the world speaks: services publish, and the broker announces what the operator does.
        await admin.jetstream().add_stream(name="SHORT", subjects=["short"])
        await admin.jetstream().delete_stream("SHORT")
        for attacker in users:
            if attacker not in bare:
                for subject in [message.subject for message in produced_by(attacker.service)]:
                    await attacker.client.publish(subject, attacker.service.encode())
                for subject in LIVE_PUBLISH.get(attacker.service, ()):
                    await attacker.client.publish(subject.replace("*", "someone"), attacker.service.encode())
                await attacker.settled()
        for attacker in bare:
            foreign = {(one.subject, one.producer) for one in heard_by(attacker.service)}
            mine = heard[attacker.service]
            await eventually(lambda: foreign <= mine, what=f"what {attacker.user} hears of others")  # noqa: B023
            assert {one for one in mine if one[1] != attacker.service} == foreign

        for attacker in users:
            for stream in streams_of(attacker.service):
                known = set(known_subjects(attacker.service, stream))
                assert await read_all(attacker, stream, verifier_name(attacker.service, stream)) == known
            for stream in sources_of(attacker.service):
                read = set(consumed_subjects(attacker.service, stream))
                assert await read_all(attacker, stream, durable_name(attacker.service, stream)) == read


async def test_a_query_reaches_its_responder_from_its_asker_alone(server: NatsServer) -> None:
    async with attackers(server) as (users, admin):
        before = (await state_of(admin))["BILLING"]["messages"]
        for query in QUERIES:
            asked: list[str] = []
            overheard: list[str] = []

            async def answer(message: Msg, asked: list[str] = asked) -> None:
                asked.append(message.data.decode())
                if message.reply:
                    await message.respond(b"the answer")

            async def overhear(message: Msg, overheard: list[str] = overheard) -> None:
                overheard.append(message.data.decode())

            [asker] = [one for one in users if one.user == query.asker]
            [responder] = [one for one in users if one.user == query.responder]
            others = [one for one in users if one.service not in (query.asker, query.responder)]
            await responder.client.subscribe(query.subject, queue="replicas", cb=answer)
            await responder.settled()
            for other in others:
                await other.client.subscribe(query.subject, queue="replicas", cb=overhear)
                await other.settled()
            for other in others:
                await other.client.publish(query.subject, other.user.encode())
                await other.settled()
            # Where the answer would do harm, it only reaches the asker's own account.
            await asker.client.publish(query.subject, b"a detour", GRANT)
            found = await asker.client.request(query.subject, b"a question", timeout=10)
            assert found.data == b"the answer"
            assert asked == ["a detour", "a question"]
            assert responder.denied == 0, "one answer to each question is allowed"
            # In its own account, whom no permission holds may talk to itself.
            assert set(overheard) <= {other.user for other in others if other.user.endswith("-bare")}
        assert (await state_of(admin))["BILLING"]["messages"] == before


async def read_all(attacker: Attacker, stream: str, consumer: str) -> set[str]:
    """The subjects of everything that a consumer gives from the beginning of its stream."""
    client = attacker.client
    reset = await client.request(f"{API_PREFIX}.CONSUMER.RESET.{stream}.{consumer}", b'{"seq":1}')
    pending = json.loads(reset.data)["num_pending"]
    inbox = client.new_inbox()
    subscription = await client.subscribe(inbox)
    request = {"batch": pending, "expires": 5_000_000_000}
    await client.publish(f"{API_PREFIX}.CONSUMER.MSG.NEXT.{stream}.{consumer}", json.dumps(request).encode(), inbox)
    subjects = {(await subscription.next_msg(5)).subject for _ in range(pending)}
    await subscription.unsubscribe()
    return subjects


async def test_inside_one_account_the_same_pull_deletes_a_stream(server: NatsServer) -> None:
    """What the accounts are for: this is how a server answers within one account, whatever the permissions are."""
    async with attackers(server) as (_, admin):
        jetstream = admin.jetstream()
        await jetstream.add_stream(name="VICTIM", subjects=["victim"])
        await jetstream.add_consumer("VICTIM", durable_name="reader")
        pull = b'{"batch":1,"no_wait":true}'
        await admin.publish("$JS.API.CONSUMER.MSG.NEXT.VICTIM.reader", pull, "$JS.API.STREAM.DELETE.VICTIM")

        async def deleted() -> bool:
            return "VICTIM" not in [info.config.name for info in await jetstream.streams_info()]

        await eventually(deleted)
