"""The tables of schema ``storage``."""

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql as pg

from messaging.leases import LeasedTable

SCHEMA = "storage"

metadata = sa.MetaData(schema=SCHEMA)

_AT = sa.DateTime(timezone=True)

verifications = sa.Table(
    "verifications",
    metadata,
    # The id of the message that requested it.
    sa.Column("message_id", pg.UUID(as_uuid=True), primary_key=True),
    sa.Column("subject", sa.Text, nullable=False),
    sa.Column("generation_id", pg.UUID(as_uuid=True), nullable=False),
    # The owner of the file: users take turns.
    sa.Column("user_id", pg.UUID(as_uuid=True), nullable=False),
    sa.Column("payload", sa.LargeBinary, nullable=False),
    sa.Column("traceparent", sa.Text),
    sa.Column("tries", sa.Integer, nullable=False, server_default="0"),
    # The files on which a decoder died or stalled, one entry for each time. Only these failures count against a file.
    sa.Column("failed_files", pg.ARRAY(sa.Text), nullable=False, server_default="{}"),
    # Null once the verification is answered.
    sa.Column("next_try_at", _AT),
    sa.Column("leased_until", _AT),
    # Grows with every claim: a worker that slept past its lease cannot record a result.
    sa.Column("fence", sa.BigInteger, nullable=False, server_default="0"),
    sa.Column("asked_at", _AT, nullable=False, server_default=sa.func.now()),
    sa.Column("answered_at", _AT),
    # The subject of the message that announced the result.
    sa.Column("answer", sa.Text),
)

VERIFICATIONS = LeasedTable(verifications, due_at="next_try_at")
"""Verifications are leased work."""

assets = sa.Table(
    "assets",
    metadata,
    sa.Column("asset_id", pg.UUID(as_uuid=True), primary_key=True),
    sa.Column("generation_id", pg.UUID(as_uuid=True), nullable=False),
    sa.Column("role", sa.Text, nullable=False),
    sa.Column("user_id", pg.UUID(as_uuid=True), nullable=False),
    sa.Column("attempt_id", pg.UUID(as_uuid=True), nullable=False),
    sa.Column("attempt_number", sa.Integer, nullable=False),
    sa.Column("object_key", sa.Text, nullable=False, unique=True),
    sa.Column("poster_object_key", sa.Text, nullable=False),
    sa.Column("size_bytes", sa.BigInteger, nullable=False),
    sa.Column("sha256", sa.Text, nullable=False),
    sa.Column("media", pg.JSONB, nullable=False),
    sa.Column("stored_at", _AT, nullable=False, server_default=sa.func.now()),
    sa.UniqueConstraint("generation_id", "role"),
    sa.CheckConstraint("size_bytes > 0", name="size_positive"),
)

uploads = sa.Table(
    "uploads",
    metadata,
    sa.Column("upload_id", pg.UUID(as_uuid=True), primary_key=True),
    sa.Column("user_id", pg.UUID(as_uuid=True), nullable=False),
    sa.Column("object_key", sa.Text, nullable=False),
    sa.Column("size_bytes", sa.BigInteger, nullable=False),
    sa.Column("sha256", sa.Text, nullable=False),
    sa.Column("media", pg.JSONB, nullable=False),
    sa.Column("verified_at", _AT, nullable=False, server_default=sa.func.now()),
)

deletions = sa.Table(
    "deletions",
    metadata,
    sa.Column("generation_id", pg.UUID(as_uuid=True), primary_key=True),
    sa.Column("user_id", pg.UUID(as_uuid=True), nullable=False),
    # The newest message that requested it.
    sa.Column("message_id", pg.UUID(as_uuid=True), nullable=False),
    sa.Column("traceparent", sa.Text),
    sa.Column("requested_at", _AT, nullable=False),
    # When there was last something to delete.
    sa.Column("opened_at", _AT, nullable=False, server_default=sa.func.now()),
    sa.Column("tries", sa.Integer, nullable=False, server_default="0"),
    # Null while no file is there.
    sa.Column("due_at", _AT, server_default=sa.func.now()),
    sa.Column("leased_until", _AT),
    sa.Column("fence", sa.BigInteger, nullable=False, server_default="0"),
    sa.Column("deleted_at", _AT),
)

DELETIONS = LeasedTable(deletions)
"""Deletions are leased work, and due again when a file of the generation is stored after all."""

previews = sa.Table(
    "previews",
    metadata,
    # The output of which they are made.
    sa.Column("asset_id", pg.UUID(as_uuid=True), primary_key=True),
    sa.Column("generation_id", pg.UUID(as_uuid=True), nullable=False),
    # Users take turns.
    sa.Column("user_id", pg.UUID(as_uuid=True), nullable=False),
    sa.Column("traceparent", sa.Text),
    sa.Column("requested_at", _AT, nullable=False, server_default=sa.func.now()),
    sa.Column("tries", sa.Integer, nullable=False, server_default="0"),
    # Tries that failed for a reason of their own. That something was away does not count.
    sa.Column("failures", sa.Integer, nullable=False, server_default="0"),
    # Null once they are made or given up.
    sa.Column("due_at", _AT, server_default=sa.func.now()),
    sa.Column("leased_until", _AT),
    sa.Column("fence", sa.BigInteger, nullable=False, server_default="0"),
    sa.Column("ended_at", _AT),
    # stored | given_up | deleted
    sa.Column("outcome", sa.Text),
    # Why they were given up, or what the last try failed of.
    sa.Column("reason", sa.Text),
    # What lies in the library, as it was announced: the auditor holds the library against it.
    sa.Column("thumbnails", pg.JSONB(none_as_null=True)),
    sa.Column("animated_preview", pg.JSONB(none_as_null=True)),
)

PREVIEWS = LeasedTable(previews)
"""Previews are leased work."""
