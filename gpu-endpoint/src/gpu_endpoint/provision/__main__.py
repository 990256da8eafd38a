"""``python -m gpu_endpoint.provision``: bring the models to a volume, and check them. Codes: 0 done, 1 not."""

import argparse
import asyncio
import os
import sys
from pathlib import Path

import httpx

from gpu_endpoint.provision.download import Downloads, DownloadSettings
from gpu_endpoint.provision.errors import ProvisionError
from gpu_endpoint.provision.files import troubles
from gpu_endpoint.provision.manifest import LockFile, Manifest, manifest_of_catalogue, read_manifest
from gpu_endpoint.provision.model_paths import model_paths_yaml


def main() -> None:
    """Parse the arguments and do it."""
    parser = argparse.ArgumentParser(prog="python -m gpu_endpoint.provision", description=__doc__)
    parser.add_argument("--manifest", type=Path, default=Path("models.json"))
    parser.add_argument("--lock", type=Path, default=Path("models.lock.json"))
    parser.add_argument("--directory", type=Path, default=Path("/runpod-volume/models"))
    commands = parser.add_subparsers(dest="command", required=True)
    download = commands.add_parser("download", help="bring what is missing; all models unless some are named")
    download.add_argument("models", nargs="*")
    download.add_argument("--parallel", type=int, default=4)
    check = commands.add_parser("check", help="name what is missing or damaged, and for which model")
    check.add_argument("models", nargs="*")
    check.add_argument("--deep", action="store_true", help="read every file for its SHA-256")
    commands.add_parser("paths", help="print extra_model_paths.yaml")
    catalogue = commands.add_parser("manifest", help="print the manifest of a catalogue's models")
    catalogue.add_argument("catalogue", type=Path)
    arguments = parser.parse_args()
    try:
        sys.exit(_run(arguments))
    except ProvisionError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        sys.exit(1)


def _run(arguments: argparse.Namespace) -> int:
    if arguments.command == "manifest":
        sys.stdout.buffer.write(manifest_of_catalogue(arguments.catalogue))
        return 0
    manifest = read_manifest(arguments.manifest)
    if arguments.command == "paths":
        print(model_paths_yaml({"reelhouse": arguments.directory}, manifest), end="")
        return 0
    wanted = manifest.of(tuple(arguments.models))
    lock = LockFile(arguments.lock)
    if arguments.command == "download":
        return asyncio.run(_download(arguments, wanted, lock))
    found = list(troubles(arguments.directory, wanted, lock, deep=arguments.deep))
    for trouble in found:
        print(f"{trouble.model}: {trouble.path} is {trouble.what}")
    return 1 if found else 0


async def _download(arguments: argparse.Namespace, wanted: Manifest, lock: LockFile) -> int:
    settings = DownloadSettings(
        directory=arguments.directory, parallel=arguments.parallel, hub_token=os.environ.get("HF_TOKEN", "")
    )
    async with httpx.AsyncClient(timeout=60) as http:
        failures = await Downloads(http, settings, lock, say=print).all(wanted.files())
    return 1 if failures else 0


if __name__ == "__main__":
    main()
