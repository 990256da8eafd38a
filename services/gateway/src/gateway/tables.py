"""The tables of schema ``gateway``: what was asked here, and read models of what happened elsewhere."""

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql as pg

SCHEMA = "gateway"

metadata = sa.MetaData(schema=SCHEMA)

_AT = sa.DateTime(timezone=True)
_UUID = pg.UUID(as_uuid=True)

generation_requests = sa.Table(
    "generation_requests",
    metadata,
    sa.Column("generation_id", _UUID, primary_key=True),
    sa.Column("user_id", _UUID, nullable=False),
    # Null on the further variants of an order.
    sa.Column("idempotency_key", sa.Text),
    sa.Column("request_hash", sa.LargeBinary, nullable=False),
    sa.Column("created_at", _AT, nullable=False, server_default=sa.func.now()),
    # reserved | insufficient_credits | account_frozen; null until billing has answered.
    sa.Column("verdict", sa.Text),
    sa.Column("required_credits", sa.BigInteger),
    sa.Column("available_credits", sa.BigInteger),
    sa.UniqueConstraint("user_id", "idempotency_key"),
)

generations = sa.Table(
    "generations",
    metadata,
    sa.Column("generation_id", _UUID, primary_key=True),
    sa.Column("user_id", _UUID, nullable=False),
    sa.Column("version", sa.Integer, nullable=False, server_default="0"),
    sa.Column("status", sa.Text, nullable=False),
    sa.Column("model_id", sa.Text, nullable=False),
    sa.Column("kind", sa.Text, nullable=False),
    sa.Column("parameters", pg.JSONB, nullable=False),
    sa.Column("price_credits", sa.BigInteger, nullable=False),
    sa.Column("lane", sa.Text, nullable=False),
    sa.Column("attempt_number", sa.Integer),
    sa.Column("failure_code", sa.Text),
    sa.Column("failure_detail", sa.Text),
    sa.Column("late", sa.Boolean, nullable=False, server_default=sa.false()),
    sa.Column("captured_credits", sa.BigInteger),
    sa.Column("released_credits", sa.BigInteger),
    sa.Column("object_key", sa.Text),
    sa.Column("poster_object_key", sa.Text),
    sa.Column("size_bytes", sa.BigInteger),
    sa.Column("sha256", sa.Text),
    sa.Column("media", pg.JSONB),
    sa.Column("requested_at", _AT, nullable=False),
    sa.Column("expires_at", _AT, nullable=False),
    sa.Column("start_before_at", _AT),
    sa.Column("completed_at", _AT),
    sa.Column("updated_at", _AT, nullable=False, server_default=sa.func.now()),
    # What completion says will be charged; captured_credits is billing's word, a moment later.
    sa.Column("charged_credits", sa.BigInteger),
    # Its user deleted it: it is in no list, and its files go.
    sa.Column("deleted_at", _AT),
    # Null until storage has made them.
    sa.Column("previews", pg.JSONB),
    # The first variant of the order, also on that one itself; all three are null on an order of one.
    sa.Column("variant_of", _UUID),
    sa.Column("variant_number", sa.SmallInteger),
    sa.Column("variant_count", sa.SmallInteger),
)

balances = sa.Table(
    "balances",
    metadata,
    sa.Column("user_id", _UUID, primary_key=True),
    # The last statement line that is included.
    sa.Column("line_number", sa.BigInteger, nullable=False),
    sa.Column("available_credits", sa.BigInteger, nullable=False),
    sa.Column("reserved_credits", sa.BigInteger, nullable=False),
    sa.Column("receivable_credits", sa.BigInteger, nullable=False),
    sa.Column("updated_at", _AT, nullable=False, server_default=sa.func.now()),
)

ledger_lines = sa.Table(
    "ledger_lines",
    metadata,
    sa.Column("user_id", _UUID, primary_key=True),
    sa.Column("line_number", sa.BigInteger, primary_key=True),
    sa.Column("transfer_id", _UUID, nullable=False),
    sa.Column("reason", sa.Text, nullable=False),
    sa.Column("available_delta_credits", sa.BigInteger, nullable=False),
    sa.Column("reserved_delta_credits", sa.BigInteger, nullable=False),
    sa.Column("receivable_delta_credits", sa.BigInteger, nullable=False),
    sa.Column("available_after_credits", sa.BigInteger, nullable=False),
    sa.Column("reserved_after_credits", sa.BigInteger, nullable=False),
    sa.Column("receivable_after_credits", sa.BigInteger, nullable=False),
    sa.Column("generation_id", _UUID),
    sa.Column("payment_id", _UUID),
    sa.Column("note", sa.Text),
    sa.Column("occurred_at", _AT, nullable=False),
)

ledger_heads = sa.Table(
    "ledger_heads",
    metadata,
    sa.Column("tree_size", sa.BigInteger, primary_key=True),
    sa.Column("root_hash", sa.LargeBinary, nullable=False),
    sa.Column("published_at", _AT, nullable=False),
)

payment_requests = sa.Table(
    "payment_requests",
    metadata,
    sa.Column("payment_id", _UUID, primary_key=True),
    sa.Column("user_id", _UUID, nullable=False),
    sa.Column("idempotency_key", sa.Text, nullable=False),
    sa.Column("request_hash", sa.LargeBinary, nullable=False),
    sa.Column("created_at", _AT, nullable=False, server_default=sa.func.now()),
    sa.Column("refusal_code", sa.Text),
    sa.Column("refusal_detail", sa.Text),
    sa.UniqueConstraint("user_id", "idempotency_key"),
)

payments = sa.Table(
    "payments",
    metadata,
    sa.Column("payment_id", _UUID, primary_key=True),
    sa.Column("user_id", _UUID, nullable=False),
    sa.Column("version", sa.Integer, nullable=False, server_default="0"),
    sa.Column("status", sa.Text, nullable=False),
    sa.Column("provider", sa.Text, nullable=False),
    sa.Column("pack_id", sa.Text, nullable=False),
    sa.Column("price_cents", sa.Integer, nullable=False),
    sa.Column("currency", sa.Text, nullable=False),
    sa.Column("credits", sa.Integer, nullable=False),
    sa.Column("bonus_credits", sa.Integer, nullable=False),
    sa.Column("refunded_cents", sa.Integer, nullable=False, server_default="0"),
    sa.Column("checkout_url", sa.Text),
    sa.Column("detail", sa.Text),
    sa.Column("receipt_url", sa.Text),
    sa.Column("created_at", _AT, nullable=False),
    sa.Column("expires_at", _AT),
    sa.Column("updated_at", _AT, nullable=False, server_default=sa.func.now()),
)

settled_credits = sa.Table(
    "settled_credits",
    metadata,
    # Lines through this one are added up: none of them is missing, and none changes.
    sa.Column("user_id", _UUID, primary_key=True),
    sa.Column("through_line", sa.BigInteger, nullable=False),
    sa.Column("settled_credits", sa.BigInteger, nullable=False),
)

activity_heads = sa.Table(
    "activity_heads",
    metadata,
    sa.Column("user_id", _UUID, primary_key=True),
    sa.Column("sequence", sa.BigInteger, nullable=False),
)

activity = sa.Table(
    "activity",
    metadata,
    sa.Column("user_id", _UUID, primary_key=True),
    # Counted under the user's row lock in activity_heads: no number appears below one that was already read.
    sa.Column("sequence", sa.BigInteger, primary_key=True),
    sa.Column("message_id", _UUID, nullable=False, unique=True),
    # The generation or payment it is about; null for the balance alone.
    sa.Column("subject_id", _UUID),
    sa.Column("event", sa.Text, nullable=False),
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("data", pg.JSONB, nullable=False),
    sa.Column("occurred_at", _AT, nullable=False),
)

uploads = sa.Table(
    "uploads",
    metadata,
    sa.Column("upload_id", _UUID, primary_key=True),
    sa.Column("user_id", _UUID, nullable=False),
    sa.Column("content_type", sa.Text, nullable=False),
    sa.Column("size_bytes", sa.BigInteger, nullable=False),
    sa.Column("created_at", _AT, nullable=False, server_default=sa.func.now()),
)

running_cancellations = sa.Table(
    "running_cancellations",
    metadata,
    # A generation counts once, however often it is cancelled.
    sa.Column("generation_id", _UUID, primary_key=True),
    sa.Column("user_id", _UUID, nullable=False),
    sa.Column("cancelled_at", _AT, nullable=False, server_default=sa.func.now()),
)

signups = sa.Table(
    "signups",
    metadata,
    # A user signs up once: billing was asked to credit this, once ever.
    sa.Column("user_id", _UUID, primary_key=True),
    sa.Column("grant_id", _UUID, nullable=False),
    sa.Column("amount_credits", sa.BigInteger, nullable=False),
    sa.Column("requested_at", _AT, nullable=False, server_default=sa.func.now()),
)

write_allowances = sa.Table(
    "write_allowances",
    metadata,
    sa.Column("user_id", _UUID, primary_key=True),
    sa.Column("tokens", sa.Float, nullable=False),
    sa.Column("counted_at", _AT, nullable=False),
)
