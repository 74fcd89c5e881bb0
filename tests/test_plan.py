"""A selection becomes cells: each once, with its key, status and every reason."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st
from plan_cases import PARTS, SINGLE, SUPERVISED, dataset, encoder, fusion, plan

from mmbench.compatibility import choose_layout, incompatibilities
from mmbench.errors import EmptySelection, UsageError
from mmbench.parts import quality_key
from mmbench.planners import planner_of
from mmbench.selection import split_selector
from mmbench.spec import DatasetInfo, DatasetSpec, EncoderSpec, FusionSpec, Modality, ObjectiveSpec, TaskSpec
from mmbench.staged import write_plan
from mmbench.store import RunStore


def lines(made):
    return [
        f"{row['status']} {row['dataset']} {row['encoders']} {row['fusion']} {row['seed']}"
        for row in (cell.row() for cell in made.cells())
    ]


def test_every_combination_stands_once_beside_its_baselines():
    assert lines(plan(dataset=["pairs"])) == [
        "run pairs  majority 0",
        "run pairs audio:logmel single 0",
        "run pairs image:cnn single 0",
        "run pairs image:mlp single 0",
        "run pairs audio:logmel+image:cnn concat 0",
        "run pairs audio:logmel+image:cnn cross 0",
        "run pairs audio:logmel+image:mlp concat 0",
        "incompatible pairs audio:logmel+image:mlp cross 0",
    ]


def test_every_combo_comes_once_before_second_seeds_and_the_floor_only_once():
    seeds = [line.split()[-1] for line in lines(plan(dataset=["pairs"], seeds="2"))]

    assert seeds == ["0"] * 8 + ["1"] * 7


@given(
    datasets=st.lists(st.sampled_from(["pairs", "alone"]), min_size=1, max_size=2),
    encoders=st.lists(st.sampled_from(["cnn", "cnn[width=8]", "cnn[width=16]", "image=cnn", "*"]), max_size=4),
    fusions=st.lists(st.sampled_from(["single", "concat", "concat[missing=mask]", "cross", "*"]), max_size=4),
    objectives=st.lists(st.sampled_from(["supervised", "other", "*"]), max_size=3),
    seeds=st.integers(1, 3),
)
def test_no_cell_stands_twice_however_often_its_parts_are_named(datasets, encoders, fusions, objectives, seeds):
    parts = (*PARTS, dataset("alone", ("image",)), ObjectiveSpec(name="other", factory="a:b", version="1"))
    made = plan(parts, dataset=datasets, encoder=encoders, fusion=fusions, objective=objectives, seeds=seeds)

    ids = [cell.cell_id for cell in made.cells()]

    assert len(ids) == len(set(ids)) > 0
    assert made.count()["cells"] == len(ids)


def test_a_vector_never_poses_as_a_sequence_and_the_reason_says_so():
    reasons = {cell.reason for cell in plan(dataset=["pairs"]).cells() if cell.status == "incompatible"}

    assert reasons == {"cross needs token sequences (B, T, D), but mlp gives one vector (B, D) for 'image'"}


def test_a_sequence_may_become_a_vector():
    only_sequence = encoder("gru", "audio", layouts=("sequence",))

    assert choose_layout(only_sequence, fusion("concat")) == "sequence"
    assert choose_layout(encoder("cnn", "image"), fusion("concat")) == "vector"
    assert choose_layout(encoder("mlp", "image", layouts=("vector",)), fusion("x", accepts="pyramid")) is None


def test_all_reasons_are_given_not_the_first():
    info = DatasetInfo(
        modalities=(Modality(name="a", kind="text"), Modality(name="b", kind="text"), Modality(name="c", kind="text")),
        tasks=(TaskSpec(name="y", kind="regression", num_outputs=1),),
        missing=("b",),
    )
    pair = fusion("pair", max_modalities=2, task_kinds=("multiclass",), missing=False, level="decision")
    objective = ObjectiveSpec(name="align", factory="a:b", version="1", levels=("feature",))

    assert incompatibilities(info, 3, ["b"], pair, objective) == [
        "pair takes at most 2 modalities, got 3",
        "pair does not serve regression tasks such as 'y'",
        "pair does not take missing modalities, and some samples lack b; fill them, as by pair[missing=mean]",
        "align does not work with decision-level fusion such as pair",
    ]


def test_an_encoder_selector_restricts_its_modality_and_leaves_the_others():
    rows = lines(plan(dataset=["pairs"], encoder=["image=cnn[width=32]"], fusion=["concat"]))

    assert rows[-1] == "run pairs audio:logmel+image:cnn[width=32] concat 0"
    assert not any("mlp" in row for row in rows)


def test_an_encoder_without_a_modality_goes_where_its_kind_is():
    rows = lines(plan(dataset=["pairs"], encoder=["mlp"], fusion=["concat"], baselines=False))

    assert rows == ["run pairs audio:logmel+image:mlp concat 0"]


def test_several_options_of_one_encoder_are_several_encoders():
    rows = lines(plan(dataset=["pairs"], encoder=["image=cnn[width=8]", "image=cnn[width=16]"], fusion=["concat"]))

    assert [row for row in rows if "concat" in row] == [
        "run pairs audio:logmel+image:cnn concat 0",
        "run pairs audio:logmel+image:cnn[width=16] concat 0",
    ]


@pytest.mark.parametrize(
    ("flags", "error", "message"),
    [
        ({"dataset": ["pears"]}, UsageError, r"no dataset is named 'pears'\. Did you mean 'pairs'\?"),
        ({"dataset": ["pairs"], "fusion": ["conkat"]}, UsageError, r"Did you mean 'concat'\?"),
        ({"dataset": ["pairs"], "encoder": ["imgae=cnn"]}, EmptySelection, r"Did you mean 'image'\?"),
        ({"dataset": ["pairs"], "encoder": ["image=logmel"]}, UsageError, "takes audio, not image"),
        ({"dataset": ["pairs"], "encoder": ["image=cnn[widht=3]"]}, UsageError, r"Did you mean 'width'\?"),
        ({"dataset": ["pairs"], "modality": ["smell"]}, EmptySelection, "no selected dataset has it"),
        ({"dataset": ["pairs"], "objective": ["nce"]}, UsageError, "no objective is named 'nce'"),
        ({}, UsageError, "nothing is selected"),
        ({"dataset": ["pairs"], "exclude": ["pairs"]}, EmptySelection, "matches no dataset"),
    ],
)
def test_a_selection_that_cannot_be_meant_is_refused(flags, error, message):
    with pytest.raises(error, match=message):
        plan(**flags)


def test_exclusions_name_parts_or_modality_and_encoder():
    rows = lines(plan(dataset=["pairs"], exclude=["cross", "image=ml*"]))

    assert not any("cross" in row or "mlp" in row for row in rows)


def test_a_modality_that_no_encoder_accepts_is_a_line_with_the_reason():
    parts = [spec for spec in PARTS if not (isinstance(spec, EncoderSpec) and "audio" in spec.kinds)]
    rows = [cell.row() for cell in plan(parts, dataset=["pairs"]).cells()]

    [row] = [row for row in rows if row["encoders"] == "audio:-"]
    assert row["status"] == "incompatible"
    assert row["reason"] == "no encoder of audio is installed: pip install mmbench-audio (for 'audio')"


def test_a_role_without_components_names_the_package_that_brings_it():
    no_dataset = [spec for spec in PARTS if not isinstance(spec, DatasetSpec)]
    no_objective = [spec for spec in PARTS if not isinstance(spec, ObjectiveSpec)]
    other_objective = [*no_objective, ObjectiveSpec(name="nce", factory="a:b", version="1")]
    no_fusion = [spec for spec in PARTS if not isinstance(spec, FusionSpec)]

    for parts, flags, error, message in [
        (no_dataset, {"grid": "all"}, EmptySelection, "no dataset plugin is installed: pip install mmbench-datasets"),
        (
            no_dataset,
            {"dataset": ["pairs"]},
            UsageError,
            "No dataset plugin is installed: pip install mmbench-datasets",
        ),
        (no_objective, {"grid": "all"}, UsageError, "No objective plugin is installed: pip install mmbench-objectives"),
        (
            other_objective,
            {"grid": "all"},
            UsageError,
            "It comes with mmbench-objectives: pip install mmbench-objectives",
        ),
        (no_fusion, {"grid": "all"}, EmptySelection, "no fusion plugin is installed: pip install mmbench-fusion"),
    ]:
        with pytest.raises(error, match=message) as caught:
            list(plan(parts, **flags).cells())
        assert "'mmbench[base]'" in str(caught.value)


def test_what_cannot_be_planned_for_lack_of_a_package_is_a_note():
    parts = [spec for spec in PARTS if spec.name not in ("single", "logmel")]

    notes = plan(parts, dataset=["pairs"]).notes

    assert plan(dataset=["pairs"]).notes == ()
    assert notes[0] == "no encoder of audio is installed: pip install mmbench-audio"
    assert notes[1].startswith("no unimodal baselines are planned")


def test_a_missing_package_makes_cells_unavailable_with_what_to_do():
    parts = [*PARTS, encoder("net", "image", requires=("no_such_package_x",))]
    reasons = {cell.reason for cell in plan(parts, dataset=["pairs"], encoder=["image=net"]).cells() if cell.reason}

    assert "toy/net needs no_such_package_x: pip install no_such_package_x" in reasons


def test_what_is_unavailable_counts_as_asked_for_only_where_the_selection_names_it():
    parts = [*PARTS, encoder("net", "image", requires=("no_such_package_x",))]
    reason = "toy/net needs no_such_package_x: pip install no_such_package_x"

    assert plan(parts, dataset=["pairs"], encoder=["image=net"]).unavailable_by_name() == [reason]
    assert plan(parts, dataset=["pairs"], encoder=["toy/net"]).unavailable_by_name() == [reason]
    assert plan(parts, dataset=["pairs"], encoder=["image=n*"]).unavailable_by_name() == []
    assert plan(parts, dataset=["pairs"]).unavailable_by_name() == []


def test_what_cannot_be_imported_takes_its_own_cells_along():
    made = plan(dataset=["pairs"], encoder=["image=*"])

    rows = [cell.row() for cell in made.without({"toy/cnn": "toy/cnn is broken"}).cells()]

    assert {row["status"] for row in rows if "image:cnn" in row["encoders"]} <= {"unavailable", "incompatible"}
    lost = [row for row in rows if row["status"] == "unavailable"]
    assert lost and all("image:cnn" in row["encoders"] for row in lost)
    assert {row["reason"] for row in lost} == {"toy/cnn is broken"}
    assert [cell.row() for cell in made.cells() if "image:cnn" not in cell.encoders_label] == [
        row for row in rows if "image:cnn" not in row["encoders"]
    ]


def test_adding_a_plugin_changes_no_other_cell():
    before = {cell.cell_id for cell in plan(dataset=["pairs"]).cells()}
    after = {
        cell.cell_id for cell in plan((*PARTS, fusion("new"), encoder("more", "image")), dataset=["pairs"]).cells()
    }

    assert before < after


def test_the_key_is_the_same_from_the_plan_and_from_the_record():
    for cell in plan(dataset=["pairs"], seeds="2").cells():
        if cell.status == "run":
            identity = json.loads(json.dumps(cell.payload()["identity"]))
            assert quality_key(identity)[:16] == cell.cell_id


@given(st.permutations(["dataset", "encoders", "fusion", "objective", "train", "master_seed", "seed"]), st.booleans())
def test_the_key_does_not_depend_on_order(order, swap):
    cell = next(cell for cell in plan(dataset=["pairs"]).cells() if len(cell.encoders) == 2)
    identity = cell.identity()
    encoders = identity["encoders"]
    identity["encoders"] = dict(reversed(encoders.items())) if swap else encoders

    assert quality_key({name: identity[name] for name in order})[:16] == cell.cell_id


@pytest.mark.parametrize(
    "change",
    [{"seeds": "1,"}, {"master_seed": 1}, {"train": {"epochs": 3}}, {"train": {"precision": "bf16"}}],
)
def test_what_decides_a_result_changes_every_key(change):
    before = {cell.cell_id for cell in plan(dataset=["pairs"]).cells()}
    after = {cell.cell_id for cell in plan(dataset=["pairs"], **change).cells()}

    assert not before & after


def test_a_new_version_of_a_part_changes_its_cells_only():
    newer = fusion("concat").__class__(**{**vars(fusion("concat")), "version": "2"})
    parts = [newer if spec.name == "concat" else spec for spec in PARTS]
    before = {cell.cell_id: cell.row()["fusion"] for cell in plan(dataset=["pairs"]).cells()}
    after = {cell.cell_id for cell in plan(parts, dataset=["pairs"]).cells()}

    assert {before[cell_id] for cell_id in set(before) - after} == {"concat"}


def test_labels_show_only_what_differs_from_the_defaults():
    labels = {cell.encoders_label for cell in plan(dataset=["pairs"], encoder=["image=cnn[width=8]"]).cells()}

    assert "image:cnn" in labels


@pytest.mark.parametrize(
    ("selector", "expected"),
    [
        ("image=cnn[width=32]", ("image", "cnn[width=32]")),
        ("cnn[width=32]", ("", "cnn[width=32]")),
        ("timm/resnet18", ("", "timm/resnet18")),
        ("front_camera=timm/local-dir:/a=b[tuning=frozen]", ("front_camera", "timm/local-dir:/a=b[tuning=frozen]")),
    ],
)
def test_a_selector_splits_at_the_modality(selector, expected):
    assert split_selector(selector) == expected


def test_a_fusion_of_one_modality_is_planned_per_modality_not_as_a_product():
    rows = lines(plan(dataset=["pairs"], fusion=["single"]))

    assert rows == [
        "run pairs  majority 0",
        "run pairs audio:logmel single 0",
        "run pairs image:cnn single 0",
        "run pairs image:mlp single 0",
    ]


def test_max_cells_stops_the_plan():
    assert len(lines(plan(dataset=["pairs"], max_cells=3))) == 3


def test_a_hundred_thousand_cells_are_planned():
    parts = (
        SINGLE,
        SUPERVISED,
        dataset("wide", ("image", "audio", "text")),
        *(encoder(f"i{n}", "image") for n in range(20)),
        *(encoder(f"a{n}", "audio") for n in range(10)),
        *(encoder(f"t{n}", "text") for n in range(10)),
        *(fusion(f"f{n}") for n in range(10)),
    )
    made = plan(parts, dataset=["wide"], seeds="5")

    count = sum(1 for _ in made.cells())

    assert count == 5 * (20 * 10 * 10 * 10 + 40) + 1


def test_what_earlier_commands_planned_stays_but_for_what_is_made_otherwise_now(tmp_path):
    def planned(version):
        parts = [part for part in PARTS if part.name != "concat"]
        return plan(
            (*parts, fusion("concat", version=version)), dataset=["pairs"], fusion=["concat"], encoder=["image=cnn"]
        )

    with RunStore.create(tmp_path / "run") as store:
        for made in (plan(dataset=["pairs"], fusion=["cross"]), planned("1"), planned("2")):
            write_plan(store, planner_of(made))
        rows = [(row["fusion"], row["cell_id"]) for row in store.planned()]

    [newest] = [cell.cell_id for cell in planned("2").cells() if cell.role == "cell"]
    assert [cell_id for name, cell_id in rows if name == "concat"] == [newest]
    assert [name for name, _ in rows].count("cross") == 2


def test_planning_and_listing_import_nothing_heavy():
    script = (
        "import sys; from mmbench.registry import load_registry; from mmbench.config import load_config;"
        "from mmbench.plan import make_plan; import mmbench.cli, mmbench.views, mmbench.store, mmbench.runner, mmbench.session;"
        "plan = make_plan(load_config({'grid': 'all'}), load_registry());"
        "assert sum(1 for _ in plan.cells()) > 0;"
        "print(sorted({'torch', 'pandas', 'timm', 'transformers'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120)

    assert done.stdout.strip() == "[]", done.stderr
