"""Every alert is valid, explained in the runbook, and fires on the samples that are to make it fire."""

import re
import shutil
import subprocess
from copy import deepcopy
from pathlib import Path
from typing import Any, Final

import promql_parser
import pytest
import yaml

from tests.deploy.manifests import KUBERNETES, of_kind, render
from tests.observability.expressions import OBSERVABILITY, panel_queries, rule_groups, rules

ROOT: Final = OBSERVABILITY.parents[1]
RULES: Final = rules()
ALERTS: Final = [rule for rule in RULES if "alert" in rule]
OUR_METRICS: Final = re.compile(
    r"\b((?:reelhouse|slo|database|gateway|billing|generation|storage|payments|auditor|messaging|loop|http)_[a-z_]+[a-z])\b"
)


def name_of(rule: dict[str, Any]) -> str:
    return str(rule.get("alert") or rule["record"])


@pytest.mark.parametrize("rule", RULES, ids=name_of)
def test_an_expression_is_valid(rule: dict[str, Any]) -> None:
    promql_parser.parse(rule["expr"])


@pytest.mark.parametrize("rule", ALERTS, ids=name_of)
def test_an_alert_says_how_bad_it_is_and_where_to_read_on(rule: dict[str, Any]) -> None:
    assert rule["labels"]["severity"] in ("page", "ticket")
    assert rule["annotations"]["runbook_url"].endswith(f"#{rule['alert'].lower()}")
    assert rule["annotations"]["summary"]


def test_each_alert_has_its_section_and_each_section_its_alert() -> None:
    runbook = (ROOT / "docs/runbook.md").read_text()
    _, _, alerts = runbook.partition("\n## Alerts\n")
    sections = dict(re.findall(r"^### (Reelhouse\w+)\n(.*?)(?=^### |^<!--|\Z)", alerts, re.MULTILINE | re.DOTALL))
    assert set(sections) == {rule["alert"] for rule in ALERTS}
    for text in sections.values():
        assert all(part in text for part in ("What to run:\n1. ", "Verify: ", "When to wake whom: "))


def test_rules_and_panels_ask_for_metrics_that_the_services_have() -> None:
    sources = "".join(path.read_text() for part in ("libs", "services") for path in (ROOT / part).rglob("*.py"))
    for expr in [rule["expr"] for rule in RULES] + [query.expr for query in panel_queries()]:
        for metric in OUR_METRICS.findall(re.sub(r"slo:\S+|\"[^\"]*\"", "", expr)):
            plain = re.sub(r"_(bucket|count|sum)$", "", metric)
            assert f'"{metric}"' in sources or f'"{plain}"' in sources, f"no service has {metric}"


def test_kubernetes_gets_the_same_rules() -> None:
    (rule,) = deepcopy(of_kind(render(KUBERNETES / "overlays/production"), "PrometheusRule")).values()
    rules = [one for group in rule["spec"]["groups"] for one in group["rules"]]
    for annotations in (one["annotations"] for one in rules if "annotations" in one):
        # The overlay puts the address of its runbook there; tests/deploy holds that.
        annotations["runbook_url"] = "docs/runbook.md#" + annotations["runbook_url"].partition("#")[2]
    assert rules == RULES


@pytest.mark.timeout(300)
def test_every_alert_fires_on_its_fault_and_is_quiet_without_it(tmp_path: Path) -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("NO PROMTOOL, THE ALERTS ARE NOT TRIED: Debian has it in its package prometheus")
    tried = write_tests_of_each_alert(tmp_path)
    assert [path.stem for path in tried] == [name_of(alert) for alert in ALERTS]
    done = subprocess.run([promtool, "test", "rules", *tried], capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def write_tests_of_each_alert(directory: Path) -> list[Path]:
    """A file of tests for each alert, with no rules but its own and those that record: with all, promtool evaluates
    each alert in the tests of all others, which takes every core for a minute."""
    records = [group for group in rule_groups() if any("record" in rule for rule in group["rules"])]
    document = yaml.safe_load((OBSERVABILITY / "rules/tests.yaml").read_text())
    found = []
    for alert in ALERTS:
        its_rules, tests = directory / f"rules-{name_of(alert)}.yaml", directory / f"{name_of(alert)}.yaml"
        needed = records if "slo:" in alert["expr"] else []
        its_rules.write_text(yaml.safe_dump({"groups": [*needed, {"name": "alert", "rules": [alert]}]}))
        own = [test for test in document["tests"] if test["name"].split()[0] == name_of(alert)]
        assert len(own) >= 2, f"{name_of(alert)} is not tried with its fault and without"
        tests.write_text(yaml.safe_dump(document | {"rule_files": [str(its_rules)], "tests": own}))
        found.append(tests)
    return found
