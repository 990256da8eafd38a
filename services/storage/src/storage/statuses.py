"""What each state of a verification, an asset and an upload means. The columns of a row show its state."""

from collections.abc import Mapping
from typing import Final, Literal, TypeAlias

from contracts.statuses import StatusMeaning

VerificationStatus: TypeAlias = Literal["due", "claimed", "postponed", "answered"]
"""``due``: ``next_try_at`` has come and ``leased_until`` has not. ``claimed``: ``leased_until`` lies ahead.
``postponed``: ``next_try_at`` lies ahead. ``answered``: ``answered_at`` is set."""
AssetStatus: TypeAlias = Literal["stored"]
UploadStatus: TypeAlias = Literal["verified"]
DeletionStatus: TypeAlias = Literal["requested", "deleted"]
"""``requested``: ``due_at`` is set. ``deleted``: ``deleted_at`` is set."""

PreviewStatus: TypeAlias = Literal["requested", "stored", "given_up", "deleted"]
"""``requested``: ``due_at`` is set. The others are the ``outcome``."""

VERIFICATION_STATUS_MEANING: Final[Mapping[VerificationStatus, StatusMeaning]] = {
    "due": StatusMeaning(
        set_by=(
            "a message that requests it (output-ready, output-sought, verify-inputs) while no place is free, or a "
            "worker that stops"
        ),
        ended_by="a worker that claims it; users take turns",
        deadline="none of its own: the order's deadline holds, and the auditor reports it after 30 minutes",
        user_sees="`storing` for an output, `queued` for an upload",
    ),
    "claimed": StatusMeaning(
        set_by="a message that requests it while a place is free, or a worker; with a lease and a new fence",
        ended_by="the result, a postponement, or the end of the lease, after which it is due again",
        deadline="10 minutes for the work; the lease of 20 s ends earlier if its worker dies",
        user_sees="no change",
    ),
    "postponed": StatusMeaning(
        set_by="a worker that met an unavailable object store, a failed decoder or an unexpected error",
        ended_by="time: it is due again after a backoff that grows from 1 s to 1 minute",
        deadline="`next_try_at`",
        user_sees="no change; nothing is rejected because a store is down",
    ),
    "answered": StatusMeaning(
        set_by="the worker that records the result, behind its fence, with the message that announces it",
        ended_by="final",
        deadline="none",
        user_sees="what generation makes of the result: a delivered file, another attempt, or a failed order",
    ),
}
ASSET_STATUS_MEANING: Final[Mapping[AssetStatus, StatusMeaning]] = {
    "stored": StatusMeaning(
        set_by="the first verification that finds a good file of the generation; the object is in the library before",
        ended_by="final: the row is neither changed nor deleted, also when its user has the files deleted",
        deadline="none",
        user_sees="the file and its poster, once the order is completed",
    ),
}
UPLOAD_STATUS_MEANING: Final[Mapping[UploadStatus, StatusMeaning]] = {
    "verified": StatusMeaning(
        set_by="the verification of an order's inputs; an upload without an order has no row",
        ended_by="final; another order with the same upload verifies it again",
        deadline="none; the bucket's lifecycle rule removes the object after 30 days",
        user_sees="nothing; an upload that fails ends its order with the code of the rejection",
    ),
}
DELETION_STATUS_MEANING: Final[Mapping[DeletionStatus, StatusMeaning]] = {
    "requested": StatusMeaning(
        set_by="the user's delete; and a file of a deleted generation that is stored after all",
        ended_by="the worker that has removed every file of the generation from the library",
        deadline="none of its own: it is tried again within 10 minutes; the auditor reports it after an hour",
        user_sees="the generation is not there any more",
    ),
    "deleted": StatusMeaning(
        set_by="that worker, behind its fence, with the message that announces it",
        ended_by="only a file of the generation that is stored late, or another delete: then `requested` again",
        deadline="none",
        user_sees="`deleted` in the event stream",
    ),
}
PREVIEW_STATUS_MEANING: Final[Mapping[PreviewStatus, StatusMeaning]] = {
    "requested": StatusMeaning(
        set_by="the transaction that records the output, unless previews are off",
        ended_by="the worker that made them; users take turns",
        deadline="none of its own: it is tried again within 10 minutes; the auditor reports it after a day",
        user_sees="the poster",
    ),
    "stored": StatusMeaning(
        set_by="that worker, behind its fence, with the message that announces them",
        ended_by="final",
        deadline="none",
        user_sees="`thumbnails`, and of a clip `animated_preview`; `previews_stored` in the event stream",
    ),
    "given_up": StatusMeaning(
        set_by="the worker whose third try failed; an unavailable store or signer does not count",
        ended_by="final",
        deadline="none",
        user_sees="the poster",
    ),
    "deleted": StatusMeaning(
        set_by="the worker that found that the user has deleted the generation meanwhile",
        ended_by="final",
        deadline="none",
        user_sees="the generation is not there any more",
    ),
}
