"""A Merkle tree over the sealed ledger, and its published heads: receipts for users, proofs of growth for auditors.

Only adds tables: code from before goes on to seal, and the sealing of this release adds to the tree what is missing.
"""

from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

TABLES = (
    """
    CREATE TABLE billing.ledger_tree (
        seal_number bigint PRIMARY KEY CHECK (seal_number > 0),
        first_leaf bigint NOT NULL CONSTRAINT the_tree_does_not_fork UNIQUE CHECK (first_leaf >= 0),
        tree_size bigint NOT NULL,
        nonce_seed bytea NOT NULL CHECK (octet_length(nonce_seed) = 32),
        node_hashes bytea NOT NULL,
        CONSTRAINT a_part_adds_leaves CHECK (tree_size > first_leaf),
        CONSTRAINT a_part_is_complete CHECK (octet_length(node_hashes) = 32 * (
            2 * (tree_size - first_leaf) - bit_count(tree_size::bit(64)) + bit_count(first_leaf::bit(64))))
    )
    """,
    # Hashes do not compress, and a proof reads few of them: a piece is read without the rest.
    "ALTER TABLE billing.ledger_tree ALTER COLUMN node_hashes SET STORAGE EXTERNAL",
    """
    CREATE TABLE billing.tree_heads (
        tree_size bigint PRIMARY KEY CHECK (tree_size > 0),
        root_hash bytea NOT NULL CHECK (octet_length(root_hash) = 32),
        published_at timestamptz NOT NULL
    )
    """,
)


def upgrade() -> None:
    for statement in TABLES:
        op.execute(statement)
    for table in ("ledger_tree", "tree_heads"):
        op.execute(
            f"CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON billing.{table} "
            "FOR EACH STATEMENT EXECUTE FUNCTION billing.refuse_change()"
        )
        op.execute(f"GRANT SELECT, INSERT ON billing.{table} TO billing")
