"""What RunPod's answer to a submission proves about the job. ``docs/decisions/0021`` has the reasons.

===========================================  ====================  =================================================
answer                                       raises                then
===========================================  ====================  =================================================
2xx with a job id                                                  the job runs
**429**, 500, 503; 401, 402, 403, 404, and   ProviderRefused       the order is requeued and no try is used up; the
every other 3xx or 4xx; never sent                                 endpoint's breaker counts it, and its queue is
                                                                   paused for as long as ``Retry-After`` says
400, 413, 422                                ProviderRejected      the attempt has failed
502, 504, 2xx without a job id; no answer    ProviderUnanswered    the attempt is unknown: wait for a sign of the
                                                                   job; the breaker counts it
===========================================  ====================  =================================================

``loops.dispatcher`` acts on it: ``domain.provider_events`` for the order, ``repository.breaker`` for the endpoint.
"""

from typing import ClassVar, Final

import httpx

from generation.domain import loose_json
from generation.domain.operator_words import operator_words

_ABOUT_THE_REQUEST: Final = (400, 413, 422)
"""Any other 3xx or 4xx is about us or about the moment: it pauses the queue instead of failing the orders in it."""
_DEFAULT_PAUSE_SECONDS: Final = 1.0


class SubmissionFailed(Exception):
    """``/run`` gave no job id. ``outcome`` is how it is counted."""

    outcome: ClassVar[str]


class ProviderRefused(SubmissionFailed):
    """The job was certainly not taken, and may be taken later: not sent, 429, 500, 503, no access, no credit, moved.

    ``retry_after_seconds`` is the pause that the provider asked for, if it did.
    """

    outcome = "refused"

    def __init__(self, detail: str, retry_after_seconds: float | None = None) -> None:
        super().__init__(detail)
        self.retry_after_seconds = retry_after_seconds


class ProviderRejected(SubmissionFailed):
    """The job was certainly not taken, and the same request never will be."""

    outcome = "rejected"


class ProviderUnanswered(SubmissionFailed):
    """The request was sent, and its outcome is unknown: there may be a job."""

    outcome = "unanswered"


def read_job_id(answer: httpx.Response) -> str:
    """The id of the job that was submitted. Raises ProviderRefused, ProviderRejected or ProviderUnanswered."""
    status = answer.status_code
    if 200 <= status < 300:
        job_id = loose_json.word((loose_json.read_fields(answer.content) or {}).get("id"))
        if job_id is None:
            raise ProviderUnanswered(f"{status} without a job id")
        return job_id
    detail = f"HTTP {status}: {excerpt(answer)}"
    if status in _ABOUT_THE_REQUEST:
        raise ProviderRejected(detail)
    if status < 500 or status in (500, 503):
        raise ProviderRefused(detail, retry_after_seconds(answer))
    # A gateway's 502 or 504 says nothing about what happened behind it.
    raise ProviderUnanswered(detail)


def retry_after_seconds(answer: httpx.Response) -> float | None:
    """The pause that the provider asked for. RunPod sends a number; a date is not worth reading."""
    value = answer.headers.get("retry-after", "")
    if value.isascii() and value.isdigit():
        return float(value)
    return _DEFAULT_PAUSE_SECONDS if answer.status_code == 429 else None


def excerpt(answer: httpx.Response) -> str:
    """The beginning of a body, whatever charset it claims, fit for operators."""
    return operator_words(answer.content[:200].decode(errors="replace"))
