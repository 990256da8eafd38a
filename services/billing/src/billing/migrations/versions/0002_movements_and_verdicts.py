"""Which account each reason moves credits between, one verdict per order, and an index for grants by payment."""

from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

STATEMENTS = (
    """
    ALTER TABLE billing.balance_ledger ADD CONSTRAINT movements_go_where_their_reason_says CHECK (
        (reason, account, sign(amount_credits)) IN (
            ('reserve', 'user:available', -1), ('reserve', 'user:reserved', 1),
            ('capture', 'user:reserved', -1), ('capture', 'platform:revenue', 1),
            ('release', 'user:reserved', -1), ('release', 'user:available', 1),
            ('expiry', 'user:available', -1), ('expiry', 'platform:expired', 1),
            ('receivable_settled', 'user:available', -1), ('receivable_settled', 'user:receivable', 1))
        OR (reason IN ('purchase', 'bonus', 'signup', 'goodwill')
            AND (account, sign(amount_credits)) IN (('user:available', 1), ('platform:issued', -1)))
        OR (reason IN ('dispute_won', 'refund_failed')
            AND (account, sign(amount_credits)) IN (('user:available', 1), ('platform:refunded', -1)))
        OR (reason IN ('refund', 'dispute')
            AND (account, sign(amount_credits)) IN (
                ('user:available', -1), ('user:receivable', -1), ('platform:refunded', 1))))
    """,
    "CREATE INDEX grants_by_payment ON billing.grants (payment_id) WHERE payment_id IS NOT NULL",
    # Reservations and refusals are two tables; that an order is in one of them only takes a third.
    """
    CREATE TABLE billing.verdicts (
        generation_id uuid CONSTRAINT an_order_has_one_verdict PRIMARY KEY
    )
    """,
    """
    INSERT INTO billing.verdicts
    SELECT generation_id FROM billing.reservations UNION ALL SELECT generation_id FROM billing.refusals
    """,
    """
    CREATE FUNCTION billing.give_verdicts() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    BEGIN
        INSERT INTO billing.verdicts SELECT generation_id FROM new_verdicts ORDER BY generation_id;
        RETURN NULL;
    END $$
    """,
    *(
        f"""
        CREATE TRIGGER give_verdicts AFTER INSERT ON billing.{table}
            REFERENCING NEW TABLE AS new_verdicts
            FOR EACH STATEMENT EXECUTE FUNCTION billing.give_verdicts()
        """
        for table in ("reservations", "refusals")
    ),
    "REVOKE ALL ON FUNCTION billing.apply_postings(), billing.apply_resolutions(), billing.give_verdicts() FROM PUBLIC",
)


def upgrade() -> None:
    for statement in STATEMENTS:
        op.execute(statement)


def downgrade() -> None:
    raise NotImplementedError("a ledger is not taken down")
