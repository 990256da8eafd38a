"""The types of the rows that a batch writes: an array of each is one parameter.

An array for each column cost more, here and in the driver: each of its values was looked at, and each array was a
function of its own. Only adds types: code from before goes on with its arrays. A type is never altered, because the
code that uses it counts its columns: another set of columns is another type.
"""

from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

TYPES = (
    """
    CREATE TYPE billing.transfer_row AS (
        transfer_id uuid, reason text, user_id uuid, line_number bigint, available_credits bigint,
        reserved_credits bigint, receivable_credits bigint, platform text, platform_credits bigint, generation_id uuid,
        payment_id uuid, grant_id uuid, clawback_id uuid, note text)
    """,
    """
    CREATE TYPE billing.reservation_row AS (
        reservation_id uuid, generation_id uuid, user_id uuid, amount_credits bigint, deadline_at timestamptz)
    """,
    "CREATE TYPE billing.draw_row AS (reservation_id uuid, position smallint, grant_id uuid, amount_credits bigint)",
    """
    CREATE TYPE billing.resolution_row AS (
        reservation_id uuid, status text, captured_credits bigint, released_credits bigint)
    """,
)


def upgrade() -> None:
    for statement in TYPES:
        op.execute(statement)
