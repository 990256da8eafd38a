"""The fair queue: who is served next, within which limits.

Two levels of start-time fair queueing. Every lane and, inside a lane, every user carries the *start tag* of its next
order; the smallest tag is served, and serving one order adds the lane's stride (inverse to its weight) or, for a user,
one. Who comes back from idleness starts at the tag of the last order served (``virtual_time``): being away earns no
credit, and nobody waits for more than one round of the others. ``docs/decisions/0020`` shows the plan.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final
from uuid import UUID

import msgspec
from sqlalchemy import Row, text
from sqlalchemy.ext.asyncio import AsyncConnection

FULL_STRIDE: Final = 1_000_000
"""Stride of a lane of weight 1."""

_LIVE: Final = "('prepared', 'unknown', 'submitted', 'running')"

_LOCK_ENDPOINT_WITH_WORK: Final = text("""
    SELECT endpoint_id FROM generation.endpoints
    WHERE endpoint = :endpoint
      AND EXISTS (
          SELECT FROM generation.lanes AS l, LATERAL (
              SELECT FROM generation.user_queues AS q
              WHERE q.endpoint = l.endpoint AND q.lane = l.lane AND q.eligible
              LIMIT 1) AS waiting
          WHERE l.endpoint = :endpoint)
    FOR UPDATE
""")

# A statement of its own, after the lock: its snapshot must see the attempts of whoever held the lock before.
_GET_BUDGET: Final = text(f"""
    SELECT max_active - (
               SELECT count(*) FROM generation.attempts AS a WHERE a.endpoint = e.endpoint AND a.status IN {_LIVE}
           ) AS room,
           least(
               burst, tokens + rate_per_second * greatest(0, extract(epoch FROM clock_timestamp() - tokens_at))
           ) AS tokens,
           rate_per_second,
           held_until IS NOT NULL AS probing,
           CAST(extract(epoch FROM held_until - clock_timestamp()) AS double precision) AS held_seconds
    FROM generation.endpoints AS e WHERE endpoint = :endpoint
""")  # noqa: S608 - the only insertion is the constant above

CLAIM: Final = text("""
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
        SELECT g.generation_id, c.lane_tag, c.user_tag, c.stride
        FROM chosen AS c JOIN generation.video_generations AS g USING (generation_id)
        WHERE g.ready
        FOR UPDATE OF g SKIP LOCKED
    )
    UPDATE generation.video_generations AS g
    SET status = 'dispatching', ready = false, version = g.version + 1, attempt_count = g.attempt_count + 1
    FROM locked AS l
    WHERE g.generation_id = l.generation_id
    RETURNING g.generation_id, g.user_id, g.lane, g.kind, g.model_id, g.parameters, g.input_object_keys,
        g.attempt_count AS attempt_number, g.output_extension, g.max_size_bytes, g.execution_timeout_seconds,
        g.enqueued_at, g.traceparent, l.lane_tag, l.user_tag, l.stride
""")

_RECORD_CLAIM: Final = text("""
    WITH served AS MATERIALIZED (
        SELECT * FROM jsonb_to_recordset(CAST(:users AS jsonb))
            AS r(lane text, user_id uuid, served integer, turn bigint)
    ), locked AS MATERIALIZED (
        SELECT q.endpoint, q.lane, q.user_id, s.served, s.turn
        FROM generation.user_queues AS q JOIN served AS s USING (lane, user_id)
        WHERE q.endpoint = :endpoint
        ORDER BY q.endpoint, q.lane, q.user_id
        FOR UPDATE OF q
    ), users AS (
        UPDATE generation.user_queues AS q
        SET ready_count = q.ready_count - l.served, active_count = q.active_count + l.served, turn = l.turn
        FROM locked AS l
        WHERE q.endpoint = l.endpoint AND q.lane = l.lane AND q.user_id = l.user_id
    ), new_attempts AS (
        INSERT INTO generation.attempts (
            attempt_id, generation_id, attempt_number, endpoint, endpoint_id, status, fence_token, prepared_at,
            check_at)
        SELECT attempt_id, generation_id, attempt_number, CAST(:endpoint AS text), CAST(:endpoint_id AS text),
               'prepared', 1, clock_timestamp(), clock_timestamp() + make_interval(secs => :lease_seconds)
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

# Only a probe may close a held endpoint: the answers to what was sent before it was held come in late.
_RECORD_SUCCESS: Final = text("""
    UPDATE generation.endpoints SET consecutive_failures = 0, held_until = NULL
    WHERE endpoint = :endpoint AND (:probe OR (held_until IS NULL AND consecutive_failures > 0))
""")

_RECORD_FAILURE: Final = text("""
    UPDATE generation.endpoints
    SET consecutive_failures = consecutive_failures + 1,
        held_until = CASE WHEN consecutive_failures + 1 >= :threshold THEN clock_timestamp() + least(
            make_interval(secs => :longest_seconds),
            make_interval(secs => :first_seconds) * power(2, least(20, consecutive_failures + 1 - :threshold))) END
    WHERE endpoint = :endpoint AND (:probe OR held_until IS NULL)
""")

_HOLD: Final = text("""
    UPDATE generation.endpoints
    SET held_until = greatest(held_until, clock_timestamp() + make_interval(secs => :seconds))
    WHERE endpoint = :endpoint
""")

_ADD_ENDPOINTS: Final = text("""
    INSERT INTO generation.endpoints AS e (endpoint, endpoint_id, max_active, rate_per_second, burst, tokens)
    SELECT endpoint, endpoint_id, max_active, rate_per_second, burst, burst
    FROM jsonb_to_recordset(CAST(:rows AS jsonb))
        AS r(endpoint text, endpoint_id text, max_active integer, rate_per_second double precision, burst integer)
    ORDER BY endpoint
    ON CONFLICT (endpoint) DO UPDATE SET endpoint_id = excluded.endpoint_id, max_active = excluded.max_active,
        rate_per_second = excluded.rate_per_second, burst = excluded.burst
""")

_ADD_LANES: Final = text("""
    INSERT INTO generation.lanes AS l (endpoint, lane, stride)
    SELECT endpoint, lane, stride
    FROM jsonb_to_recordset(CAST(:rows AS jsonb)) AS r(endpoint text, lane text, stride bigint)
    ORDER BY endpoint, lane
    ON CONFLICT (endpoint, lane) DO UPDATE SET stride = excluded.stride
""")

_SET_CAPS: Final = text("""
    WITH locked AS MATERIALIZED (
        SELECT endpoint, lane, user_id FROM generation.user_queues
        WHERE lane = :lane AND active_cap <> :active_cap
        ORDER BY endpoint, lane, user_id
        FOR UPDATE
    )
    UPDATE generation.user_queues AS q SET active_cap = :active_cap
    FROM locked AS l
    WHERE q.endpoint = l.endpoint AND q.lane = l.lane AND q.user_id = l.user_id
""")


class EndpointLimits(msgspec.Struct, frozen=True, kw_only=True):
    """One endpoint of the provider: its id there, how many jobs it may hold, and how fast it takes them."""

    endpoint: str
    endpoint_id: str
    max_active: int
    rate_per_second: float
    burst: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ClaimedOrder:
    """One order taken from the queue, with the attempt that was prepared for it."""

    generation_id: UUID
    user_id: UUID
    attempt_id: UUID
    attempt_number: int
    fence_token: int
    endpoint: str
    endpoint_id: str
    probe: bool
    kind: str
    model_id: str
    parameters: dict[str, Any]
    input_object_keys: dict[str, str]
    output_extension: str
    max_size_bytes: int
    execution_timeout_seconds: int
    traceparent: str | None


@dataclass(frozen=True, slots=True)
class Claim:
    """What was claimed, and in how many seconds a limit that cut it short gives way (None if none did)."""

    orders: list[ClaimedOrder]
    again_in_seconds: float | None


async def configure_endpoints(
    connection: AsyncConnection,
    limits: Sequence[EndpointLimits],
    lane_weights: Mapping[str, int],
    active_caps: Mapping[str, int],
) -> None:
    """Bring endpoints, lanes and caps in line with the settings of this process. Repeatable."""
    await connection.execute(_ADD_ENDPOINTS, {"rows": _json(limits)})
    lanes = [
        {"endpoint": limit.endpoint, "lane": lane, "stride": FULL_STRIDE // weight}
        for limit in limits
        for lane, weight in lane_weights.items()
    ]
    await connection.execute(_ADD_LANES, {"rows": _json(lanes)})
    for lane, active_cap in sorted(active_caps.items()):
        await connection.execute(_SET_CAPS, {"lane": lane, "active_cap": active_cap})


async def claim_orders(
    connection: AsyncConnection,
    endpoint: str,
    new_attempt_ids: Sequence[UUID],
    *,
    lease_seconds: float,
    probe_seconds: float,
) -> Claim:
    """Take up to ``len(new_attempt_ids)`` orders in fair order and prepare an attempt for each.

    Takes the endpoint's lock, so that its cap and its token bucket hold over all replicas. An endpoint that is held
    (breaker open, or the provider asked for a pause) yields nothing until then, and one probe at a time after.
    """
    endpoint_id = (await connection.execute(_LOCK_ENDPOINT_WITH_WORK, {"endpoint": endpoint})).scalar()
    if endpoint_id is None:
        return Claim([], None)
    budget = (await connection.execute(_GET_BUDGET, {"endpoint": endpoint})).one()
    if budget.probing and budget.held_seconds > 0:
        return Claim([], budget.held_seconds)
    batch = min(len(new_attempt_ids), budget.room, int(budget.tokens), 1 if budget.probing else budget.room)
    short_of_tokens = (1 - budget.tokens % 1) / budget.rate_per_second if int(budget.tokens) <= batch else None
    if batch <= 0:
        return Claim([], short_of_tokens if budget.room > 0 else None)
    rows = (await connection.execute(CLAIM, {"endpoint": endpoint, "batch": batch})).all()
    if not rows:
        return Claim([], None)
    orders = [
        _claimed(row, attempt_id, endpoint, endpoint_id, probe=budget.probing)
        for row, attempt_id in zip(rows, new_attempt_ids, strict=False)
    ]
    await connection.execute(
        _RECORD_CLAIM,
        {
            "endpoint": endpoint,
            "endpoint_id": endpoint_id,
            "users": _json(_users_served(rows)),
            "lanes": _json(_lanes_served(rows)),
            "attempts": _json(
                [
                    {
                        "attempt_id": order.attempt_id,
                        "generation_id": order.generation_id,
                        "attempt_number": order.attempt_number,
                    }
                    for order in orders
                ]
            ),
            "lease_seconds": lease_seconds,
            "probe_seconds": probe_seconds,
            "tokens": budget.tokens - len(rows),
            "virtual_time": max(row.lane_tag for row in rows),
        },
    )
    return Claim(orders, short_of_tokens)


async def record_success(connection: AsyncConnection, endpoint: str, *, probe: bool) -> None:
    """The endpoint took a job: forget its failures, and let the queue flow again if this was the probe."""
    await connection.execute(_RECORD_SUCCESS, {"endpoint": endpoint, "probe": probe})


async def record_failure(
    connection: AsyncConnection,
    endpoint: str,
    *,
    probe: bool,
    threshold: int,
    first_seconds: float,
    longest_seconds: float,
) -> None:
    """The endpoint could not take a job. From ``threshold`` failures in a row on it is held, longer each time."""
    parameters = {"threshold": threshold, "first_seconds": first_seconds, "longest_seconds": longest_seconds}
    await connection.execute(_RECORD_FAILURE, {"endpoint": endpoint, "probe": probe, **parameters})


async def hold(connection: AsyncConnection, endpoint: str, seconds: float) -> None:
    """The provider asked for a pause."""
    await connection.execute(_HOLD, {"endpoint": endpoint, "seconds": seconds})


def _claimed(
    row: Row[*tuple[Any, ...]], attempt_id: UUID, endpoint: str, endpoint_id: str, *, probe: bool
) -> ClaimedOrder:
    return ClaimedOrder(
        generation_id=row.generation_id,
        user_id=row.user_id,
        attempt_id=attempt_id,
        attempt_number=row.attempt_number,
        fence_token=1,
        endpoint=endpoint,
        endpoint_id=endpoint_id,
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


def _users_served(rows: Sequence[Row[*tuple[Any, ...]]]) -> list[dict[str, Any]]:
    served: dict[tuple[str, UUID], dict[str, Any]] = {}
    for row in rows:
        user = served.setdefault(
            (row.lane, row.user_id), {"lane": row.lane, "user_id": row.user_id, "served": 0, "turn": 0}
        )
        user["served"] += 1
        user["turn"] = max(user["turn"], row.user_tag + 1)
    return list(served.values())


def _lanes_served(rows: Sequence[Row[*tuple[Any, ...]]]) -> list[dict[str, Any]]:
    served: dict[str, dict[str, Any]] = {}
    for row in rows:
        lane = served.setdefault(row.lane, {"lane": row.lane, "pass": 0, "virtual_time": 0})
        lane["pass"] = max(lane["pass"], row.lane_tag + row.stride)
        lane["virtual_time"] = max(lane["virtual_time"], row.user_tag)
    return list(served.values())


def _json(rows: Any) -> str:
    return msgspec.json.encode(rows).decode()
