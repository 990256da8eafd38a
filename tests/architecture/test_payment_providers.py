"""A payment provider is named once; ``docs/adding-a-payment-provider.md`` says what belongs to it."""

import ast
import re

import pytest

from contracts.payments import PROVIDERS, Provider
from local_platform.payment_providers.emulation import Account
from local_platform.payment_providers.table import EMULATIONS
from payments.providers.registry import ADAPTERS
from payments.settings import REQUIRED_SETTINGS, Settings
from tests.architecture.test_the_house import ROOT, SOURCES, module_id
from tests.faults.payments import SCENARIOS

each_provider = pytest.mark.parametrize("provider", PROVIDERS)

MAY_NAME_PROVIDERS = re.compile(
    r"libs/contracts/src/contracts/payments\.py"
    r"|libs/service_runtime/src/service_runtime/logging\.py"  # the name of an SDK's logger
    r"|services/payments/src/payments/settings\.py"
    r"|services/payments/src/payments/providers/\w+\.py"
    r"|services/gateway/src/gateway/examples\.py"
    r"|deploy/local/src/local_platform/payment_providers/\w+\.py"
    r"|deploy/local/src/local_platform/demo/steps\.py"
)
ACCOUNT = Account(url="", api_key="", webhook_url="", webhook_secret="", name="", password="")


def test_every_table_has_exactly_the_providers_of_the_contracts() -> None:
    assert set(ADAPTERS) == set(REQUIRED_SETTINGS) == set(EMULATIONS) == set(PROVIDERS)


@each_provider
def test_an_adapter_answers_to_the_name_it_is_registered_under(provider: Provider) -> None:
    assert ADAPTERS[provider].name == provider


@each_provider
def test_the_settings_of_a_provider_carry_its_name(provider: Provider) -> None:
    assert REQUIRED_SETTINGS[provider]
    for name in REQUIRED_SETTINGS[provider]:
        assert name.startswith(f"{provider}_")
        assert Settings.model_fields[name].default is None


@each_provider
def test_the_emulation_sets_everything_that_the_provider_requires(provider: Provider) -> None:
    told = {name.removeprefix("PAYMENTS_").lower() for name in EMULATIONS[provider].settings(ACCOUNT)}
    assert set(REQUIRED_SETTINGS[provider]) <= told <= set(Settings.model_fields)


@each_provider
def test_a_provider_has_a_unit_test_and_a_fault_scenario(provider: Provider) -> None:
    assert (ROOT / f"tests/payments/unit/test_{provider}.py").is_file()
    assert provider in {scenario.provider for scenario in SCENARIOS}


def test_no_other_module_names_a_provider() -> None:
    naming = {
        module_id(source)
        for source in SOURCES
        for node in ast.walk(ast.parse(source.read_text()))
        if isinstance(node, ast.Constant) and node.value in PROVIDERS
    }
    assert not {name for name in naming if not MAY_NAME_PROVIDERS.fullmatch(name)}


def test_every_file_of_the_recipe_is_there() -> None:
    recipe = (ROOT / "docs/adding-a-payment-provider.md").read_text()
    named = re.findall(r"`((?:libs|services|deploy|tests)/[\w./-]+)`", recipe)
    assert len(named) > len(PROVIDERS)
    assert not [path for path in named if not (ROOT / path).exists()]
