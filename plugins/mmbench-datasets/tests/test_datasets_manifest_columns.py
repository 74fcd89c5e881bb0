"""What a manifest's columns are taken for: modalities, tables, labels, and what options change."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from manifest_cases import column, media, opened, refuse, table, texts, understood, write
from mmbench_datasets.manifest import describe

from mmbench.data import SPLITS

pytestmark = pytest.mark.usefixtures("own_cache")


def test_a_manifest_of_texts_needs_no_options(tmp_path):
    info = describe(texts(tmp_path))

    assert [(modality.name, modality.kind) for modality in info.modalities] == [("text", "text")]
    assert [(task.name, task.kind, task.class_names) for task in info.tasks] == [
        ("label", "multiclass", ("cat", "dog"))
    ]
    assert info.missing == ()
    assert len(info.fingerprint) == 64


def test_the_word_null_is_text_and_an_empty_cell_is_missing(tmp_path):
    target = texts(
        tmp_path, row0="s0,train,cat,null", row1="s1,train,dog,NaN", row2="s2,train,cat,", row3="s3,train,dog,NA"
    )

    assert describe(target).missing == ("text",)
    values = column(target, "text")
    assert [values[name] for name in ("s0", "s1", "s2", "s3")] == ["null", "NaN", None, "NA"]


def test_a_byte_order_mark_and_quoted_line_breaks_are_no_trouble(tmp_path):
    target = texts(tmp_path, row0='s0,train,cat,"one, two\nthree"')
    Path(target).write_bytes(b"\xef\xbb\xbf" + Path(target).read_bytes())

    assert column(target, "text")["s0"] == "one, two\nthree"


def test_a_tsv_file_is_read_by_tabs(tmp_path):
    path = texts(tmp_path)
    target = write(tmp_path, Path(path).read_text().replace(",", "\t"), "data.tsv")

    assert column(target, "text")["s7"] == "a text 7"


def test_without_a_column_of_ids_rows_are_counted(tmp_path):
    target = table(tmp_path, "label,text", [f"{'ab'[row % 2]},some text {row}" for row in range(20)])

    assert min(column(target, "text")) == "row-000001"


def test_media_are_inferred_by_the_endings_of_their_paths(tmp_path):
    info = describe(media(tmp_path))

    assert {modality.name: modality.kind for modality in info.modalities} == {"photo": "image", "sound": "audio"}
    assert info.missing == ("photo", "sound")


def test_options_name_modalities_and_join_columns_into_tables(tmp_path):
    info = describe(media(tmp_path), picture="photo", meta="age+colour")

    assert {modality.name: modality.kind for modality in info.modalities} == {"meta": "tabular", "picture": "image"}
    assert info.modalities[0].facts == {"num_features": 3}


def test_a_table_holds_numbers_and_one_output_per_category(tmp_path):
    values = column(media(tmp_path), "meta", meta="age+colour")

    np.testing.assert_array_equal(values["s0"], np.array([20, 1, 0], dtype=np.float32))  # blue
    np.testing.assert_array_equal(values["s4"], np.array([24, 0, 1], dtype=np.float32))  # red
    np.testing.assert_array_equal(values["s2"], np.array([np.nan, 0, 1], dtype=np.float32))  # age not known


def test_a_category_that_training_never_saw_is_all_zero(tmp_path):
    target = media(tmp_path)
    Path(target).write_text(Path(target).read_text().replace("a7.wav,27,red", "a7.wav,27,green"))

    np.testing.assert_array_equal(column(target, "meta", meta="colour:tabular")["s7"], np.zeros(2, dtype=np.float32))


def test_a_table_is_missing_only_where_all_its_cells_are_empty(tmp_path):
    target = media(tmp_path)

    assert describe(target, meta="age").missing == ("meta",)
    assert describe(target, meta="age+colour").missing == ()
    assert column(target, "meta", meta="age")["s2"] is None


def test_numbers_are_a_table_unless_text_is_forced(tmp_path):
    target = media(tmp_path)

    assert [modality.kind for modality in describe(target, years="age").modalities] == ["tabular"]
    assert [modality.kind for modality in describe(target, years="age:text").modalities] == ["text"]
    assert column(target, "years", years="age:text")["s3"] == "23"


def test_numbers_and_categories_are_taken_only_when_asked_for(tmp_path):
    assert "age" not in [modality.name for modality in describe(media(tmp_path)).modalities]


def test_constant_and_id_like_columns_are_not_inferred(tmp_path):
    rows = [f"{'ab'[row % 2]},some words {row},same for all,x{row:03}" for row in range(20)]
    target = table(tmp_path, "label,note,source,key", rows)

    assert [modality.name for modality in describe(target).modalities] == ["note"]


@pytest.mark.parametrize(
    ("cells", "kind", "names"),
    [
        (["b", "a"], "multiclass", ("a", "b")),
        (["10", "9"], "multiclass", ("9", "10")),
        (["1.0", "0.0"], "multiclass", ("0.0", "1.0")),
        (["x;y", "y"], "multilabel", ("x", "y")),
        (["x|z", "y"], "multilabel", ("x", "y", "z")),
        (["0.5", "2"], "regression", ()),
        (["-1e-3", "2"], "regression", ()),
    ],
)
def test_the_kind_of_task_follows_from_the_labels(tmp_path, cells, kind, names):
    target = table(tmp_path, "label,text", [f"{cells[row % 2]},some text {row}" for row in range(20)])

    task = describe(target).tasks[0]
    assert (task.kind, task.class_names) == (kind, names)


def test_many_different_whole_numbers_are_values_and_not_classes(tmp_path):
    target = table(tmp_path, "label,text", [f"{row},some text {row}" for row in range(60)])

    assert describe(target).tasks[0].kind == "regression"


def test_several_labels_give_several_tasks_and_a_kind_can_be_forced(tmp_path):
    rows = [f"{'ab'[row % 2]},{row % 5},{('x', 'x;y', '')[row % 3]},some text {row}" for row in range(30)]
    target = table(tmp_path, "kind,stars,tags,text", rows)

    info = describe(target, label="kind+stars:regression+tags:multilabel")
    assert [(task.name, task.kind, task.num_outputs) for task in info.tasks] == [
        ("kind", "multiclass", 2), ("stars", "regression", 1), ("tags", "multilabel", 2),
    ]  # fmt: skip
    splits = opened(target, label="kind+stars:regression+tags:multilabel")
    targets = {sample.sample_id: sample.targets for split in SPLITS for sample in splits[split]}
    assert targets["row-000002"] == {"kind": 1, "stars": 1.0, "tags": (1, 1)}
    assert targets["row-000003"]["tags"] == (0, 0)


def test_parquet_gives_the_same_as_csv(tmp_path):
    pyarrow = pytest.importorskip("pyarrow", reason="pyarrow is not installed: pip install 'mmbench-datasets[parquet]'")
    parquet = pytest.importorskip("pyarrow.parquet", reason="this pyarrow was built without Parquet")
    csv_target = texts(tmp_path)
    rows = [line.split(",") for line in Path(csv_target).read_text().splitlines()]
    columns = {name: list(cells) for name, cells in zip(rows[0], zip(*rows[1:], strict=True), strict=True)}
    columns["text"][3] = None
    columns["size"] = [1.5, float("nan"), *range(10)]
    parquet.write_table(pyarrow.table(columns), tmp_path / "data.parquet")

    values = column(str(tmp_path / "data.parquet"), "text")
    assert values["s0"] == "a text 0"
    assert values["s3"] is None
    assert describe(str(tmp_path / "data.parquet"), size="size").missing == ("size",)


def test_a_column_gives_samples_their_weights_and_is_no_modality(tmp_path):
    lines = [f"s{row},{'ab'[row % 2]},{row / 10},{row % 7},text {row}" for row in range(40)]
    target = table(tmp_path, "id,label,w,x,text", lines)

    splits = opened(target, sample_weight="w")

    assert {sample.sample_id: sample.weight for sample in splits["train"]} == {
        sample.sample_id: int(sample.sample_id[1:]) / 10 for sample in splits["train"]
    }
    assert {sample.weight for sample in opened(target)["train"]} == {1.0}
    read = {column for source in understood(target, sample_weight="w").sources for column in source.columns}
    assert "w" not in read


def test_a_weight_that_is_no_number_or_negative_names_its_row(tmp_path):
    lines = [f"s{row},{'ab'[row % 2]},{'-1' if row == 3 else 'x' if row == 5 else 1},text {row}" for row in range(40)]

    message = refuse(table(tmp_path, "id,label,w,text", lines), sample_weight="w")

    assert "line 5: the sample weight (column 'w') is '-1'; write a number of at least 0" in message
    assert "line 7: the sample weight (column 'w') is 'x'" in message
