"""CREMA-D, Speech Commands and ESC-50, in folders that soundfile fills."""

from __future__ import annotations

import itertools
import struct

import numpy as np
import pytest
import soundfile
from mmbench_benchmarks import sounds

from mmbench.data import SPLITS
from mmbench.errors import DataError, Unavailable, UsageError
from mmbench.testing import check


@pytest.fixture(autouse=True)
def folders(tmp_path, monkeypatch):
    monkeypatch.setenv("MMBENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("MMBENCH_DATA", str(tmp_path / "data"))


def sound(path, value=0.25, rate=16_000, samples=160):
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, np.full(samples, value), rate, subtype="PCM_16")


def ids(samples):
    return [sample.sample_id for sample in samples]


def crema_d(folder, actors=20):
    emotions = ("ANG", "DIS", "FEA", "HAP", "NEU", "SAD")
    for actor, emotion in itertools.product(range(1001, 1001 + actors), emotions):
        level = "XX" if emotion == "NEU" else "HI"
        sound(folder / "AudioWAV" / f"{actor}_IEO_{emotion}_{level}.wav", value=(actor - 1000) / 64)
    return str(folder)


def test_no_actor_of_crema_d_is_in_two_splits(tmp_path):
    splits = sounds.open_crema_d(tmp_path, target=crema_d(tmp_path / "crema"))

    actors = {split: {name[:4] for name in ids(splits[split])} for split in SPLITS}
    assert {split: len(actors[split]) for split in SPLITS} == {"train": 14, "val": 3, "test": 3}
    assert len(actors["train"] | actors["val"] | actors["test"]) == 20


def test_another_seed_draws_other_actors(tmp_path):
    target = crema_d(tmp_path / "crema")

    first, again, other = (sounds.open_crema_d(tmp_path, target=target, seed=seed) for seed in (0, 0, 1))
    assert ids(first["test"]) == ids(again["test"])
    assert ids(first["test"]) != ids(other["test"])


def test_crema_ds_emotion_is_in_the_name_and_its_sound_is_decoded(tmp_path):
    splits = sounds.open_crema_d(tmp_path, target=crema_d(tmp_path / "crema"))
    info = sounds.describe_crema_d(str(tmp_path / "crema"))

    named = {sample.sample_id: sample for split in SPLITS for sample in splits[split]}
    assert info.tasks[0].class_names == ("anger", "disgust", "fear", "happiness", "neutral", "sadness")
    assert named["1003_IEO_HAP_HI"].targets == {"emotion": 3}
    wave = named["1016_IEO_NEU_XX"].inputs["audio"]
    assert (wave.rate, wave.values.shape, float(wave.values[0])) == (16_000, (160,), 0.25)


def test_other_files_beside_the_clips_are_not_taken_for_clips(tmp_path):
    target = crema_d(tmp_path / "crema")
    sound(tmp_path / "crema" / "AudioWAV" / "noise.wav")
    (tmp_path / "crema" / "AudioWAV" / "1001_IEO_ANG_HI.txt").write_text("")

    splits = sounds.open_crema_d(tmp_path, target=target)
    assert sum(len(splits[split]) for split in SPLITS) == 120


def test_crema_d_without_clips_says_what_is_due(tmp_path):
    (tmp_path / "AudioWAV").mkdir()

    with pytest.raises(Unavailable, match=r"CREMA-D is not at .*AudioWAV holds no file like 1001_DFA_ANG_XX.wav\. Get"):
        sounds.describe_crema_d(str(tmp_path))
    with pytest.raises(Unavailable, match=r"AudioWAV is not there"):
        sounds.describe_crema_d("")


def test_crema_ds_films_stand_beside_its_sounds_where_they_are_there(tmp_path):
    av = pytest.importorskip("av", reason="PyAV is not installed: pip install 'mmbench-datasets[video]'")
    target = crema_d(tmp_path / "crema")
    films = tmp_path / "crema" / "VideoFlash"
    films.mkdir()
    for sound_file in sorted((tmp_path / "crema" / "AudioWAV").glob("*.wav")):
        with av.open(str(films / f"{sound_file.stem}.flv"), "w") as container:
            stream = container.add_stream("flv", rate=30)
            stream.width, stream.height, stream.pix_fmt = 48, 32, "yuv420p"
            level = 2 * (int(sound_file.stem[:4]) - 1000)
            for _ in range(6):
                pixels = np.full((32, 48, 3), level, dtype=np.uint8)
                container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
            container.mux(stream.encode())

    splits = sounds.open_crema_d(tmp_path, target=target, max_frames=4)

    sample = splits["test"][0]
    assert [modality.name for modality in sounds.describe_crema_d(target).modalities] == ["audio", "video"]
    assert sample.inputs["video"].shape == (4, 3, 32, 48)
    assert sample.inputs["video"].mean() == pytest.approx(2 * (int(sample.sample_id[:4]) - 1000), abs=4)
    assert [modality.name for modality in sounds.describe_crema_d(target, video="false").modalities] == ["audio"]


def test_crema_ds_films_may_be_demanded_and_must_be_whole(tmp_path):
    pytest.importorskip("av", reason="PyAV is not installed: pip install 'mmbench-datasets[video]'")
    target = crema_d(tmp_path / "crema")
    with pytest.raises(Unavailable, match="VideoFlash is not there"):
        sounds.describe_crema_d(target, video="true")
    film = tmp_path / "crema" / "VideoFlash" / "1001_IEO_ANG_HI.flv"
    film.parent.mkdir()
    film.write_bytes(b"FLV")

    with pytest.raises(DataError, match=r"lacks 119 of 120 files: 'VideoFlash/1001_IEO_DIS_HI.flv'"):
        sounds.describe_crema_d(target)
    with pytest.raises(UsageError, match=r"crema-d has no \[video=yes\]; choose true, false, or auto"):
        sounds.describe_crema_d(target, video="yes")


def test_what_git_lfs_did_not_fetch_is_no_film(tmp_path):
    target = crema_d(tmp_path / "crema")
    (tmp_path / "crema" / "VideoFlash").mkdir()
    note = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 123\n"
    (tmp_path / "crema" / "VideoFlash" / "1001_IEO_ANG_HI.flv").write_text(note)

    assert [modality.name for modality in sounds.describe_crema_d(target).modalities] == ["audio"]


def test_crema_ds_pictures_are_decoded_beside_the_sound(tmp_path):
    av = pytest.importorskip("av", reason="PyAV is not installed: pip install 'mmbench-datasets[video]'")
    target = crema_d(tmp_path / "crema")
    film = tmp_path / "film.flv"
    with av.open(str(film), "w") as container:
        stream = container.add_stream("flv", rate=30)
        stream.width, stream.height, stream.pix_fmt = 32, 16, "yuv420p"
        for _ in range(5):
            frame = av.VideoFrame.from_ndarray(np.full((16, 32, 3), 200, dtype=np.uint8), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    (tmp_path / "crema" / "VideoFlash").mkdir()
    for path in (tmp_path / "crema" / "AudioWAV").iterdir():
        (tmp_path / "crema" / "VideoFlash" / f"{path.stem}.flv").write_bytes(film.read_bytes())

    info = sounds.describe_crema_d(target, video="true")
    video = sounds.open_crema_d(tmp_path, target=target, video="true")["val"][0].inputs["video"]
    assert [modality.kind for modality in info.modalities] == ["audio", "video"]
    assert video.shape == (5, 3, 16, 32)
    assert abs(int(video.mean()) - 200) <= 3


def speech_commands(folder):
    for word, speaker in itertools.product(("yes", "no", "tree"), ("aa", "bb", "cc", "dd")):
        sound(folder / word / f"{speaker}_nohash_0.wav")
    sound(folder / "_background_noise_" / "white.wav")
    (folder / "validation_list.txt").write_text("yes/cc_nohash_0.wav\nno/cc_nohash_0.wav\ntree/cc_nohash_0.wav\n")
    (folder / "testing_list.txt").write_text("yes/dd_nohash_0.wav\nno/dd_nohash_0.wav\n")
    return str(folder)


def test_speech_commands_has_the_split_of_its_lists(tmp_path):
    splits = sounds.open_speech_commands(tmp_path, target=speech_commands(tmp_path / "speech"))

    assert ids(splits["val"]) == ["no/cc_nohash_0.wav", "tree/cc_nohash_0.wav", "yes/cc_nohash_0.wav"]
    assert ids(splits["test"]) == ["no/dd_nohash_0.wav", "yes/dd_nohash_0.wav"]
    assert len(splits["train"]) == 7
    assert [sample.targets["word"] for sample in splits["test"]] == [0, 2]


def test_background_noise_is_no_word(tmp_path):
    info = sounds.describe_speech_commands(speech_commands(tmp_path / "speech"))

    assert info.tasks[0].class_names == ("no", "tree", "yes")


def test_other_words_than_commands_are_one_class_when_asked(tmp_path):
    target = speech_commands(tmp_path / "speech")

    assert sounds.describe_speech_commands(target, words="commands").tasks[0].class_names == (
        "down", "go", "left", "no", "off", "on", "right", "stop", "up", "yes", "unknown",
    )  # fmt: skip
    val = sounds.open_speech_commands(tmp_path, target=target, words="commands")["val"]
    assert [sample.targets["word"] for sample in val] == [3, 10, 9]
    with pytest.raises(UsageError, match=r"choose \[words=all\] or \[words=commands\]"):
        sounds.describe_speech_commands(target, words="some")


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("yes/zz_nohash_0.wav", "lacks 1 of 13 files: 'yes/zz_nohash_0.wav' (testing_list.txt)"),
        ("../secret.wav", "testing_list.txt: '../secret.wav' leaves the folder of Speech Commands by '..'"),
        ("/etc/passwd", "testing_list.txt: '/etc/passwd' is an absolute path"),
        ("yes/cc_nohash_0.wav", "testing_list.txt line 1: 'yes/cc_nohash_0.wav' is in validation_list.txt too"),
    ],
)
def test_a_list_that_names_what_it_must_not_is_refused(tmp_path, line, reason):
    target = speech_commands(tmp_path / "speech")
    (tmp_path / "speech" / "testing_list.txt").write_text(f"{line}\n")

    with pytest.raises(DataError) as raised:
        sounds.describe_speech_commands(target)
    assert reason in str(raised.value)


def esc_50(folder, folds=5):
    lines = ["filename,fold,target,category,esc10,src_file,take"]
    for fold, (number, category, easy) in itertools.product(
        range(1, folds + 1), ((0, "dog", True), (14, "chirping_birds", False), (38, "clock_tick", True))
    ):
        name = f"{fold}-1000{number:02}-A-{number}.wav"
        sound(folder / "audio" / name, rate=44_100, value=(fold * 64 + number) / 512)
        lines.append(f"{name},{fold},{number},{category},{easy},1000{number:02},A")
    (folder / "meta").mkdir()
    (folder / "meta" / "esc50.csv").write_text("\n".join(lines) + "\n")
    return str(folder)


def test_a_fold_of_esc_50_is_test_and_the_one_before_it_val(tmp_path):
    target = esc_50(tmp_path / "esc")

    splits = sounds.open_esc_50(tmp_path, target=target)
    assert {split: sorted({name[0] for name in ids(splits[split])}) for split in SPLITS} == {
        "train": ["1", "2", "3"], "val": ["4"], "test": ["5"],
    }  # fmt: skip
    first = sounds.open_esc_50(tmp_path, target=target, test_fold=1)
    assert {split: sorted({name[0] for name in ids(first[split])}) for split in SPLITS} == {
        "train": ["2", "3", "4"], "val": ["5"], "test": ["1"],
    }  # fmt: skip


def test_classes_of_esc_50_are_its_categories(tmp_path):
    target = esc_50(tmp_path / "esc")

    assert sounds.describe_esc_50(target).tasks[0].class_names == ("chirping_birds", "clock_tick", "dog")
    assert sounds.describe_esc_50(target, esc10=True).tasks[0].class_names == ("clock_tick", "dog")
    test = sounds.open_esc_50(tmp_path, target=target)["test"]
    assert [sample.targets["sound"] for sample in test] == [2, 0, 1]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("filename,fold\n", "has 2 cells where 5 are due"),
        ("a,b,c,d,e\n", "has the columns a, b, c, d, e; filename, fold, category, esc10 are due"),
        ("filename,fold,target,category,esc10\nx.wav,9,0,dog,True\n", "line 2: the fold is '9', and there are 1 to 5"),
        ("filename,fold,target,category,esc10\n../x.wav,1,0,dog,True\n", "leaves the folder of ESC-50 by '..'"),
        ("filename,fold,target,category,esc10\nx.wav,1,0,dog,True\n", "lacks 1 of 1 files: 'audio/x.wav' (meta"),
        ('filename,fold,target,category,esc10\n"x.wav,1,0', "is no well-formed CSV"),
    ],
)  # fmt: skip
def test_a_broken_table_of_esc_50_is_refused(tmp_path, content, reason):
    target = esc_50(tmp_path / "esc")
    (tmp_path / "esc" / "meta" / "esc50.csv").write_text(content)

    with pytest.raises(DataError) as raised:
        sounds.describe_esc_50(target)
    assert reason in str(raised.value)


def test_a_fold_that_is_not_there(tmp_path):
    with pytest.raises(UsageError, match=r"folds 1 to 5, got \[test_fold=6\]"):
        sounds.describe_esc_50(esc_50(tmp_path / "esc"), test_fold=6)


def test_a_clip_cut_short_is_refused(tmp_path):
    target = esc_50(tmp_path / "esc")
    path = tmp_path / "esc" / "audio" / "5-100000-A-0.wav"
    path.write_bytes(path.read_bytes()[:100])

    with pytest.raises(DataError, match=r"is cut short: its header claims 320 bytes of sound, and 56 are there"):
        sounds.open_esc_50(tmp_path, target=target)["test"][0].inputs["audio"]


def test_a_header_that_claims_ten_hours_is_refused(tmp_path):
    target = esc_50(tmp_path / "esc")
    path = tmp_path / "esc" / "audio" / "5-100000-A-0.wav"
    content = bytearray(path.read_bytes())
    content[40:44] = struct.pack("<I", 44_100 * 2 * 36_000)
    path.write_bytes(content)

    with pytest.raises(DataError, match=r"claims 3,175,200,000 bytes of sound, and 320 are there; replace it"):
        sounds.open_esc_50(tmp_path, target=target)["test"][0].inputs["audio"]


def test_the_fingerprint_follows_names_and_sizes_and_not_the_folder(tmp_path):
    same = sounds.describe_esc_50(esc_50(tmp_path / "a")).fingerprint
    assert sounds.describe_esc_50(esc_50(tmp_path / "b")).fingerprint == same

    sound(tmp_path / "b" / "audio" / "5-100000-A-0.wav", samples=161)
    assert sounds.describe_esc_50(str(tmp_path / "b")).fingerprint != same


@pytest.mark.slow
def test_the_loader_keeps_what_mmbench_asks_of_datasets(tmp_path):
    results = check(f"dataset:esc-50:{esc_50(tmp_path / 'esc')}", level="smoke")

    assert [f"{result.check}: {result.found}" for result in results if result.status == "fail"] == []
    assert "dataset.splits-share-no-content" in {result.check for result in results if result.status == "pass"}
