"""What the auditor says once a campaign is over."""

import asyncio
import os
import sys
from typing import Final

from local_platform.description import PlatformDescription

REST_SECONDS: Final = 60
"""How long what comes after the outputs may take: previews, at a low priority, and the journal of their messages."""


async def check_books(platform: PlatformDescription) -> int:
    """Every invariant over a platform at rest, printed; returns the auditor's exit code."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "auditor.main", "check", "--settled", "--patience", str(REST_SECONDS)),
        env={**os.environ, **platform.environments["auditor"]},
    )
    return await process.wait()
