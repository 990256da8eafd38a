"""The fair queue: who is served next, within which limits. Per-user fairness is decided here, in ``CLAIM``.

Two levels of start-time fair queueing: the lanes of an endpoint share it by weight, and the users of a lane take turns.
Every lane and, inside a lane, every user carries the *start tag* of its next order. The smallest tag is served. Serving
one order adds the lane's stride (inverse to its weight) to the lane's tag, and one to the user's. A lane or user that
was idle starts at the tag of the last order served (``virtual_time``): being idle earns no credit, and no user
waits for more than one round of the others. ``docs/decisions/0020`` shows the plan.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple
from uuid import UUID

import msgspec
from sqlalchemy.ext.asyncio import AsyncConnection

from contracts.object_keys import output_key
from contracts.values import Kind, Lane
from generation.tables import LIVE_ATTEMPT
from service_runtime.statements import Statement


def has_work_sql(endpoint: str) -> str:
    """The condition that a user waits at ``endpoint``, an expression, who may have one more order taken."""
    return f"""EXISTS (
        SELECT FROM generation.lanes AS its_lane, LATERAL (
            SELECT FROM generation.user_queues AS waiting
            WHERE waiting.endpoint = its_lane.endpoint AND waiting.lane = its_lane.lane AND waiting.eligible
            LIMIT 1) AS found
        WHERE its_lane.endpoint = {endpoint})"""  # noqa: S608 - the insertion is a constant of ours


# The commit does not wait for the disk. The mark of sending comes later and does wait, and the log is written in order:
# nothing is sent before the claim is stored. A claim that a crash of the server takes with it was never made.
_LOCK_ENDPOINT_WITH_WORK: Final = Statement(f"""
    SELECT endpoint_id, set_config('synchronous_commit', 'off', true) FROM generation.endpoints
    WHERE endpoint = :endpoint AND {has_work_sql(":endpoint")} FOR UPDATE
""")  # noqa: S608 - the insertion is a constant

# A statement of its own, after the lock: its snapshot must see the attempts of the lock's previous owner.
_GET_BUDGET: Final = Statement(f"""
    SELECT max_active - (
               SELECT count(*) FROM generation.attempts AS a WHERE a.endpoint = e.endpoint AND {LIVE_ATTEMPT}
           ) AS room,
           least(
               burst, tokens + rate_per_second * greatest(0, extract(epoch FROM clock_timestamp() - tokens_at))
           ) AS tokens,
           rate_per_second,
           held_until IS NOT NULL AS probing,
           CAST(extract(epoch FROM held_until - clock_timestamp()) AS double precision) AS paused_seconds
    FROM generation.endpoints AS e WHERE endpoint = :endpoint
""")  # noqa: S608 - the only insertion is the index's condition

# Every order is locked by its key, one by one. Beside the key stands no condition that another index knows: by the
# statistics of an empty queue, the index of ready orders holds one row, and a walk along it for each order looks cheap.
CLAIM: Final = Statement("""
    WITH users AS MATERIALIZED (
        SELECT l.lane, l.stride, greatest(l.pass, e.virtual_time) AS pass,
               q.user_id, greatest(q.turn, l.virtual_time) AS turn, q.room
        FROM generation.endpoints AS e
        JOIN generation.lanes AS l ON l.endpoint = e.endpoint
        CROSS JOIN LATERAL (
            SELECT q.user_id, q.turn, q.active_cap - q.active_count AS room
            FROM generation.user_queues AS q
            WHERE q.endpoint = l.endpoint AND q.lane = l.lane AND q.eligible
            ORDER BY q.turn, q.user_id
            LIMIT :batch
        ) AS q
        WHERE e.endpoint = :endpoint
    ), candidates AS (
        SELECT u.lane, u.stride, u.turn + o.place - 1 AS user_tag, o.generation_id,
               u.pass + u.stride * (row_number() OVER (
                   PARTITION BY u.lane ORDER BY u.turn + o.place, o.enqueued_at, o.generation_id) - 1) AS lane_tag
        FROM users AS u
        CROSS JOIN LATERAL (
            SELECT g.generation_id, g.enqueued_at,
                   row_number() OVER (ORDER BY g.enqueued_at, g.generation_id) AS place
            FROM (
                SELECT generation_id, enqueued_at FROM generation.video_generations
                WHERE endpoint = :endpoint AND lane = u.lane AND user_id = u.user_id AND ready
                ORDER BY enqueued_at, generation_id
                LIMIT least(u.room, :batch)
            ) AS g
        ) AS o
    ), chosen AS MATERIALIZED (
        SELECT * FROM candidates ORDER BY lane_tag, lane, user_tag LIMIT :batch
    ), locked AS MATERIALIZED (
        SELECT c.generation_id, c.lane_tag, c.user_tag, c.stride, o.ready
        FROM chosen AS c
        CROSS JOIN LATERAL (
            SELECT g.ready FROM generation.video_generations AS g
            WHERE g.generation_id = c.generation_id
            FOR UPDATE SKIP LOCKED
        ) AS o
    )
    UPDATE generation.video_generations AS g
    SET status = 'dispatching', ready = false, version = g.version + 1, attempt_count = g.attempt_count + 1
    FROM locked AS l
    WHERE g.generation_id = l.generation_id AND l.ready
      AND g.generation_id = ANY (ARRAY(SELECT generation_id FROM locked))
    RETURNING g.generation_id, g.user_id, g.lane, g.kind, g.model_id, g.parameters, g.input_object_keys,
        g.attempt_count AS attempt_number, g.output_extension, g.max_size_bytes, g.execution_timeout_seconds,
        g.traceparent,
        CAST(extract(epoch FROM clock_timestamp() - g.enqueued_at) AS double precision) AS waited_seconds,
        l.lane_tag, l.user_tag, l.stride
""")

_RECORD_CLAIM: Final = Statement("""
    WITH served AS MATERIALIZED (
        SELECT * FROM jsonb_to_recordset(CAST(:users AS jsonb))
            AS r(lane text, user_id uuid, served integer, turn bigint)
        ORDER BY lane, user_id
    ), locked AS MATERIALIZED (
        SELECT q.endpoint, q.lane, q.user_id, s.served, s.turn
        FROM served AS s
        CROSS JOIN LATERAL (
            SELECT endpoint, lane, user_id FROM generation.user_queues
            WHERE endpoint = :endpoint AND lane = s.lane AND user_id = s.user_id
            FOR UPDATE
        ) AS q
    ), users AS (
        UPDATE generation.user_queues AS q
        SET ready_count = q.ready_count - l.served, active_count = q.active_count + l.served, turn = l.turn
        FROM locked AS l
        WHERE q.endpoint = l.endpoint AND q.lane = l.lane AND q.user_id = l.user_id
    ), new_attempts AS (
        INSERT INTO generation.attempts (
            attempt_id, generation_id, attempt_number, endpoint, endpoint_id, status, fence_token, prepared_at,
            sending_at, check_at)
        SELECT attempt_id, generation_id, attempt_number, CAST(:endpoint AS text), CAST(:endpoint_id AS text),
               'prepared', 1, clock_timestamp(), NULL, clock_timestamp() + make_interval(secs => :send_within_seconds)
        FROM jsonb_to_recordset(CAST(:attempts AS jsonb))
            AS r(attempt_id uuid, generation_id uuid, attempt_number integer)
    ), passed AS (
        UPDATE generation.lanes AS l SET pass = r.pass, virtual_time = r.virtual_time
        FROM jsonb_to_recordset(CAST(:lanes AS jsonb)) AS r(lane text, pass bigint, virtual_time bigint)
        WHERE l.endpoint = :endpoint AND l.lane = r.lane
    )
    UPDATE generation.endpoints AS e
    SET tokens = :tokens, tokens_at = clock_timestamp(), virtual_time = :virtual_time,
        held_until = CASE WHEN held_until IS NOT NULL THEN clock_timestamp() + make_interval(secs => :probe_seconds) END
    WHERE endpoint = :endpoint
""")


@dataclass(frozen=True, slots=True, kw_only=True)
class ClaimedOrder:
    """One order claimed from the queue, with the attempt that was prepared for it."""

    generation_id: UUID
    user_id: UUID
    attempt_id: UUID
    attempt_number: int
    fence_token: int
    endpoint: str
    endpoint_id: str
    lane: Lane
    waited_seconds: float
    probe: bool
    kind: Kind
    model_id: str
    parameters: dict[str, Any]
    input_object_keys: dict[str, str]
    output_extension: str
    max_size_bytes: int
    execution_timeout_seconds: int
    traceparent: str | None

    @property
    def object_key(self) -> str:
        """Where the worker puts its file, in the bucket for incoming files."""
        return output_key(self.generation_id, self.attempt_number, self.output_extension)


@dataclass(frozen=True, slots=True)
class _Budget:
    """How much the endpoint may take now. ``probing``: its queue is paused, or was and has not been tried since."""

    room: int
    tokens: float
    rate_per_second: float
    probing: bool
    paused_seconds: float | None


class _Served(NamedTuple):
    """A row that ``CLAIM`` returns."""

    generation_id: UUID
    user_id: UUID
    lane: Lane
    kind: Kind
    model_id: str
    parameters: dict[str, Any]
    input_object_keys: dict[str, str] | None
    attempt_number: int
    output_extension: str
    max_size_bytes: int
    execution_timeout_seconds: int
    traceparent: str | None
    waited_seconds: float
    lane_tag: int
    user_tag: int
    stride: int


class _PreparedAttempt(msgspec.Struct, frozen=True):
    attempt_id: UUID
    generation_id: UUID
    attempt_number: int


class _ServedUser(msgspec.Struct):
    lane: str
    user_id: UUID
    served: int = 0
    turn: int = 0


class _ServedLane(msgspec.Struct):
    lane: str
    next_tag: int = msgspec.field(default=0, name="pass")
    virtual_time: int = 0


@dataclass(frozen=True, slots=True)
class Claim:
    """What was claimed, and in how many seconds a limit that cut it short gives way (None if none did)."""

    orders: list[ClaimedOrder]
    again_in_seconds: float | None


async def claim_orders(
    connection: AsyncConnection,
    endpoint: str,
    new_attempt_ids: Sequence[UUID],
    *,
    send_within_seconds: float,
    probe_seconds: float,
) -> Claim:
    """Claim up to ``len(new_attempt_ids)`` orders, sorted fairly, and prepare an attempt for each.

    Its transaction may hold nothing else that must outlive a crash of the server.
    An attempt that is not marked as being sent (``repository.attempts``) within ``send_within_seconds`` is over.

    Locks the endpoint, so that its cap and its token bucket apply over all replicas. While its queue is paused
    (``breaker``) there is nothing to claim; after the pause, one probe at a time.
    """
    locked = await _LOCK_ENDPOINT_WITH_WORK.fetch_one(connection, {"endpoint": endpoint})
    if locked is None:
        return Claim([], None)
    endpoint_id, _ = locked
    (found,) = await _GET_BUDGET.fetch(connection, {"endpoint": endpoint})
    budget = _Budget(*found)
    if budget.paused_seconds is not None and budget.paused_seconds > 0:
        return Claim([], budget.paused_seconds)
    batch = min(len(new_attempt_ids), budget.room, int(budget.tokens), 1 if budget.probing else budget.room)
    short_of_tokens = (1 - budget.tokens % 1) / budget.rate_per_second if int(budget.tokens) <= batch else None
    if batch <= 0:
        return Claim([], short_of_tokens if budget.room > 0 else None)
    claimed = [_Served(*row) for row in await CLAIM.fetch(connection, {"endpoint": endpoint, "batch": batch})]
    # In the order in which they are served, which the UPDATE does not promise.
    rows = sorted(claimed, key=lambda row: (row.lane_tag, row.lane, row.user_tag))
    if not rows:
        return Claim([], None)
    orders = [
        _claimed(row, attempt_id, endpoint, endpoint_id, probe=budget.probing)
        for row, attempt_id in zip(rows, new_attempt_ids, strict=False)
    ]
    await _RECORD_CLAIM.execute(
        connection,
        {
            "endpoint": endpoint,
            "endpoint_id": endpoint_id,
            "users": _json(_served_users(rows)),
            "lanes": _json(_served_lanes(rows)),
            "attempts": _json(
                [_PreparedAttempt(order.attempt_id, order.generation_id, order.attempt_number) for order in orders]
            ),
            "send_within_seconds": send_within_seconds,
            "probe_seconds": probe_seconds,
            "tokens": budget.tokens - len(rows),
            "virtual_time": max(row.lane_tag for row in rows),
        },
    )
    return Claim(orders, short_of_tokens)


def _claimed(row: _Served, attempt_id: UUID, endpoint: str, endpoint_id: str, *, probe: bool) -> ClaimedOrder:
    return ClaimedOrder(
        generation_id=row.generation_id,
        user_id=row.user_id,
        attempt_id=attempt_id,
        attempt_number=row.attempt_number,
        fence_token=1,
        endpoint=endpoint,
        endpoint_id=endpoint_id,
        lane=row.lane,
        waited_seconds=row.waited_seconds,
        probe=probe,
        kind=row.kind,
        model_id=row.model_id,
        parameters=row.parameters,
        input_object_keys=row.input_object_keys or {},
        output_extension=row.output_extension,
        max_size_bytes=row.max_size_bytes,
        execution_timeout_seconds=row.execution_timeout_seconds,
        traceparent=row.traceparent,
    )


def _served_users(rows: Sequence[_Served]) -> list[_ServedUser]:
    served: dict[tuple[str, UUID], _ServedUser] = {}
    for row in rows:
        user = served.setdefault((row.lane, row.user_id), _ServedUser(row.lane, row.user_id))
        user.served += 1
        user.turn = max(user.turn, row.user_tag + 1)
    return list(served.values())


def _served_lanes(rows: Sequence[_Served]) -> list[_ServedLane]:
    served: dict[str, _ServedLane] = {}
    for row in rows:
        lane = served.setdefault(row.lane, _ServedLane(row.lane))
        lane.next_tag = max(lane.next_tag, row.lane_tag + row.stride)
        lane.virtual_time = max(lane.virtual_time, row.user_tag)
    return list(served.values())


def _json(rows: Sequence[msgspec.Struct]) -> str:
    return msgspec.json.encode(rows).decode()
