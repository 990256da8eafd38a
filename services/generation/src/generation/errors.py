"""The problems that generation answers a caller with."""

from service_runtime.problems import Problem


class InvalidCallbackSignature(Problem):
    """The address was not made here, or not for this attempt."""

    code = "invalid_callback_signature"
    title = "This callback address is not valid"
    status = 403


class CallbackExpired(Problem):
    """The address was good once."""

    code = "callback_expired"
    title = "This callback address has expired"
    status = 410


class MalformedProgress(Problem):
    """A progress report that cannot be read."""

    code = "malformed_progress"
    title = "This is no progress report"
    status = 400


class TooManyCallbacks(Problem):
    """More or larger bodies for one attempt than any provider would send. Polling finds how its job ended."""

    code = "too_many_callbacks"
    title = "This attempt has been reported on too often"
    status = 429
