"""What each status of a reservation and each state of a grant means."""

from collections.abc import Mapping
from typing import Final, Literal, TypeAlias

from contracts.statuses import StatusMeaning

ReservationStatus: TypeAlias = Literal["held", "captured", "released"]
GrantState: TypeAlias = Literal["spendable", "due", "used_up"]
"""Follows from the row. ``used_up``: no credits remain. ``due``: some remain, and ``expires_at`` has passed."""

RESERVATION_STATUS_MEANING: Final[Mapping[ReservationStatus, StatusMeaning]] = {
    "held": StatusMeaning(
        set_by="billing, when a requested generation is funded; the credits move from available to reserved",
        ended_by="the first outcome of the generation: completed captures, failed or cancelled releases",
        deadline="the order's `expires_at` and 15 minutes: then it is reported as overdue; only generation ends it",
        user_sees="the price among the reserved credits, and the order in progress",
    ),
    "captured": StatusMeaning(
        set_by="billing, when the generation is completed in time; a partial capture releases the rest at once",
        ended_by="final: a later failure or cancellation changes nothing",
        deadline="none",
        user_sees="the charge on the statement, and the delivered file",
    ),
    "released": StatusMeaning(
        set_by="billing, when the generation fails or is cancelled",
        ended_by="final: a file that is delivered later is free",
        deadline="none",
        user_sees="the credits available again, except those that expired or paid a debt meanwhile",
    ),
}
GRANT_STATE_MEANING: Final[Mapping[GrantState, StatusMeaning]] = {
    "spendable": StatusMeaning(
        set_by="a payment or an operator that grants credits, or a release that returns them to their grant",
        ended_by="reservations, clawbacks and debts, which use it up, or `expires_at`",
        deadline="`expires_at`, if the grant has one",
        user_sees="the remaining credits among the available ones",
    ),
    "due": StatusMeaning(
        set_by="time: `expires_at` has passed while credits remain",
        ended_by="the next message about the user, or the sweep: the remainder moves to `platform:expired`",
        deadline="the sweep runs every 5 s; the auditor reports a due grant after its tolerance",
        user_sees="nothing yet: the credits cannot be spent, and the statement shows the expiry once it is posted",
    ),
    "used_up": StatusMeaning(
        set_by="the reservation, clawback, debt or expiry that takes the last credits",
        ended_by="a release that returns credits; otherwise final",
        deadline="none",
        user_sees="nothing of it among the available credits",
    ),
}
