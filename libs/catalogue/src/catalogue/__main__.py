"""``python -m catalogue``: ``check`` the data files, write ``nodes`` down, print the ``margin`` or the ``warm-ups``."""

import argparse
import sys
from pathlib import Path

from catalogue.comfyui_nodes import UnknownClass
from catalogue.errors import InvalidCatalogue
from catalogue.loading import load_catalogue
from catalogue.margins import print_margins
from catalogue.model import Model
from catalogue.node_source import VersionUnknown, read_object_info, used_classes
from catalogue.warm_ups import warm_ups

NODES_FILE = Path(__file__).with_name("comfyui_nodes.json")


def main() -> int:
    """Exit code 1 and the reasons if a file contradicts itself."""
    parser = argparse.ArgumentParser(prog="python -m catalogue", description="What can be generated, and its price.")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("check", help="check every data file, and print each model with the price of its defaults")
    commands.add_parser("margin", help="print price, GPU cost and margin for each model, tier and size")
    commands.add_parser("warm-ups", help="print the smallest order of each model as JSON, for the worker")
    nodes = commands.add_parser("nodes", help="write comfyui_nodes.json from a ComfyUI's /object_info")
    nodes.add_argument("source", help="address of a running server, or a file with its answer to /object_info")
    nodes.add_argument("--version", help="of ComfyUI; a running server says it itself")
    arguments = parser.parse_args()
    if arguments.command == "nodes":
        try:
            NODES_FILE.write_text(read_object_info(arguments.source, arguments.version, used_classes()))
        except UnknownClass as error:
            sys.stderr.write(f"{arguments.source} has no node of the class {error}\n")
            return 1
        except (VersionUnknown, OSError, ValueError) as error:
            sys.stderr.write(f"{arguments.source}: {error}\n")
            return 1
        return 0
    try:
        catalogue = load_catalogue()
    except InvalidCatalogue as error:
        sys.stderr.write(f"{error}\n")
        return 1
    if arguments.command == "margin":
        print_margins(catalogue)
        return 0
    if arguments.command == "warm-ups":
        sys.stdout.buffer.write(warm_ups(catalogue))
        return 0
    for model in catalogue.models:
        sys.stdout.write(f"{_line(model)}\n")
    return 0


def _line(model: Model) -> str:
    quote = model.quote(model.defaults)
    parts = ", ".join(f"{line.label} {line.credits}" for line in quote.lines)
    offer = "retired" if model.retired else f"{quote.price_credits} credits by default ({parts})"
    return f"{model.id:18} {model.kind:6} {offer}  {model.title}"


if __name__ == "__main__":
    sys.exit(main())
