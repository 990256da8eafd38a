"""The tables of schema ``billing`` as the code sees them. What the database enforces is written in the migrations."""

from sqlalchemy import BigInteger, Column, DateTime, Identity, LargeBinary, MetaData, SmallInteger, Table, Text, Uuid
from sqlalchemy.dialects.postgresql import ARRAY

SCHEMA = "billing"
metadata = MetaData(schema=SCHEMA)

users = Table(
    "users",
    metadata,
    Column("user_id", Uuid, primary_key=True),
    Column("available_credits", BigInteger, nullable=False, server_default="0"),
    Column("reserved_credits", BigInteger, nullable=False, server_default="0"),
    Column("receivable_credits", BigInteger, nullable=False, server_default="0"),
    Column("line_number", BigInteger, nullable=False, server_default="0"),
    Column("opened_at", DateTime(timezone=True), nullable=False),
    comment="Balances. Changed by postings only: a trigger applies them, no role writes here.",
)

balance_ledger = Table(
    "balance_ledger",
    metadata,
    Column("posting_id", BigInteger, Identity(always=True), primary_key=True),
    Column("transfer_id", Uuid, nullable=False),
    Column("account", Text, nullable=False),
    Column("amount_credits", BigInteger, nullable=False),
    Column("reason", Text, nullable=False),
    Column("user_id", Uuid),
    Column("line_number", BigInteger),
    Column("generation_id", Uuid),
    Column("payment_id", Uuid),
    Column("grant_id", Uuid),
    Column("clawback_id", Uuid),
    Column("note", Text),
    Column("occurred_at", DateTime(timezone=True), nullable=False),
    comment="Double entry. Append-only; each transfer adds up to zero at commit.",
)

grants = Table(
    "grants",
    metadata,
    Column("grant_id", Uuid, primary_key=True),
    Column("content_hash", LargeBinary, nullable=False),
    Column("user_id", Uuid, nullable=False),
    Column("amount_credits", BigInteger, nullable=False),
    Column("remaining_credits", BigInteger, nullable=False),
    Column("reason", Text, nullable=False),
    Column("actor", Text, nullable=False),
    Column("payment_id", Uuid),
    Column("note", Text),
    Column("expires_at", DateTime(timezone=True)),
    Column("granted_at", DateTime(timezone=True), nullable=False),
    comment="Credits that arrived together; remaining_credits are neither spent, reserved nor gone.",
)

operator_grants = Table(
    "operator_grants",
    metadata,
    Column("grant_id", Uuid, primary_key=True),
    Column("actor", Text, nullable=False),
    Column("database_user", Text, nullable=False, server_default="session_user"),
    Column("requested_at", DateTime(timezone=True), nullable=False),
    comment="Grants that an operator's command made; every other grant has a payment.",
)

reservations = Table(
    "reservations",
    metadata,
    Column("reservation_id", Uuid, primary_key=True),
    Column("generation_id", Uuid, nullable=False, unique=True),
    Column("user_id", Uuid, nullable=False),
    Column("amount_credits", BigInteger, nullable=False),
    Column("status", Text, nullable=False, server_default="held"),
    Column("captured_credits", BigInteger, nullable=False, server_default="0"),
    Column("deadline_at", DateTime(timezone=True), nullable=False),
    Column("reserved_at", DateTime(timezone=True), nullable=False),
    Column("resolved_at", DateTime(timezone=True)),
    comment="Credits set aside, one per generation. A trigger copies the resolution here.",
)

reservation_grants = Table(
    "reservation_grants",
    metadata,
    Column("reservation_id", Uuid, primary_key=True),
    Column("position", SmallInteger, primary_key=True),
    Column("grant_id", Uuid, nullable=False),
    Column("amount_credits", BigInteger, nullable=False),
    comment="Which grants a reservation drew from, in spending order.",
)

reservation_resolutions = Table(
    "reservation_resolutions",
    metadata,
    Column("reservation_id", Uuid, primary_key=True),
    Column("status", Text, nullable=False),
    Column("captured_credits", BigInteger, nullable=False),
    Column("released_credits", BigInteger, nullable=False),
    Column("resolved_at", DateTime(timezone=True), nullable=False),
    comment="The one end of a reservation: the primary key admits no second.",
)

refusals = Table(
    "refusals",
    metadata,
    Column("generation_id", Uuid, primary_key=True),
    Column("user_id", Uuid, nullable=False),
    Column("code", Text, nullable=False),
    Column("required_credits", BigInteger, nullable=False),
    Column("available_credits", BigInteger, nullable=False),
    Column("refused_at", DateTime(timezone=True), nullable=False),
    comment="Orders that could not be funded. The verdict stands.",
)

verdicts = Table(
    "verdicts",
    metadata,
    Column("generation_id", Uuid, primary_key=True),
    comment="Written by the database: an order is reserved or refused, never both.",
)

clawbacks = Table(
    "clawbacks",
    metadata,
    Column("clawback_id", Uuid, primary_key=True),
    Column("content_hash", LargeBinary, nullable=False),
    Column("user_id", Uuid, nullable=False),
    Column("payment_id", Uuid, nullable=False),
    Column("reason", Text, nullable=False),
    Column("taken_credits", BigInteger, nullable=False),
    Column("receivable_credits", BigInteger, nullable=False),
    Column("note", Text),
    Column("clawed_back_at", DateTime(timezone=True), nullable=False),
    comment="Credits of refunded and disputed payments.",
)

ledger_seals = Table(
    "ledger_seals",
    metadata,
    Column("seal_number", BigInteger, primary_key=True, autoincrement=False),
    Column("after_posting_id", BigInteger, nullable=False),
    Column("through_posting_id", BigInteger, nullable=False),
    Column("posting_ids", ARRAY(BigInteger), nullable=False),
    Column("leaf_hashes", LargeBinary, nullable=False),
    Column("previous_hash", LargeBinary, nullable=False),
    Column("seal_hash", LargeBinary, nullable=False),
    Column("sealed_at", DateTime(timezone=True), nullable=False),
    comment="The hash chain over the ledger: each seal covers the postings of one closed range.",
)

ledger_tree = Table(
    "ledger_tree",
    metadata,
    Column("seal_number", BigInteger, primary_key=True, autoincrement=False),
    Column("first_leaf", BigInteger, nullable=False),
    Column("tree_size", BigInteger, nullable=False),
    Column("nonce_seed", LargeBinary, nullable=False),
    Column("node_hashes", LargeBinary, nullable=False),
    comment="The Merkle tree over the sealed ledger: what each seal adds to it. The seeds of the nonces are secret.",
)

tree_heads = Table(
    "tree_heads",
    metadata,
    Column("tree_size", BigInteger, primary_key=True, autoincrement=False),
    Column("root_hash", LargeBinary, nullable=False),
    Column("published_at", DateTime(timezone=True), nullable=False),
    comment="The heads of the tree that were published.",
)
