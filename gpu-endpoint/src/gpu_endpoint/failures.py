"""Why a job can fail, and whose fault it is: a user's fault is final, everything else may be tried again.

A customer reads the fixed ``sentence`` of the code. What happened is ``detail``: for operators, and redacted by its
author.
"""

import json
from collections.abc import Mapping
from typing import Any, ClassVar


class JobFailure(Exception):
    """A known reason. ``detail`` is for operators; ``facts`` are added to the report, as those of a success are."""

    code: ClassVar[str] = "execution_failed"
    sentence: ClassVar[str] = "The work failed on our side."
    user_fault: ClassVar[bool] = False
    replace_worker = False
    """Whether this worker should be replaced, as it cannot help itself."""

    def __init__(self, detail: str, facts: Mapping[str, int | float | str] | None = None) -> None:
        super().__init__(detail)
        self.detail = detail
        self.facts = dict(facts or {})

    def as_error(self) -> str:
        """The JSON text that RunPod carries in the job's ``error``."""
        error: dict[str, Any] = {
            "code": self.code,
            "detail": self.sentence,
            "user_fault": self.user_fault,
            "operator_detail": self.detail,
        }
        return json.dumps(error | ({"report": self.facts} if self.facts else {}))


class InvalidInput(JobFailure):
    """What was asked for can never be rendered."""

    code = "invalid_input"
    sentence = "What was ordered cannot be rendered: a value or a file of the order is not usable."
    user_fault = True


class MalformedJob(JobFailure):
    """The job is not as the platform promises to send it: a fault of ours, not of the user."""

    code = "malformed_job"


class InputUnavailable(JobFailure):
    """An input picture could not be fetched."""

    code = "input_unavailable"
    sentence = "A file of the order could not be fetched."


class OutputTooLarge(JobFailure):
    """The rendered file is larger than the platform takes."""

    code = "output_too_large"
    sentence = "The rendered file is too large."


class UploadFailed(JobFailure):
    """The rendered file could not be delivered."""

    code = "upload_failed"
    sentence = "The rendered file could not be delivered."


class ExecutionFailed(JobFailure):
    """The renderer ran and failed, for a reason of its own."""


class OutputMissing(JobFailure):
    """The renderer says that it is done, and there is no file as ordered."""

    code = "output_missing"
    sentence = "The work ended without a file."


class OutOfMemory(JobFailure):
    """Even the most frugal way needs more memory than there is."""

    code = "out_of_memory"


class WorkerMisconfigured(JobFailure):
    """This worker lacks a model file or a node, or has a damaged one."""

    code = "worker_misconfigured"


class WorkerUnavailable(JobFailure):
    """The process that renders died, hung, or does not start."""

    code = "worker_unavailable"
