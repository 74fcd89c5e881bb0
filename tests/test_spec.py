"""A descriptor that cannot be true is refused with a sentence; one that can is frozen, and plain JSON inside."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmbench.errors import PluginError, SpecError
from mmbench.spec import (
    SPEC_OF_ROLE,
    AssetSpec,
    DatasetInfo,
    DatasetSpec,
    EncoderSpec,
    ExecutorSpec,
    FusionSpec,
    Modality,
    ObjectiveSpec,
    TaskSpec,
    TrackerSpec,
    role_of,
)
from mmbench.spec_values import check_options, to_json

IMAGE = Modality(name="photo", kind="image")
DIGIT = TaskSpec(name="digit", kind="multiclass", num_outputs=10)
CODE = {"factory": "package.module:Class", "version": "1"}

VALID: dict[type, dict[str, Any]] = {
    Modality: {"name": "photo", "kind": "image"},
    TaskSpec: {"name": "digit", "kind": "multiclass", "num_outputs": 3},
    DatasetInfo: {"modalities": (IMAGE,), "tasks": (DIGIT,)},
    AssetSpec: {"name": "model.safetensors"},
    EncoderSpec: {"name": "cnn", "kinds": ("image",), **CODE},
    FusionSpec: {"name": "gated", **CODE},
    ObjectiveSpec: {"name": "joint", **CODE},
    DatasetSpec: {"name": "digits", "modalities": (IMAGE,), "tasks": (DIGIT,), **CODE},
    TrackerSpec: {"name": "curves", **CODE},
    ExecutorSpec: {"name": "cluster", **CODE},
}


def make(spec_type: type, **facts: Any) -> Any:
    return spec_type(**{**VALID[spec_type], **facts})


def refusal(spec_type: type, **facts: Any) -> str:
    with pytest.raises(SpecError) as caught:
        make(spec_type, **facts)
    return str(caught.value)


# What is refused.


@pytest.mark.parametrize(
    ("facts", "message"),
    [
        ({"name": ""}, "'' cannot name a modality: use 1 to 64 letters, digits, '_', '-' or '.'"),
        (
            {"name": "front camera"},
            "'front camera' cannot name a modality: use 1 to 64 letters, digits, '_', '-' or '.'",
        ),
        ({"name": 3}, "3 cannot name a modality: use 1 to 64 letters, digits, '_', '-' or '.'"),
        ({"name": "a" * 65}, f"'{'a' * 65}' cannot name a modality: use 1 to 64 letters, digits, '_', '-' or '.'"),
        (
            {"kind": "images"},
            "modality 'photo': kind must be one of image, audio, text, video, tabular, sequence; got 'images'. "
            "Did you mean 'image'?",
        ),
        (
            {"kind": ["image"]},
            "modality 'photo': kind must be one of image, audio, text, video, tabular, sequence; got ['image'].",
        ),
        ({"facts": 3}, "modality 'photo': facts must be a mapping, got 3"),
        ({"facts": {"rate": float("nan")}}, "modality 'photo': facts must hold JSON values only: "),
    ],
)
def test_a_modality_that_cannot_be_is_refused(facts: dict[str, Any], message: str) -> None:
    assert refusal(Modality, **facts).startswith(message)


@pytest.mark.parametrize(
    ("facts", "message"),
    [
        ({"name": "a+b"}, "'a+b' cannot name a task: use 1 to 64 letters, digits, '_', '-' or '.'"),
        (
            {"kind": "multi-class"},
            "task 'digit': kind must be one of multiclass, multilabel, regression, retrieval; got 'multi-class'. "
            "Did you mean 'multiclass' or 'multilabel'?",
        ),
        ({"num_outputs": 1}, "task 'digit': num_outputs must be a whole number of at least 2, got 1"),
        (
            {"num_outputs": 0, "kind": "regression"},
            "task 'digit': num_outputs must be a whole number of at least 1, got 0",
        ),
        ({"num_outputs": 2.0}, "task 'digit': num_outputs must be a whole number of at least 2, got 2.0"),
        ({"num_outputs": True}, "task 'digit': num_outputs must be a whole number of at least 2, got True"),
        ({"class_names": ("a", "b")}, "task 'digit' has num_outputs=3 but 2 class_names"),
        ({"class_names": "abc"}, "task 'digit': class_names must be a tuple of strings, got 'abc'"),
        ({"class_names": 3}, "task 'digit': class_names must be a tuple of strings, got 3"),
        ({"primary": None}, "task 'digit': primary must be a string, got None"),
        ({"weight": -1.0}, "task 'digit': weight must be finite and not negative, got -1.0"),
        ({"weight": float("inf")}, "task 'digit': weight must be finite and not negative, got inf"),
        ({"weight": "1"}, "task 'digit': weight must be finite and not negative, got '1'"),
    ],
)
def test_a_task_that_cannot_be_is_refused(facts: dict[str, Any], message: str) -> None:
    assert refusal(TaskSpec, **facts) == message


@pytest.mark.parametrize(
    ("facts", "message"),
    [
        ({"modalities": ()}, "modalities must hold at least one Modality"),
        ({"modalities": IMAGE}, f"modalities must be a tuple of Modality, got {IMAGE!r}"),
        ({"modalities": (IMAGE, IMAGE)}, "modalities names photo twice"),
        ({"tasks": []}, "tasks must hold at least one TaskSpec"),
        ({"tasks": ["digit"]}, "tasks must be a tuple of TaskSpec, got ['digit']"),
        ({"missing": ("sound", "audio")}, "missing names modalities that are not there: audio, sound"),
        ({"missing": 3}, "missing must be a tuple of strings, got 3"),
        ({"fingerprint": None}, "fingerprint must be a string, got None"),
    ],
)
def test_a_datasets_facts_that_cannot_be_are_refused(facts: dict[str, Any], message: str) -> None:
    assert refusal(DatasetInfo, **facts) == message


@pytest.mark.parametrize(
    ("facts", "message"),
    [
        ({"name": " "}, "asset: name must say which file or repository to look for, got ' '"),
        ({"url": None}, "asset 'model.safetensors': url must be a string, got None"),
        ({"sha256": "ABC"}, "asset 'model.safetensors': sha256 must be 64 lower-case hex digits, got 'ABC'"),
        ({"size_bytes": 1.5}, "asset 'model.safetensors': size_bytes must be a whole number of at least 0, got 1.5"),
    ],
)
def test_weights_that_cannot_be_are_refused(facts: dict[str, Any], message: str) -> None:
    assert refusal(AssetSpec, **facts) == message


@pytest.mark.parametrize("role", ["encoder", "fusion", "objective", "dataset"])
@pytest.mark.parametrize(
    ("facts", "message"),
    [
        (
            {"name": "Gated"},
            "'Gated' cannot name {role}: use 1 to 64 of a-z, 0-9, '.', '_', '-', starting with a letter or digit",
        ),
        (
            {"name": "a/b"},
            "'a/b' cannot name {role}: use 1 to 64 of a-z, 0-9, '.', '_', '-', starting with a letter or digit",
        ),
        (
            {"name": "a:b"},
            "'a:b' cannot name {role}: use 1 to 64 of a-z, 0-9, '.', '_', '-', starting with a letter or digit",
        ),
        (
            {"name": None},
            "None cannot name {role}: use 1 to 64 of a-z, 0-9, '.', '_', '-', starting with a letter or digit",
        ),
        ({"factory": "module.Class"}, "{role} 'x': factory must read 'package.module:attribute', got 'module.Class'"),
        ({"factory": "a..b:C"}, "{role} 'x': factory must read 'package.module:attribute', got 'a..b:C'"),
        ({"factory": len}, "{role} 'x': factory must read 'package.module:attribute', got <built-in function len>"),
        ({"version": 1}, "{role} 'x': version must be a non-empty string, bumped when results would change"),
        ({"version": ""}, "{role} 'x': version must be a non-empty string, bumped when results would change"),
        ({"summary": None}, "{role} 'x': summary must be a string, got None"),
        ({"paper": 2017}, "{role} 'x': paper must be a string, got 2017"),
        ({"licence": ["MIT"]}, "{role} 'x': licence must be a string, got ['MIT']"),
        ({"in_all": "no"}, "{role} 'x': in_all must be True or False, got 'no'"),
        ({"defaults": [1]}, "{role} 'x': defaults must be a mapping, got [1]"),
        (
            {"defaults": {"act": len}},
            "{role} 'x': defaults must hold JSON values only: Object of type builtin_function_or_method is not JSON serializable",
        ),
        (
            {"defaults": {"lr": float("inf")}},
            "{role} 'x': defaults must hold JSON values only: Out of range float values are not JSON compliant",
        ),
        ({"requires": (1,)}, "{role} 'x': requires must be a tuple of strings, got (1,)"),
        (
            {"requires": ("scikit-learn",)},
            "{role} 'x': requires must hold names to import, as 'sklearn', got 'scikit-learn'",
        ),
        ({"requires": ("timm", "timm")}, "{role} 'x': requires names timm twice"),
    ],
)
def test_what_every_descriptor_states_is_checked(role: Any, facts: dict[str, Any], message: str) -> None:
    assert refusal(SPEC_OF_ROLE[role], **{"name": "x", **facts}).startswith(message.format(role=role))


@pytest.mark.parametrize(
    ("role", "option"),
    [
        *(("encoder", option) for option in ("modality", "layout", "target", "tuning")),
        *((role, option) for role in ("fusion", "objective") for option in ("dims", "tasks")),
        ("fusion", "missing"),
        *(("dataset", option) for option in ("root", "target")),
    ],
)
def test_options_that_mmbench_itself_gives_are_reserved(role: Any, option: str) -> None:
    assert refusal(SPEC_OF_ROLE[role], name="x", defaults={option: 1}) == (
        f"{role} 'x': defaults must not hold {option!r}, which mmbench itself gives"
    )


@pytest.mark.parametrize(
    ("facts", "message"),
    [
        ({"kinds": ()}, "encoder 'cnn': kinds must name at least one of image, audio, text, video, tabular, sequence"),
        (
            {"kinds": ("image", "sound")},
            "encoder 'cnn': kinds must be one of image, audio, text, video, tabular, sequence; got 'sound'.",
        ),
        ({"kinds": ("image", "image")}, "encoder 'cnn': kinds names image twice"),
        ({"kinds": None}, "encoder 'cnn': kinds must be a tuple of strings, got None"),
        (
            {"layouts": ("vectors",)},
            "encoder 'cnn': layouts must be one of vector, sequence, pyramid; got 'vectors'. Did you mean 'vector'?",
        ),
        (
            {"tunings": ("freeze",)},
            "encoder 'cnn': tunings must be one of scratch, frozen, finetune, adapter; got 'freeze'. Did you mean 'frozen'?",
        ),
        ({"target": "maybe"}, "encoder 'cnn': target must be one of none, optional, required; got 'maybe'."),
        ({"wraps": 1}, "encoder 'cnn': wraps must be True or False, got 1"),
        (
            {"wraps": True, "target": "required"},
            "encoder 'cnn' wraps another encoder, so it needs target='required' and describe",
        ),
        ({"weights": ("model.bin",)}, "encoder 'cnn': weights must be a tuple of AssetSpec, got ('model.bin',)"),
    ],
)
def test_an_encoder_that_cannot_be_is_refused(facts: dict[str, Any], message: str) -> None:
    assert refusal(EncoderSpec, **facts) == message


@pytest.mark.parametrize(
    ("facts", "message"),
    [
        (
            {"accepts": ("vector",)},
            "fusion 'gated': accepts must be one of vector, sequence, pyramid; got ('vector',). Did you mean 'vector'?",
        ),
        ({"level": "late"}, "fusion 'gated': level must be one of feature, decision; got 'late'."),
        ({"min_modalities": 0}, "fusion 'gated': min_modalities must be a whole number of at least 1, got 0"),
        (
            {"min_modalities": 3, "max_modalities": 2},
            "fusion 'gated': max_modalities must be a whole number of at least 3, got 2",
        ),
        (
            {"task_kinds": ()},
            "fusion 'gated': task_kinds must name at least one of multiclass, multilabel, regression, retrieval",
        ),
        ({"missing": "yes"}, "fusion 'gated': missing must be True or False, got 'yes'"),
        ({"cannot_solve": {"xor": ""}}, "fusion 'gated': cannot_solve must give the reason for 'xor', got ''"),
        ({"cannot_solve": ("xor",)}, "fusion 'gated': cannot_solve must be a mapping, got ('xor',)"),
        (
            {"solves": ("xor",), "cannot_solve": {"xor": "it is a sum"}},
            "fusion 'gated': 'xor' stands both in solves and in cannot_solve",
        ),
    ],
)
def test_a_fusion_that_cannot_be_is_refused(facts: dict[str, Any], message: str) -> None:
    assert refusal(FusionSpec, **facts) == message


@pytest.mark.parametrize(
    ("facts", "message"),
    [
        ({"min_modalities": "2"}, "objective 'joint': min_modalities must be a whole number of at least 1, got '2'"),
        ({"max_modalities": 0}, "objective 'joint': max_modalities must be a whole number of at least 1, got 0"),
        (
            {"levels": ("decison",)},
            "objective 'joint': levels must be one of feature, decision; got 'decison'. Did you mean 'decision'?",
        ),
    ],
)
def test_an_objective_that_cannot_be_is_refused(facts: dict[str, Any], message: str) -> None:
    assert refusal(ObjectiveSpec, **facts) == message


@pytest.mark.parametrize(
    ("facts", "message"),
    [
        ({"modalities": ()}, "dataset 'digits': modalities must hold at least one Modality (or give `describe`)"),
        (
            {"missing": ("audio",)},
            "dataset 'digits': missing names modalities that are not there: audio (or give `describe`)",
        ),
        ({"describe": "describe"}, "dataset 'digits': describe must read 'package.module:attribute', got 'describe'"),
        (
            {"describe": "a:b", "modalities": "photo"},
            "dataset 'digits': modalities must be a tuple of Modality, got 'photo'",
        ),
        ({"target": True}, "dataset 'digits': target must be one of none, optional, required; got True."),
        ({"open_options": 1}, "dataset 'digits': open_options must be True or False, got 1"),
        (
            {"ceilings": {"b+a": 1.0}},
            "dataset 'digits': ceilings must name modalities sorted and joined by '+', got 'b+a'",
        ),
        ({"ceilings": {"a": "high"}}, "dataset 'digits': the ceiling of 'a' must be a number, got 'high'"),
        ({"train": {"hook": print}}, "dataset 'digits': train must hold JSON values only: "),
        ({"cell_time_s": 0}, "dataset 'digits': cell_time_s must be a positive number of seconds, got 0"),
    ],
)
def test_a_dataset_that_cannot_be_is_refused(facts: dict[str, Any], message: str) -> None:
    assert refusal(DatasetSpec, **facts).startswith(message)


WEIRD = [
    None,
    True,
    0,
    -1,
    3.5,
    float("nan"),
    "",
    "x",
    b"x",
    [],
    {},
    {"a": object()},
    ["x", "x"],
    [1],
    {"a"},
    [[]],
    object(),
]


@pytest.mark.parametrize("spec_type", VALID, ids=lambda spec_type: spec_type.__name__)
def test_no_value_of_no_field_gives_anything_but_a_descriptor_or_a_spec_error(spec_type: type) -> None:
    for item in dataclasses.fields(spec_type):
        for value in WEIRD:
            try:
                made = make(spec_type, **{item.name: value})
            except SpecError:
                continue
            json.dumps(to_json(made), allow_nan=False)


def test_a_spec_error_is_a_plugins_fault_and_a_value_error() -> None:
    assert issubclass(SpecError, PluginError)
    assert issubclass(SpecError, ValueError)
    assert SpecError.exit_code == 4


# What is accepted.


@pytest.mark.parametrize("spec_type", VALID, ids=lambda spec_type: spec_type.__name__)
def test_descriptors_are_frozen_and_keyword_only(spec_type: type) -> None:
    made = make(spec_type)
    first = dataclasses.fields(spec_type)[0].name

    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(made, first, "other")
    with pytest.raises(TypeError):
        spec_type("positional")


def test_a_single_word_stands_for_a_tuple_of_one() -> None:
    assert make(EncoderSpec, kinds="image", requires="timm").kinds == ("image",)


def test_names_of_modalities_and_tasks_may_be_in_any_script() -> None:
    assert Modality(name="κάμερα_1", kind="image").name == "κάμερα_1"


def test_options_are_a_copy_that_nobody_can_change() -> None:
    given = {"sizes": [3, 5], "width": 32}
    spec = make(EncoderSpec, defaults=given)
    given["sizes"].append(7)

    assert dict(spec.defaults) == {"sizes": [3, 5], "width": 32}
    with pytest.raises(TypeError):
        spec.defaults["width"] = 64


def test_tuples_in_options_become_lists_as_in_any_json_file() -> None:
    assert make(FusionSpec, defaults={"sizes": (3, 5)}).defaults["sizes"] == [3, 5]


def test_an_option_that_must_be_given_has_a_place_among_the_defaults() -> None:
    assert make(ObjectiveSpec, defaults={"teacher": ""}, must_give=("teacher",)).must_give == ("teacher",)
    with pytest.raises(SpecError, match="must_give names 'teacher', which defaults do not hold"):
        make(ObjectiveSpec, must_give=("teacher",))


def test_every_descriptor_has_a_role_and_nothing_else_has() -> None:
    roles = {role_of(make(spec_type)) for spec_type in SPEC_OF_ROLE.values()}

    assert roles == {"encoder", "fusion", "objective", "dataset", "tracker", "executor"}
    with pytest.raises(SpecError, match="Modality is not a descriptor of mmbench"):
        role_of(IMAGE)  # type: ignore[arg-type]


def test_a_descriptor_becomes_plain_json() -> None:
    assert to_json(make(TaskSpec, class_names=("a", "b", "c"))) == {
        "name": "digit",
        "kind": "multiclass",
        "num_outputs": 3,
        "class_names": ["a", "b", "c"],
        "primary": "",
        "weight": 1.0,
    }


# Options.

DEFAULTS = {"width": 32, "lr": 0.1, "norm": "batch", "bias": True, "sizes": [3], "extra": {"a": 1}, "any": None}


@pytest.mark.parametrize(
    ("given_options", "changed"),
    [
        ({}, {}),
        ({"width": 64}, {"width": 64}),
        ({"lr": 1}, {"lr": 1.0}),
        ({"norm": 3}, {"norm": "3"}),
        ({"norm": True}, {"norm": "true"}),
        ({"sizes": (1, 2)}, {"sizes": (1, 2)}),
        ({"extra": {"b": 2}}, {"extra": {"b": 2}}),
        ({"any": "thing"}, {"any": "thing"}),
        ({"any": [1]}, {"any": [1]}),
    ],
)
def test_options_are_merged_into_their_defaults(given_options: dict[str, Any], changed: dict[str, Any]) -> None:
    merged = check_options("encoder 'cnn'", given_options, DEFAULTS)

    assert merged == {**DEFAULTS, **changed}
    assert all(type(merged[key]) is type(value) for key, value in changed.items())


@pytest.mark.parametrize(
    ("given_options", "message"),
    [
        (
            {"widht": 3},
            "encoder 'cnn' has no option 'widht'; it has any, bias, extra, lr, norm, sizes, width. Did you mean 'width'?",
        ),
        ({"width": 3.0}, "encoder 'cnn': option 'width' takes a whole number such as 32, got 3.0"),
        ({"width": True}, "encoder 'cnn': option 'width' takes a whole number such as 32, got True"),
        ({"lr": "fast"}, "encoder 'cnn': option 'lr' takes a number such as 0.1, got 'fast'"),
        ({"lr": float("nan")}, "encoder 'cnn': option 'lr' must be finite, got nan"),
        ({"norm": ["batch"]}, "encoder 'cnn': option 'norm' takes text such as \"batch\", got ['batch']"),
        ({"bias": 1}, "encoder 'cnn': option 'bias' takes true or false such as true, got 1"),
        ({"sizes": 3}, "encoder 'cnn': option 'sizes' takes a list such as [3], got 3"),
        ({"extra": 3}, "encoder 'cnn': option 'extra' takes a table such as {\"a\": 1}, got 3"),
    ],
)
def test_an_option_that_does_not_fit_is_refused(given_options: dict[str, Any], message: str) -> None:
    with pytest.raises(SpecError) as caught:
        check_options("encoder 'cnn'", given_options, DEFAULTS)

    assert str(caught.value) == message


def test_open_options_let_unknown_ones_through() -> None:
    assert check_options("dataset 'm'", {"image": "photo"}, {"label": ""}, open_options=True) == {
        "label": "",
        "image": "photo",
    }


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.text().filter(lambda key: key not in ("dims", "tasks", "missing")), JSON, max_size=4))
def test_any_json_can_be_a_default_and_is_kept_as_it_was(defaults: dict[str, Any]) -> None:
    spec = make(FusionSpec, defaults=defaults)

    assert dict(spec.defaults) == defaults
    assert to_json(spec)["defaults"] == json.loads(json.dumps(defaults))
