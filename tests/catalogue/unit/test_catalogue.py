"""The data files are consistent, prices are exact, and errors name the field."""

from typing import Any
from uuid import uuid4

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from billing.domain import MAX_AMOUNT_CREDITS
from catalogue import Catalogue, InvalidParameters, Model, UnknownModel, comfyui_nodes, load_catalogue
from catalogue.credit_packs import MOST_CREDITS, InvalidCreditPacks, check_credit_packs, load_credit_packs
from catalogue.margins import margins
from catalogue.model import LARGEST_SEED
from catalogue.pricing import PriceRule

CATALOGUE: Catalogue = load_catalogue()
NODES = comfyui_nodes.load_node_descriptions().classes


def properties_of(model: Model) -> dict[str, Any]:
    properties: dict[str, Any] = model.parameters_schema["properties"]
    return properties


each_model = pytest.mark.parametrize("model", CATALOGUE.models, ids=lambda model: model.id)


described = pytest.mark.parametrize(
    "model", [model for model in CATALOGUE.models if "prompt" in properties_of(model)], ids=lambda model: model.id
)
"""Those that make something of a description, and not of a clip alone."""


def smallest(model: Model) -> dict[str, Any]:
    """What a user must give, and nothing more."""
    words = {"prompt": "a lighthouse"} if "prompt" in properties_of(model) else {}
    return words | {name: str(uuid4()) for name in model.upload_parameters}


def test_the_promised_models_are_there() -> None:
    offered = {model.id for model in CATALOGUE.offered}
    assert {"wan-2.2-t2v", "wan-2.2-i2v", "ltx-2.5-t2v", "z-image-turbo", "film-interpolation"} <= offered
    with pytest.raises(UnknownModel):
        CATALOGUE.model("sora")


def test_a_retired_model_is_loaded_and_not_offered() -> None:
    retired = CATALOGUE.model("ltx-video")
    assert retired not in CATALOGUE.offered
    assert retired.bind_workflow(retired.complete({"prompt": "x"}))
    with pytest.raises(UnknownModel):
        CATALOGUE.offered_model("ltx-video")
    assert CATALOGUE.offered_model("wan-2.2-t2v") is CATALOGUE.model("wan-2.2-t2v")


def test_every_offered_model_may_be_sold() -> None:
    assert all(model.licence.sells and model.licence.url for model in CATALOGUE.offered)


def test_four_steps_take_the_lora_and_more_do_not() -> None:
    for model_id in ("wan-2.2-t2v", "wan-2.2-i2v"):
        model = CATALOGUE.model(model_id)
        cheapest = model.complete(smallest(model))
        assert (model.tier(cheapest).id, cheapest["steps"]) == ("fast", 4)
        assert _loras(model.bind_workflow(cheapest)) == 2
        assert _loras(model.bind_workflow(cheapest | {"steps": 20})) == 0
        assert model.quote(cheapest).price_credits < model.quote(cheapest | {"steps": 20}).price_credits
        for steps in (5, 8, 19, 40):
            with pytest.raises(InvalidParameters):
                model.complete(smallest(model) | {"steps": steps})
            # An order from before the tiers is made as it was ordered.
            assert model.tier(cheapest | {"steps": steps}).id == "quality"


def _loras(workflow: dict[str, Any]) -> int:
    return sum(node["class_type"] == "LoraLoaderModelOnly" for node in workflow.values())


def test_sound_is_promised_where_the_workflow_makes_it() -> None:
    for model in CATALOGUE.models:
        for tier in model.tiers:
            saved = [node["inputs"] for node in tier.workflow.values() if node["class_type"] == "CreateVideo"]
            assert model.audio == any("audio" in inputs for inputs in saved), model.id


@each_model
def test_defaults_make_a_complete_request_that_stays_complete(model: Model) -> None:
    complete = model.complete(smallest(model))
    assert model.complete(complete) == complete
    assert {"width", "height"} <= set(complete)
    assert ("seed" in complete) == ("prompt" in complete)


@each_model
def test_no_price_depends_on_the_texts_and_files_that_a_form_still_lacks(model: Model) -> None:
    whole = model.complete(smallest(model))
    missing = model.missing_texts({})
    assert missing == set(model.parameters_schema["required"])
    assert model.missing_texts(whole) == frozenset()
    unfinished = model.complete(dict.fromkeys(missing, " "), missing)
    assert not missing & set(unfinished)
    assert model.quote(unfinished) == model.quote(model.complete(dict.fromkeys(missing, " "), missing) | whole)
    with pytest.raises(InvalidParameters):
        model.complete({"width": "wide"}, missing)


@described
def test_a_seed_is_drawn_when_none_is_given_and_kept_when_one_is(model: Model) -> None:
    assert model.complete(smallest(model))["seed"] != model.complete(smallest(model))["seed"]
    assert model.complete(smallest(model) | {"seed": 7})["seed"] == 7


@described
def test_the_seeds_of_variants_follow_on_and_nothing_else_differs(model: Model) -> None:
    first = model.complete(smallest(model) | {"seed": LARGEST_SEED - 1})
    variants = model.variants(first, 4)
    assert [variant["seed"] for variant in variants] == [LARGEST_SEED - 1, LARGEST_SEED, 0, 1]
    assert [variant | {"seed": 0} for variant in variants] == [first | {"seed": 0}] * 4
    assert model.variants(first, 1) == [first]
    assert len({model.quote(variant).price_credits for variant in variants}) == 1
    for count in (0, 5):
        with pytest.raises(ValueError, match="1 to 4"):
            model.variants(first, count)


def test_a_model_without_a_seed_makes_one_output() -> None:
    model = CATALOGUE.model("film-interpolation")
    assert model.max_count == 1
    with pytest.raises(ValueError, match="1 to 1"):
        model.variants({}, 2)


@each_model
def test_every_wrong_field_is_named(model: Model) -> None:
    wrong = {"prompt": "", "width": 1, "height": "tall", "colour": "red", "steps": 10_000}
    taken = properties_of(model)
    with pytest.raises(InvalidParameters) as refusal:
        model.complete(wrong)
    named = {error.field: error.code for error in refusal.value.errors}
    expected = {"height": "type", "colour": "unknown"}
    expected["prompt"] = "minLength" if "prompt" in taken else "unknown"
    expected["steps"] = "maximum" if "steps" in taken else "unknown"
    assert expected.items() <= named.items()
    assert named["width"] in ("minimum", "multipleOf")
    for name in model.upload_parameters:
        assert named[name] == "required"


@described
def test_no_message_repeats_what_the_sender_wrote(model: Model) -> None:
    with pytest.raises(InvalidParameters) as refusal:
        model.complete(smallest(model) | {"prompt": "secret " * 1000})
    assert "secret" not in str(refusal.value)


@each_model
def test_more_pixels_than_the_model_can_are_refused(model: Model) -> None:
    properties = model.parameters_schema["properties"]
    largest = {"width": properties["width"]["maximum"], "height": properties["height"]["maximum"]}
    if largest["width"] * largest["height"] > model.limits.max_pixels:
        with pytest.raises(InvalidParameters) as refusal:
            model.complete(smallest(model) | largest)
        assert {error.field for error in refusal.value.errors} == {"width", "height"}


@described
def test_the_workflow_carries_every_parameter_and_leaves_the_template_alone(model: Model) -> None:
    first = model.bind_workflow(model.complete(smallest(model) | {"prompt": "a red kite", "seed": 11}))
    second = model.bind_workflow(model.complete(smallest(model) | {"prompt": "a blue boat", "seed": 12}))
    assert "a red kite" in str(first)
    assert "a red kite" not in str(second)
    for node in first.values():
        for value in node["inputs"].values():
            if isinstance(value, list):
                assert value[0] in first


def test_a_video_is_expected_to_be_as_long_as_its_frames_take() -> None:
    model = CATALOGUE.model("wan-2.2-t2v")
    output = model.expected_output(model.complete({"prompt": "x", "duration_seconds": 5}))
    assert (output.width_pixels, output.height_pixels, output.frames_per_second) == (832, 480, 16.0)
    assert output.duration_ms == round(81 * 1000 / 16)


@pytest.mark.parametrize(
    ("step", "offset", "seconds", "frames"),
    [(17, 5, 1, 39), (17, 5, 5, 124), (4, 1, 5, 121), (8, 1, 5, 121), (1, 1, 5, 120)],
)
def test_a_frame_rule_makes_the_next_possible_number(step: int, offset: int, seconds: int, frames: int) -> None:
    model = CATALOGUE.model("ltx-2.5-t2v")
    limits = msgspec.structs.replace(model.limits, frame_step=step, frame_offset=offset)
    ruled = msgspec.structs.replace(model, limits=limits)
    output = ruled.expected_output(model.complete({"prompt": "x", "duration_seconds": seconds}))
    assert output.duration_ms == round(frames * 1000 / 24)


def test_a_clip_of_a_clip_is_as_long_as_ordered() -> None:
    model = CATALOGUE.model("film-interpolation")
    output = model.expected_output(model.complete({"clip": str(uuid4()), "duration_seconds": 3}))
    assert (output.duration_ms, output.frames_per_second) == (3000, None)


def test_a_picture_has_no_length() -> None:
    model = CATALOGUE.model("flux-schnell")
    output = model.expected_output(model.complete({"prompt": "x"}))
    assert (output.duration_ms, output.frames_per_second) == (None, None)


@each_model
def test_a_whole_number_written_as_a_fraction_becomes_whole(model: Model) -> None:
    numbers = {"width": 512, "height": 512, "seed": 3, "steps": 8 if model.id == "ltx-video" else 4}
    written = {name: float(number) for name, number in numbers.items() if name in properties_of(model)}
    complete = model.complete(smallest(model) | written)
    assert "width" in written
    assert all(complete[name] == numbers[name] and type(complete[name]) is int for name in written)


@described
@pytest.mark.parametrize("blank", ["", "   ", "\n\t"])
def test_a_blank_prompt_is_named_once(model: Model, blank: str) -> None:
    with pytest.raises(InvalidParameters) as refusal:
        model.complete(smallest(model) | {"prompt": blank})
    assert [error.field for error in refusal.value.errors] == ["prompt"]


@pytest.mark.parametrize("wrong", ["", "x" * 36, "../" * 12, "{0190d7a2-6c3e-7b1a-9f6e-2d0c5a7b8e91}"])
def test_an_upload_is_named_by_its_id(wrong: str) -> None:
    with pytest.raises(InvalidParameters) as refusal:
        CATALOGUE.model("wan-2.2-i2v").complete({"prompt": "x", "image": wrong})
    assert [error.field for error in refusal.value.errors] == ["image"]


@each_model
@given(data=st.data())
def test_whatever_the_schema_allows_has_a_price_a_size_and_a_workflow(model: Model, data: st.DataObject) -> None:
    chosen: dict[str, Any] = {}
    for name, rule in model.parameters_schema["properties"].items():
        if "enum" in rule:
            chosen[name] = data.draw(st.sampled_from(rule["enum"]), label=name)
        elif rule["type"] == "integer":
            step = rule.get("multipleOf", 1)
            number = st.integers(rule["minimum"] // step, rule["maximum"] // step)
            chosen[name] = data.draw(number, label=name) * step
    if chosen["width"] * chosen["height"] > model.limits.max_pixels:
        with pytest.raises(InvalidParameters):
            model.complete(smallest(model) | chosen)
        return
    complete = model.complete(smallest(model) | chosen)
    quote = model.quote(complete)
    assert type(quote.price_credits) is int
    assert sum(line.credits for line in quote.lines) == quote.price_credits >= 1
    assert all(line.credits > 0 for line in quote.lines)
    for name in ("width", "height", "duration_seconds", "steps"):
        if name in complete and complete[name] > model.parameters_schema["properties"][name]["minimum"]:
            less = complete | {name: model.parameters_schema["properties"][name]["minimum"]}
            assert model.quote(less).price_credits <= quote.price_credits
    assert model.expected_output(complete).width_pixels == complete["width"]
    assert list(comfyui_nodes.problems(model.bind_workflow(complete), NODES)) == []


@each_model
def test_a_quote_adds_up_and_is_the_same_each_time(model: Model) -> None:
    complete = model.complete(smallest(model))
    quote = model.quote(complete)
    assert quote == model.quote(complete)
    assert sum(line.credits for line in quote.lines) == quote.price_credits >= 1


rates = st.fractions(min_value=0, max_value=20, max_denominator=7).map(str)


@given(
    rule=st.builds(
        PriceRule,
        base_credits=rates,
        per_second_credits=rates,
        per_megapixel_credits=rates,
        per_megapixel_second_credits=rates,
    ),
    width=st.integers(1, 4096),
    height=st.integers(1, 4096),
    seconds=st.integers(0, 60),
)
def test_more_is_never_cheaper_and_nothing_is_free(rule: PriceRule, width: int, height: int, seconds: int) -> None:
    def price(w: int, h: int, s: int) -> int:
        quote = rule.quote({"width": w, "height": h, "duration_seconds": s})
        assert sum(line.credits for line in quote.lines) == quote.price_credits
        return quote.price_credits

    small = price(width, height, seconds)
    assert small >= 1
    assert price(width + 16, height, seconds) >= small
    assert price(width, height + 16, seconds) >= small
    assert price(width, height, seconds + 1) >= small


def test_a_fraction_of_a_credit_is_rounded_up_once() -> None:
    rule = PriceRule(base_credits="1/3", per_second_credits="1/3")
    assert rule.quote({"width": 1, "height": 1, "duration_seconds": 2}).price_credits == 1
    assert rule.quote({"width": 1, "height": 1, "duration_seconds": 3}).price_credits == 2


def test_a_larger_resolution_and_more_steps_multiply_the_price() -> None:
    model = CATALOGUE.model("wan-2.2-t2v")
    small = model.complete({"prompt": "x", "steps": 20})
    large = small | {"width": 1280, "height": 720}
    # 1.45 + 27.21 x 0.9216 x 5 = 126.83, two thirds more = 211.39, and half as much again = 317.09.
    assert model.quote(large).price_credits == 212
    assert ("720p", 85) in [(line.label, line.credits) for line in model.quote(large).lines]
    assert model.quote(large | {"steps": 30}).price_credits == 318
    # 1.45 + 3.17 x 0.39936 x 5 = 7.78.
    assert model.quote(small | {"steps": 4}).price_credits == 8


def test_credit_packs_are_sold_for_money_and_larger_ones_give_no_less() -> None:
    packs = load_credit_packs()
    rates_per_cent = [(pack.credits + pack.bonus_credits) / pack.price_cents for pack in packs]
    assert packs
    assert rates_per_cent == sorted(rates_per_cent)


@pytest.mark.parametrize(
    "change",
    [
        {"credits": 2**63 - 1},
        {"credits": MOST_CREDITS, "bonus_credits": 1},
        {"credits": 0},
        {"bonus_credits": -1},
        {"price_cents": 0},
        {"price_cents": 2**31},
        {"currency": "USD"},
        {"currency": "jpy"},
    ],
    ids=str,
)
def test_a_pack_that_could_not_be_paid_or_credited_is_refused(change: dict[str, Any]) -> None:
    pack = load_credit_packs()[0]
    check_credit_packs([pack])
    with pytest.raises(InvalidCreditPacks, match=pack.id):
        check_credit_packs([msgspec.structs.replace(pack, **change)])


def test_billing_moves_any_pack_and_any_price() -> None:
    assert MOST_CREDITS == MAX_AMOUNT_CREDITS
    assert max(row.price_credits for row in margins(CATALOGUE)) <= MOST_CREDITS
