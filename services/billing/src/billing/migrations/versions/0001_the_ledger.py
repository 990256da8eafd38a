"""The ledger: balances, postings, reservations, verdicts, grants, clawbacks and seals.

The database enforces what must never be wrong, whatever the code does: a transfer adds up to zero, balances follow from
postings, statement lines have no gaps, a reservation ends once, an order has one verdict, postings are never changed.
"""

from alembic import op

from messaging.schema import create_messaging_tables, grant_messaging_tables

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

REASONS = (
    "'purchase', 'bonus', 'signup', 'goodwill', 'reserve', 'capture', 'release', 'refund', 'dispute', "
    "'dispute_won', 'refund_failed', 'expiry', 'receivable_settled'"
)

TABLES = (
    """
    CREATE TABLE billing.users (
        user_id uuid PRIMARY KEY,
        available_credits bigint NOT NULL DEFAULT 0 CONSTRAINT available_is_not_negative CHECK (available_credits >= 0),
        reserved_credits bigint NOT NULL DEFAULT 0 CONSTRAINT reserved_is_not_negative CHECK (reserved_credits >= 0),
        receivable_credits bigint NOT NULL DEFAULT 0
            CONSTRAINT receivable_is_not_negative CHECK (receivable_credits >= 0),
        line_number bigint NOT NULL DEFAULT 0 CONSTRAINT line_number_is_not_negative CHECK (line_number >= 0),
        opened_at timestamptz NOT NULL DEFAULT now(),
        CONSTRAINT debts_are_settled_first CHECK (receivable_credits = 0 OR available_credits = 0),
        CONSTRAINT balances_are_bounded CHECK (
            available_credits + reserved_credits <= 1000000000000000 AND receivable_credits <= 1000000000000000)
    ) WITH (fillfactor = 70)
    """,
    f"""
    CREATE TABLE billing.balance_ledger (
        posting_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY CONSTRAINT ids_start_at_one CHECK (posting_id > 0),
        transfer_id uuid NOT NULL,
        account text NOT NULL CONSTRAINT account_exists CHECK (account IN (
            'user:available', 'user:reserved', 'user:receivable',
            'platform:issued', 'platform:revenue', 'platform:expired', 'platform:refunded')),
        amount_credits bigint NOT NULL CONSTRAINT something_moves CHECK (amount_credits <> 0),
        reason text NOT NULL CONSTRAINT reason_exists CHECK (reason IN ({REASONS})),
        user_id uuid,
        line_number bigint,
        generation_id uuid,
        payment_id uuid,
        grant_id uuid,
        clawback_id uuid,
        note text,
        occurred_at timestamptz NOT NULL,
        CONSTRAINT user_accounts_have_a_user CHECK ((account LIKE 'user:%') = (user_id IS NOT NULL)),
        CONSTRAINT users_have_a_line CHECK ((user_id IS NULL) = (line_number IS NULL)),
        CONSTRAINT a_movement_has_a_cause CHECK (num_nonnulls(generation_id, grant_id, clawback_id) = 1),
        CONSTRAINT movements_go_where_their_reason_says CHECK (
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
                    ('user:available', -1), ('user:receivable', -1), ('platform:refunded', 1)))),
        CONSTRAINT amounts_are_bounded CHECK (amount_credits BETWEEN -1000000000 AND 1000000000),
        CONSTRAINT one_leg_per_account UNIQUE (transfer_id, account)
    )
    """,
    """
    CREATE UNIQUE INDEX one_line_per_number ON billing.balance_ledger (user_id, line_number, account)
        WHERE user_id IS NOT NULL
    """,
    """
    CREATE TABLE billing.grants (
        grant_id uuid PRIMARY KEY,
        content_hash bytea NOT NULL,
        user_id uuid NOT NULL REFERENCES billing.users,
        amount_credits bigint NOT NULL CONSTRAINT a_grant_is_positive CHECK (amount_credits > 0),
        remaining_credits bigint NOT NULL,
        reason text NOT NULL CONSTRAINT grant_reason_exists CHECK (reason IN (
            'purchase', 'bonus', 'signup', 'goodwill', 'dispute_won', 'refund_failed')),
        actor text NOT NULL,
        payment_id uuid,
        note text,
        expires_at timestamptz,
        granted_at timestamptz NOT NULL,
        CONSTRAINT remaining_is_part_of_the_grant CHECK (remaining_credits BETWEEN 0 AND amount_credits)
    ) WITH (fillfactor = 70)
    """,
    # A command that came through the broker leaves no row here: only an operator gives credits without a payment.
    """
    CREATE TABLE billing.operator_grants (
        grant_id uuid PRIMARY KEY REFERENCES billing.grants,
        actor text NOT NULL,
        database_user text NOT NULL DEFAULT session_user,
        requested_at timestamptz NOT NULL DEFAULT clock_timestamp()
    )
    """,
    """
    CREATE UNIQUE INDEX one_grant_per_payment ON billing.grants (payment_id, reason)
        WHERE payment_id IS NOT NULL AND reason IN ('purchase', 'bonus')
    """,
    "CREATE INDEX grants_by_payment ON billing.grants (payment_id) WHERE payment_id IS NOT NULL",
    "CREATE INDEX grants_to_spend ON billing.grants (user_id) WHERE remaining_credits > 0",
    """
    CREATE INDEX grants_to_expire ON billing.grants (expires_at)
        WHERE remaining_credits > 0 AND expires_at IS NOT NULL
    """,
    """
    CREATE TABLE billing.reservations (
        reservation_id uuid PRIMARY KEY,
        generation_id uuid NOT NULL CONSTRAINT one_reservation_per_generation UNIQUE,
        user_id uuid NOT NULL REFERENCES billing.users,
        amount_credits bigint NOT NULL CONSTRAINT a_reservation_is_positive CHECK (amount_credits > 0),
        status text NOT NULL DEFAULT 'held' CHECK (status IN ('held', 'captured', 'released')),
        captured_credits bigint NOT NULL DEFAULT 0,
        deadline_at timestamptz NOT NULL,
        reserved_at timestamptz NOT NULL,
        resolved_at timestamptz,
        CONSTRAINT captured_is_part_of_the_reservation CHECK (captured_credits BETWEEN 0 AND amount_credits),
        CONSTRAINT only_a_capture_charges CHECK (status = 'captured' OR captured_credits = 0),
        CONSTRAINT resolved_at_the_end CHECK ((status = 'held') = (resolved_at IS NULL))
    ) WITH (fillfactor = 70)
    """,
    "CREATE INDEX reservations_by_deadline ON billing.reservations (deadline_at) WHERE status = 'held'",
    """
    CREATE TABLE billing.reservation_grants (
        reservation_id uuid NOT NULL REFERENCES billing.reservations,
        position smallint NOT NULL,
        grant_id uuid NOT NULL REFERENCES billing.grants,
        amount_credits bigint NOT NULL CONSTRAINT a_draw_is_positive CHECK (amount_credits > 0),
        PRIMARY KEY (reservation_id, position)
    )
    """,
    """
    CREATE TABLE billing.reservation_resolutions (
        reservation_id uuid CONSTRAINT one_resolution_per_reservation PRIMARY KEY REFERENCES billing.reservations,
        status text NOT NULL CHECK (status IN ('captured', 'released')),
        captured_credits bigint NOT NULL CHECK (captured_credits >= 0),
        released_credits bigint NOT NULL CHECK (released_credits >= 0),
        resolved_at timestamptz NOT NULL,
        CONSTRAINT a_release_charges_nothing CHECK (status = 'captured' OR captured_credits = 0)
    )
    """,
    """
    CREATE TABLE billing.refusals (
        generation_id uuid PRIMARY KEY,
        user_id uuid NOT NULL,
        code text NOT NULL CHECK (code IN ('insufficient_credits', 'account_frozen')),
        required_credits bigint NOT NULL,
        available_credits bigint NOT NULL,
        refused_at timestamptz NOT NULL
    )
    """,
    # Reservations and refusals are two tables; a third holds that an order is in one of them only.
    """
    CREATE TABLE billing.verdicts (
        generation_id uuid CONSTRAINT an_order_has_one_verdict PRIMARY KEY
    )
    """,
    """
    CREATE TABLE billing.clawbacks (
        clawback_id uuid PRIMARY KEY,
        content_hash bytea NOT NULL,
        user_id uuid NOT NULL REFERENCES billing.users,
        payment_id uuid NOT NULL,
        reason text NOT NULL CHECK (reason IN ('refund', 'dispute')),
        taken_credits bigint NOT NULL CHECK (taken_credits >= 0),
        receivable_credits bigint NOT NULL CHECK (receivable_credits >= 0),
        note text,
        clawed_back_at timestamptz NOT NULL,
        CONSTRAINT a_clawback_is_positive CHECK (taken_credits + receivable_credits > 0)
    )
    """,
    """
    CREATE TABLE billing.ledger_seals (
        seal_number bigint PRIMARY KEY CHECK (seal_number > 0),
        after_posting_id bigint NOT NULL CONSTRAINT the_chain_does_not_fork UNIQUE,
        through_posting_id bigint NOT NULL,
        posting_ids bigint[] NOT NULL,
        leaf_hashes bytea NOT NULL,
        previous_hash bytea NOT NULL CHECK (octet_length(previous_hash) = 32),
        seal_hash bytea NOT NULL CHECK (octet_length(seal_hash) = 32),
        sealed_at timestamptz NOT NULL DEFAULT clock_timestamp(),
        CONSTRAINT a_range_goes_forward CHECK (through_posting_id > after_posting_id),
        CONSTRAINT one_leaf_per_posting CHECK (octet_length(leaf_hashes) = 32 * cardinality(posting_ids)),
        CONSTRAINT no_seal_is_empty CHECK (cardinality(posting_ids) > 0)
    )
    """,
)

FUNCTIONS = (
    # Balances follow from postings and from nothing else: the service's role cannot write them, this function can. It
    # also holds that the lines of each user's statement continue without a gap.
    """
    CREATE FUNCTION billing.apply_postings() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    DECLARE
        moved_users bigint;
        applied_users bigint;
    BEGIN
        WITH moved AS (
            SELECT user_id,
                   coalesce(sum(amount_credits) FILTER (WHERE account = 'user:available'), 0) AS available,
                   coalesce(sum(amount_credits) FILTER (WHERE account = 'user:reserved'), 0) AS reserved,
                   coalesce(sum(amount_credits) FILTER (WHERE account = 'user:receivable'), 0) AS receivable,
                   min(line_number) AS first_line,
                   max(line_number) AS last_line,
                   count(DISTINCT line_number) AS lines
            FROM new_postings
            WHERE user_id IS NOT NULL
            GROUP BY user_id
        ), applied AS (
            UPDATE billing.users AS u
            SET available_credits = u.available_credits + moved.available,
                reserved_credits = u.reserved_credits + moved.reserved,
                receivable_credits = u.receivable_credits - moved.receivable,
                line_number = moved.last_line
            FROM moved
            WHERE u.user_id = moved.user_id
              AND moved.first_line = u.line_number + 1
              AND moved.last_line = u.line_number + moved.lines
            RETURNING u.user_id
        )
        SELECT (SELECT count(*) FROM moved), (SELECT count(*) FROM applied) INTO moved_users, applied_users;
        IF moved_users <> applied_users THEN
            RAISE EXCEPTION 'the lines of % user(s) do not continue their statement', moved_users - applied_users
                USING ERRCODE = 'check_violation', CONSTRAINT = 'statement_lines_have_no_gaps';
        END IF;
        RETURN NULL;
    END $$
    """,
    """
    CREATE FUNCTION billing.check_transfer() RETURNS trigger
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
    DECLARE
        total numeric;
        of_users bigint;
        same boolean;
    BEGIN
        SELECT sum(amount_credits), count(DISTINCT user_id),
               bool_and(reason = NEW.reason AND occurred_at = NEW.occurred_at)
        INTO total, of_users, same
        FROM billing.balance_ledger
        WHERE transfer_id = NEW.transfer_id;
        IF total <> 0 OR of_users <> 1 OR NOT same THEN
            RAISE EXCEPTION 'transfer % is not complete: its postings add up to %', NEW.transfer_id, total
                USING ERRCODE = 'check_violation', CONSTRAINT = 'transfers_add_up_to_zero';
        END IF;
        RETURN NULL;
    END $$
    """,
    """
    CREATE FUNCTION billing.apply_resolutions() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    DECLARE
        applied bigint;
    BEGIN
        UPDATE billing.reservations AS r
        SET status = n.status, captured_credits = n.captured_credits, resolved_at = n.resolved_at
        FROM new_resolutions AS n
        WHERE r.reservation_id = n.reservation_id
          AND r.status = 'held'
          AND r.amount_credits = n.captured_credits + n.released_credits;
        GET DIAGNOSTICS applied = ROW_COUNT;
        IF applied <> (SELECT count(*) FROM new_resolutions) THEN
            RAISE EXCEPTION 'a resolution does not match a held reservation and its amount'
                USING ERRCODE = 'check_violation', CONSTRAINT = 'a_resolution_ends_a_held_reservation';
        END IF;
        RETURN NULL;
    END $$
    """,
    """
    CREATE FUNCTION billing.give_verdicts() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    BEGIN
        INSERT INTO billing.verdicts SELECT generation_id FROM new_verdicts ORDER BY generation_id;
        RETURN NULL;
    END $$
    """,
    # Sealing relies on it: every later snapshot knows the transaction that was given a posting id.
    """
    CREATE FUNCTION billing.begin_writing() RETURNS trigger
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
    BEGIN
        PERFORM pg_current_xact_id();
        RETURN NULL;
    END $$
    """,
    """
    CREATE FUNCTION billing.refuse_change() RETURNS trigger
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
    BEGIN
        RAISE EXCEPTION '% on %.% is refused: it is append-only', TG_OP, TG_TABLE_SCHEMA, TG_TABLE_NAME
            USING ERRCODE = 'restrict_violation';
    END $$
    """,
)

TRIGGERS = (
    """
    CREATE TRIGGER begin_writing BEFORE INSERT ON billing.balance_ledger
        FOR EACH STATEMENT EXECUTE FUNCTION billing.begin_writing()
    """,
    """
    CREATE TRIGGER apply_postings AFTER INSERT ON billing.balance_ledger
        REFERENCING NEW TABLE AS new_postings
        FOR EACH STATEMENT EXECUTE FUNCTION billing.apply_postings()
    """,
    """
    CREATE CONSTRAINT TRIGGER transfers_add_up_to_zero AFTER INSERT ON billing.balance_ledger
        DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION billing.check_transfer()
    """,
    """
    CREATE TRIGGER apply_resolutions AFTER INSERT ON billing.reservation_resolutions
        REFERENCING NEW TABLE AS new_resolutions
        FOR EACH STATEMENT EXECUTE FUNCTION billing.apply_resolutions()
    """,
    *(
        f"""
        CREATE TRIGGER give_verdicts AFTER INSERT ON billing.{table}
            REFERENCING NEW TABLE AS new_verdicts
            FOR EACH STATEMENT EXECUTE FUNCTION billing.give_verdicts()
        """
        for table in ("reservations", "refusals")
    ),
)

APPEND_ONLY = (
    "balance_ledger",
    "reservation_grants",
    "reservation_resolutions",
    "refusals",
    "clawbacks",
    "ledger_seals",
    "operator_grants",
)

# The service may add facts. Balances, statuses and postings are out of its reach; the update rights are the least that
# PostgreSQL asks for SELECT ... FOR UPDATE (opened_at means nothing to the money) and what grants need.
GRANTS = (
    "GRANT SELECT, INSERT (user_id), UPDATE (opened_at) ON billing.users TO billing",
    "GRANT SELECT, INSERT ON billing.balance_ledger TO billing",
    "GRANT SELECT ON SEQUENCE billing.balance_ledger_posting_id_seq TO billing",
    "GRANT SELECT, INSERT, UPDATE (remaining_credits) ON billing.grants TO billing",
    """
    GRANT SELECT, INSERT (reservation_id, generation_id, user_id, amount_credits, deadline_at, reserved_at)
        ON billing.reservations TO billing
    """,
    """
    GRANT SELECT, INSERT ON billing.reservation_grants, billing.reservation_resolutions, billing.refusals,
        billing.clawbacks, billing.ledger_seals, billing.operator_grants TO billing
    """,
    "REVOKE ALL ON FUNCTION billing.apply_postings(), billing.apply_resolutions(), billing.give_verdicts() FROM PUBLIC",
)


def upgrade() -> None:
    for statement in (*TABLES, *FUNCTIONS, *TRIGGERS):
        op.execute(statement)
    for table in APPEND_ONLY:
        op.execute(
            f"CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON billing.{table} "
            "FOR EACH STATEMENT EXECUTE FUNCTION billing.refuse_change()"
        )
    for statement in GRANTS:
        op.execute(statement)
    create_messaging_tables("billing")
    grant_messaging_tables("billing")


def downgrade() -> None:
    raise NotImplementedError("a ledger is not taken down")
