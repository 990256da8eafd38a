"""Documents are readable, their references lead somewhere, and the generated ones say what the code says."""

import json
import re
import shlex
import subprocess
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

from local_platform.statuses import render

ROOT = Path(__file__).parents[2]
DECISIONS = ROOT / "docs/decisions"
CONTRIBUTING = ROOT / "CONTRIBUTING.md"
MEMBERS = [path for pattern in ("libs/*/src", "services/*/src", "deploy/local/src") for path in ROOT.glob(pattern)]
# A path from the root, or from the document, without a pattern: `docs/api.md`, not `<service>/README.md` or `models/*`.
TOP_LEVEL = re.compile(r"(benchmarks|deploy|docs|gpu-endpoint|libs|services|tests)(/[\w.-]+)+/?\Z")
GENERATED_DIRECTORIES = {"node_modules", "dist"}
LONGEST_LINE = 119

# Up to the end of the code span, the redirection, the comment or the line, if no backslash continues it.
COMMAND = re.compile(
    r"python -m (\w+\.main|messaging\.\w+|provisioning|catalogue|gpu_endpoint\.\w+)\b"
    r"((?:\\\n|[^`'|#>\n]|(?<=\S)\|(?=\S))*)"
)
EXAMPLES = {
    **dict.fromkeys(("ID", "UUID", "MESSAGE_ID", "NEW_UUID"), "01a218f3-d169-751a-9840-21d3c0e47c66"),
    "N": "1",
    "HEAD": "1:1:00",
    "SIZE:ROOT": "1:" + 32 * "00",
    "$bucket": "uploads",
}
"""What stands in a document for a value of the reader's."""

# One heading, one line of status: "Status: accepted. Date: 2026-11-23."
RECORD = re.compile(r"\A# (?P<title>\d{4}: .+)\n\nStatus: (?P<status>.+)\. Date: (?P<date>\d{4}-\d\d-\d\d)\.\n")
STATUS = re.compile(r"proposed|accepted|superseded by \d{4}")


def _documents() -> Iterator[Path]:
    for path in sorted(ROOT.rglob("*.md")):
        parts = path.relative_to(ROOT).parts
        if not any(part.startswith(".") or part in GENERATED_DIRECTORIES for part in parts):
            yield path


def _name(path: Path) -> str:
    return str(path.relative_to(ROOT))


DOCUMENTS = list(_documents())
RECORDS = sorted(DECISIONS.glob("[0-9]*.md"))

each_document = pytest.mark.parametrize("document", DOCUMENTS, ids=_name)
each_record = pytest.mark.parametrize("record", RECORDS, ids=_name)


def _prose(text: str) -> Iterator[tuple[int, str]]:
    """The numbered lines outside of code blocks and tables, which cannot be wrapped."""
    fenced = False
    for number, line in enumerate(text.splitlines(), start=1):
        if line.lstrip().startswith("```"):
            fenced = not fenced
        elif not fenced and not line.startswith(("|", "    ")):
            yield number, line


def _code_spans(document: Path) -> list[str]:
    return re.findall(r"`([^`\n]+)`", document.read_text())


def _commands(text: str) -> Iterator[tuple[str, tuple[str, ...]]]:
    """The commands of our programs with their words; of one that is only named, whether it exists."""
    for module, line in COMMAND.findall(text):
        if not re.search(r"[\[<|…]|\.\.", line):  # that would be a pattern, and no command
            words = shlex.split(line.replace("\\\n", " "))
            yield module, tuple(EXAMPLES.get(word, word) for word in words) if words[1:] else (*words, "--help")


def _anchors(text: str) -> set[str]:
    """The fragments by which a document's headings are reached."""
    headings = (line.lstrip("#").strip() for _, line in _prose(text) if line.startswith("#"))
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@each_document
def test_no_line_of_prose_is_too_long(document: Path) -> None:
    long = {number: len(line) for number, line in _prose(document.read_text()) if len(line) > LONGEST_LINE}
    assert not long, f"{_name(document)}: lines and their lengths"


@each_document
def test_every_relative_link_leads_somewhere(document: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", document.read_text()):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, fragment = target.partition("#")
        linked = (document.parent / path).resolve() if path else document
        assert linked.exists(), f"{_name(document)}: {target}"
        assert not fragment or fragment in _anchors(linked.read_text()), f"{_name(document)}: {target}"


def test_every_document_is_reached_from_the_readme() -> None:
    reached, waiting = set[Path](), [ROOT / "README.md"]
    while waiting:
        document = waiting.pop()
        if document not in reached:
            reached.add(document)
            targets = re.findall(r"\]\(([^)\s#]+\.md)", document.read_text())
            waiting += [(document.parent / target).resolve() for target in targets if "://" not in target]
    assert [_name(document) for document in DOCUMENTS if document not in reached] == []


@each_document
def test_every_path_that_is_named_exists(document: Path) -> None:
    named = [target for target in _code_spans(document) if TOP_LEVEL.match(target)]
    assert not [target for target in named if not any((place / target).exists() for place in (ROOT, document.parent))]


def test_what_contributing_says_stands_in_a_file_stands_there() -> None:
    for path, name in re.findall(r"`([^`]+)` \(`([^`]+)`\)", CONTRIBUTING.read_text()):
        assert re.search(rf"\b{name.rsplit('.')[-1]}\b", (ROOT / path).read_text()), f"{path} has no {name}"


def test_every_module_that_contributing_names_can_be_imported() -> None:
    members = {path.name for pattern in ("libs/*/src/*", "services/*/src/*") for path in ROOT.glob(pattern)}
    modules = [span for span in _code_spans(CONTRIBUTING) if span.split(".")[0] in members and "." in span]
    assert modules
    assert not [module for module in modules if find_spec(module) is None]


def test_every_name_that_the_runbook_quotes_is_one_of_the_code() -> None:
    code = "".join(path.read_text() for member in MEMBERS for path in member.rglob("*.py"))
    quoted = {span for span in _code_spans(ROOT / "docs/runbook.md") if re.fullmatch(r"[a-z]+(_[a-z0-9]+)+", span)}
    assert quoted
    assert not {name for name in quoted if not re.search(rf"\b{name}\b", code)}


@pytest.mark.parametrize("python", [".venv", "gpu-endpoint/.venv"])
def test_every_command_that_is_shown_is_one_that_its_program_takes(python: str) -> None:
    commands = {
        (module, words)
        for document in DOCUMENTS
        for module, words in _commands(document.read_text())
        if module.startswith("gpu_endpoint.") is python.startswith("gpu-endpoint")
    }
    assert len(commands) >= (4 if python.startswith("gpu-endpoint") else 40)
    done = subprocess.run(
        [ROOT / python / "bin/python", ROOT / "tests/architecture/parsing_commands.py"],
        input=json.dumps(sorted(commands)),
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert done.stdout == ""


@each_record
def test_every_decision_states_its_status_and_date_as_the_index_does(record: Path) -> None:
    stated = RECORD.match(record.read_text())
    assert stated, f"{_name(record)} does not begin as docs/decisions/template.md does"
    assert STATUS.fullmatch(stated["status"])
    row = f"| [{stated['title']}]({record.name}) | {stated['status']} | {stated['date']} |"
    assert row in (DECISIONS / "README.md").read_text().splitlines(), f"not in the index: {row}"


def test_the_index_of_decisions_lists_nothing_else() -> None:
    listed = re.findall(r"\]\((\d{4}-[^)]+)\)", (DECISIONS / "README.md").read_text())
    assert listed == [record.name for record in RECORDS]


def test_the_page_about_statuses_is_current() -> None:
    assert (ROOT / "docs/statuses.md").read_text(encoding="utf-8") == render(), "run `make docs`"


def test_every_test_that_the_threat_model_names_exists() -> None:
    named = {span for span in _code_spans(ROOT / "docs/security.md") if span.startswith("test_")}
    sources = [path.read_text() for folder in ("tests", "gpu-endpoint/tests") for path in (ROOT / folder).rglob("*.py")]
    defined = {name for source in sources for name in re.findall(r"def (test_\w+)\(", source)}
    assert len(named) > 50
    assert named - defined == set()
