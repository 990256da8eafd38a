"""``python -m gpu_endpoint.deploy plan|apply|status DESCRIPTION``.

Codes: 0 all is as described (plan), done (apply), no worker is stale (status); 1 failed; 2 something differs (plan),
a worker is stale, throttled or unhealthy (status).
"""

import argparse
import asyncio
import os
import sys
from pathlib import Path

from gpu_endpoint.deploy.deployment import Deployment
from gpu_endpoint.deploy.description import Description, read_description
from gpu_endpoint.deploy.errors import DeployError
from gpu_endpoint.deploy.rest import RestSettings, RunPodRest, runpod_rest
from gpu_endpoint.deploy.rollout import watch
from gpu_endpoint.deploy.state import StateFile

DONE, FAILED, DIFFERS = 0, 1, 2


def main() -> None:
    """Parse the arguments and do it."""
    parser = argparse.ArgumentParser(prog="python -m gpu_endpoint.deploy", description=__doc__)
    parser.add_argument("command", choices=["plan", "apply", "status"])
    parser.add_argument("description", type=Path, help="TOML or JSON, see endpoint.example.toml")
    parser.add_argument("--state", type=Path, help="the file of ids; DESCRIPTION with .state.json unless given")
    parser.add_argument("--wait", type=float, default=0.0, help="status: seconds to wait until no worker is stale")
    arguments = parser.parse_args()
    try:
        sys.exit(asyncio.run(_run(arguments)))
    except DeployError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        sys.exit(FAILED)


async def _run(arguments: argparse.Namespace) -> int:
    description = read_description(arguments.description)
    state = StateFile(arguments.state or arguments.description.with_suffix(".state.json"))
    async with runpod_rest(RestSettings.from_environment(os.environ)) as rest:
        deployment = Deployment(rest, state, dry=arguments.command != "apply")
        if arguments.command == "status":
            return await _status(rest, deployment, description, arguments.wait)
        steps = await deployment.run(description)
    for step in steps:
        print(f"{step.title} ({step.identifier}): {step.outcome}")
        for line in step.lines:
            print(f"  {line}")
    return DIFFERS if arguments.command == "plan" and any(step.changes for step in steps) else DONE


async def _status(rest: RunPodRest, deployment: Deployment, description: Description, wait_seconds: float) -> int:
    endpoint = await deployment.find("endpoints", description.endpoint.name)
    if endpoint is None:
        raise DeployError(f"there is no endpoint {description.endpoint.name}")
    workers = await watch(rest, str(endpoint["id"]), wait_seconds=wait_seconds, say=print)
    troubled = False
    if endpoint.get("workersMax") == 0 and description.endpoint.workers_max > 0:
        print("workersMax is 0: RunPod does that after 7 idle days. `apply` sets it again")
        troubled = True
    troubled = troubled or any(worker.is_stale or worker.status in ("THROTTLED", "UNHEALTHY") for worker in workers)
    return DIFFERS if troubled else DONE


if __name__ == "__main__":
    main()
