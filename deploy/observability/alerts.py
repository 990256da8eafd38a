"""Every alert: when it fires, what it means, and what the person on call does.

This is the one source of the Prometheus rules, of the PrometheusRule for Kubernetes, of their tests, and of the sections
in ``docs/runbook.md``. ``page`` wakes somebody; ``ticket`` waits for the morning.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal

from contracts.message import SERVICES
from service_runtime.indicators import INDICATORS, Indicator

Severity = Literal["page", "ticket"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Alert:
    """One alert with its runbook section, and with samples that must make it fire and samples that must not.

    ``samples`` maps a series to two strings in promtool's notation, one value a minute: firing, and quiet. Both are
    evaluated after ``after``.
    """

    name: str
    expr: str
    pending: str
    severity: Severity
    summary: str
    means: str
    run: Sequence[str]
    verify: str
    wake: str
    after: str
    samples: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    other_faults: "Sequence[Fault]" = ()
    """What makes it fire, too: each alternative of the expression that ``samples`` do not reach."""


@dataclass(frozen=True, slots=True)
class Fault:
    """Samples by series, in promtool's notation, that make an alert fire after ``after``."""

    samples: Mapping[str, str]
    after: str


@dataclass(frozen=True, slots=True)
class BurnWindow:
    """A long window for significance, a short one for an early end, and how fast the budget of 30 days burns."""

    long: str
    short: str
    rate: float


PAGE_WINDOWS: Final = (BurnWindow("1h", "5m", 14.4), BurnWindow("6h", "30m", 6))
"""2 % of the budget in an hour, 5 % in six."""
TICKET_WINDOWS: Final = (BurnWindow("1d", "2h", 3), BurnWindow("3d", "6h", 1))
"""10 % of the budget in a day, or in three."""
RATIO_WINDOWS: Final = ("5m", "30m", "1h", "2h", "6h", "1d", "3d")
FEWEST_EVENTS: Final = 20
"""In the long window. With fewer, one bad event would look like an outage."""


def ratio_rule(window: str) -> tuple[str, str]:
    """Name and expression of the recording rule for the share of events that broke their promise."""
    good = f"sum by (slo) (rate(slo_good_events_total[{window}]))"
    return f"slo:error_ratio:rate{window}", f"1 - {good} / sum by (slo) (rate(slo_events_total[{window}]))"


def _burn_expr(indicator: Indicator, windows: Sequence[BurnWindow]) -> str:
    budget = round(1 - indicator.objective, 6)
    slo = f'{{slo="{indicator.name}"}}'
    return " or ".join(
        f"(slo:error_ratio:rate{one.long}{slo} > {one.rate:g} * {budget:g}"
        f" and slo:error_ratio:rate{one.short}{slo} > {one.rate:g} * {budget:g}"
        f" and sum by (slo) (increase(slo_events_total{slo}[{one.long}])) >= {FEWEST_EVENTS})"
        for one in windows
    )


_BURN_ADVICE: Final[Mapping[str, Sequence[str]]] = {
    "accepted_in_time": (
        "Open the Overview: is it errors or slowness, and on which route?",
        "`/readyz` of a gateway ([how](#how-to-reach-what-runs)) says what it cannot reach.",
        "Look at the age of the outboxes and at billing's consumers (Messaging): a verdict that is late makes answers late.",
    ),
    "delivered_in_time": (
        "Open Queue and GPUs: failures by attempt status, paused endpoints, age of the queue, workers.",
        "`python -m auditor.main show ID` with a failed order's id: `failure_code` and the attempts' details.",
        "If workers lack, raise them at RunPod; if attempts fail, look at the endpoint's own log there.",
    ),
    "credited_in_time": (
        "Open Money and Messaging: billing's consumers, dead letters, payments' outbox.",
        "`python -m payments.main reviews` lists what waits for a decision.",
        "`python -m auditor.main show ID` with a payment's id: is the grant requested, and posted?",
    ),
}


def _burn(indicator: Indicator, severity: Severity) -> Alert:
    windows = PAGE_WINDOWS if severity == "page" else TICKET_WINDOWS
    speed = "fast" if severity == "page" else "slowly"
    words = "".join(word.capitalize() for word in indicator.name.split("_"))
    bad = f'slo_events_total{{slo="{indicator.name}"}}'
    good = f'slo_good_events_total{{slo="{indicator.name}"}}'
    # Between the rates of the two windows, so that the second alone sees it.
    burnt = round(1e6 * (1 - indicator.objective) * (10 if severity == "page" else 2))
    return Alert(
        name=f"Reelhouse{words}Burns{speed.capitalize()}",
        expr=_burn_expr(indicator, windows),
        pending="2m" if severity == "page" else "15m",
        severity=severity,
        summary=f"The error budget of {indicator.name} burns {speed}: {{{{ $value | humanizePercentage }}}} of events are bad",
        means=f"The promise: {indicator.meaning}. {indicator.objective:.1%} of the events in 30 days must keep it.",
        run=_BURN_ADVICE[indicator.name],
        verify=f'`slo:error_ratio:rate5m{{slo="{indicator.name}"}}` falls below {1 - indicator.objective:g}.',
        wake="The on-call engineer at once; the owner of the service after 30 minutes."
        if severity == "page"
        else "Nobody. The owner of the service reads it on the next working day.",
        after="40m",
        samples={bad: ("0+10x50", "0+10x50"), good: ("0+7x50", "0+10x50")},
        other_faults=[Fault({bad: "0+1000000x50", good: f"0+{1_000_000 - burnt}x50"}, after="40m")],
    )


CAUSES: Final[Sequence[Alert]] = (
    Alert(
        name="ReelhouseServiceDown",
        expr=" or ".join(f'absent(reelhouse_build_info{{service="{service}"}})' for service in SERVICES),
        pending="2m",
        severity="page",
        summary="No replica of {{ $labels.service }} answers its scrape",
        means="No process of the service runs, or none can be reached. What it does waits; nothing is lost.",
        run=(
            "`kubectl -n reelhouse get pods -l app.kubernetes.io/name=SERVICE`, and `kubectl -n reelhouse logs POD --previous`.",
            "No pod at all: `kubectl -n reelhouse describe deployment SERVICE`; pods that wait: `describe pod POD`.",
            "`exit code 2` in the log names a setting; `SchemaOutdated` names the migration that is missing.",
            "`/readyz` of a pod that runs says what it waits for.",
        ),
        verify='`reelhouse_build_info{service="SERVICE"}` is back and `/readyz` answers 200.',
        wake="The on-call engineer at once.",
        after="5m",
        samples={
            **{f'reelhouse_build_info{{service="{one}",version="1"}}': ("1x10", "1x10") for one in SERVICES[1:]},
            f'reelhouse_build_info{{service="{SERVICES[0]}",version="1"}}': ("_x10", "1x10"),
        },
        other_faults=[
            Fault(
                {f'reelhouse_build_info{{service="{up}",version="1"}}': "1x10" for up in SERVICES if up != down}, "5m"
            )
            for down in SERVICES[1:]
        ],
    ),
    Alert(
        name="ReelhouseDeadLetter",
        expr="sum by (service, subject, reason) (increase(messaging_dead_letters_total[15m])) > 0",
        pending="0m",
        severity="page",
        summary="{{ $labels.service }} gave up on a message {{ $labels.subject }} ({{ $labels.reason }})",
        means="A message had no effect. An order or a payment may be stuck; its credits may stay reserved.",
        run=(
            '`python -m messaging.dead_letters list --dsn "$SERVICE_DATABASE_URL" --schema SERVICE` names message and error.',
            "`python -m auditor.main show ID` shows what hangs on it.",
            "Mend the cause, then `python -m messaging.dead_letters replay ...` (see [A dead letter](#a-dead-letter)).",
        ),
        verify="`list` says `no dead letter matches`, and the auditor has no new finding.",
        wake="The on-call engineer at once; the service's owner if the error is not understood in 30 minutes.",
        after="12m",
        samples={
            'messaging_dead_letters_total{service="billing",subject="s",reason="poison"}': ("0x9 1x10", "0x20"),
        },
    ),
    Alert(
        name="ReelhouseOutboxNotPublished",
        expr="max by (service) (messaging_outbox_oldest_seconds) > 60",
        pending="2m",
        severity="page",
        summary="The oldest message of {{ $labels.service }} waits for the broker since {{ $value | humanizeDuration }}",
        means="Committed messages do not leave the service: the broker is down, its stream is full, or it refuses a subject.",
        run=(
            "Messaging: does it concern one service or all? All of them means NATS.",
            "`messaging_publish_failures_total` by `reason`: `stream_full` needs space, `refused_*` is a permission.",
            "The service's log says `relay_paused` or `publishing_paused` with the reason.",
        ),
        verify="`messaging_outbox_oldest_seconds` is below 1 again. Nothing has to be repeated.",
        wake="The on-call engineer at once; who runs NATS if all services are concerned.",
        after="5m",
        samples={'messaging_outbox_oldest_seconds{service="gateway"}': ("120x10", "0x10")},
    ),
    Alert(
        name="ReelhouseRelayBacklog",
        expr="max by (service) (messaging_outbox_backlog_messages) > 10000",
        pending="5m",
        severity="ticket",
        summary="{{ $value }} messages of {{ $labels.service }} wait to be published",
        means="The relay is slower than the service writes, or was down for long and catches up.",
        run=("Is the number falling? Then wait.", "If not: processor of the service's pods and latency of the broker."),
        verify="The backlog is below 100.",
        wake="Nobody, as long as ReelhouseOutboxNotPublished is quiet.",
        after="10m",
        samples={'messaging_outbox_backlog_messages{service="gateway"}': ("20000x20", "20x20")},
    ),
    Alert(
        name="ReelhouseConsumerDead",
        expr="max by (service, consumer) (min_over_time(messaging_consumer_pending_messages[5m])) > 0"
        " unless on (service) sum by (service) (rate(messaging_consumed_total[5m])) > 0",
        pending="2m",
        severity="page",
        summary="{{ $labels.consumer }} has {{ $value }} messages waiting and handles none",
        means="Messages wait for a consumer that does not handle any: it hangs, its database is away, or no replica runs.",
        run=(
            "`/readyz` of the service; its log says `database_unavailable`, `feed_rebuilt` or `stream_awaited`.",
            "Restart one replica: a consumer continues where it stood, and nothing is handled twice.",
        ),
        verify="`messaging_consumer_pending_messages` falls to 0.",
        wake="The on-call engineer at once.",
        after="9m",
        samples={
            'messaging_consumer_pending_messages{service="billing",consumer="billing-gateway"}': ("9x20", "9x20"),
            'messaging_consumed_total{service="billing",subject="s",outcome="handled"}': ("5x20", "0+5x20"),
        },
    ),
    Alert(
        name="ReelhouseConsumerBehind",
        expr="max by (service, consumer) (min_over_time(messaging_consumer_pending_messages[10m])) > 1000",
        pending="5m",
        severity="ticket",
        summary="{{ $labels.consumer }} is {{ $value }} messages behind",
        means="More comes than the service handles. What users see is late by as much.",
        run=(
            "Messaging: handler time and batch size of the service.",
            "Add a replica, unless its database is the limit.",
        ),
        verify="`messaging_consumer_pending_messages` is below 100.",
        wake="Nobody, as long as no promise burns fast.",
        after="17m",
        samples={
            'messaging_consumer_pending_messages{service="gateway",consumer="gateway-billing"}': ("5000x30", "50x30"),
        },
    ),
    Alert(
        name="ReelhouseBrokerForgot",
        expr="sum by (service, stream) (increase(messaging_amnesia_recoveries_total[15m])) > 0",
        pending="0m",
        severity="ticket",
        summary="The broker forgot acknowledged messages of {{ $labels.stream }}; {{ $labels.service }} published them again",
        means="NATS lost what it had acknowledged, by a restore or a disk. The services recover by themselves.",
        run=(
            "Look for the cause at NATS: was a volume replaced, a cluster restored, quorum lost?",
            "See [NATS was lost, restored or rolled back](#nats-was-lost-restored-or-rolled-back).",
        ),
        verify="`python -m auditor.main check` finds nothing.",
        wake="Who runs NATS, on the next working day; at once if it repeats.",
        after="12m",
        samples={'messaging_amnesia_recoveries_total{service="billing",stream="BILLING"}': ("0x9 1x10", "0x20")},
    ),
    Alert(
        name="ReelhouseBrokerStoresNothing",
        expr="min by (service) (messaging_broker_writable) == 0",
        pending="1m",
        severity="page",
        summary="JetStream does not answer {{ $labels.service }}, or stores none of its messages",
        means="NATS has no quorum, is away, or a write failed because its disk was full."
        " After a failed write a server looks alive and stores nothing until it is restarted, even with space again.",
        run=(
            "`/readyz` of the service says which stream and why: `timeout` is a server that stores nothing.",
            "`/healthz` of each server ([how](#how-to-reach-what-runs)): `write error` names the file and the cause.",
            "A full disk: make space or [grow the volumes](deploy.md#how-large-a-stream-is) first, then restart that server, one at"
            " a time.",
            "Kubernetes restarts it by itself after 5 minutes (liveness asks `/healthz`), `make up` after 3 seconds.",
        ),
        verify="`/healthz` of each server answers `ok`, and `messaging_outbox_oldest_seconds` falls below 1.",
        wake="The on-call engineer at once, and who runs NATS. Nothing is lost: the messages are in the outboxes.",
        after="4m",
        samples={'messaging_broker_writable{service="billing"}': ("1 0x9", "1x10")},
    ),
    Alert(
        name="ReelhouseStreamNearlyFull",
        expr="max by (stream) (messaging_stream_bytes) / max by (stream) (messaging_stream_limit_bytes) > 0.9",
        pending="5m",
        severity="page",
        summary="The stream {{ $labels.stream }} is {{ $value | humanizePercentage }} full and makes no room",
        means="At 80 % the provisioner gives up what everybody has read. It does not run, or a service is far behind:"
        " what that has not read stays. At 95 % history is held back; at 100 % no order goes on.",
        run=(
            "Does the provisioner run? `kubectl -n reelhouse get jobs` and the log of the newest `provision-broker`.",
            "`messaging_consumer_pending_messages`: which service is behind? Start it, or give it replicas.",
            "Make the stream larger: `PROVISIONER_STREAM_MAX_BYTES`, and first the servers' volumes"
            " (see [deploying](deploy.md#how-large-a-stream-is)).",
        ),
        verify="`messaging_stream_bytes / messaging_stream_limit_bytes` is below 0.8.",
        wake="The on-call engineer at once; who runs NATS if the disk has to grow.",
        after="10m",
        samples={
            'messaging_stream_bytes{stream="GENERATION"}': ("95x20", "70x20"),
            'messaging_stream_limit_bytes{stream="GENERATION"}': ("100x20", "100x20"),
        },
    ),
    Alert(
        name="ReelhouseStreamGivesUpHistory",
        expr="min by (stream) (messaging_stream_retention_seconds) < 259200",
        pending="15m",
        severity="ticket",
        summary="The stream {{ $labels.stream }} keeps messages for {{ $value | humanizeDuration }} only",
        means="It was 80 % full, and what everybody has read went first. Orders go on. After a loss of a service's database"
        " less can be read again from the stream; the outboxes still have 8 days.",
        run=(
            "More orders than the stream was sized for? Make it larger (see [deploying](deploy.md#how-large-a-stream-is)).",
            "Was the auditor away? What it had not read is gone from the stream: `python -m auditor.main check` names it,"
            " and [redelivery](#a-published-message-that-a-reader-lost) brings it back.",
        ),
        verify="`messaging_stream_retention_seconds` is 604800 again, or what `PROVISIONER_STREAM_MAX_AGE_SECONDS` says.",
        wake="Nobody.",
        after="20m",
        samples={'messaging_stream_retention_seconds{stream="GENERATION"}': ("86400x30", "604800x30")},
    ),
    Alert(
        name="ReelhouseDatabaseAway",
        expr="max by (service) (database_writable) == 0",
        pending="1m",
        severity="page",
        summary="PostgreSQL does not answer {{ $labels.service }}, or takes no writes",
        means="PostgreSQL is down, out of reach, or has no primary. No pod of the service is ready, so that users get errors"
        " from the proxy, which no other metric of ours counts. What was answered before is not lost.",
        run=(
            "`/readyz` of the service ([how](#how-to-reach-what-runs)) says why: no connection, a password, a standby.",
            "All services: `kubectl -n reelhouse get cluster postgres` and"
            " `kubectl -n reelhouse get pods -l cnpg.io/cluster=postgres`: is there a primary? A full volume stops it:"
            " raise `storage` or `walStorage` of the `Cluster`.",
            "One service: its password, or the network between it and PostgreSQL.",
        ),
        verify="`database_writable` is 1 everywhere. The services connect again by themselves.",
        wake="The on-call engineer at once; who runs PostgreSQL if all services are concerned.",
        after="4m",
        samples={'database_writable{service="billing"}': ("1 0x9", "1x10")},
    ),
    Alert(
        name="ReelhouseWalNotArchived",
        expr="max by (pod) (cnpg_pg_stat_archiver_last_failed_time) > max by (pod) (cnpg_pg_stat_archiver_last_archived_time)"
        " and on (pod) max by (pod) (cnpg_pg_replication_in_recovery) == 0",
        pending="15m",
        severity="page",
        summary="{{ $labels.pod }} archives no WAL: what is committed now could not be restored",
        means="The archive of PostgreSQL does not take what is written. Its volume for WAL fills, and when it is full"
        " PostgreSQL stops.",
        run=(
            "`kubectl -n reelhouse logs POD -c plugin-barman-cloud --since=30m` names the cause: 403 is the token of"
            " `reelhouse/postgres-backup`; `Expected empty archive` is a restored cluster that archives under an old name"
            " ([restoring](restore.md#restore-to-a-moment)).",
            "Space is short: raise `walStorage` of the `Cluster` while you look.",
        ),
        verify="`max(cnpg_pg_stat_archiver_last_archived_time)` moves on.",
        wake="The on-call engineer at once, and who runs PostgreSQL.",
        after="20m",
        samples={
            'cnpg_pg_stat_archiver_last_failed_time{pod="postgres-1"}': ("1000x30", "-1x30"),
            'cnpg_pg_stat_archiver_last_archived_time{pod="postgres-1"}': ("900x30", "0+60x30"),
            'cnpg_pg_replication_in_recovery{pod="postgres-1"}': ("0x30", "0x30"),
        },
    ),
    Alert(
        name="ReelhouseBackupOld",
        expr="time() - max(barman_cloud_cloudnative_pg_io_last_available_backup_timestamp) > 129600",
        pending="30m",
        severity="ticket",
        summary="The newest base backup of PostgreSQL is {{ $value | humanizeDuration }} old",
        means="A base backup is made every night and kept for 30 days. A restore from an old one takes long, and in the end"
        " there is none.",
        run=(
            "`kubectl -n reelhouse get backups` and `kubectl -n reelhouse describe backup NAME`: why did the last one fail?",
            "Make one now: [a base backup by hand](restore.md#a-base-backup-by-hand).",
        ),
        verify="`max(barman_cloud_cloudnative_pg_io_last_available_backup_timestamp)` is of today.",
        wake="Nobody.",
        after="40m",
        samples={"barman_cloud_cloudnative_pg_io_last_available_backup_timestamp": ("-130000x50", "0x50")},
    ),
    Alert(
        name="ReelhouseDatabaseConnectionsSilent",
        expr="sum by (service) (increase(database_silent_connections_total[15m])) > 0",
        pending="0m",
        severity="ticket",
        summary="{{ $labels.service }} closed {{ $value }} database connections on which nothing came back",
        means="Connections were cut without a word: a fail-over, a frozen server, or a firewall that forgets idle ones."
        " The service noticed it with a second connection and went on.",
        run=(
            "Was there a fail-over? Then nothing is to be done.",
            "All services at once: the network between them and PostgreSQL. One: its node.",
        ),
        verify="The number does not grow any more.",
        wake="Nobody.",
        after="12m",
        samples={'database_silent_connections_total{service="billing"}': ("0x9 5x10", "0x20")},
    ),
    Alert(
        name="ReelhouseClockDiffers",
        expr="max by (service, instance) (abs(database_clock_offset_seconds)) > 30",
        pending="10m",
        severity="ticket",
        summary="A host of {{ $labels.service }} and the database differ by {{ $value }} seconds",
        means="One of the clocks is wrong. The services use the database's for deadlines, tokens and signed addresses.",
        run=(
            "All services differ: the database's clock is wrong, and tokens and signatures fail. Mend it first.",
            "One differs: time synchronisation of that node. `/readyz` says the offset.",
        ),
        verify="`database_clock_offset_seconds` is near 0.",
        wake="Who runs PostgreSQL, at once, if all services differ; otherwise nobody.",
        after="15m",
        samples={'database_clock_offset_seconds{service="gateway",instance="a"}': ("3600x30", "0.01x30")},
    ),
    Alert(
        name="ReelhouseDatabaseBehind",
        expr="max by (service) (messaging_database_behind) > 0",
        pending="0m",
        severity="page",
        summary="{{ $labels.service }} stopped: its database is older than the broker",
        means="PostgreSQL was restored, or an old primary came back. The service consumes and publishes nothing, so that no message of a lost order takes effect.",
        run=(
            "Find out whether the restore was meant. If it was not, bring the newer database back instead.",
            "If it was: [Restoring](restore.md) says each step; `python -m provisioning after-restore` is the one that lets services go on.",
        ),
        verify="`messaging_database_behind` is 0 everywhere, and `python -m auditor.main check` finds nothing.",
        wake="Who runs PostgreSQL, and billing's owner, at once.",
        after="2m",
        samples={'messaging_database_behind{service="billing"}': ("1x5", "0x5")},
    ),
    Alert(
        name="ReelhouseInvariantViolated",
        expr='max by (invariant) (auditor_violations{severity="critical"}) > 0',
        pending="1m",
        severity="page",
        summary="{{ $value }} rows break {{ $labels.invariant }}",
        means="Money, orders and files do not agree with each other. It may be a charge without a video.",
        run=(
            "`python -m auditor.main check` prints the rows and both sides.",
            "The table in [An alert says that an invariant is violated](#an-alert-says-that-an-invariant-is-violated) says what to do first.",
        ),
        verify="`check` finds nothing; the finding is resolved by itself.",
        wake="The on-call engineer at once; billing's owner if `billing verify` names rows.",
        after="4m",
        samples={'auditor_violations{invariant="i",severity="critical"}': ("1x10", "0x10")},
    ),
    Alert(
        name="ReelhouseInvariantWarning",
        expr='max by (invariant) (auditor_violations{severity="warning"}) > 0',
        pending="30m",
        severity="ticket",
        summary="{{ $value }} rows break {{ $labels.invariant }}",
        means="Something is later than it may be. No money is wrong.",
        run=("As for [ReelhouseInvariantViolated](#reelhouseinvariantviolated).",),
        verify="`python -m auditor.main check` finds nothing.",
        wake="Nobody.",
        after="40m",
        samples={'auditor_violations{invariant="i",severity="warning"}': ("1x60", "0x60")},
    ),
    Alert(
        name="ReelhouseInvariantUnproven",
        expr="max by (invariant) (auditor_invariant_unproven) > 0",
        pending="30m",
        severity="ticket",
        summary="{{ $labels.invariant }} cannot be evaluated",
        means="The query of an invariant fails or takes too long, so that nobody would notice a violation.",
        run=(
            "The auditor's log says `invariant_not_checked` with the reason.",
            "A time-out means that an index is missing.",
        ),
        verify="`auditor_invariant_unproven` is 0.",
        wake="Nobody.",
        after="40m",
        samples={'auditor_invariant_unproven{invariant="i"}': ("1x60", "0x60")},
    ),
    Alert(
        name="ReelhouseAuditStale",
        expr="time() - max(auditor_last_check_timestamp_seconds) > 900",
        pending="5m",
        severity="ticket",
        summary="The last complete check was {{ $value | humanizeDuration }} ago",
        means="The auditor runs and does not finish its checks: their silence proves nothing.",
        run=(
            "`/readyz` and log of the auditor: `invariant_not_checked`, `loop_round_failed`.",
            "PostgreSQL: is it overloaded?",
        ),
        verify="`auditor_last_check_timestamp_seconds` moves on.",
        wake="Nobody for an hour, then the on-call engineer.",
        after="30m",
        samples={"auditor_last_check_timestamp_seconds": ("0x40", "0+60x40")},
    ),
    Alert(
        name="ReelhouseProofStale",
        expr="time() - max(auditor_proven_through_timestamp_seconds) > 3600"
        " or time() - min(max by (scope) (auditor_pass_timestamp_seconds)) > 172800",
        pending="12h",
        severity="ticket",
        summary="What is older than {{ $value | humanizeDuration }} is not proven, or was not gone over since",
        means="The proof of new activity does not come after, or the going-over of what is old takes more than two days:"
        " a change of old rows would be noticed late.",
        run=(
            "The auditor's log: `proofs_taken_back` and `proof_has_a_gap` say why the proof began anew.",
            "`SELECT * FROM auditor.proof_watermark` and `auditor.proof_passes` say how far it is.",
            "A transaction of a service that hangs holds the watermark back: `SELECT pid, xact_start, query FROM"
            " pg_stat_activity ORDER BY xact_start`.",
            "Nothing there: the history outgrew the pace. A second replica of the auditor shares the passes.",
        ),
        verify="`auditor_proven_through_timestamp_seconds` and `auditor_pass_timestamp_seconds` move on.",
        wake="Nobody.",
        after="13h",
        samples={
            "auditor_proven_through_timestamp_seconds": ("-5000x800", "0+60x800"),
            'auditor_pass_timestamp_seconds{scope="order"}': ("0+60x800", "0+60x800"),
        },
        other_faults=[
            Fault(
                {
                    "auditor_proven_through_timestamp_seconds": "0+60x800",
                    'auditor_pass_timestamp_seconds{scope="order"}': "-200000x800",
                    'auditor_pass_timestamp_seconds{scope="user"}': "0+60x800",
                },
                "13h",
            ),
        ],
    ),
    Alert(
        name="ReelhouseLedgerPassStale",
        expr="time() - max(auditor_last_ledger_pass_timestamp_seconds) > 172800",
        pending="15m",
        severity="ticket",
        summary="The ledger was last compared with its seals {{ $value | humanizeDuration }} ago",
        means="Somebody could have edited the ledger without being noticed.",
        run=(
            "The auditor's log: loop `ledger seals`.",
            "Nothing there: the ledger outgrew the pace ([growth](growth.md#how-violations-are-found-in-a-long-history)).",
            "`python -m billing.main verify` makes the same comparison by hand.",
        ),
        verify="`auditor_last_ledger_pass_timestamp_seconds` moves on.",
        wake="Nobody.",
        after="30m",
        samples={"auditor_last_ledger_pass_timestamp_seconds": ("-180000x40", "-100000x40")},
    ),
    Alert(
        name="ReelhouseLibraryNotRead",
        expr="max(auditor_library_overdue_seconds) > 64800 or max(auditor_library_listing_age_seconds) > 86400"
        " or max(auditor_library_oldest_read_seconds) > 2678400",
        pending="15m",
        severity="ticket",
        summary="A part of the library waits to be read: {{ $value | humanizeDuration }}",
        means="A file that is lost or overwritten would not be noticed: new files are to be read within a day, all of them"
        " within a month, and the bucket is to be listed twice a day.",
        run=(
            "The auditor's log: `library_unavailable` with the reason. 403 is the token, which needs to read and list.",
            "Nothing there: the library grew beyond the pace. Look at `auditor_library_read_bytes_total`, and raise"
            " `AUDITOR_LIBRARY_BYTES_PER_SECOND` or `AUDITOR_LIBRARY_OBJECTS_PER_SECOND`.",
        ),
        verify="`auditor_library_overdue_seconds` and `auditor_library_listing_age_seconds` fall.",
        wake="Nobody.",
        after="30m",
        samples={
            "auditor_library_overdue_seconds": ("70000x40", "60x40"),
            "auditor_library_listing_age_seconds": ("60x40", "60x40"),
            "auditor_library_oldest_read_seconds": ("60x40", "60x40"),
        },
        other_faults=[
            Fault({"auditor_library_listing_age_seconds": "90000x40"}, "30m"),
            Fault({"auditor_library_oldest_read_seconds": "2700000x40"}, "30m"),
        ],
    ),
    Alert(
        name="ReelhouseSealStale",
        expr="max(min_over_time(billing_postings_unsealed[30m])) > 0 unless max(delta(billing_seal_number[30m])) > 0",
        pending="5m",
        severity="ticket",
        summary="{{ $value }} postings wait for a seal, and none is made",
        means="The ledger is not sealed any more: an edit of the newest postings would leave no trace.",
        run=(
            "Billing's log: loop `sealing`.",
            "An old transaction holds the seal back: `SELECT pid, xact_start, query FROM pg_stat_activity ORDER BY xact_start`.",
        ),
        verify="`billing_seal_number` grows.",
        wake="Nobody.",
        after="45m",
        samples={"billing_postings_unsealed": ("5x60", "5x60"), "billing_seal_number": ("7x60", "0+1x60")},
    ),
    Alert(
        name="ReelhouseReservationsOverdue",
        expr="max(billing_reservations_overdue) > 0",
        pending="5m",
        severity="page",
        summary="{{ $value }} reservations are held past their deadline",
        means="Users cannot spend credits of orders that should have ended: an outcome is stuck on its way to billing.",
        run=(
            "Billing's log says `reservations_overdue` with the generation ids.",
            "`python -m auditor.main show ID`: is the outcome a dead letter, or did generation not end the order?",
        ),
        verify="`billing_reservations_overdue` is 0.",
        wake="The on-call engineer at once.",
        after="10m",
        samples={"billing_reservations_overdue": ("1x20", "0x20")},
    ),
    Alert(
        name="ReelhouseOutcomesContradict",
        expr="sum by (kind) (increase(billing_contradicting_outcomes_total[1h])) > 5",
        pending="0m",
        severity="ticket",
        summary="{{ $value }} outcomes came after another one had ended the reservation",
        means="Generation changes its mind about orders. Users are never charged for it, but GPU time is wasted.",
        run=(
            "Billing's log: `outcome_contradicts_resolution`.",
            "`python -m auditor.main show ID`: why did it end first?",
        ),
        verify="The counter rests.",
        wake="Nobody.",
        after="30m",
        samples={'billing_contradicting_outcomes_total{kind="capture_after_release"}': ("0+1x40", "0x40")},
    ),
    Alert(
        name="ReelhouseQueuePaused",
        expr="max by (endpoint) (generation_endpoint_held) > 0",
        pending="3m",
        severity="page",
        summary="The queue of {{ $labels.endpoint }} is paused",
        means="RunPod refused or did not answer several submissions in a row. The breaker pauses the queue and probes.",
        run=(
            "Generation's log: `submission_not_accepted` with the reason: 401 is the key, 404 the endpoint id, 429 the limit.",
            "RunPod's status page, and the endpoint in its console.",
        ),
        verify='`generation_endpoint_held` is 0 and `generation_submissions_total{outcome="accepted"}` grows. Nothing has to be repeated.',
        wake="The on-call engineer at once.",
        after="6m",
        samples={'generation_endpoint_held{endpoint="video"}': ("1x10", "0x10")},
    ),
    Alert(
        name="ReelhouseNoWorkers",
        expr='sum by (endpoint) (max by (endpoint, state) (generation_provider_workers{state=~"idle|initializing|ready|running"})) == 0'
        " and on (endpoint) sum by (endpoint) (max by (endpoint, lane) (generation_queue_ready_orders)) > 0",
        pending="5m",
        severity="page",
        summary="{{ $labels.endpoint }} has orders and no worker",
        means="RunPod gives the endpoint no worker. It scales an endpoint that was idle for 7 days to 0; or no GPU is free.",
        run=(
            "RunPod's console: are max workers above 0? Are workers throttled or unhealthy?",
            "Raise max workers, or allow another GPU type or region.",
        ),
        verify='`generation_provider_workers{state="running"}` is above 0 and the queue shrinks.',
        wake="The on-call engineer at once.",
        after="9m",
        samples={
            'generation_provider_workers{endpoint="video",state="running"}': ("0x20", "2x20"),
            'generation_queue_ready_orders{endpoint="video",lane="pro"}': ("3x20", "3x20"),
        },
    ),
    Alert(
        name="ReelhouseEndpointDisabled",
        expr="max by (endpoint) (generation_provider_max_workers) == 0",
        pending="5m",
        severity="page",
        summary="{{ $labels.endpoint }} is switched off: it may have no worker",
        means="RunPod lowers max workers to 0 after 7 days without requests, and somebody may have done it by hand."
        " The next order will wait until its deadline.",
        run=(
            "RunPod's console, or `gpu-endpoint/.venv/bin/python -m gpu_endpoint.deploy apply endpoint.toml`: raise max workers.",
            "Where an endpoint is idle for days, set `GENERATION_KEEP_ALIVE_SECONDS=172800`.",
        ),
        verify="`generation_provider_max_workers` is above 0, and `generation_provider_workers` shows workers with the next order.",
        wake="The on-call engineer at once.",
        after="9m",
        samples={'generation_provider_max_workers{endpoint="video"}': ("0x20", "3x20")},
    ),
    Alert(
        name="ReelhouseWorkersThrottled",
        expr='sum by (endpoint) (max by (endpoint, state) (generation_provider_workers{state="throttled"})) > 0'
        ' and on (endpoint) sum by (endpoint) (max by (endpoint, state) (generation_provider_workers{state=~"idle|initializing|ready|running"})) == 0',
        pending="10m",
        severity="ticket",
        summary="All workers of {{ $labels.endpoint }} are throttled",
        means="RunPod has no free GPU of the types that the endpoint allows, in the regions that it allows.",
        run=(
            "RunPod's console: which GPU types are in stock, and where?",
            "Allow another type or data centre in `endpoint.toml`, and run"
            " `gpu-endpoint/.venv/bin/python -m gpu_endpoint.deploy apply endpoint.toml`.",
        ),
        verify='`generation_provider_workers{state="throttled"}` falls, and other states appear.',
        wake="Nobody: with orders waiting ReelhouseNoWorkers pages.",
        after="14m",
        samples={
            'generation_provider_workers{endpoint="video",state="throttled"}': ("2x20", "2x20"),
            'generation_provider_workers{endpoint="video",state="running"}': ("0x20", "1x20"),
        },
    ),
    Alert(
        name="ReelhouseWorkersUnhealthy",
        expr='max by (endpoint) (generation_provider_workers{state="unhealthy"}) > 0',
        pending="15m",
        severity="ticket",
        summary="{{ $value }} workers of {{ $labels.endpoint }} are unhealthy",
        means="Workers do not start: a bad image, a missing model, or a start of more than 7 minutes.",
        run=(
            "The worker's log at RunPod says why it does not start.",
            "In a pod with the volume, `python -m gpu_endpoint.provision --lock /runpod-volume/models.lock.json check` names"
            " what is missing or damaged.",
            "Roll the worker image back if it was released today.",
        ),
        verify='`generation_provider_workers{state="unhealthy"}` is 0.',
        wake="Nobody, unless ReelhouseNoWorkers or ReelhouseAttemptsFail pages.",
        after="19m",
        samples={'generation_provider_workers{endpoint="video",state="unhealthy"}': ("1x30", "0x30")},
    ),
    Alert(
        name="ReelhouseQueueOld",
        expr='max by (endpoint, lane) (generation_queue_oldest_seconds{lane!="free"}) > 900',
        pending="5m",
        severity="ticket",
        summary="A paying user's order waits for {{ $labels.endpoint }} since {{ $value | humanizeDuration }}",
        means="There are fewer GPUs than orders. More replicas of generation do not help.",
        run=(
            "Queue and GPUs: workers, attempts in flight and their caps.",
            "Raise max workers at RunPod or `GENERATION_ENDPOINTS`' cap.",
        ),
        verify="`generation_queue_oldest_seconds` falls.",
        wake="Nobody, as long as delivered_in_time does not burn fast.",
        after="10m",
        samples={'generation_queue_oldest_seconds{endpoint="video",lane="pro"}': ("1200x20", "30x20")},
    ),
    Alert(
        name="ReelhouseAttemptsFail",
        expr='sum by (endpoint) (increase(generation_attempts_ended_total{status=~"failed|lost|refused"}[30m]))'
        " / sum by (endpoint) (increase(generation_attempts_ended_total[30m])) > 0.3"
        " and sum by (endpoint) (increase(generation_attempts_ended_total[30m])) >= 10",
        pending="5m",
        severity="page",
        summary="{{ $value | humanizePercentage }} of the attempts at {{ $labels.endpoint }} fail",
        means="Workers fail, vanish or are refused. Orders are retried, and fail for good after three attempts.",
        run=(
            "`python -m auditor.main show ID` with a failed order: `failure_code` and detail of its attempts.",
            "The endpoint's log at RunPod: out of memory, a missing model file, a bad image?",
            "Roll the worker image back if it was released today.",
        ),
        verify="The share is below 5 %.",
        wake="The on-call engineer at once.",
        after="30m",
        samples={
            'generation_attempts_ended_total{endpoint="video",status="failed"}': ("0+1x40", "0x40"),
            'generation_attempts_ended_total{endpoint="video",status="succeeded"}': ("0+1x40", "0+2x40"),
        },
    ),
    Alert(
        name="ReelhouseCallbacksStuck",
        expr="max(generation_callbacks_oldest_seconds) > 120",
        pending="3m",
        severity="page",
        summary="A callback of RunPod waits since {{ $value | humanizeDuration }} to be acted on",
        means="Results are stored and not processed: finished work is not delivered.",
        run=(
            "Generation's log: `callbacks_not_acted_on` has the reason; then loop `callbacks`, `callback_failed`.",
            "Is the object store reachable? A callback may carry a file.",
        ),
        verify="`generation_callbacks_oldest_seconds` is 0.",
        wake="The on-call engineer at once.",
        after="6m",
        samples={"generation_callbacks_oldest_seconds": ("300x20", "0x20")},
    ),
    Alert(
        name="ReelhouseCallbacksRefused",
        expr="sum by (code) (increase(generation_callbacks_refused_total[1h])) > 10",
        pending="0m",
        severity="ticket",
        summary="{{ $value }} callbacks were refused: {{ $labels.code }}",
        means="Somebody calls the webhook with a wrong signature, or our own secret was changed while jobs ran.",
        run=(
            "Was `GENERATION_CALLBACK_SECRETS` rotated without keeping the old secret? Put it back as the second one.",
        ),
        verify="The counter rests. Polling finds what the refused callbacks said.",
        wake="Nobody.",
        after="30m",
        samples={'generation_callbacks_refused_total{code="invalid_callback_signature"}': ("0+1x40", "0x40")},
    ),
    Alert(
        name="ReelhouseStorageBehind",
        expr="max(storage_oldest_verification_seconds) > 300",
        pending="3m",
        severity="page",
        summary="A file waits for its verification since {{ $value | humanizeDuration }}",
        means="Finished files are not put into the library, and orders with uploads do not start.",
        run=(
            "Storage's log: `verification_postponed` names the object store or a decoder.",
            "If nothing is postponed, there are too few decoders: add replicas.",
        ),
        verify="`storage_oldest_verification_seconds` is below 10.",
        wake="The on-call engineer at once.",
        after="6m",
        samples={"storage_oldest_verification_seconds": ("600x20", "1x20")},
    ),
    Alert(
        name="ReelhouseMarkCertificateExpires",
        expr="min(storage_marking_certificate_expires_at_seconds > 0) - time() < 30 * 86400",
        pending="0m",
        severity="ticket",
        summary="The certificate of the AI marks expires in {{ $value | humanizeDuration }}",
        means="From then on nothing can be signed: outputs wait, and no order is completed.",
        run=(
            "[Get a new certificate](deploy.md#the-certificate-of-the-marks), put it into the secret of storage, and restart storage.",
        ),
        verify="`storage_marking_certificate_expires_at_seconds` is more than a month ahead.",
        wake="Nobody, until it is a matter of days.",
        after="2m",
        samples={"storage_marking_certificate_expires_at_seconds": ("864000x20", "8640000x20")},
    ),
    Alert(
        name="ReelhouseObjectStoreFails",
        expr='sum by (operation) (rate(storage_object_seconds_count{outcome="unavailable"}[5m]))'
        " / sum by (operation) (rate(storage_object_seconds_count[5m])) > 0.1",
        pending="5m",
        severity="page",
        summary="{{ $value | humanizePercentage }} of the {{ $labels.operation }} operations on objects fail",
        means="The object store is away, throttles, or refuses our key.",
        run=(
            "Storage's log: the code behind `StoreUnavailable`: 403 is the key, 429 and 503 are the store.",
            "R2's status page.",
        ),
        verify="The share is 0. Postponed files are verified by themselves.",
        wake="The on-call engineer at once.",
        after="15m",
        samples={
            'storage_object_seconds_count{operation="get",outcome="unavailable"}': ("0+5x30", "0x30"),
            'storage_object_seconds_count{operation="get",outcome="ok"}': ("0+5x30", "0+5x30"),
        },
    ),
    Alert(
        name="ReelhouseUnexpectedFailure",
        expr="sum by (service) (increase(storage_failures_total[15m])) > 0"
        " or sum by (service) (increase(payments_work_failures_total[15m])) > 0",
        pending="0m",
        severity="ticket",
        summary="Work of {{ $labels.service }} failed in a way that nobody foresaw",
        means="A bug. The work is tried again with growing pauses.",
        run=("The service's log has the traceback: `leased_work_failed`, `payment_postponed`, `event_not_matched`.",),
        verify="The counter rests after the fix.",
        wake="Nobody.",
        after="12m",
        samples={'storage_failures_total{service="storage"}': ("0x9 1x10", "0x20")},
        other_faults=[Fault({'payments_work_failures_total{service="payments"}': "0x9 1x10"}, "12m")],
    ),
    Alert(
        name="ReelhouseWebhooksRefused",
        expr="sum by (provider, code) (increase(payments_webhooks_refused_total[1h])) > 5",
        pending="0m",
        severity="ticket",
        summary="{{ $value }} webhooks of {{ $labels.provider }} were refused: {{ $labels.code }}",
        means="Somebody forges webhooks, or the provider signs with a secret that we do not have. Payments are polled meanwhile.",
        run=(
            "Compare the secret at the provider with `PAYMENTS_*_WEBHOOK_SECRETS`.",
            "If it agrees, somebody is trying: do nothing.",
        ),
        verify='`payments_provider_events_total{source="webhook"}` grows.',
        wake="Nobody.",
        after="30m",
        samples={
            'payments_webhooks_refused_total{provider="stripe",code="invalid_webhook_signature"}': ("0+1x40", "0x40"),
        },
    ),
    Alert(
        name="ReelhouseWebhooksMissing",
        expr='sum by (provider) (increase(payments_provider_events_total{source="sweep"}[1h])) > 5'
        ' > sum by (provider) (increase(payments_provider_events_total{source="webhook"}[1h]))',
        pending="15m",
        severity="ticket",
        summary="Events of {{ $labels.provider }} come by the sweep and not by webhook",
        means="The provider's webhooks do not reach us. Credits come minutes late.",
        run=(
            "The webhook's page at the provider: address, events, last answers.",
            "Is the route published, and does a `POST` to it from outside answer 400?",
        ),
        verify='`payments_provider_events_total{source="webhook"}` grows.',
        wake="Nobody.",
        after="59m",
        samples={
            'payments_provider_events_total{provider="stripe",source="sweep"}': ("0+1x70", "0x70"),
            'payments_provider_events_total{provider="stripe",source="webhook"}': ("0x70", "0+1x70"),
        },
    ),
    Alert(
        name="ReelhouseProviderRefusesKey",
        expr='sum by (provider) (increase(payments_provider_calls_total{outcome="denied"}[10m])) > 0',
        pending="0m",
        severity="page",
        summary="{{ $labels.provider }} refuses our key",
        means="No payment of the provider can be opened, looked up or refunded.",
        run=(
            "The log says `credentials_refused` with the call.",
            "Correct the key in the secret, and [bring it to the pods](deploy.md#6-secrets).",
        ),
        verify='`payments_provider_calls_total{outcome="ok"}` grows. What waited continues within minutes.',
        wake="The on-call engineer at once; who holds the provider's account.",
        after="12m",
        samples={
            'payments_provider_calls_total{provider="stripe",call="look_up",outcome="denied"}': ("0x8 1x10", "0x20"),
        },
    ),
    Alert(
        name="ReelhousePaymentsSweepStale",
        expr='time() - max by (sweep, provider) (payments_last_sweep_timestamp_seconds{sweep="events"}) > 3600'
        ' or time() - max by (sweep, provider) (payments_last_sweep_timestamp_seconds{sweep="compare"}) > 172800',
        pending="15m",
        severity="ticket",
        summary="The sweep {{ $labels.sweep }} of {{ $labels.provider }} last finished {{ $value | humanizeDuration }} ago",
        means="What webhooks missed is not found any more.",
        run=("The log: `sweep_failed`, `sweep_postponed` with the reason.",),
        verify="`payments_last_sweep_timestamp_seconds` moves on.",
        wake="Nobody for a day.",
        after="90m",
        samples={'payments_last_sweep_timestamp_seconds{sweep="events",provider="stripe"}': ("0x100", "0+60x100")},
        other_faults=[
            Fault({'payments_last_sweep_timestamp_seconds{sweep="compare",provider="stripe"}': "-180000x100"}, "90m")
        ],
    ),
    Alert(
        name="ReelhousePaymentsLate",
        expr="max(payments_due_oldest_seconds) > 600",
        pending="5m",
        severity="page",
        summary="A payment is due to be looked up since {{ $value | humanizeDuration }}",
        means="Users paid and get no credits: the provider does not answer, or the loop does not keep up.",
        run=(
            "Money: calls of the provider by outcome.",
            "The log: `payment_postponed`.",
            "The provider's status page.",
        ),
        verify="`payments_due_oldest_seconds` is below 60.",
        wake="The on-call engineer at once.",
        after="10m",
        samples={"payments_due_oldest_seconds": ("900x20", "0x20")},
    ),
    Alert(
        name="ReelhouseReviewsWait",
        expr="max(payments_open_reviews) > 0",
        pending="1h",
        severity="ticket",
        summary="{{ $value }} payments wait for a person's decision",
        means="The provider's view and ours differ in a way that only a person may decide.",
        run=("`python -m payments.main reviews` shows both sides.", "`python -m payments.main resolve ...` decides."),
        verify="`payments_open_reviews` is 0.",
        wake="Nobody; who keeps the books, on the next working day.",
        after="70m",
        samples={"payments_open_reviews": ("1x90", "0x90")},
    ),
    Alert(
        name="ReelhouseLoopFails",
        expr="sum by (service, loop) (increase(loop_failures_total[15m])) > 10",
        pending="5m",
        severity="ticket",
        summary="The loop {{ $labels.loop }} of {{ $labels.service }} fails again and again",
        means="Work that is done periodically is not done. What it is, the loop's name says.",
        run=("The service's log says `loop_round_failed` with the traceback.",),
        verify="`loop_failures_total` rests.",
        wake="Nobody, unless another alert says what suffers.",
        after="20m",
        samples={'loop_failures_total{service="generation",loop="dispatch"}': ("0+1x30", "0x30")},
    ),
    Alert(
        name="ReelhouseHttpErrors",
        expr='sum by (service) (rate(http_request_seconds_count{status=~"5.."}[5m]))'
        " / sum by (service) (rate(http_request_seconds_count[5m])) > 0.05",
        pending="5m",
        severity="page",
        summary="{{ $value | humanizePercentage }} of the requests to {{ $labels.service }} fail",
        means="Users or providers get errors.",
        run=(
            "Infrastructure: which route?",
            "The service's log: `request_failed` with the traceback and the trace id.",
        ),
        verify="The share is below 0.1 %.",
        wake="The on-call engineer at once.",
        after="15m",
        samples={
            'http_request_seconds_count{service="gateway",route="/v1/models",method="GET",status="500"}': (
                "0+5x30",
                "0x30",
            ),
            'http_request_seconds_count{service="gateway",route="/v1/models",method="GET",status="200"}': (
                "0+5x30",
                "0+9x30",
            ),
        },
    ),
    Alert(
        name="ReelhousePoolExhausted",
        expr="max by (service) (database_pool_in_use_connections / database_pool_limit_connections) > 0.9",
        pending="5m",
        severity="ticket",
        summary="{{ $labels.service }} uses {{ $value | humanizePercentage }} of its database connections",
        means="Requests wait for a connection, and fail after ten seconds.",
        run=(
            "Is PostgreSQL slow (long statements, locks)? Then there.",
            "If not, raise `*_DATABASE_POOL_SIZE` or add a replica.",
        ),
        verify="The share is below 50 %.",
        wake="Nobody, as long as no promise burns fast.",
        after="10m",
        samples={
            'database_pool_in_use_connections{service="gateway"}': ("10x20", "1x20"),
            'database_pool_limit_connections{service="gateway"}': ("10x20", "10x20"),
        },
    ),
    Alert(
        name="ReelhouseLeasesLost",
        expr="sum by (service, worker) (increase(messaging_leases_lost_total[15m])) > 3",
        pending="0m",
        severity="ticket",
        summary="{{ $labels.worker }} of {{ $labels.service }} lost {{ $value }} leases",
        means="Work was done twice, because a process could not extend its lease in time: it was frozen or starved.",
        run=(
            "Processor limits of the pods: are they throttled?",
            "PostgreSQL: does an UPDATE of one row take seconds?",
        ),
        verify="The counter rests.",
        wake="Nobody.",
        after="12m",
        samples={'messaging_leases_lost_total{service="storage",worker="outputs"}': ("0+1x20", "0x20")},
    ),
)

ALERTS: Final[Sequence[Alert]] = (
    *(_burn(indicator, severity) for indicator in INDICATORS for severity in ("page", "ticket")),
    *CAUSES,
)
