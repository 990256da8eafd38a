"""Every refusal of the public API, one class each. Codes are stable; ``docs/api.md`` lists them all."""

from service_runtime.problems import Problem


class NotAuthenticated(Problem):
    """No token, or one that does not verify."""

    code = "not_authenticated"
    title = "Sign in first"
    status = 401

    def __init__(self, detail: str) -> None:
        super().__init__(detail, headers={"WWW-Authenticate": "Bearer"})


class SignInUnavailable(Problem):
    """The identity provider's keys are not available at the moment."""

    code = "sign_in_unavailable"
    title = "Sign-in cannot be checked at the moment"
    status = 503
    retryable = True


class ModelNotFound(Problem):
    """No model has this id."""

    code = "model_not_found"
    title = "There is no such model"
    status = 404


class InvalidModelParameters(Problem):
    """The parameters do not fit the model; ``errors`` names each field."""

    code = "invalid_parameters"
    title = "The parameters do not fit the model"
    status = 422


class InsufficientCredits(Problem):
    """The order costs more than is available: ``required`` and ``available`` say how much."""

    code = "insufficient_credits"
    title = "There are too few credits"
    status = 402


class AccountFrozen(Problem):
    """A refunded or disputed payment left a debt: nothing can be ordered until it is settled."""

    code = "account_frozen"
    title = "The account owes credits"
    status = 402


class PriceAboveLimit(Problem):
    """The quote is higher than ``max_price_credits``."""

    code = "price_above_limit"
    title = "The price is above the given limit"
    status = 409


class IdempotencyKeyMissing(Problem):
    """Requests that cost something carry a key that the client chose."""

    code = "idempotency_key_missing"
    title = "The Idempotency-Key header is missing or too long"
    status = 400


class IdempotencyKeyReused(Problem):
    """The key belongs to an earlier request with another body."""

    code = "idempotency_key_reused"
    title = "This Idempotency-Key was used for another request"
    status = 422


class GenerationNotFound(Problem):
    """No generation of this user has this id."""

    code = "generation_not_found"
    title = "There is no such generation"
    status = 404


class GenerationEnded(Problem):
    """It is completed, failed, refused or cancelled: there is nothing to cancel."""

    code = "generation_ended"
    title = "The generation has ended"
    status = 409


class GenerationDeleted(Problem):
    """Its user has deleted it: ``deleted_at``. What it cost stays on the statement."""

    code = "generation_deleted"
    title = "The generation was deleted"
    status = 410


class GenerationUnderWay(Problem):
    """It has not ended: cancel it first, then delete it."""

    code = "generation_under_way"
    title = "The generation has not ended"
    status = 409


class CancelAllowanceUsed(Problem):
    """A worker has it, and the user has cancelled as much running work in 24 hours as the plan allows."""

    code = "cancel_allowance_used"
    title = "No more running work can be cancelled today"
    status = 409
    retryable = True


class PaymentNotFound(Problem):
    """No payment of this user has this id."""

    code = "payment_not_found"
    title = "There is no such payment"
    status = 404


class PackNotFound(Problem):
    """No credit pack has this id."""

    code = "pack_not_found"
    title = "There is no such credit pack"
    status = 404


class PaymentRefusedProblem(Problem):
    """Payments does not begin this one: too many are open, or the provider is not offered."""

    code = "payment_refused"
    title = "The payment was not begun"
    status = 409


class LedgerLineNotFound(Problem):
    """No line of this user has this number, or it has not arrived here yet."""

    code = "ledger_line_not_found"
    title = "There is no such line"
    status = 404


class LineNotSealed(Problem):
    """The line is not in a published head of the ledger yet: try again after ``Retry-After``."""

    code = "line_not_sealed"
    title = "The line is not sealed yet"
    status = 409
    retryable = True


class LedgerHeadNotFound(Problem):
    """No head of this size was published."""

    code = "ledger_head_not_found"
    title = "There is no such head"
    status = 404


class ReceiptsUnavailable(Problem):
    """Billing, which proves, does not answer at the moment."""

    code = "receipts_unavailable"
    title = "No proof can be made at the moment"
    status = 503
    retryable = True


class ReceiptNotProvable(Problem):
    """The ledger does not prove what the statement or an earlier head says. Operators are told; keep what you have."""

    code = "receipt_not_provable"
    title = "The ledger cannot prove this"
    status = 500


class InvalidCursor(Problem):
    """The cursor does not come from an earlier page."""

    code = "invalid_cursor"
    title = "The cursor is not valid"
    status = 422


class RateLimited(Problem):
    """More requests than a user or an address may make in a minute, or more than the service can answer soon."""

    code = "rate_limited"
    title = "Too many requests"
    status = 429
    retryable = True


class TooManyUploads(Problem):
    """As many uploads, or as many bytes of them, as a user may begin in 24 hours."""

    code = "too_many_uploads"
    title = "Too many uploads in 24 hours"
    status = 429
    retryable = True


class UploadsNeedCredits(Problem):
    """Files can be uploaded by users who ever bought or were granted credits."""

    code = "uploads_need_credits"
    title = "Get credits first"
    status = 402


class TooManyOpenGenerations(Problem):
    """As many generations as a user may have under way."""

    code = "too_many_open_generations"
    title = "Too many generations are under way"
    status = 429
    retryable = True


class TooManyEventStreams(Problem):
    """As many event streams as a user may have open."""

    code = "too_many_event_streams"
    title = "Too many event streams are open"
    status = 429
    retryable = True


class BodyTooSlow(Problem):
    """The body did not arrive in time."""

    code = "body_too_slow"
    title = "The request's body took too long"
    status = 408
    retryable = True


class NotListening(Exception):
    """The live subscriptions do not stand yet: open requests would hear their verdicts late."""
