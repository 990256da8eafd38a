"""Every state that is not final has a deadline, and something drives it on: these find what has come to a stop.

What waits for a provider or for a person may wait long; these limits are longer than any service plans.
"""

from typing import Final

from auditor.domain import Invariant

MATCH_ATTEMPTS: Final = 12
"""After so many tries payments gives an event of a provider up: it concerns no payment of ours."""
UNREADABLE_EVENT: Final = "unreadable"
"""The type of an event that payments could not read. A person does: that it was set aside is in a review."""

DEADLINES: Final = (
    Invariant(
        code="generations_meet_their_deadlines",
        severity="critical",
        meaning="No generation stays in a state past that state's deadline: something always drives it on",
        query="""
            SELECT generation_id::text AS subject, format('driven on at %s', deadline_at) AS expected,
                   format('still %s', status) AS found
            FROM generation.video_generations
            WHERE status NOT IN ('completed', 'failed', 'cancelled')
              AND deadline_at <= now() - make_interval(secs => :tolerance)
        """,
    ),
    Invariant(
        code="reservations_end_in_time",
        severity="critical",
        meaning="No credits stay reserved past the deadline of their order",
        # While its file is sought, generation may end an order later than billing expects: its own deadline counts.
        query="""
            SELECT r.generation_id::text AS subject,
                   format('captured or released by %s',
                          greatest(r.deadline_at, coalesce(v.finished_at, v.deadline_at))) AS expected,
                   format('%s credits still held, for a generation that is %s', r.amount_credits,
                          coalesce(v.status, 'unknown')) AS found
            FROM billing.reservations AS r
            LEFT JOIN generation.video_generations AS v USING (generation_id)
            WHERE r.status = 'held'
              AND greatest(r.deadline_at, coalesce(v.finished_at, v.deadline_at))
                  <= now() - make_interval(secs => :tolerance)
        """,
    ),
    Invariant(
        code="attempts_end_with_their_generation",
        severity="critical",
        meaning="No attempt goes on, and burns GPU seconds, once its generation has ended",
        query="""
            SELECT v.generation_id::text AS subject,
                   format('no attempt under way: the generation is %s', v.status) AS expected,
                   format('attempt %s (job %s) is %s', a.attempt_number, a.provider_job_id, a.status) AS found
            FROM generation.attempts AS a
            JOIN generation.video_generations AS v USING (generation_id)
            WHERE a.status IN ('prepared', 'unknown', 'submitted', 'running')
              AND v.status IN ('completed', 'failed', 'cancelled')
        """,
    ),
    Invariant(
        code="attempts_are_looked_after",
        severity="warning",
        meaning="An attempt is looked up at its provider when it is time, and stopped there when it was abandoned",
        query="""
            SELECT generation_id::text AS subject,
                   format('attempt %s looked up at %s', attempt_number, check_at) AS expected,
                   format('job %s is %s, last looked up at %s', provider_job_id, status, last_checked_at) AS found
            FROM generation.attempts
            WHERE status IN ('prepared', 'unknown', 'submitted', 'running')
              AND check_at <= now() - interval '10 minutes' - make_interval(secs => :tolerance)
            UNION ALL
            SELECT generation_id::text, format('attempt %s stopped at %s', attempt_number, cancel_due_at),
                   format('job %s is %s, and tried to be stopped %s times', provider_job_id, status, cancel_tries)
            FROM generation.attempts
            -- Without a job there is nothing to stop yet.
            WHERE provider_job_id IS NOT NULL
              AND cancel_due_at <= now() - interval '10 minutes' - make_interval(secs => :tolerance)
        """,
    ),
    Invariant(
        code="callbacks_are_processed",
        severity="warning",
        meaning="What a provider reported of a job is acted on, or given up after a few tries",
        query="""
            SELECT coalesce(a.generation_id, c.attempt_id)::text AS subject,
                   format('callback %s acted on at %s', c.callback_id, c.due_at) AS expected,
                   format('received at %s, tried %s times', c.received_at, c.tries) AS found
            FROM generation.provider_callbacks AS c
            LEFT JOIN generation.attempts AS a USING (attempt_id)
            WHERE c.processed_at IS NULL
              AND c.due_at <= now() - interval '10 minutes' - make_interval(secs => :tolerance)
        """,
    ),
    Invariant(
        code="verifications_are_answered",
        severity="warning",
        meaning="Storage answers what it is asked about a file within half an hour",
        query="""
            SELECT generation_id::text AS subject, format('an answer to %s (%s)', subject, message_id) AS expected,
                   format('none since %s, after %s tries', asked_at, tries) AS found
            FROM storage.verifications
            WHERE next_try_at IS NOT NULL
              AND asked_at <= now() - interval '30 minutes' - make_interval(secs => :tolerance)
        """,
    ),
    Invariant(
        code="previews_are_made",
        severity="warning",
        meaning="Thumbnails of an output are made, or given up, within a day",
        query="""
            SELECT generation_id::text AS subject, format('previews of the output of %s', requested_at) AS expected,
                   format('none after %s tries; %s', tries, coalesce(reason, 'no reason is known')) AS found
            FROM storage.previews
            WHERE due_at IS NOT NULL AND requested_at <= now() - interval '1 day' - make_interval(secs => :tolerance)
        """,
    ),
    Invariant(
        code="deletions_are_carried_out",
        severity="warning",
        meaning="What a user deletes has left the library within an hour",
        query="""
            SELECT generation_id::text AS subject, format('no file: deleted at %s', requested_at) AS expected,
                   format('open since %s, after %s tries', opened_at, tries) AS found
            FROM storage.deletions
            WHERE due_at IS NOT NULL
              AND opened_at <= now() - interval '1 hour' - make_interval(secs => :tolerance)
        """,
    ),
    Invariant(
        code="due_grants_expire",
        severity="critical",
        meaning="The remainder of a grant is taken away when the grant expires",
        query="""
            SELECT user_id::text AS subject, format('grant %s expired at %s', grant_id, expires_at) AS expected,
                   format('%s credits left', remaining_credits) AS found
            FROM billing.grants
            WHERE remaining_credits > 0 AND expires_at <= now() - make_interval(secs => :tolerance)
        """,
    ),
    Invariant(
        code="payments_are_looked_up",
        severity="critical",
        meaning="An open payment is looked up at its provider regularly; when it is not, a person is asked to",
        query="""
            SELECT p.payment_id::text AS subject,
                   CASE WHEN p.next_look_at IS NULL THEN 'a next look, or an open review'
                        ELSE format('looked up at %s', p.next_look_at) END AS expected,
                   format('%s, created at %s, looked up %s times', p.status, p.created_at, p.looks) AS found
            FROM payments.payment_transactions AS p
            WHERE p.next_look_at <= now() - interval '10 minutes' - make_interval(secs => :tolerance)
               OR (p.status IN ('created', 'pending') AND p.next_look_at IS NULL
                   AND NOT EXISTS (SELECT FROM payments.reviews AS r
                                   WHERE r.payment_id = p.payment_id AND r.resolved_at IS NULL))
        """,
    ),
    Invariant(
        code="refunds_are_sent",
        severity="warning",
        meaning="A refund that was ordered is at its provider within the hour",
        query="""
            SELECT payment_id::text AS subject, format('refund %s sent to %s', refund_id, provider) AS expected,
                   format('%s cents requested at %s, tried %s times', amount_cents, created_at, tries) AS found
            FROM payments.refunds
            WHERE state = 'requested'
              AND created_at <= now() - interval '1 hour' - make_interval(secs => :tolerance)
        """,
    ),
    Invariant(
        code="provider_events_are_matched",
        severity="warning",
        meaning="A provider's event is matched with a payment, or found to be about none of ours",
        query=f"""
            SELECT format('%s/%s', provider, event_id) AS subject,
                   CASE WHEN next_match_at IS NULL THEN 'another try' ELSE format('a try at %s', next_match_at) END
                       AS expected,
                   format('%s, received at %s, tried %s times', event_type, received_at, match_attempts) AS found
            FROM payments.provider_events
            WHERE payment_id IS NULL AND event_type <> '{UNREADABLE_EVENT}'
              AND (next_match_at <= now() - interval '10 minutes' - make_interval(secs => :tolerance)
                   OR (next_match_at IS NULL AND match_attempts < {MATCH_ATTEMPTS}))
        """,  # noqa: S608 - constants
    ),
    Invariant(
        code="movements_are_confirmed",
        severity="warning",
        meaning="Payments hears from billing that the credits which it ordered are in the ledger",
        query="""
            SELECT payment_id::text AS subject, format('%s %s posted', kind, movement_id) AS expected,
                   format('ordered at %s, not confirmed', ordered_at) AS found
            FROM payments.credit_movements
            WHERE posted_at IS NULL AND ordered_at <= now() - make_interval(secs => :tolerance)
        """,
    ),
    Invariant(
        code="payments_in_review_are_before_somebody",
        severity="critical",
        meaning="A payment that waits for a person has an open review",
        query="""
            SELECT p.payment_id::text AS subject, 'an open review' AS expected,
                   format('none; the payment is in review, created at %s', p.created_at) AS found
            FROM payments.payment_transactions AS p
            WHERE OF_PAYMENT(p.payment_id) AND p.status = 'review'
              AND NOT EXISTS (SELECT FROM payments.reviews AS r
                              WHERE r.payment_id = p.payment_id AND r.resolved_at IS NULL)
        """,
    ),
    Invariant(
        code="reviews_are_decided",
        severity="warning",
        meaning="What only a person can decide is decided within a day",
        query="""
            SELECT coalesce(payment_id::text, reference) AS subject,
                   format('a decision on review %s (%s)', review_id, code) AS expected,
                   format('none since %s: expected %s, found %s', opened_at, expected, found) AS found
            FROM payments.reviews
            WHERE resolved_at IS NULL AND opened_at <= now() - interval '1 day' - make_interval(secs => :tolerance)
        """,
    ),
)
