"""What developers run by habit is what lands."""

import re
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[2]
MAKEFILE = (ROOT / "Makefile").read_text()
HOOKS = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"][0]["hooks"]


def test_the_hooks_before_a_commit_run_what_make_lint_runs() -> None:
    recipe = re.search(r"^lint:.*\n((?:\t.+\n)+)", MAKEFILE, re.MULTILINE)
    assert recipe
    commands = [line.strip().replace("$(RUN)", ".venv/bin") for line in recipe[1].splitlines()]
    assert [hook["entry"] for hook in HOOKS if hook["language"] == "system"] == commands


def test_every_target_that_is_run_by_name_stands_in_the_help() -> None:
    phony = set(re.findall(r"^\.PHONY: (.+)$", MAKEFILE, re.MULTILINE))
    named = {name for names in phony for name in names.split()}
    described = set(re.findall(r"^([a-z0-9-]+):.*## \S", MAKEFILE, re.MULTILINE))
    assert named == described


def test_the_hook_on_commit_messages_takes_our_subjects_and_no_others() -> None:
    (hook,) = (hook for hook in HOOKS if hook["id"] == "commit-subject")
    for subject in ("docs: add a glossary", "billing, payments: name the outcome", "Revert this"):
        assert re.search(hook["entry"], f"{subject}\n\nBecause.\n"), subject
    for subject in ("Add a glossary", "docs: Add a glossary", f"docs: {'x' * 70}", ""):
        assert not re.search(hook["entry"], f"{subject}\n\ndocs: add a glossary\n"), subject
