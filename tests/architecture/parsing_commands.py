"""Which commands their programs refuse: reads ``[module, [word, …]]`` as JSON, and prints what each refusal says.

Run by the interpreter that has the programs. Nothing is done: each ends when it has parsed its words.
"""

import argparse
import contextlib
import io
import json
import runpy
import sys
from typing import Any, NoReturn


class Accepted(Exception):
    """The words were parsed."""


_parse = argparse.ArgumentParser.parse_args


def _parse_and_end(self: argparse.ArgumentParser, *given: Any) -> NoReturn:
    _parse(self, *given)
    raise Accepted


def main() -> None:
    """Try every command of the input."""
    argparse.ArgumentParser.parse_args = _parse_and_end  # type: ignore[assignment, method-assign] # for this process alone
    for module, words in json.load(sys.stdin):
        sys.argv = [module, *words]
        said = io.StringIO()
        try:
            with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
                runpy.run_module(module, run_name="__main__", alter_sys=True)
        except Accepted:
            continue
        except SystemExit as end:
            if end.code == 0:  # --help
                continue
        print(f"python -m {module} {' '.join(words)}: {said.getvalue().splitlines()[-1:]}")


if __name__ == "__main__":
    main()
