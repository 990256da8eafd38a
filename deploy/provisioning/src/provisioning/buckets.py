"""Rules of the three buckets, as the documents that the S3 API (and so R2) takes.

- ``uploads``: browsers put files there, so it needs CORS; what was never ordered with goes after 30 days.
- ``incoming``: workers put files there and storage moves them on; what is left goes after 7 days.
- ``library``: what was sold. Nothing expires, and nothing is overwritten; users delete what is theirs.
"""

from collections.abc import Sequence
from typing import Any, Final

from contracts.object_keys import UPLOADS_KEPT_FOR

BUCKETS: Final = ("incoming", "library", "uploads")
EXPIRY_DAYS: Final = {"incoming": 7, "uploads": UPLOADS_KEPT_FOR.days}
_PREFLIGHT_SECONDS: Final = 3600


def cors(origins: Sequence[str]) -> dict[str, Any]:
    """For ``uploads``: the frontend's origins may PUT. ``aws s3api put-bucket-cors --cors-configuration``."""
    return {
        "CORSRules": [
            {
                "AllowedOrigins": list(origins),
                "AllowedMethods": ["PUT"],
                "AllowedHeaders": ["content-type", "content-length"],
                "ExposeHeaders": ["etag"],
                "MaxAgeSeconds": _PREFLIGHT_SECONDS,
            }
        ]
    }


def lifecycle(bucket: str) -> dict[str, Any]:
    """For ``incoming`` and ``uploads``. ``aws s3api put-bucket-lifecycle-configuration --lifecycle-configuration``."""
    return {
        "Rules": [
            {
                "ID": f"{bucket}-expires",
                "Status": "Enabled",
                "Filter": {"Prefix": ""},
                "Expiration": {"Days": EXPIRY_DAYS[bucket]},
                "AbortIncompleteMultipartUpload": {"DaysAfterInitiation": 1},
            }
        ]
    }
