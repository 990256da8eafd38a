"""The dashboards. Gauges that every replica reads from the database are taken by ``max``, counters are summed."""

from collections.abc import Sequence
from typing import Final

from deploy.observability.panels import Board, Input, Panel, Query, Row
from service_runtime.indicators import INDICATORS, Indicator

RATE: Final = "$__rate_interval"
REVENUE: Final = "generation_revenue_usd_total"
COST: Final = "generation_gpu_cost_usd_total"


def _promise(indicator: Indicator) -> list[Panel]:
    events, good = (f'{name}{{slo="{indicator.name}"}}' for name in ("slo_events_total", "slo_good_events_total"))
    budget = round(1 - indicator.objective, 6)
    ratio = f"(1 - sum(increase({good}[$__range])) / sum(increase({events}[$__range])))"
    return [
        Panel(
            f"{indicator.name}: kept",
            f"Share of events that kept the promise: {indicator.meaning}. Objective: {indicator.objective:.1%}.",
            "percentunit",
            [Query(f"sum(increase({good}[$__range])) / sum(increase({events}[$__range]))")],
            "stat",
            6,
        ),
        Panel(
            f"{indicator.name}: budget burnt",
            "How fast the error budget of 30 days burns: 1 uses it up in 30 days, 14.4 pages.",
            "none",
            [
                Query(f'slo:error_ratio:rate{window}{{slo="{indicator.name}"}} / {budget:g}', window)
                for window in ("5m", "1h", "6h")
            ],
            width=12,
        ),
        Panel(
            f"{indicator.name}: budget left in this range",
            "1 is untouched; below 0 the promise is broken over the chosen range.",
            "percentunit",
            [Query(f"1 - {ratio} / {budget:g}")],
            "stat",
            6,
        ),
    ]


OVERVIEW: Final = Board(
    "reelhouse-overview",
    "Reelhouse: Overview",
    "Do we keep our promises, and if not, which part is to blame?",
    [
        Row("Promises", [panel for indicator in INDICATORS for panel in _promise(indicator)]),
        Row(
            "Right now",
            [
                Panel(
                    "Firing alerts",
                    "Alerts that fire now. Each has a section in docs/runbook.md.",
                    "none",
                    [Query('sum(ALERTS{alertname=~"Reelhouse.*", alertstate="firing"}) or vector(0)', "firing")],
                    "stat",
                    4,
                ),
                Panel(
                    "Violated invariants",
                    "Rows that break an invariant, by the auditor's last check. Anything but 0 is about money or files.",
                    "none",
                    [Query("sum(max by (invariant) (auditor_violations))", "violations")],
                    "stat",
                    4,
                ),
                Panel(
                    "Orders at work",
                    "Orders that have not ended, by status.",
                    "none",
                    [Query("max by (status) (generation_open_orders)", "{{status}}")],
                ),
                Panel(
                    "Orders ended",
                    "Orders that ended in a second, by how.",
                    "ops",
                    [Query(f"sum by (status) (rate(generation_orders_ended_total[{RATE}]))", "{{status}}")],
                ),
                Panel(
                    "Requests",
                    "Requests a second to each service's public listener.",
                    "reqps",
                    [Query(f"sum by (service) (rate(http_request_seconds_count[{RATE}]))", "{{service}}")],
                ),
                Panel(
                    "Failed requests",
                    "Requests a second that ended with a 5xx, by service and route.",
                    "reqps",
                    [
                        Query(
                            f'sum by (service, route) (rate(http_request_seconds_count{{status=~"5.."}}[{RATE}]))'
                            f" or sum by (service) (rate(http_request_seconds_count[{RATE}])) * 0",
                            "{{service}} {{route}}",
                        )
                    ],
                ),
                Panel(
                    "Overload",
                    "Requests a second that a busy gateway refused (429: orders, and files to verify), and orders that it answered 202 before the verdict.",
                    "ops",
                    [
                        Query(f'sum(rate(gateway_rate_limited_total{{limit="busy"}}[{RATE}]))', "refused"),
                        Query(f"sum(rate(gateway_verdicts_cut_short_total[{RATE}]))", "orders answered early"),
                    ],
                ),
                Panel(
                    "Time to deliver",
                    "From the request to the delivery of orders that are charged.",
                    "s",
                    [
                        Query(
                            f"histogram_quantile({q}, sum by (le) (rate(generation_order_seconds_bucket[{RATE}])))",
                            name,
                        )
                        for q, name in ((0.5, "median"), (0.95, "95 %"))
                    ],
                ),
            ],
        ),
    ],
)

MONEY: Final = Board(
    "reelhouse-money",
    "Reelhouse: Money",
    "Credits that come, move and go; payments and their providers.",
    [
        Row(
            "Credits",
            [
                Panel(
                    "Movements",
                    "Credits moved in the chosen range: reserved = captured + released, once every order has ended.",
                    "none",
                    [Query("sum by (movement) (increase(billing_credits_total[$__range]))", "{{movement}}")],
                    "stat",
                    24,
                ),
                Panel(
                    "Reserved, captured, released",
                    "Credits a second through reservations.",
                    "none",
                    [
                        Query(
                            'sum by (movement) (rate(billing_credits_total{movement=~"reserved|captured|released"}'
                            f"[{RATE}]))",
                            "{{movement}}",
                        )
                    ],
                ),
                Panel(
                    "Granted by reason",
                    "Credits granted in a second: bought, given as a bonus, given back.",
                    "none",
                    [Query(f"sum by (reason) (rate(billing_granted_credits_total[{RATE}]))", "{{reason}}")],
                ),
                Panel(
                    "Taken back by reason",
                    "Credits taken back in a second, those that became a debt included.",
                    "none",
                    [Query(f"sum by (reason) (rate(billing_clawed_back_credits_total[{RATE}]))", "{{reason}}")],
                ),
                Panel(
                    "Verdicts",
                    "Orders a second that were reserved, or refused by code.",
                    "ops",
                    [Query(f"sum by (verdict) (rate(billing_verdicts_total[{RATE}]))", "{{verdict}}")],
                ),
                Panel(
                    "Overdue reservations",
                    "Reservations held past their deadline. Anything but 0 means that an outcome is stuck.",
                    "none",
                    [Query("max(billing_reservations_overdue)", "overdue")],
                ),
                Panel(
                    "Postings without a seal",
                    "New postings wait seconds for their seal. A number that only grows is a sealer that stands.",
                    "none",
                    [Query("max(billing_postings_unsealed)", "unsealed")],
                ),
            ],
        ),
        Row(
            "Payments",
            [
                Panel(
                    "Calls of providers",
                    "Calls a second, by provider and outcome. `denied` means that our key is refused.",
                    "ops",
                    [
                        Query(
                            f"sum by (provider, outcome) (rate(payments_provider_calls_total[{RATE}]))",
                            "{{provider}} {{outcome}}",
                        )
                    ],
                ),
                Panel(
                    "Events of providers",
                    "Events a second by how they came. Many by the sweep: webhooks do not arrive.",
                    "ops",
                    [
                        Query(
                            f"sum by (provider, source) (rate(payments_provider_events_total[{RATE}]))",
                            "{{provider}} {{source}}",
                        )
                    ],
                ),
                Panel(
                    "Webhook verdicts",
                    "Refused webhooks a second, by provider and reason.",
                    "ops",
                    [
                        Query(
                            f"sum by (provider, code) (rate(payments_webhooks_refused_total[{RATE}]))",
                            "{{provider}} {{code}}",
                        )
                    ],
                ),
                Panel(
                    "Oldest due lookup",
                    "How long the payment that is due for longest has waited to be looked up. KEDA scales by it.",
                    "s",
                    [Query("max(payments_due_oldest_seconds)", "oldest")],
                ),
                Panel(
                    "Open reviews",
                    "Payments that wait for a person's decision: `python -m payments.main reviews`.",
                    "none",
                    [Query("max(payments_open_reviews)", "reviews")],
                ),
                Panel(
                    "Age of the last sweep",
                    "Time since each sweep of each provider last finished.",
                    "s",
                    [
                        Query(
                            "time() - max by (sweep, provider) (payments_last_sweep_timestamp_seconds > 0)",
                            "{{sweep}} {{provider}}",
                        )
                    ],
                ),
            ],
        ),
    ],
)

QUEUE: Final = Board(
    "reelhouse-queue",
    "Reelhouse: Queue and GPUs",
    "How long orders wait, what runs where, and what it costs.",
    [
        Row(
            "Queue",
            [
                Panel(
                    "Ready orders",
                    "Orders that could be served now, by endpoint and lane.",
                    "none",
                    [Query("max by (endpoint, lane) (generation_queue_ready_orders)", "{{endpoint}} {{lane}}")],
                ),
                Panel(
                    "Oldest order",
                    "Age of the oldest order that could be served now, by endpoint and lane.",
                    "s",
                    [Query("max by (endpoint, lane) (generation_queue_oldest_seconds)", "{{endpoint}} {{lane}}")],
                ),
                Panel(
                    "Wait for a GPU",
                    "From an order's arrival to its first claim, 95 % of orders, by lane.",
                    "s",
                    [
                        Query(
                            "histogram_quantile(0.95, sum by (lane, le)"
                            f" (rate(generation_queue_wait_seconds_bucket[{RATE}])))",
                            "{{lane}}",
                        )
                    ],
                ),
                Panel(
                    "Estimates that held",
                    "Share of the first estimates that came true, of delivered orders. A p50 should hold in half of "
                    "the cases, a p90 in nine of ten.",
                    "percentunit",
                    [
                        Query(
                            f'sum by (estimate) (rate(generation_estimate_ratio_bucket{{le="1.0"}}[{RATE}]))'
                            f" / sum by (estimate) (rate(generation_estimate_ratio_count[{RATE}]))",
                            "{{estimate}}",
                        )
                    ],
                ),
                Panel(
                    "In flight",
                    "Attempts that may be using a worker, by model and lane.",
                    "none",
                    [Query("max by (model, lane) (generation_in_flight_attempts)", "{{model}} {{lane}}")],
                ),
                Panel(
                    "Paused endpoints",
                    "1 while the breaker has paused an endpoint's queue.",
                    "bool",
                    [Query("max by (endpoint) (generation_endpoint_held)", "{{endpoint}}")],
                ),
                Panel(
                    "Workers",
                    "Workers by state, as RunPod counts them.",
                    "none",
                    [Query("max by (endpoint, state) (generation_provider_workers)", "{{endpoint}} {{state}}")],
                ),
                Panel(
                    "Most workers",
                    "How many workers RunPod may start. It lowers this to 0 after 7 days without requests. No data: "
                    "the key may not ask.",
                    "none",
                    [Query("max by (endpoint) (generation_provider_max_workers)", "{{endpoint}}")],
                    width=12,
                ),
                Panel(
                    "Jobs at RunPod",
                    "Jobs by state, as RunPod counts them. Many that are queued: its workers do not keep up.",
                    "none",
                    [Query("max by (endpoint, state) (generation_provider_jobs)", "{{endpoint}} {{state}}")],
                    width=12,
                ),
            ],
        ),
        Row(
            "Attempts",
            [
                Panel(
                    "Submissions",
                    "Submissions a second by outcome.",
                    "ops",
                    [
                        Query(
                            f"sum by (endpoint, outcome) (rate(generation_submissions_total[{RATE}]))",
                            "{{endpoint}} {{outcome}}",
                        )
                    ],
                ),
                Panel(
                    "Attempts ended",
                    "Attempts a second by their last state.",
                    "ops",
                    [
                        Query(
                            f"sum by (endpoint, status) (rate(generation_attempts_ended_total[{RATE}]))",
                            "{{endpoint}} {{status}}",
                        )
                    ],
                ),
                Panel(
                    "Calls of RunPod",
                    "95 % of the calls of each operation are faster than this.",
                    "s",
                    [
                        Query(
                            "histogram_quantile(0.95, sum by (operation, le)"
                            f" (rate(generation_provider_seconds_bucket[{RATE}])))",
                            "{{operation}}",
                        )
                    ],
                ),
                Panel(
                    "Answers of RunPod",
                    "Answers a second by operation and class of the HTTP status; `none` without an answer.",
                    "ops",
                    [
                        Query(
                            f"sum by (operation, status) (rate(generation_provider_answers_total[{RATE}]))",
                            "{{operation}} {{status}}",
                        )
                    ],
                ),
                Panel(
                    "Oldest callback",
                    "How long the oldest due callback has waited to be acted on. KEDA scales by it.",
                    "s",
                    [Query("max(generation_callbacks_oldest_seconds)", "oldest")],
                ),
                Panel(
                    "Callbacks",
                    "Reports on jobs a second, by source and outcome.",
                    "ops",
                    [
                        Query(
                            f"sum by (source, outcome) (rate(generation_callbacks_total[{RATE}]))",
                            "{{source}} {{outcome}}",
                        )
                    ],
                ),
                Panel(
                    "Files to verify",
                    "Age of the oldest file that waits for its verification. KEDA scales by it.",
                    "s",
                    [Query("max(storage_oldest_verification_seconds)", "oldest")],
                ),
            ],
        ),
        Row(
            "Cost and margin",
            [
                Panel(
                    "Revenue by model",
                    "Captured credits of orders delivered in the chosen range, at the least that a credit is sold for.",
                    "currencyUSD",
                    [Query(f"sum by (model) (increase({REVENUE}[$__range]))", "{{model}}")],
                    "stat",
                    8,
                ),
                Panel(
                    "GPU cost by model",
                    "What attempts took, failed and cancelled ones and cold starts included, at the price list of the "
                    "GPUs. Idle workers cost more: `python -m generation.main margin` compares with RunPod's bill.",
                    "currencyUSD",
                    [Query(f"sum by (model) (increase({COST}[$__range]))", "{{model}}")],
                    "stat",
                    8,
                ),
                Panel(
                    "Margin by model",
                    "Share of the revenue that is left after the GPU, over the chosen range. The catalogue aims at 60 %.",
                    "percentunit",
                    [
                        Query(
                            f"1 - sum by (model) (increase({COST}[$__range]))"
                            f" / (sum by (model) (increase({REVENUE}[$__range])) > 0)",
                            "{{model}}",
                        )
                    ],
                    "stat",
                    8,
                ),
                Panel(
                    "Cost that delivered nothing",
                    "Cost of attempts that failed, were lost or were cancelled, by how they ended.",
                    "currencyUSD",
                    [
                        Query(
                            f'sum by (status) (increase({COST}{{status!="succeeded"}}[$__range]))',
                            "{{status}}",
                        )
                    ],
                    "stat",
                    8,
                ),
                Panel(
                    "GPU seconds by model and tier",
                    "Worker time in the chosen range, failed attempts included, as RunPod reports it.",
                    "s",
                    [
                        Query(
                            "sum by (model, tier) (increase(generation_gpu_seconds_total[$__range]))",
                            "{{model}} {{tier}}",
                        )
                    ],
                    "stat",
                    16,
                ),
                Panel(
                    "GPU seconds thrown away by cancels",
                    "Worker time that users' cancels stopped, in the chosen range: nobody pays for it."
                    " `GATEWAY_RUNNING_CANCELS_PER_DAY` bounds it for each user.",
                    "s",
                    [
                        Query(
                            "sum by (model) (increase(generation_cancelled_gpu_seconds_total[$__range]))",
                            "{{model}}",
                        )
                    ],
                    "stat",
                    8,
                ),
            ],
        ),
    ],
)

MESSAGING: Final = Board(
    "reelhouse-messaging",
    "Reelhouse: Messaging",
    "Does every message leave its service, and does every reader handle it?",
    [
        Row(
            "Out",
            [
                Panel(
                    "Age of the outbox",
                    "Age of the oldest message that is committed and not published.",
                    "s",
                    [Query("max by (service) (messaging_outbox_oldest_seconds)", "{{service}}")],
                ),
                Panel(
                    "Backlog of the outbox",
                    "Messages that are committed and not published.",
                    "none",
                    [Query("max by (service) (messaging_outbox_backlog_messages)", "{{service}}")],
                ),
                Panel(
                    "Published",
                    "Messages a second that the broker acknowledged.",
                    "ops",
                    [Query(f"sum by (service) (rate(messaging_published_total[{RATE}]))", "{{service}}")],
                ),
                Panel(
                    "Fill of the streams",
                    "What each stream holds, of what it may. At 80 % it gives up history, at 95 % history is held back.",
                    "percentunit",
                    [
                        Query(
                            "max by (stream) (messaging_stream_bytes) / max by (stream) (messaging_stream_limit_bytes)",
                            "{{stream}}",
                        )
                    ],
                ),
                Panel(
                    "Commit to acknowledgement",
                    "95 % of the messages are acknowledged by the broker sooner than this after their commit.",
                    "s",
                    [
                        Query(
                            "histogram_quantile(0.95, sum by (service, le)"
                            f" (rate(messaging_publish_latency_seconds_bucket[{RATE}])))",
                            "{{service}}",
                        )
                    ],
                ),
            ],
        ),
        Row(
            "In",
            [
                Panel(
                    "Waiting",
                    "Messages that a consumer has not handled yet.",
                    "none",
                    [Query("max by (consumer) (messaging_consumer_pending_messages)", "{{consumer}}")],
                ),
                Panel(
                    "Deliveries by outcome",
                    "Deliveries a second. `deferred` came early, `failed` is tried again, `dead` is given up on.",
                    "ops",
                    [
                        Query(
                            f"sum by (service, outcome) (rate(messaging_consumed_total[{RATE}]))",
                            "{{service}} {{outcome}}",
                        )
                    ],
                ),
                Panel(
                    "Handler time",
                    "95 % of the batches are handled faster than this.",
                    "s",
                    [
                        Query(
                            "histogram_quantile(0.95, sum by (service, le)"
                            f" (rate(messaging_handler_seconds_bucket[{RATE}])))",
                            "{{service}}",
                        )
                    ],
                ),
                Panel(
                    "Redeliveries",
                    "Messages a second that were delivered before.",
                    "ops",
                    [Query(f"sum by (consumer) (rate(messaging_redeliveries_total[{RATE}]))", "{{consumer}}")],
                ),
                Panel(
                    "Dead letters",
                    "Messages given up on in the chosen range, by service and reason.",
                    "none",
                    [
                        Query(
                            "sum by (service, reason) (increase(messaging_dead_letters_total[$__range]))",
                            "{{service}} {{reason}}",
                        )
                    ],
                    "stat",
                    16,
                ),
                Panel(
                    "The broker forgot",
                    "Times in the chosen range that NATS had lost what it had acknowledged.",
                    "none",
                    [Query("sum(increase(messaging_amnesia_recoveries_total[$__range]))", "recoveries")],
                    "stat",
                ),
            ],
        ),
        Row(
            "Leased work",
            [
                Panel(
                    "Running",
                    "Rows that are being worked on.",
                    "none",
                    [Query("sum by (service, worker) (messaging_leased_work_running)", "{{service}} {{worker}}")],
                ),
                Panel(
                    "Postponed and lost",
                    "Work a second that failed and was postponed, and leases that ended during the work.",
                    "ops",
                    [
                        Query(
                            f"sum by (worker) (rate(messaging_leased_work_failures_total[{RATE}]))", "{{worker}} failed"
                        ),
                        Query(f"sum by (worker) (rate(messaging_leases_lost_total[{RATE}]))", "{{worker}} lost"),
                    ],
                ),
            ],
        ),
    ],
)

INFRASTRUCTURE: Final = Board(
    "reelhouse-infrastructure",
    "Reelhouse: Infrastructure",
    "Processes, requests, databases and the object store.",
    [
        Row(
            "Processes",
            [
                Panel(
                    "Versions",
                    "Replicas by service and version: two versions of one service are an upgrade.",
                    "none",
                    [Query("count by (service, version) (reelhouse_build_info)", "{{service}} {{version}}")],
                    "table",
                ),
                Panel(
                    "Processor",
                    "Processor seconds a second, the sum of the replicas.",
                    "none",
                    [Query(f"sum by (service) (rate(process_cpu_seconds_total[{RATE}]))", "{{service}}")],
                ),
                Panel(
                    "Memory",
                    "Resident memory of the largest replica. Storage's decoders are processes of their own.",
                    "bytes",
                    [Query("max by (service) (process_resident_memory_bytes)", "{{service}}")],
                ),
                Panel(
                    "Failed rounds of loops",
                    "Rounds of periodic loops a second that failed.",
                    "ops",
                    [
                        Query(
                            f"sum by (service, loop) (rate(loop_failures_total[{RATE}]))",
                            "{{service}} {{loop}}",
                        )
                    ],
                ),
                Panel(
                    "Database pools",
                    "Share of the connections that are checked out, of the fullest replica.",
                    "percentunit",
                    [
                        Query(
                            "max by (service) (database_pool_in_use_connections / database_pool_limit_connections)",
                            "{{service}}",
                        )
                    ],
                ),
                Panel(
                    "Open event streams",
                    "Event streams that browsers hold open.",
                    "none",
                    [Query("sum(gateway_open_streams)", "streams")],
                ),
            ],
        ),
        Row(
            "Requests",
            [
                Panel(
                    "By route",
                    "Requests a second by route and status.",
                    "reqps",
                    [
                        Query(
                            f"sum by (service, route, status) (rate(http_request_seconds_count[{RATE}]))",
                            "{{service}} {{route}} {{status}}",
                        )
                    ],
                    width=12,
                ),
                Panel(
                    "Duration by route",
                    "95 % of the requests are answered sooner than this. Event streams are left out.",
                    "s",
                    [
                        Query(
                            "histogram_quantile(0.95, sum by (service, route, le)"
                            f' (rate(http_request_seconds_bucket{{route!="/v1/events"}}[{RATE}])))',
                            "{{service}} {{route}}",
                        )
                    ],
                    width=12,
                ),
            ],
        ),
        Row(
            "Object store and auditor",
            [
                Panel(
                    "Operations on objects",
                    "Operations a second by outcome.",
                    "ops",
                    [
                        Query(
                            f"sum by (operation, outcome) (rate(storage_object_seconds_count[{RATE}]))",
                            "{{operation}} {{outcome}}",
                        )
                    ],
                ),
                Panel(
                    "Duration of operations",
                    "95 % of the operations end sooner than this.",
                    "s",
                    [
                        Query(
                            "histogram_quantile(0.95, sum by (operation, le)"
                            f" (rate(storage_object_seconds_bucket[{RATE}])))",
                            "{{operation}}",
                        )
                    ],
                ),
                Panel(
                    "Verifications",
                    "Verifications a second by outcome.",
                    "ops",
                    [
                        Query(
                            f"sum by (request, outcome) (rate(storage_verifications_total[{RATE}]))",
                            "{{request}} {{outcome}}",
                        )
                    ],
                ),
                Panel(
                    "Age of the last check",
                    "Time since the auditor last checked every invariant.",
                    "s",
                    [Query("time() - max(auditor_last_check_timestamp_seconds > 0)", "check")],
                ),
                Panel(
                    "Files of the library held against the books",
                    "Objects that the auditor read or listed, by what it found. Anything but as_recorded is a finding.",
                    "ops",
                    [Query(f"sum by (outcome) (rate(auditor_library_objects_total[{RATE}]))", "{{outcome}}")],
                ),
                Panel(
                    "Age of the proof",
                    "How old the activity is that is not proven yet, and since when all of each scope was gone over.",
                    "s",
                    [
                        Query("time() - max(auditor_proven_through_timestamp_seconds > 0)", "new activity"),
                        Query("time() - max by (scope) (auditor_pass_timestamp_seconds > 0)", "{{scope}}"),
                    ],
                ),
                Panel(
                    "Age of the last ledger pass",
                    "Time since the auditor last compared the whole ledger with its seals.",
                    "s",
                    [Query("time() - max(auditor_last_ledger_pass_timestamp_seconds > 0)", "ledger")],
                ),
            ],
        ),
    ],
)

_ID: Final = "'${generation_id}'"

ORDER: Final = Board(
    "reelhouse-order",
    "Reelhouse: One order",
    "Everything about one order, by its id. Metrics know no ids, so that these panels ask PostgreSQL, as the role of"
    " the auditor, who may read every schema. `python -m auditor.main show ID` says more, and takes any id.",
    [
        Row(
            "The order",
            [
                Panel(
                    "Order",
                    "The order as generation has it.",
                    "none",
                    [
                        Query(
                            "SELECT status, model_id, endpoint, lane, price_credits, attempt_count, failure_code, late,"
                            " requested_at, expires_at, finished_at FROM generation.video_generations"
                            f" WHERE CAST(generation_id AS text) = {_ID}"
                        )
                    ],
                    "rows",
                    24,
                ),
                Panel(
                    "Attempts",
                    "Its attempts, and RunPod's job ids.",
                    "none",
                    [
                        Query(
                            "SELECT attempt_number, status, provider_job_id, prepared_at, submitted_at, started_at,"
                            " ended_at, gpu_type, queue_ms, cold_start_ms, execution_ms, cost_micro_usd, failure_code, failure_detail FROM generation.attempts"
                            f" WHERE CAST(generation_id AS text) = {_ID} ORDER BY attempt_number"
                        )
                    ],
                    "rows",
                    24,
                ),
                Panel(
                    "Messages",
                    "Every message about it, from the auditor's journal, in the order in which they happened.",
                    "none",
                    [
                        Query(
                            "SELECT occurred_at, producer, subject, message_id FROM auditor.journal"
                            f" WHERE CAST(correlation_id AS text) = {_ID} ORDER BY occurred_at, message_id"
                        )
                    ],
                    "rows",
                    12,
                ),
                Panel(
                    "Credits",
                    "Its reservation and how that ended.",
                    "none",
                    [
                        Query(
                            "SELECT reservation_id, status, amount_credits, captured_credits, reserved_at, deadline_at"
                            f" FROM billing.reservations WHERE CAST(generation_id AS text) = {_ID}"
                        )
                    ],
                    "rows",
                    12,
                ),
            ],
        ),
        Row(
            "What was going on at the time",
            [
                Panel(
                    "Time to deliver",
                    "From the request to the delivery, of all orders: was this one slow, or were all of them.",
                    "s",
                    [
                        Query(
                            f"histogram_quantile({q}, sum by (le) (rate(generation_order_seconds_bucket[{RATE}])))",
                            name,
                        )
                        for q, name in ((0.5, "median"), (0.95, "95 %"))
                    ],
                    width=12,
                ),
                Panel(
                    "Oldest order",
                    "Age of the oldest order that could be served, by endpoint and lane.",
                    "s",
                    [Query("max by (endpoint, lane) (generation_queue_oldest_seconds)", "{{endpoint}} {{lane}}")],
                    width=12,
                ),
            ],
        ),
    ],
    inputs=[Input("generation_id", "Order", "", "The generation's id.")],
)

BOARDS: Final[Sequence[Board]] = (OVERVIEW, MONEY, QUEUE, MESSAGING, INFRASTRUCTURE, ORDER)
