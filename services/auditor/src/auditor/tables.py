"""The tables of schema ``auditor`` as the code sees them; the migrations create them."""

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    DateTime,
    Identity,
    Integer,
    LargeBinary,
    MetaData,
    Table,
    Text,
    Uuid,
    func,
)
from sqlalchemy.dialects.postgresql import JSONB

from messaging.leases import LeasedTable

SCHEMA = "auditor"
metadata = MetaData(schema=SCHEMA)

_At = DateTime(timezone=True)

journal = Table(
    "journal",
    metadata,
    Column("message_id", Uuid, primary_key=True),
    Column("subject", Text, nullable=False),
    Column("stream", Text, nullable=False),
    Column("producer", Text, nullable=False),
    Column("is_foreign", Boolean, nullable=False, server_default="false"),
    Column("correlation_id", Uuid, nullable=False),
    Column("causation_id", Uuid),
    Column("user_id", Uuid),
    Column("traceparent", Text),
    Column("occurred_at", _At, nullable=False),
    Column("received_at", _At, nullable=False),
    Column("payload", JSONB, nullable=False),
    comment="Every message that names the auditor as a reader. Append-only; day partitions by the time in the id.",
)

findings = Table(
    "findings",
    metadata,
    Column("finding_id", BigInteger, Identity(always=True), primary_key=True),
    Column("code", Text, nullable=False),
    Column("severity", Text, nullable=False),
    Column("subject_key", Text, nullable=False),
    Column("expected", Text, nullable=False),
    Column("found", Text, nullable=False),
    Column("first_seen_at", _At, nullable=False),
    Column("last_seen_at", _At, nullable=False),
    Column("resolved_at", _At),
    comment="What the checker found wrong, with both sides; open until a check does not find it any more.",
)

ledger_heads = Table(
    "ledger_heads",
    metadata,
    Column("seal_number", BigInteger, primary_key=True),
    Column("seal_hash", LargeBinary, nullable=False),
    Column("seen_at", _At, nullable=False),
    comment="Ends of billing's chain of seals that were seen. Append-only; a chain without them was rewritten.",
)

library_scans = Table(
    "library_scans",
    metadata,
    Column("scan_id", BigInteger, Identity(always=True), primary_key=True),
    Column("kind", Text, nullable=False),
    Column("after_id", Uuid),
    Column("through_id", Uuid),
    Column("position", Text),
    Column("due_at", _At, nullable=False, server_default=func.now()),
    Column("leased_until", _At),
    Column("fence", BigInteger, nullable=False, server_default="0"),
    Column("tries", Integer, nullable=False, server_default="0"),
    Column("made_at", _At, nullable=False, server_default=func.now()),
    Column("ended_at", _At),
    comment="Parts of the library that are read again and again, and how far each reading has come.",
)

LIBRARY_SCANS = LeasedTable(library_scans)
"""Scans are leased work that recurs."""
