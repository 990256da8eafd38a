"""What the auditor says once a campaign is over."""

import asyncio
import os
import sys

from local_platform.description import PlatformDescription


async def check_books(platform: PlatformDescription) -> int:
    """Every invariant over a platform at rest, printed; returns the auditor's exit code."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "auditor.main", "check", "--settled"),
        env={**os.environ, **platform.environments["auditor"]},
    )
    return await process.wait()
