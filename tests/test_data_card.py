"""The data card: what was read of a dataset, with the right numbers, before anybody believes a score."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mmbench.cache import ArrayCache
from mmbench.cli_options import registry_of
from mmbench.config import cache_dir, data_dir, load_config
from mmbench.data_card import DataCard, card_lines, keep_card
from mmbench.data_versions import card_key
from mmbench.errors import DataError, UsageError
from mmbench.plan import local_runtime, make_plan
from mmbench.report.assembly import assemble
from mmbench.report.html import render_html
from mmbench.report.markdown import render_markdown
from mmbench.run_cards import card_of, plan_cards, read_cards, write_cards
from mmbench.show_session import show_json

OPTIONS = "[image=photo,text=caption,n=weight+camera,label=species]"


@pytest.fixture
def table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """60 rows in a given split: 36 train, 12 val, 12 test; three classes; every tenth row lacks its photo."""
    monkeypatch.setenv("MMBENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("MMBENCH_DATA", str(tmp_path / "data"))
    rng = np.random.default_rng(0)
    lines = ["photo,caption,weight,camera,note,split,species"]
    for row in range(60):
        size = (96, 128) if row % 3 else (64, 200)
        Image.fromarray(rng.integers(0, 255, (*size, 3), dtype=np.uint8)).save(tmp_path / f"{row}.png")
        split = ("train", "train", "train", "val", "test")[row % 5]
        photo = "" if row % 10 == 9 else f"{row}.png"
        lines.append(f"{photo},caption {row // 2} of a row,{row / 2},trap,x,{split},{('owl', 'fox', 'hen')[row % 3]}")
    for row in (34, 44):  # two photos of test that stand in train, too
        (tmp_path / f"{row}.png").write_bytes((tmp_path / "1.png").read_bytes())
    path = tmp_path / "data.csv"
    path.write_text("\n".join(lines) + "\n")
    return path


def shown(reference: str, *, as_croissant: bool = False) -> dict:
    return show_json(registry_of(None), reference, as_croissant=as_croissant)


def test_a_card_counts_samples_classes_and_what_is_missing(table: Path) -> None:
    card = shown(f"{table}{OPTIONS}")

    assert card["num_samples"] == {"train": 36, "val": 12, "test": 12}
    (task,) = card["tasks"]
    assert (task["name"], task["kind"], task["num_outputs"]) == ("species", "multiclass", 3)
    assert task["counts"]["train"] == {"fox": 12, "hen": 12, "owl": 12}
    assert task["counts"]["test"] == {"fox": 4, "hen": 4, "owl": 4}
    image = next(item for item in card["modalities"] if item["name"] == "image")
    assert {split: (found["present"], found["missing"]) for split, found in image["splits"].items()} == {
        "train": (36, 0),
        "val": (12, 0),
        "test": (6, 6),
    }


def test_a_card_says_sizes_and_what_encoders_make_of_them(table: Path) -> None:
    card = DataCard.from_json(shown(f"{table}{OPTIONS}"))

    image = next(item for item in card.modalities if item.name == "image")
    assert image.facts["size"] == [96, 128]
    assert image.splits["train"].amounts["width"] == (128, 128, 128, 200, 200)
    (reading,) = image.readings
    assert reading.startswith("images 'image' of 128 px (median) are read at 32 px by cnn, mlp")
    assert reading.endswith("'image=cnn[max_side=128]'")
    lines = card_lines(card)
    assert "  image (image): 54 of 60 samples have it, 128 px (128 to 200)" in lines
    assert any(line.startswith("  ignored: 'note'") for line in lines)
    assert any("column 'camera' of 'n' is 'trap' in every row" in line for line in lines)


def test_a_card_counts_inputs_of_test_that_stand_in_train(table: Path) -> None:
    card = DataCard.from_json(shown(f"{table}{OPTIONS}"))

    image = next(item for item in card.modalities if item.name == "image")
    assert image.repeated == {"train": 2, "val": 0}
    assert "warning: inputs 'image' of test stand in other splits, too: 2 in train" in card_lines(card)


def test_a_card_counts_samples_of_equal_inputs_and_other_labels(table: Path) -> None:
    card = shown(f"{table}[text=caption,label=species]")  # each caption stands in two rows of two classes

    assert card["num_conflicting"] == 60
    assert shown(f"{table}{OPTIONS}")["num_conflicting"] == 0


def test_a_card_of_a_regression_has_percentiles(table: Path) -> None:
    (task,) = shown(f"{table}[text=caption,label=weight]")["tasks"]

    weights = [row / 2 for row in range(60) if row % 5 < 3]
    assert task["percentiles"]["train"] == pytest.approx(np.percentile(weights, (0, 5, 50, 95, 100)).tolist())


def test_sounds_beyond_what_encoders_read_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import soundfile

    monkeypatch.setenv("MMBENCH_CACHE", str(tmp_path / "cache"))
    lines = ["sound,label"]
    for row in range(20):
        soundfile.write(tmp_path / f"{row}.wav", np.zeros(44_100 * 12), 44_100, subtype="PCM_U8")
        lines.append(f"{row}.wav,{'ab'[row % 2]}")
    (tmp_path / "s.csv").write_text("\n".join(lines))

    (sound,) = shown(f"{tmp_path / 's.csv'}[sound=sound]")["modalities"]
    assert sound["splits"]["train"]["amounts"]["seconds"] == (12, 12, 12, 12, 12)
    assert sound["facts"] == {"rate": 44_100}
    assert any("of 44,100 Hz are read at 16,000 Hz by" in reading for reading in sound["readings"])


def test_sets_that_come_with_mmbench_have_cards_too(table: Path) -> None:
    entries = shown("xor")
    assert entries[0]["name"] == "xor"

    card = plan_cards(planned(["xor"]), cached_only=True)
    assert card == {}  # nothing is opened for a plan


def planned(datasets: list[str], **flags: object):
    config = load_config({"dataset": datasets, **flags})
    runtime = local_runtime(config, cache=cache_dir(), data=data_dir(), jobs=1)
    return make_plan(config, registry_of(None), runtime=runtime)


def test_a_plan_has_the_cards_of_ones_own_data_with_the_chosen_encoders(table: Path) -> None:
    (card,) = plan_cards(planned([f"{table}{OPTIONS}"], encoder=["image=mlp[max_side=64]"])).values()

    image = next(item for item in card.modalities if item.name == "image")
    assert image.readings == (
        "images 'image' of 128 px (median) are read at 64 px by mlp; to read more: 'image=mlp[max_side=128]'",
    )


def test_broken_pictures_inside_a_table_stop_the_plan_with_their_rows(tmp_path: Path, table: Path) -> None:
    pa = pytest.importorskip("pyarrow", reason="pyarrow is not installed: pip install 'mmbench-datasets[parquet]'")
    from pyarrow import parquet

    picture = (tmp_path / "1.png").read_bytes()
    cells = [picture if row % 9 else picture[:200] for row in range(30)]
    parquet.write_table(
        pa.table({"photo": cells, "label": ["ab"[row % 2] for row in range(30)]}), tmp_path / "p.parquet"
    )

    with pytest.raises(DataError) as caught:
        plan_cards(planned([f"{tmp_path / 'p.parquet'}[photo=photo]"]))
    assert "row 1" in str(caught.value)
    assert "0x" not in str(caught.value)


def test_cards_are_kept_with_a_run_and_shown_in_its_report(tmp_path: Path, table: Path) -> None:
    cards = plan_cards(planned([f"{table}{OPTIONS}"]))

    write_cards(tmp_path, cards)
    kept = read_cards(tmp_path)
    assert [replace(card, notes=()) for card in kept] == [replace(card, notes=()) for card in cards.values()]
    assert len(kept[0].notes) == len(cards["data"].notes)
    report = assemble("run", [], {}, cards=kept)
    text = render_markdown(report)
    assert "## Data" in text
    assert "image (image): 54 of 60 samples have it, 128 px (128 to 200)" in text
    assert "54 of 60 samples have it" in render_html(report)


def test_reports_and_kept_cards_name_no_absolute_path(tmp_path: Path, table: Path) -> None:
    cards = plan_cards(planned([f"{table}[label=species,meta=weight]"]))
    assert any(str(table) in note for note in cards["data"].notes)

    (tmp_path / "run").mkdir()
    write_cards(tmp_path / "run", cards)
    report = assemble("run", [], {}, cards=tuple(cards.values()))

    for text in (render_markdown(report), render_html(report), (tmp_path / "run/data_cards.json").read_text()):
        assert str(tmp_path) not in text
        assert f"…/{table.parent.name}/data.csv" in text.replace("\\u2026", "…").replace("\\_", "_")


def test_damaged_cards_of_a_run_are_left_out(tmp_path: Path) -> None:
    for content in ("", "{", "[{}]", '[{"tasks": []}]', "null", "7"):
        (tmp_path / "data_cards.json").write_text(content)

        assert read_cards(tmp_path) == ()


def test_croissant_metadata_names_the_file_its_hash_and_the_columns(table: Path) -> None:
    found = shown(f"{table}{OPTIONS}", as_croissant=True)

    assert found["conformsTo"] == "http://mlcommons.org/croissant/1.0"
    assert found["@type"] == "sc:Dataset"
    assert found["@context"]["@vocab"] == "https://schema.org/"
    (file,) = found["distribution"]
    import hashlib

    assert file["sha256"] == hashlib.sha256(table.read_bytes()).hexdigest()
    assert (file["contentUrl"], file["encodingFormat"]) == ("data.csv", "text/csv")
    splits, samples = found["recordSet"]
    assert (splits["dataType"], splits["data"]) == (
        "cr:Split",
        [{"splits/name": "train"}, {"splits/name": "val"}, {"splits/name": "test"}],
    )
    columns = {field["source"]["extract"]["column"]: field["dataType"] for field in samples["field"]}
    assert columns == {
        "split": "sc:Text", "photo": "sc:Text", "caption": "sc:Text", "weight": "sc:Float", "camera": "sc:Float",
        "species": "sc:Text",
    }  # fmt: skip
    assert all(field["source"]["fileObject"] == {"@id": "data.csv"} for field in samples["field"])


def test_what_is_no_dataset_has_no_croissant_metadata() -> None:
    with pytest.raises(UsageError, match="no dataset that can be read here"):
        shown("concat", as_croissant=True)


def test_showing_and_planning_data_imports_no_torch(table: Path) -> None:
    code = (
        "import sys; from mmbench.cli import main\n"
        "try:\n    main()\nfinally:\n    assert not {'torch', 'pandas', 'transformers'} & set(sys.modules)"
    )
    command = [sys.executable, "-c", code, "show", f"{table}{OPTIONS}", "--json"]

    done = subprocess.run(command, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()
    assert json.loads(done.stdout)["num_samples"]["train"] == 36


def test_recommended_options_are_the_whole_reference_with_those_already_given(table: Path) -> None:
    text = table.read_text().replace("owl", "Käuze")
    table.write_bytes(text.encode("cp1252"))

    with pytest.raises(DataError) as unreadable:
        shown(f"{table}[name=birds]")
    with pytest.raises(DataError) as unlabeled:
        shown(f"manifest:{table}[name=birds,encoding=cp1252]")
    notes = shown(f"{table}[encoding=cp1252,label=species,meta=weight]")["notes"]

    assert str(unreadable.value).endswith(f"-d '{table}[name=birds,encoding=cp1252]'")
    assert f"-d '{table}[encoding=cp1252,name=birds,label=" in str(unlabeled.value)
    assert any(
        f"-d '{table}[encoding=cp1252,label=species,meta=weight,photo=photo,caption=caption]'" in note for note in notes
    )


def test_a_card_is_kept_in_the_cache_and_damage_makes_it_again(table: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reference = f"{table}{OPTIONS}"
    made = plan_cards(planned([reference]))
    (part,) = planned([reference]).datasets
    cache = ArrayCache(cache_dir())

    with monkeypatch.context() as without:
        without.setattr("mmbench.card_making.make_card", None)
        assert plan_cards(planned([reference])) == made
    for text in ("", "{", "[]", "null", '{"tasks": []}'):
        cache.put_text(card_key(part.key), text)
        assert plan_cards(planned([reference])) == made


def test_what_a_kept_card_says_of_the_reference_is_that_of_the_plan(table: Path) -> None:
    (part,) = planned([f"{table}{OPTIONS}"]).datasets
    card = card_of(part, cache_dir=cache_dir(), data_dir=data_dir())
    assert card is not None
    assert card.name == part.label

    keep_card(part, ArrayCache(cache_dir()), replace(card, name="elsewhere", notes=()))

    assert card_of(part, cache_dir=cache_dir(), data_dir=data_dir()) == card


def test_a_plan_of_a_dataset_that_was_read_imports_no_numpy(table: Path) -> None:
    (part,) = planned(["xor"]).datasets
    card_of(part, cache_dir=cache_dir(), data_dir=data_dir())

    command = [sys.executable, "-X", "importtime", "-m", "mmbench", "plan", "-d", "xor", "-f", "single"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)

    assert "xor: 1,400 samples" in done.stdout
    assert "numpy" not in done.stderr
