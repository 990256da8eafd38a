"""Rules of the house that no linter knows."""

import ast
import re
from pathlib import Path

import pytest

from contracts.message import SERVICES, Service
from contracts.registry import consumed_by, produced_by

ROOT = Path(__file__).parents[2]
MEMBERS = [path.parent for pattern in ("libs/*", "services/*", "deploy/*") for path in ROOT.glob(f"{pattern}/src")]
SOURCES = [source for member in MEMBERS for source in (member / "src").rglob("*.py")]
TESTS = [*(ROOT / "tests").rglob("*.py"), *(ROOT / "gpu-endpoint/tests").rglob("*.py")]
BANNED_NAMES = {"common", "utils", "util", "helpers", "helper", "base", "core", "misc"}
LONGEST_MODULE_LINES = 500
LONGEST_TEST_NAME = 80
LOG_EVENT = re.compile(r"\b_?log\.(?:debug|info|warning|error|exception)\(\s*f?\"([^\"]*)\"")

each_service = pytest.mark.parametrize("service", SERVICES)


def module_id(source: Path) -> str:
    return str(source.relative_to(ROOT))


def test_no_module_has_a_name_that_says_nothing() -> None:
    assert not [module_id(source) for source in SOURCES if source.stem in BANNED_NAMES]


def test_no_module_outgrows_its_room() -> None:
    long = {module_id(s): len(s.read_text().splitlines()) for s in SOURCES if "migrations" not in s.parts}
    assert not {name: lines for name, lines in long.items() if lines > LONGEST_MODULE_LINES}


@pytest.mark.parametrize("source", SOURCES, ids=module_id)
def test_every_module_says_what_it_is_for(source: Path) -> None:
    if "versions" not in source.parts and source.name != "env.py":
        assert ast.get_docstring(ast.parse(source.read_text())), f"{module_id(source)} has no docstring"


def test_log_events_are_names_and_no_sentences() -> None:
    events = [(module_id(source), event) for source in SOURCES for event in LOG_EVENT.findall(source.read_text())]
    assert events
    assert not [found for found in events if not re.fullmatch(r"[a-z][a-z0-9]*(_[a-z0-9]+)*", found[1])]


def test_names_of_tests_are_short_sentences() -> None:
    names = [name for test in TESTS for name in re.findall(r"\bdef (test_\w+)", test.read_text())]
    assert not [name for name in names if len(name) > LONGEST_TEST_NAME]


def test_every_failpoint_is_named_by_a_test() -> None:
    """A failpoint that no test passes through shows nothing about the crash that it stands for."""
    calls = [call for source in SOURCES for call in re.findall(r"\bfailpoint\(([^)]*)\)", source.read_text())]
    names = {call.strip('"') for call in calls if call != "name: str"}
    assert {f'"{name}"' for name in names} <= set(calls), "a failpoint's name is a literal"
    tests = "".join(test.read_text() for test in (ROOT / "tests").rglob("*.py") if "architecture" not in test.parts)
    assert {name for name in names if not re.search(rf"\b{re.escape(name)}\b", tests)} == set()


@each_service
def test_a_service_readme_says_what_it_owns_consumes_publishes_and_guarantees(service: Service) -> None:
    text = (ROOT / "services" / service / "README.md").read_text()
    for heading in ("owns", "consumes", "publishes", "guarantees"):
        # As a heading, in bold, or as the column of a table: what a reader's eye finds.
        assert re.search(rf"(^#+ |\*\*|\| ).*{heading}", text, re.IGNORECASE | re.MULTILINE), f"no '{heading}'"
    for message in produced_by(service):
        assert message.subject.split(".")[2] in text or message.__name__ in text, f"{message.subject} is not named"
    if service != "auditor":
        for message in consumed_by(service):
            assert message.subject.split(".")[2] in text or message.__name__ in text, f"{message.subject} is not named"


@each_service
def test_every_setting_of_a_service_stands_in_its_example(service: Service) -> None:
    module = __import__(f"{service}.settings", fromlist=["Settings"])
    settings = module.Settings
    prefix = settings.model_config["env_prefix"]
    example = (ROOT / "services" / service / ".env.example").read_text()
    named = set(re.findall(r"^#? ?([A-Z][A-Z0-9_]+)=", example, re.MULTILINE))
    expected = {f"{prefix}{name.upper()}" for name in settings.model_fields}
    assert expected - named == set(), "missing from .env.example"
    assert named - expected - {f"{prefix}MIGRATION_DATABASE_URL"} == set(), "unknown to the service"


def test_only_the_supervised_platform_reads_the_environment_outside_settings() -> None:
    readers = [
        module_id(source)
        for source in SOURCES
        if re.search(r"os\.(environ|getenv)", source.read_text()) and source.stem not in ("settings", "failpoints")
    ]
    # Migrations run without a service's settings; the release is a fact of the image, the same for every service.
    allowed = {f"libs/service_runtime/src/service_runtime/{name}.py" for name in ("migrations", "process_metrics")}
    assert not [name for name in readers if name not in allowed and not name.startswith("deploy/local/")]
