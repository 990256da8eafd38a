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

from sqlalchemy.ext.asyncio import AsyncConnection

from contracts.object_keys import output_key
from contracts.values import Kind, Lane
from generation.tables import LIVE_ATTEMPT
from service_runtime.statements import Record, Statement

_MOST_TRIES: Final = 5
"""Each is in vain because another process claimed in between."""


def has_work_sql(endpoint: str) -> str:
    """The condition that a user waits at ``endpoint``, an expression, who may have one more order taken.

    Its order is that of an index. By the statistics of a full queue, any row would do, and the first one looks near.
    """
    return f"""EXISTS (
        SELECT FROM generation.lanes AS its_lane, LATERAL (
            SELECT FROM generation.user_queues AS waiting
            WHERE waiting.endpoint = its_lane.endpoint AND waiting.lane = its_lane.lane AND waiting.eligible
            ORDER BY waiting.turn, waiting.user_id LIMIT 1) AS found
        WHERE its_lane.endpoint = {endpoint})"""  # noqa: S608 - the insertion is a constant of ours


# One statement: one round trip, and the shortest lock. Its snapshot is older than its lock on the endpoint: attempts
# that were made between the two are not counted. But who makes attempts changes the endpoint's row. So if the row that
# is locked is not the version that the snapshot shows, nothing is claimed, and the statement is sent again.
#
# The commit does not wait for the disk. The mark of sending comes later and does wait, and the log is written in order:
# nothing is sent before the claim is stored. A claim that a crash of the server takes with it was never made.
#
# Every order is locked by its key, one by one. Beside the key stands no condition that another index knows: by the
# statistics of an empty queue, the index of ready orders holds one row, and a walk along it for each order looks cheap.
CLAIM: Final = Statement(f"""
    WITH endpoint AS MATERIALIZED (
        SELECT e.*, e.ctid AS place, set_config('synchronous_commit', 'off', true)
        FROM generation.endpoints AS e
        WHERE e.endpoint = :endpoint AND {has_work_sql(":endpoint")}
        FOR UPDATE OF e
    ), budget AS MATERIALIZED (
        SELECT e.endpoint_id, e.rate_per_second, e.virtual_time, e.held_until IS NOT NULL AS probing,
               CASE WHEN e.held_until IS NOT NULL THEN 1 END AS probes,
               e.place <> (SELECT seen.ctid FROM generation.endpoints AS seen WHERE seen.endpoint = e.endpoint)
                   AS outdated,
               e.max_active - (
                   SELECT count(*) FROM generation.attempts AS a WHERE a.endpoint = e.endpoint AND {LIVE_ATTEMPT}
               ) AS room,
               least(
                   e.burst,
                   e.tokens + e.rate_per_second * greatest(0, extract(epoch FROM clock_timestamp() - e.tokens_at))
               ) AS tokens,
               CAST(extract(epoch FROM e.held_until - clock_timestamp()) AS double precision) AS paused_seconds
        FROM endpoint AS e
    ), allowed AS MATERIALIZED (
        SELECT CASE WHEN outdated OR paused_seconds > 0 THEN 0
               ELSE greatest(0, least(CAST(:batch AS bigint), room, CAST(floor(tokens) AS bigint), probes)) END AS batch
        FROM budget
    ), users AS MATERIALIZED (
        SELECT l.lane, l.stride, greatest(l.pass, e.virtual_time) AS pass,
               q.user_id, greatest(q.turn, l.virtual_time) AS turn, q.room
        FROM budget AS e
        JOIN generation.lanes AS l ON l.endpoint = :endpoint
        CROSS JOIN LATERAL (
            SELECT q.user_id, q.turn, q.active_cap - q.active_count AS room
            FROM generation.user_queues AS q
            WHERE q.endpoint = l.endpoint AND q.lane = l.lane AND q.eligible
            ORDER BY q.turn, q.user_id
            LIMIT (SELECT batch FROM allowed)
        ) AS q
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
                LIMIT least(u.room, (SELECT batch FROM allowed))
            ) AS g
        ) AS o
    ), chosen AS MATERIALIZED (
        SELECT * FROM candidates ORDER BY lane_tag, lane, user_tag LIMIT (SELECT batch FROM allowed)
    ), locked AS MATERIALIZED (
        SELECT c.generation_id, c.lane_tag, c.user_tag, c.stride, o.ready
        FROM chosen AS c
        CROSS JOIN LATERAL (
            SELECT g.ready FROM generation.video_generations AS g
            WHERE g.generation_id = c.generation_id
            FOR UPDATE SKIP LOCKED
        ) AS o
    ), taken AS (
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
    ), claimed AS MATERIALIZED (
        SELECT taken.*,
               (CAST(:attempt_ids AS uuid[]))[row_number() OVER (ORDER BY lane_tag, lane, user_tag)] AS attempt_id
        FROM taken
    ), prepared AS (
        INSERT INTO generation.attempts (
            attempt_id, generation_id, attempt_number, endpoint, endpoint_id, status, fence_token, prepared_at,
            sending_at, check_at)
        SELECT attempt_id, generation_id, attempt_number, :endpoint, (SELECT endpoint_id FROM budget),
               'prepared', 1, clock_timestamp(), NULL, clock_timestamp() + make_interval(secs => :send_within_seconds)
        FROM claimed
    ), locked_users AS MATERIALIZED (
        SELECT q.endpoint, q.lane, q.user_id, s.served, s.turn
        FROM (
            SELECT lane, user_id, count(*) AS served, max(user_tag) + 1 AS turn FROM claimed
            GROUP BY lane, user_id ORDER BY lane, user_id
        ) AS s
        CROSS JOIN LATERAL (
            SELECT endpoint, lane, user_id FROM generation.user_queues
            WHERE endpoint = :endpoint AND lane = s.lane AND user_id = s.user_id
            FOR UPDATE
        ) AS q
    ), served_users AS (
        UPDATE generation.user_queues AS q
        SET ready_count = q.ready_count - l.served, active_count = q.active_count + l.served, turn = l.turn
        FROM locked_users AS l
        WHERE q.endpoint = l.endpoint AND q.lane = l.lane AND q.user_id = l.user_id
    ), served_lanes AS (
        UPDATE generation.lanes AS l SET pass = s.pass, virtual_time = s.virtual_time
        FROM (
            SELECT lane, max(lane_tag + stride) AS pass, max(user_tag) AS virtual_time FROM claimed GROUP BY lane
        ) AS s
        WHERE l.endpoint = :endpoint AND l.lane = s.lane
    ), served_endpoint AS (
        UPDATE generation.endpoints AS e
        SET tokens = b.tokens - s.served, tokens_at = clock_timestamp(), virtual_time = s.virtual_time,
            held_until = CASE WHEN b.probing THEN clock_timestamp() + make_interval(secs => :probe_seconds) END
        FROM budget AS b, (SELECT count(*) AS served, max(lane_tag) AS virtual_time FROM claimed) AS s
        WHERE e.endpoint = :endpoint AND s.served > 0
    )
    SELECT b.outdated, b.room, b.tokens, b.rate_per_second, b.paused_seconds, b.probing, b.endpoint_id, allowed.batch,
           c.generation_id, c.user_id, c.lane, c.kind, c.model_id, c.parameters, c.input_object_keys, c.attempt_id,
           c.attempt_number, c.output_extension, c.max_size_bytes, c.execution_timeout_seconds, c.traceparent,
           c.waited_seconds
    FROM budget AS b CROSS JOIN allowed LEFT JOIN claimed AS c ON true
    ORDER BY c.lane_tag, c.lane, c.user_tag
""")  # noqa: S608 - the insertions are constants


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


class _Budget(NamedTuple):
    """How much the endpoint may take now. ``probing``: its queue is paused, or was and has not been tried since.

    ``outdated``: another process claimed meanwhile. ``batch`` is how many orders all limits allow.
    """

    outdated: bool
    room: int
    tokens: float
    rate_per_second: float
    paused_seconds: float | None
    probing: bool
    endpoint_id: str
    batch: int


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
    values = {
        "endpoint": endpoint,
        "batch": len(new_attempt_ids),
        "attempt_ids": new_attempt_ids,
        "send_within_seconds": send_within_seconds,
        "probe_seconds": probe_seconds,
    }
    for _ in range(_MOST_TRIES):
        rows = await CLAIM.fetch(connection, values)
        if not rows:
            return Claim([], None)
        budget = _Budget(*rows[0][: len(_Budget._fields)])
        if not budget.outdated:
            orders = [_claimed(row, endpoint, budget) for row in rows if row["generation_id"] is not None]
            return Claim(orders, _seconds_until_more(budget, claimed=len(orders)))
    return Claim([], 0.0)


def _seconds_until_more(budget: _Budget, *, claimed: int) -> float | None:
    if budget.paused_seconds is not None and budget.paused_seconds > 0:
        return budget.paused_seconds
    if budget.room <= 0 or claimed < budget.batch:
        # An attempt that ends, or an order that comes, will wake the dispatcher.
        return None
    return (1 - budget.tokens % 1) / budget.rate_per_second if int(budget.tokens) <= budget.batch else None


def _claimed(row: Record, endpoint: str, budget: _Budget) -> ClaimedOrder:
    return ClaimedOrder(
        generation_id=row["generation_id"],
        user_id=row["user_id"],
        attempt_id=row["attempt_id"],
        attempt_number=row["attempt_number"],
        fence_token=1,
        endpoint=endpoint,
        endpoint_id=budget.endpoint_id,
        lane=row["lane"],
        waited_seconds=row["waited_seconds"],
        probe=budget.probing,
        kind=row["kind"],
        model_id=row["model_id"],
        parameters=row["parameters"],
        input_object_keys=row["input_object_keys"] or {},
        output_extension=row["output_extension"],
        max_size_bytes=row["max_size_bytes"],
        execution_timeout_seconds=row["execution_timeout_seconds"],
        traceparent=row["traceparent"],
    )
