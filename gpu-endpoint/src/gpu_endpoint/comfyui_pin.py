"""``python -m gpu_endpoint.comfyui_pin learn|checkout``: the one ComfyUI that the image holds.

A tag can be moved, a commit cannot. ``learn`` writes the commit of the version into the pin once; ``checkout`` refuses
any other one.
"""

import argparse
import re
import subprocess
import sys
from pathlib import Path

import msgspec


class PinError(Exception):
    """The pin does not hold, or is not complete."""


class Pin(msgspec.Struct, forbid_unknown_fields=True):
    """Where ComfyUI is, and which one."""

    repository: str
    version: str
    """A tag."""
    commit: str | None = None
    """Of the tag; None until it is learned."""


def main() -> None:
    """Parse the arguments and do it."""
    parser = argparse.ArgumentParser(prog="python -m gpu_endpoint.comfyui_pin", description=__doc__)
    parser.add_argument("command", choices=["learn", "checkout"])
    parser.add_argument("directory", type=Path, nargs="?", help="checkout: a directory that does not exist yet")
    parser.add_argument("--pin", type=Path, default=Path("comfyui.lock.json"))
    arguments = parser.parse_args()
    try:
        pin = msgspec.json.decode(arguments.pin.read_bytes(), type=Pin)
        if arguments.command == "learn":
            learn(pin)
            arguments.pin.write_bytes(msgspec.json.format(msgspec.json.encode(pin)) + b"\n")
        elif arguments.directory is None:
            parser.error("checkout needs a directory")
        else:
            checkout(pin, arguments.directory)
    except (PinError, msgspec.DecodeError, OSError) as error:
        sys.exit(f"{arguments.pin}: {error}")


def learn(pin: Pin) -> None:
    """Set the commit. Raises PinError if the tag has moved since it was learned."""
    listed = _git("ls-remote", "--tags", pin.repository, f"refs/tags/{pin.version}", f"refs/tags/{pin.version}^{{}}")
    # An annotated tag is listed twice; the second line, with ^{}, is the commit.
    found = [line.split("\t")[0] for line in listed.splitlines()]
    if not found or not re.fullmatch(r"[0-9a-f]{40}", found[-1]):
        raise PinError(f"{pin.repository} has no tag {pin.version}")
    if pin.commit not in (None, found[-1]):
        raise PinError(f"the tag {pin.version} is now at {found[-1]}, and was at {pin.commit}")
    pin.commit = found[-1]


def checkout(pin: Pin, directory: Path) -> None:
    """The files of the pinned commit, without history. Raises PinError."""
    if pin.commit is None:
        raise PinError(f"the commit of {pin.version} is not known yet: python -m gpu_endpoint.comfyui_pin learn")
    _git("clone", "--quiet", "--depth", "1", "--branch", pin.version, pin.repository, str(directory))
    actual = _git("-C", str(directory), "rev-parse", "HEAD").strip()
    if actual != pin.commit:
        raise PinError(f"the tag {pin.version} is at {actual}, and the pin says {pin.commit}")


def _git(*arguments: str) -> str:
    done = subprocess.run(["git", *arguments], capture_output=True, text=True, check=False, timeout=600)  # noqa: S603, S607
    if done.returncode != 0:
        raise PinError(f"git {arguments[0]}: {done.stderr.strip()}")
    return done.stdout


if __name__ == "__main__":
    main()
