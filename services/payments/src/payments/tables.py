"""The tables of schema ``payments``."""

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql as pg

SCHEMA = "payments"

metadata = sa.MetaData(schema=SCHEMA)

_AT = sa.DateTime(timezone=True)

payment_transactions = sa.Table(
    "payment_transactions",
    metadata,
    sa.Column("payment_id", pg.UUID(as_uuid=True), primary_key=True),
    sa.Column("user_id", pg.UUID(as_uuid=True), nullable=False),
    sa.Column("version", sa.Integer, nullable=False, server_default="1"),
    sa.Column("provider", sa.Text, nullable=False),
    # The checkout at the provider; null until the provider has answered.
    sa.Column("provider_reference", sa.Text),
    # The money at the provider, where that is another object (Stripe: the PaymentIntent).
    sa.Column("charge_reference", sa.Text),
    sa.Column("status", sa.Text, nullable=False),
    sa.Column("resolution", sa.Text),
    sa.Column("pack_id", sa.Text, nullable=False),
    sa.Column("price_cents", sa.Integer, nullable=False),
    sa.Column("currency", sa.Text, nullable=False),
    sa.Column("credits", sa.Integer, nullable=False),
    sa.Column("bonus_credits", sa.Integer, nullable=False),
    sa.Column("refunded_cents", sa.Integer, nullable=False, server_default="0"),
    # The most that the provider has shown to have arrived, in its currency.
    sa.Column("paid_cents", sa.BigInteger, nullable=False, server_default="0"),
    sa.Column("checkout_url", sa.Text),
    # Where the provider sends the buyer afterwards; null for the address of the settings.
    sa.Column("return_url", sa.Text),
    sa.Column("receipt_url", sa.Text),
    sa.Column("detail", sa.Text),
    sa.Column("created_at", _AT, nullable=False),
    sa.Column("expires_at", _AT, nullable=False),
    sa.Column("settled_at", _AT),
    # Leased work: when the provider is polled next (null: only after a hint or by the daily comparison), and who polls.
    sa.Column("next_look_at", _AT),
    sa.Column("looks", sa.Integer, nullable=False, server_default="0"),
    sa.Column("leased_until", _AT),
    sa.Column("fence", sa.BigInteger, nullable=False, server_default="0"),
    # Grows with every hint, so that a hint during a poll is not lost.
    sa.Column("hints", sa.BigInteger, nullable=False, server_default="0"),
    # Of the request that began the payment: every poll continues its trace.
    sa.Column("traceparent", sa.Text),
    sa.UniqueConstraint("provider", "provider_reference"),
    sa.CheckConstraint("price_cents > 0 AND credits > 0 AND bonus_credits >= 0", name="amounts_positive"),
)

credit_movements = sa.Table(
    "credit_movements",
    metadata,
    # Also the grant or clawback id at billing, derived from payment, kind and reference.
    sa.Column("movement_id", pg.UUID(as_uuid=True), primary_key=True),
    sa.Column(
        "payment_id", pg.UUID(as_uuid=True), sa.ForeignKey("payments.payment_transactions.payment_id"), nullable=False
    ),
    sa.Column("kind", sa.Text, nullable=False),
    sa.Column("reference", sa.Text, nullable=False, server_default=""),
    sa.Column("amount_credits", sa.Integer, nullable=False),
    sa.Column("ordered_at", _AT, nullable=False, server_default=sa.func.now()),
    # When billing said that the ledger has it.
    sa.Column("posted_at", _AT),
    sa.UniqueConstraint("payment_id", "kind", "reference"),
    sa.CheckConstraint("amount_credits > 0", name="amount_positive"),
)

provider_events = sa.Table(
    "provider_events",
    metadata,
    sa.Column("provider", sa.Text, primary_key=True),
    sa.Column("event_id", sa.Text, primary_key=True),
    sa.Column("event_type", sa.Text, nullable=False),
    # What the event is about, as far as its body says: enough to find the payment, now or by asking the provider.
    sa.Column("reference", sa.Text),
    sa.Column("payment_id", pg.UUID(as_uuid=True)),
    sa.Column("body", sa.LargeBinary, nullable=False),
    sa.Column("source", sa.Text, nullable=False),
    sa.Column("received_at", _AT, nullable=False, server_default=sa.func.now()),
    sa.Column("matched_at", _AT),
    # Leased work: when the provider is asked next which payment it is about (null: never), and who asks.
    sa.Column("match_attempts", sa.Integer, nullable=False, server_default="0"),
    sa.Column("next_match_at", _AT),
    sa.Column("leased_until", _AT),
    sa.Column("fence", sa.BigInteger, nullable=False, server_default="0"),
)

refunds = sa.Table(
    "refunds",
    metadata,
    sa.Column("refund_id", pg.UUID(as_uuid=True), primary_key=True),
    sa.Column(
        "payment_id", pg.UUID(as_uuid=True), sa.ForeignKey("payments.payment_transactions.payment_id"), nullable=False
    ),
    sa.Column("provider", sa.Text, nullable=False),
    # Null for a refund that was requested here and that the provider has not confirmed yet.
    sa.Column("provider_reference", sa.Text),
    sa.Column("amount_cents", sa.Integer, nullable=False),
    sa.Column("state", sa.Text, nullable=False),
    sa.Column("actor", sa.Text, nullable=False),
    sa.Column("note", sa.Text),
    # Leased work: when a requested refund is sent to the provider next (null: it has answered), and who sends it.
    sa.Column("next_try_at", _AT),
    sa.Column("tries", sa.Integer, nullable=False, server_default="0"),
    sa.Column("leased_until", _AT),
    sa.Column("fence", sa.BigInteger, nullable=False, server_default="0"),
    sa.Column("created_at", _AT, nullable=False, server_default=sa.func.now()),
    sa.Column("updated_at", _AT, nullable=False, server_default=sa.func.now()),
    sa.UniqueConstraint("provider", "provider_reference"),
    sa.CheckConstraint("amount_cents > 0", name="amount_positive"),
)

disputes = sa.Table(
    "disputes",
    metadata,
    sa.Column("provider", sa.Text, primary_key=True),
    sa.Column("provider_reference", sa.Text, primary_key=True),
    sa.Column(
        "payment_id", pg.UUID(as_uuid=True), sa.ForeignKey("payments.payment_transactions.payment_id"), nullable=False
    ),
    sa.Column("amount_cents", sa.Integer, nullable=False),
    sa.Column("state", sa.Text, nullable=False),
    sa.Column("created_at", _AT, nullable=False, server_default=sa.func.now()),
    sa.Column("updated_at", _AT, nullable=False, server_default=sa.func.now()),
)

reviews = sa.Table(
    "reviews",
    metadata,
    sa.Column("review_id", pg.UUID(as_uuid=True), primary_key=True),
    sa.Column("payment_id", pg.UUID(as_uuid=True)),
    sa.Column("code", sa.Text, nullable=False),
    sa.Column("reference", sa.Text, nullable=False, server_default=""),
    sa.Column("expected", sa.Text, nullable=False),
    sa.Column("found", sa.Text, nullable=False),
    sa.Column("opened_at", _AT, nullable=False, server_default=sa.func.now()),
    sa.Column("last_seen_at", _AT, nullable=False, server_default=sa.func.now()),
    sa.Column("resolved_at", _AT),
    sa.Column("resolution", sa.Text),
    sa.Column("actor", sa.Text),
    sa.Column("note", sa.Text),
    sa.UniqueConstraint("payment_id", "code", "reference", postgresql_nulls_not_distinct=True),
)

sweeps = sa.Table(
    "sweeps",
    metadata,
    # One row per sweep and provider: how far it has read, and when it last finished.
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("read_until", _AT, nullable=False),
    sa.Column("finished_at", _AT),
    # Leased work: when the sweep runs next, and who runs it.
    sa.Column("due_at", _AT, nullable=False, server_default=sa.func.now()),
    sa.Column("leased_until", _AT),
    sa.Column("fence", sa.BigInteger, nullable=False, server_default="0"),
    sa.Column("tries", sa.Integer, nullable=False, server_default="0"),
)
