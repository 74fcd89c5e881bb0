"""MM-IMDb, Hateful Memes, UPMC Food-101, Flickr8k and VQA, in small folders of their true form."""

from __future__ import annotations

import json
from collections import Counter

import numpy as np
import pytest
from mmbench_benchmarks import pictures
from PIL import Image

from mmbench.data import SPLITS
from mmbench.errors import DataError, Unavailable, UsageError


@pytest.fixture(autouse=True)
def folders(tmp_path, monkeypatch):
    monkeypatch.setenv("MMBENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("MMBENCH_DATA", str(tmp_path / "data"))


def picture(path, value=128):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((6, 8, 3), value, dtype=np.uint8)).save(path)


def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content))


def ids(samples):
    return [sample.sample_id for sample in samples]


def mm_imdb(folder):
    films = {
        "0000005": ["Short", "Comedy"], "0000008": ["Drama"], "0000010": ["Reality-TV"],
        "0000012": ["Sci-Fi", "News", "Drama"], "0000014": ["Western"],
    }  # fmt: skip
    for film, genres in films.items():
        picture(folder / "dataset" / f"{film}.jpeg", value=int(film))
        write(folder / "dataset" / f"{film}.json", {"genres": genres, "plot": [f"Plot of {film}.", "Another."]})
    split = {"train": ["0000005", "0000008", "0000010"], "dev": ["0000012"], "test": ["0000014"]}
    write(folder / "split.json", split)
    return str(folder)


def test_mm_imdb_has_its_23_genres_its_split_and_the_first_plot(tmp_path):
    target = mm_imdb(tmp_path / "imdb")

    info = pictures.describe_mm_imdb(target)
    splits = pictures.open_mm_imdb(tmp_path, target=target)

    names = info.tasks[0].class_names
    assert (info.tasks[0].kind, len(names), names[0], names[22]) == ("multilabel", 23, "Action", "Western")
    assert {split: ids(splits[split]) for split in SPLITS} == {
        "train": ["0000005", "0000008"], "val": ["0000012"], "test": ["0000014"],
    }  # fmt: skip
    sample = splits["val"][0]
    assert [name for name, mark in zip(names, sample.targets["genres"]) if mark] == ["Drama", "Sci-Fi"]
    assert sample.inputs["text"] == "Plot of 0000012."
    assert (sample.inputs["image"].shape, sample.inputs["image"].dtype) == ((3, 6, 8), np.uint8)
    assert abs(int(sample.inputs["image"].mean()) - 12) <= 1


def test_a_film_whose_files_are_lacking_or_broken_is_named(tmp_path):
    target = mm_imdb(tmp_path / "imdb")
    (tmp_path / "imdb" / "dataset" / "0000008.jpeg").unlink()
    with pytest.raises(DataError, match=r"lacks 1 of 10 files: 'dataset/0000008.jpeg' \(split.json\); unpack"):
        pictures.describe_mm_imdb(target)

    write(tmp_path / "imdb" / "dataset" / "0000012.json", "{")
    with pytest.raises(DataError, match=r"dataset/0000012.json is no readable JSON"):
        pictures.open_mm_imdb(tmp_path, target=target)
    write(tmp_path / "imdb" / "split.json", {"train": ["../../0000005"], "dev": [], "test": []})
    with pytest.raises(DataError, match=r"leaves the folder of MM-IMDb by '..'"):
        pictures.describe_mm_imdb(target)


def test_without_mm_imdb_what_to_do_is_said(tmp_path):
    with pytest.raises(Unavailable, match=r"MM-IMDb is not at .*split.json and dataset are not there. Get it from its"):
        pictures.describe_mm_imdb("")


def hateful_memes(folder):
    number = 0
    for name, labels in (("train", (0, 1, 1)), ("dev_seen", (0, 1)), ("test_seen", (1, 0))):
        lines = []
        for label in labels:
            number += 1
            picture(folder / "img" / f"{number:05}.png", value=number)
            item = {"id": number, "img": f"img/{number:05}.png", "label": label, "text": f"words {number}"}
            lines.append(json.dumps(item))
        write(folder / f"{name}.jsonl", "\n".join(lines) + "\n")
    return str(folder)


def test_hateful_memes_has_the_files_of_a_phase_and_is_ranked_by_auroc(tmp_path):
    target = hateful_memes(tmp_path / "memes")

    task = pictures.describe_hateful_memes(target).tasks[0]
    splits = pictures.open_hateful_memes(tmp_path, target=target)

    assert (task.class_names, task.primary) == (("not hateful", "hateful"), "auroc")
    assert {split: ids(splits[split]) for split in SPLITS} == {
        "train": ["1", "2", "3"], "val": ["4", "5"], "test": ["6", "7"],
    }  # fmt: skip
    assert [sample.targets["hateful"] for sample in splits["test"]] == [1, 0]
    assert splits["test"][0].inputs["text"] == "words 6"
    assert splits["test"][0].inputs["image"][0, 0, 0] == 6


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ('{"id": 9, "img": "img/00001.png", "text": "x"}', "test_seen.jsonl line 1 has the label None, not 0 or 1"),
        ('{"id": 9, "img": "img/00001.png", "label": 1}', "test_seen.jsonl line 1: 'text' must be str, got NoneType"),
        ('{"id": 9, "img": "../x.png", "label": 1, "text": "x"}', "'../x.png' leaves the folder of Hateful Memes by"),
        ('{"id": 9, "img": "img/9.png", "label": 1, "text": "x"}', "lacks 1 of 6 files: 'img/9.png' (test_seen"),
        ("[]", "test_seen.jsonl line 1 holds list, not an object"),
        ("[" * 100_000, "test_seen.jsonl line 1 is no readable JSON"),
        ("{", "test_seen.jsonl line 1 is no readable JSON"),
        ("", "has no sample for 'test' (5 in all)"),
    ],
)  # fmt: skip
def test_a_broken_line_of_hateful_memes_is_refused(tmp_path, line, reason):
    target = hateful_memes(tmp_path / "memes")
    write(tmp_path / "memes" / "test_seen.jsonl", line + "\n")

    with pytest.raises(DataError) as raised:
        pictures.describe_hateful_memes(target)
    assert reason in str(raised.value)


def test_a_phase_that_is_not_there(tmp_path):
    target = hateful_memes(tmp_path / "memes")

    with pytest.raises(Unavailable, match=r"dev_unseen.jsonl and test_unseen.jsonl are not there"):
        pictures.describe_hateful_memes(target, phase="unseen")
    with pytest.raises(UsageError, match=r"choose \[phase=seen\] or \[phase=unseen\]"):
        pictures.describe_hateful_memes(target, phase="2")


def food_101(folder, train=20, test=4):
    for part, count in (("train", train), ("test", test)):
        lines = []
        for dish in ("apple_pie", "waffles"):
            for number in range(count):
                name = f"{dish}_{number}.jpg"
                picture(folder / "images" / part / dish / name)
                lines.append(f'{name},"How to make {dish}, part {number}",{dish}')
        write(folder / "texts" / f"{part}_titles.csv", "\n".join(lines) + "\n")
    return str(folder)


def test_food_101s_val_is_a_part_of_train_by_class_and_test_is_as_published(tmp_path):
    target = food_101(tmp_path / "food")

    splits = pictures.open_food_101(tmp_path, target=target)

    counts = {split: Counter(sample.targets["dish"] for sample in splits[split]) for split in SPLITS}
    assert counts == {"train": {0: 18, 1: 18}, "val": {0: 2, 1: 2}, "test": {0: 4, 1: 4}}
    assert all(name.startswith("train/") for name in ids(splits["val"]))
    assert all(name.startswith("test/") for name in ids(splits["test"]))
    assert splits["test"][0].inputs["text"] == "How to make apple_pie, part 0"
    assert pictures.describe_food_101(target).tasks[0].class_names == ("apple_pie", "waffles")


def test_a_few_pictures_may_lack_as_in_the_published_archive_and_many_may_not(tmp_path):
    target = food_101(tmp_path / "food")
    folder = tmp_path / "food" / "images" / "train" / "waffles"
    for number in range(3):
        (folder / f"waffles_{number}.jpg").unlink()
    splits = pictures.open_food_101(tmp_path, target=target)
    assert len(splits["train"]) + len(splits["val"]) == 37

    for number in range(3, 6):
        (folder / f"waffles_{number}.jpg").unlink()
    with pytest.raises(DataError, match=r"texts/train_titles.csv names 40 pictures, and 6 of them are not in"):
        pictures.describe_food_101(target)


def flickr8k(folder, per_split=4):
    tokens = []
    for split in ("train", "dev", "test"):
        names = [f"{split}{number}.jpg" for number in range(per_split)]
        for name in names:
            picture(folder / "Flicker8k_Dataset" / name)
            tokens += [f"{name}#{number}\tCaption {number} of {name} ." for number in range(5)]
        write(folder / f"Flickr_8k.{split}Images.txt", "\n".join(names) + "\n")
    tokens += [f"2258277193_586949ec62.jpg.1#{number}\tof no picture" for number in range(5)]
    write(folder / "Flickr8k.token.txt", "\n".join(tokens) + "\n")
    return str(folder)


def test_flickr8k_pairs_each_picture_with_its_own_caption_and_with_another_of_its_split(tmp_path):
    target = flickr8k(tmp_path / "flickr")

    splits = pictures.open_flickr8k(tmp_path, target=target, task="matching", captions=1)

    assert {split: len(splits[split]) for split in SPLITS} == {"train": 8, "val": 8, "test": 8}
    assert ids(splits["test"])[:2] == ["test0.jpg#0", "test0.jpg#0!"]
    for split, word in (("train", "train"), ("val", "dev"), ("test", "test")):
        for sample in splits[split]:
            own = f"Caption 0 of {sample.sample_id.split('#')[0]} ."
            assert (sample.inputs["text"] == own) == bool(sample.targets["match"])
            assert f"of {word}" in sample.inputs["text"]
        texts = Counter(sample.inputs["text"] for sample in splits[split])
        assert set(texts.values()) == {2}  # once as its own, once as another's: the words alone tell nothing


def test_flickr8k_groups_a_picture_with_its_captions_to_be_found(tmp_path):
    target = flickr8k(tmp_path / "flickr")

    (task,) = pictures.describe_flickr8k(target).tasks
    test = pictures.open_flickr8k(tmp_path, target=target)["test"]

    assert (task.kind, task.num_outputs) == ("retrieval", 256)
    assert len(test) == 4 * 5
    groups = Counter(sample.targets["match"] for sample in test)
    assert set(groups.values()) == {5}
    assert all(
        sample.inputs["text"] == f"Caption {sample.sample_id[-1]} of {sample.sample_id[:-2]} ." for sample in test
    )


@pytest.mark.parametrize("task", ["retrieval", "matching"])
def test_all_pairs_of_one_picture_are_one_group(tmp_path, task):
    test = pictures.open_flickr8k(tmp_path, target=flickr8k(tmp_path / "flickr"), task=task, captions=5)["test"]

    per_picture = {"retrieval": 5, "matching": 10}[task]
    assert set(Counter(sample.group for sample in test).values()) == {per_picture}
    assert all(sample.group.endswith(sample.sample_id.partition("#")[0]) for sample in test)


def test_more_captions_of_each_picture_may_be_asked_for(tmp_path):
    target = flickr8k(tmp_path / "flickr")

    assert len(pictures.open_flickr8k(tmp_path, target=target, task="matching", captions=5)["test"]) == 40
    with pytest.raises(UsageError, match=r"no task 'search'; choose \[task=retrieval\]"):
        pictures.describe_flickr8k(target, task="search")
    with pytest.raises(UsageError, match=r"5 captions per picture, got \[captions=6\]"):
        pictures.describe_flickr8k(target, captions=6)


def test_captions_in_a_csv_without_lists_are_split_by_a_hash_of_the_name(tmp_path):
    lines = ["image,caption"]
    for number in range(16):
        picture(tmp_path / "flickr" / "Images" / f"p{number}.jpg")
        lines += [f'p{number}.jpg,"A dog , number {number} ."', f"p{number}.jpg,A dog, again {number} ."]
    write(tmp_path / "flickr" / "captions.txt", "\n".join(lines) + "\n")

    splits = pictures.open_flickr8k(tmp_path, target=str(tmp_path / "flickr"), task="matching", captions=2)

    assert {split: len({name.split("#")[0] for name in ids(splits[split])}) for split in SPLITS} == {
        "train": 12, "val": 2, "test": 2,
    }  # fmt: skip
    own = [sample for sample in splits["train"] if sample.targets["match"]]
    assert sorted({sample.inputs["text"] for sample in own if sample.sample_id.startswith("p3.jpg")}) in (
        [], ["A dog , number 3 .", "A dog, again 3 ."],
    )  # fmt: skip


def test_a_line_without_a_caption_and_a_picture_in_two_lists_are_refused(tmp_path):
    target = flickr8k(tmp_path / "flickr")
    write(tmp_path / "flickr" / "Flickr_8k.testImages.txt", "train0.jpg\n")
    with pytest.raises(DataError, match=r"testImages.txt names 'train0.jpg', which is in train too"):
        pictures.describe_flickr8k(target)

    write(tmp_path / "flickr" / "Flickr8k.token.txt", "a.jpg#0 no tab\n")
    with pytest.raises(DataError, match=r"Flickr8k.token.txt line 1 has no caption after a tab"):
        pictures.describe_flickr8k(target)


def vqa(folder):
    answers = {"train": ["yes"] * 12 + ["no"] * 6 + ["2"] * 3 + ["red"], "val": ["no", "yes", "red", "2", "blue"]}
    for part, given in answers.items():
        questions, annotations = [], []
        for number, answer in enumerate(given):
            image = number // 2
            picture(folder / f"{part}2014" / f"COCO_{part}2014_{image:012}.jpg")
            questions.append({"image_id": image, "question": f"Question {number}?", "question_id": number})
            annotations.append(
                {"image_id": image, "question_id": number, "multiple_choice_answer": answer, "answers": []}
            )
        write(folder / f"v2_OpenEnded_mscoco_{part}2014_questions.json", {"questions": questions})
        write(folder / f"v2_mscoco_{part}2014_annotations.json", {"annotations": annotations[::-1]})
    return str(folder)


def test_vqas_classes_are_the_commonest_answers_of_train_and_its_validation_part_is_test(tmp_path):
    splits = pictures.open_vqa(tmp_path, target=vqa(tmp_path / "vqa"), answers=3, val_share=0.25)

    assert [(sample.sample_id, sample.targets["answer"]) for sample in splits["test"]] == [
        ("val/0", 1), ("val/1", 0), ("val/3", 2),
    ]  # fmt: skip
    assert splits["test"][1].inputs["text"] == "Question 1?"
    assert Counter(sample.targets["answer"] for split in ("train", "val") for sample in splits[split]) == {
        0: 12, 1: 6, 2: 3,
    }  # fmt: skip


def test_questions_about_one_picture_stay_in_one_split(tmp_path):
    splits = pictures.open_vqa(tmp_path, target=vqa(tmp_path / "vqa"), answers=2, val_share=0.3)

    of_split = {split: {int(name.split("/")[1]) // 2 for name in ids(splits[split])} for split in ("train", "val")}
    assert of_split["val"]
    assert not of_split["train"] & of_split["val"]


def test_val_holds_every_answer_of_vqa_in_proportion_and_questions_of_a_picture_are_one_group(tmp_path):
    """One question for each of 40 pictures, a fourth of them answered by "no": a fourth of val, too."""
    for part, given in {"train": ["yes", "yes", "yes", "no"] * 10, "val": ["yes", "no"]}.items():
        for number in range(len(given)):
            picture(tmp_path / f"{part}2014" / f"COCO_{part}2014_{number:012}.jpg")
        asked = [{"image_id": n, "question": "?", "question_id": n} for n in range(len(given))]
        told = [{"image_id": n, "question_id": n, "multiple_choice_answer": a} for n, a in enumerate(given)]
        write(tmp_path / f"v2_OpenEnded_mscoco_{part}2014_questions.json", {"questions": asked})
        write(tmp_path / f"v2_mscoco_{part}2014_annotations.json", {"annotations": told})

    splits = pictures.open_vqa(tmp_path, target=str(tmp_path), answers=2, val_share=0.2)

    assert Counter(sample.targets["answer"] for sample in splits["val"]) == {0: 6, 1: 2}
    assert splits["val"][0].group == f"train2014/COCO_train2014_{int(splits['val'][0].sample_id.split('/')[1]):012}.jpg"


def test_vqa_is_planned_without_reading_its_questions(tmp_path):
    target = vqa(tmp_path / "vqa")
    write(tmp_path / "vqa" / "v2_mscoco_val2014_annotations.json", "{")

    assert pictures.describe_vqa(target, answers=3).tasks[0].num_outputs == 3
    with pytest.raises(DataError, match=r"v2_mscoco_val2014_annotations.json is no readable JSON"):
        pictures.open_vqa(tmp_path, target=target, answers=3)


def test_what_vqa_cannot_give_is_said(tmp_path):
    target = vqa(tmp_path / "vqa")

    with pytest.raises(DataError, match=r"holds 4 different answers; choose \[answers=4\]"):
        pictures.open_vqa(tmp_path, target=target)
    with pytest.raises(UsageError, match=r"at least two answers"):
        pictures.describe_vqa(target, answers=1)
    (tmp_path / "vqa" / "train2014" / "COCO_train2014_000000000003.jpg").unlink()
    with pytest.raises(DataError, match=r"lacks 1 of \d+ files: 'train2014/COCO_train2014_000000000003.jpg' \(v2_Open"):
        pictures.open_vqa(tmp_path, target=target, answers=3)
    (tmp_path / "vqa" / "v2_mscoco_train2014_annotations.json").unlink()
    with pytest.raises(Unavailable, match=r"v2_mscoco_train2014_annotations.json is not there"):
        pictures.describe_vqa(target, answers=3)
