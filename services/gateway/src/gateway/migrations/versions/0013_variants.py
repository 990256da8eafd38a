"""Variants: several generations that were ordered together, each with a row of its own.

Of an order's variants only the first has the idempotency key. The release before looks requests up by an equal key,
and to it a null is equal to none; it shows variants as generations that were ordered one by one.
"""

from alembic import op

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None


def upgrade() -> None:
    # Each statement is a transaction of its own, and each may be run again. Together, the first would keep its table
    # locked while the second waits for readers that have the second table and wait for the first: under load, for ever.
    with op.get_context().autocommit_block():
        op.execute("ALTER TABLE gateway.generation_requests ALTER COLUMN idempotency_key DROP NOT NULL")
        op.execute(
            "ALTER TABLE gateway.generations ADD COLUMN IF NOT EXISTS variant_of uuid,"
            " ADD COLUMN IF NOT EXISTS variant_number smallint, ADD COLUMN IF NOT EXISTS variant_count smallint"
        )
        op.execute(
            "ALTER TABLE gateway.generations DROP CONSTRAINT IF EXISTS variants_are_counted,"
            " ADD CONSTRAINT variants_are_counted CHECK (num_nulls(variant_of, variant_number, variant_count) = 3 OR"
            " (num_nulls(variant_of, variant_number, variant_count) = 0 AND variant_number BETWEEN 1 AND variant_count"
            " AND variant_count > 1 AND (variant_number = 1) = (variant_of = generation_id))) NOT VALID"
        )
        op.execute("ALTER TABLE gateway.generations VALIDATE CONSTRAINT variants_are_counted")
        # A build that was interrupted leaves an index that nothing uses.
        op.execute("DROP INDEX CONCURRENTLY IF EXISTS gateway.generations_by_variant")
        op.execute(
            "CREATE UNIQUE INDEX CONCURRENTLY IF NOT EXISTS generations_by_variant"
            " ON gateway.generations (variant_of, variant_number) WHERE variant_of IS NOT NULL"
        )
