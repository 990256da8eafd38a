"""Why a job can fail, and whose fault it is: a user's fault is final, everything else may be tried again."""

import json


class JobFailure(Exception):
    """A known reason. ``code`` and ``user_fault`` belong to the class, ``detail`` (shown to operators) to the case."""

    code = "execution_failed"
    user_fault = False

    def __init__(self, detail: str) -> None:
        super().__init__(detail)
        self.detail = detail

    def as_error(self) -> str:
        """The JSON text that RunPod carries in the job's ``error``."""
        return json.dumps({"code": self.code, "detail": self.detail, "user_fault": self.user_fault})


class InvalidInput(JobFailure):
    """What was asked for can never be rendered."""

    code = "invalid_input"
    user_fault = True


class MalformedJob(JobFailure):
    """The job is not as the platform promises to send it: a fault of ours, not of the user."""

    code = "malformed_job"


class InputUnavailable(JobFailure):
    """An input picture could not be fetched."""

    code = "input_unavailable"


class OutputTooLarge(JobFailure):
    """The rendered file is larger than the platform takes."""

    code = "output_too_large"


class UploadFailed(JobFailure):
    """The rendered file could not be delivered."""

    code = "upload_failed"
