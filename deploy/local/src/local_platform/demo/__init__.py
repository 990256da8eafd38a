"""The whole job on one machine, shown and checked: ``make demo``.

Each step prints what it shows, and fails the demo if it does not hold. The last step checks the books of all services.
"""

import time

from local_platform.api_client import ApiClient, UnexpectedAnswerError
from local_platform.console import green, red, say
from local_platform.demo.session import DemoFailedError, Session
from local_platform.demo.steps import SETTINGS, STEPS, Story
from local_platform.description import PlatformDescription
from local_platform.supervisor import Supervisor
from messaging.ids import new_id

__all__ = ["SETTINGS", "run_demo"]


async def run_demo(supervisor: Supervisor, platform: PlatformDescription) -> int:
    """Run all steps, from the first credit to the last check. Returns the exit code."""
    began = time.monotonic()
    try:
        async with ApiClient(platform, new_id(), plan="pro") as user:
            story = Story(Session(supervisor, platform, user))
            for step in STEPS:
                await step(story)
    except (DemoFailedError, UnexpectedAnswerError) as error:
        say(red(f"\nThe demo failed: {error}"))
        return 1
    say(green(f"\nAll of it held, in {time.monotonic() - began:.1f} s."))
    return 0
