"""What the ledger refuses to do. Each is a mistake of the sender: repeating the message does not help."""

from collections.abc import Sequence
from typing import ClassVar
from uuid import UUID

from contracts.ledger_tree import Node, TreeHead


class LedgerError(Exception):
    """A command or event that contradicts what the ledger already holds. It ends in the dead letters, named by code."""

    code: ClassVar[str]


class InvalidAmount(LedgerError):
    """Credits move in whole, positive amounts, and not beyond the largest one."""

    code = "invalid_amount"

    def __init__(self, what: str, amount_credits: int) -> None:
        super().__init__(f"{what} of {amount_credits} credits")


class BalanceTooLarge(LedgerError):
    """The credits or the debt of a user would exceed the largest balance."""

    code = "balance_too_large"

    def __init__(self, user_id: UUID, largest_credits: int) -> None:
        super().__init__(f"user {user_id} would have or owe more than {largest_credits} credits")


class ConflictingOrder(LedgerError):
    """A generation that already has a verdict was requested again for another user or at another price."""

    code = "conflicting_order"

    def __init__(self, generation_id: UUID) -> None:
        super().__init__(f"generation {generation_id} was requested before with other content")


class NoVariants(LedgerError):
    """Orders that are to be funded together are not of one user at one price, or one stands there twice."""

    code = "no_variants"

    def __init__(self, generation_ids: Sequence[UUID]) -> None:
        super().__init__(f"generations {', '.join(map(str, generation_ids))} are not variants of one order")


class ForeignReservation(LedgerError):
    """An outcome names another user than the one whose credits are reserved."""

    code = "foreign_reservation"

    def __init__(self, generation_id: UUID, user_id: UUID) -> None:
        super().__init__(f"the reservation of generation {generation_id} does not belong to user {user_id}")


class CaptureExceedsReservation(LedgerError):
    """More was to be charged than was reserved."""

    code = "capture_exceeds_reservation"

    def __init__(self, generation_id: UUID, capture_credits: int, reserved_credits: int) -> None:
        super().__init__(
            f"generation {generation_id} asks to capture {capture_credits} of {reserved_credits} reserved credits"
        )


class ConflictingCapture(LedgerError):
    """A captured generation was completed again at another price."""

    code = "conflicting_capture"

    def __init__(self, generation_id: UUID, capture_credits: int, captured_credits: int) -> None:
        super().__init__(
            f"generation {generation_id} asks to capture {capture_credits} credits, not {captured_credits} as before"
        )


class ConflictingGrant(LedgerError):
    """A grant id was used again with other content."""

    code = "conflicting_grant"

    def __init__(self, grant_id: UUID) -> None:
        super().__init__(f"grant {grant_id} was made before with other content")


class PaymentAlreadyGranted(LedgerError):
    """A payment was to be credited a second time under another grant id."""

    code = "payment_already_granted"

    def __init__(self, payment_id: UUID, reason: str) -> None:
        super().__init__(f"payment {payment_id} was credited before for {reason}")


class SignupCreditsTooHigh(LedgerError):
    """A sign-up was to be credited with more than billing's own settings allow."""

    code = "signup_credits_too_high"

    def __init__(self, user_id: UUID, amount_credits: int, largest_credits: int) -> None:
        super().__init__(
            f"the sign-up of user {user_id} with {amount_credits} credits, where at most {largest_credits} are allowed"
        )


class ConflictingClawback(LedgerError):
    """A clawback id was used again with other content."""

    code = "conflicting_clawback"

    def __init__(self, clawback_id: UUID) -> None:
        super().__init__(f"clawback {clawback_id} was made before with other content")


class TreeIncomplete(Exception):
    """A hash that the tree over the ledger must have is not there: rows of it were removed or cut."""

    def __init__(self, node: Node) -> None:
        super().__init__(f"the tree over the ledger lacks node {node.number} of level {node.level}")


class HeadContradicted(Exception):
    """The tree over the ledger does not continue the head that was published last: nothing more is published."""

    def __init__(self, head: TreeHead) -> None:
        super().__init__(f"the tree over the ledger does not continue the published head {head}")
