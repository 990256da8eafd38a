"""``python -m catalogue check``: check every data file, and print each model with the price of its defaults."""

import argparse
import sys

from catalogue.errors import InvalidCatalogue
from catalogue.loading import load_catalogue
from catalogue.model import Model


def main() -> int:
    """Exit code 1 and the reasons if a file contradicts itself."""
    parser = argparse.ArgumentParser(prog="python -m catalogue", description="What can be generated, and its price.")
    parser.add_argument("command", choices=["check"])
    parser.parse_args()
    try:
        models = load_catalogue().models
    except InvalidCatalogue as error:
        sys.stderr.write(f"{error}\n")
        return 1
    for model in models:
        sys.stdout.write(f"{_line(model)}\n")
    return 0


def _line(model: Model) -> str:
    schema = model.parameters_schema["properties"]
    defaults = {name: rule["default"] for name, rule in schema.items() if "default" in rule}
    quote = model.quote(defaults)
    parts = ", ".join(f"{line.label} {line.credits}" for line in quote.lines)
    return f"{model.id:16} {model.kind:6} {quote.price_credits:4} credits by default ({parts})  {model.title}"


if __name__ == "__main__":
    sys.exit(main())
