"""What must never reach a log: signatures, tokens, passwords, callback and presigned URLs.

A value is hidden whole if its key names a secret; in every other text the parts that give access are cut out.
"""

import re
from collections.abc import Mapping
from typing import Any, Final

HIDDEN: Final = "[redacted]"

_SECRET_KEY: Final = re.compile(
    r"(?i)(^|_|-)(authorization|cookie|password|passwd|secret|secrets|token|apikey|api_key|put_url|callback_url|webhook_url|"
    r"progress_url|download_url|presigned_url|signature|dsn|database_url)$"
)
_PARTS: Final[tuple[tuple[re.Pattern[str], str], ...]] = (
    # Our own callback URLs: the HMAC is the right to call.
    (re.compile(r"(/webhooks/runpod/[0-9a-fA-F-]{8,})/[^/\s\"'?]+"), rf"\1/{HIDDEN}"),
    # Presigned S3 URLs and other signed or keyed query strings.
    (
        re.compile(
            r"(?i)([?&](?:X-Amz-Signature|X-Amz-Credential|X-Amz-Security-Token|Signature|AWSAccessKeyId|sig|token|"
            r"access_token|api_key|apikey|key|secret|password)=)[^&\s\"'<>]+"
        ),
        rf"\1{HIDDEN}",
    ),
    # Credentials inside a URL: postgresql://user:password@host. A scheme without a bound would make it quadratic.
    (re.compile(r"([a-z][a-z0-9+.-]{0,30}://[^\s:/@\"']+):[^\s@/\"']+@"), rf"\1:{HIDDEN}@"),
    (re.compile(r"(?i)\b(bearer|basic)\s+[A-Za-z0-9._~+/=-]{8,}"), rf"\1 {HIDDEN}"),
    # JSON web tokens, wherever they stand.
    (re.compile(r"\beyJ[A-Za-z0-9_-]{5,}\.[A-Za-z0-9_-]{5,}\.[A-Za-z0-9_-]*"), HIDDEN),
    # Keys of Stripe and RunPod by their documented prefixes.
    (re.compile(r"\b((?:sk|rk)_(?:live|test)_|whsec_|rpa_)[A-Za-z0-9]{8,}"), rf"\1{HIDDEN}"),
)


def redact(text: str) -> str:
    """``text`` without the parts that give access."""
    for pattern, replacement in _PARTS:
        text = pattern.sub(replacement, text)
    return text


def redact_value(value: Any, key: str = "") -> Any:
    """``value`` made fit for a log, whatever it is nested in."""
    if key and _SECRET_KEY.search(key) and value is not None:
        return HIDDEN
    if isinstance(value, str):
        return redact(value)
    if isinstance(value, Mapping):
        return {name: redact_value(inner, str(name)) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [redact_value(inner) for inner in value]
    if isinstance(value, int | float | None):
        return value
    return redact(str(value))
