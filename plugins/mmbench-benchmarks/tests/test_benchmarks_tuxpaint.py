"""Tux Paint's stamps in small folders of their form, and in Debian's own where it is installed."""

from __future__ import annotations

import functools
import io
import itertools
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import soundfile
from mmbench_benchmarks import tuxpaint
from PIL import Image

from mmbench.data import SPLITS
from mmbench.errors import DataError, Unavailable, UsageError

DEBIAN = Path("/usr/share/tuxpaint/stamps")
SVG = '<svg xmlns="http://www.w3.org/2000/svg" width="20" height="10"><rect width="20" height="10" fill="red"/></svg>'


@pytest.fixture(autouse=True)
def folders(tmp_path, monkeypatch):
    monkeypatch.setenv("MMBENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("MMBENCH_DATA", str(tmp_path / "data"))
    monkeypatch.setattr(tuxpaint, "_DEBIAN", tmp_path / "nowhere")


def require_cairo():
    try:
        tuxpaint._require_cairosvg()
    except Unavailable:
        pytest.skip("CairoSVG or the library cairo is not installed: pip install 'mmbench-benchmarks[svg]'")


@functools.cache
def speech(ending):
    stream = io.BytesIO()
    soundfile.write(stream, np.full(160, 0.25), 16_000, format={".wav": "WAV", ".ogg": "OGG"}[ending])
    return stream.getvalue()


def stamp(folder, stem, *, text="", picture=".png", spoken=(), sound=""):
    path = folder / stem
    path.parent.mkdir(parents=True, exist_ok=True)
    if picture == ".svg":
        path.with_name(f"{path.name}.svg").write_text(SVG)
    else:
        pixels = np.zeros((5, 7, 4), dtype=np.uint8)
        pixels[..., 3] = 0  # all transparent: white when it is looked at
        Image.fromarray(pixels).save(path.with_name(f"{path.name}.png"))
    if text:
        path.with_name(f"{path.name}.txt").write_text(text, encoding="utf-8")
    for language in spoken:
        suffix = "" if language == "en" else f"_{language}"
        path.with_name(f"{path.name}_desc{suffix}.ogg").write_bytes(speech(".ogg"))
    if sound:
        path.with_name(f"{path.name}{sound}").write_bytes(speech(sound))


def stamps(folder, count=8):
    for category, number in itertools.product(("animals", "town", "vehicles"), range(count)):
        name = f"{category}/sub/thing{number}"
        stamp(
            folder,
            name,
            text=f"A {category} {number}.\nde.utf8=Ein {category} {number}.\nfr.utf8=\n",
            spoken=("fr", "ca"),
        )
    return str(folder)


def opened(folder, target, **options):
    splits = tuxpaint.open_tuxpaint(folder, target=target, **options)
    return {sample.sample_id: sample for split in SPLITS for sample in splits[split]}


def test_a_stamp_has_its_picture_text_speech_and_sound(tmp_path):
    target = stamps(tmp_path / "stamps")
    stamp(tmp_path / "stamps", "space/moon", text="The moon.", spoken=("es",), sound=".wav")
    stamp(tmp_path / "stamps", "space/void")

    info = tuxpaint.describe_tuxpaint(target)
    found = opened(tmp_path, target)

    assert {modality.name: modality.kind for modality in info.modalities} == {
        "image": "image", "text": "text", "speech": "audio", "sound": "audio",
    }  # fmt: skip
    assert info.missing == ("text", "speech", "sound")
    assert info.tasks[0].class_names[found["space/moon"].targets["category"]] == "space"
    moon, void = found["space/moon"].inputs, found["space/void"].inputs
    np.testing.assert_array_equal(moon["image"], np.full((3, 5, 7), 255, dtype=np.uint8))
    assert moon["text"] == "The moon."
    assert (moon["speech"].rate, len(moon["sound"].values)) == (16_000, 160)
    assert (void["text"], void["speech"], void["sound"]) == (None, None, None)


def test_languages_of_text_and_speech_may_be_chosen(tmp_path):
    target = stamps(tmp_path / "stamps")
    stamp(tmp_path / "stamps", "space/moon", text="The moon.", spoken=("en",))

    german = opened(tmp_path, target, language="de", speech="en")
    assert german["town/sub/thing3"].inputs["text"] == "Ein town 3."
    assert german["space/moon"].inputs["text"] is None
    assert german["space/moon"].inputs["speech"] is not None
    assert german["town/sub/thing3"].inputs["speech"] is None
    info = tuxpaint.describe_tuxpaint(target, speech="none", sound=False)
    assert [modality.name for modality in info.modalities] == ["image", "text"]


def test_any_speech_is_one_of_the_six_languages_and_always_the_same(tmp_path):
    found = [tuxpaint._chosen(f"s{row}", {"fr": "f", "ca": "c", "lt": "l"}, "any") for row in range(40)]

    assert set(found) == {"f", "c"}
    assert found == [tuxpaint._chosen(f"s{row}", {"ca": "c", "lt": "l", "fr": "f"}, "any") for row in range(40)]
    assert tuxpaint._chosen("s", {"lt": "l"}, "any") == ""


def test_turned_pictures_and_other_folders_are_no_stamps(tmp_path):
    target = stamps(tmp_path / "stamps")
    for name in ("town/sub/thing1_mirror", "town/sub/thing1_flip", "town/sub/thing1_mirror_flip", "military/tank"):
        stamp(tmp_path / "stamps", name)

    assert len(opened(tmp_path, target)) == 24


def test_letters_are_a_category_beside_the_other_symbols(tmp_path):
    target = stamps(tmp_path / "stamps")
    stamp(tmp_path / "stamps", "symbols/alphabets/english/a", text="The letter a.")
    stamp(tmp_path / "stamps", "symbols/chess/king", text="A king.")

    found = opened(tmp_path, target)
    names = tuxpaint.describe_tuxpaint(target).tasks[0].class_names
    assert names[found["symbols/alphabets/english/a"].targets["category"]] == "letters"
    assert names[found["symbols/chess/king"].targets["category"]] == "symbols"


def test_stamps_of_one_description_stay_in_one_split(tmp_path):
    target = stamps(tmp_path / "stamps", count=20)
    for number in range(20):
        stamp(tmp_path / "stamps", f"animals/twin{number}", text=f"A ANIMALS {number}.")

    splits = tuxpaint.open_tuxpaint(tmp_path, target=target, language="de")
    of_split = {
        split: {sample.sample_id.replace("twin", "sub/thing") for sample in splits[split]} for split in SPLITS
    }  # fmt: skip
    assert not of_split["train"] & of_split["val"]
    assert not of_split["train"] & of_split["test"]
    assert not of_split["val"] & of_split["test"]


def test_svg_is_drawn_when_asked_and_a_png_beside_it_comes_first(tmp_path):
    require_cairo()
    target = stamps(tmp_path / "stamps")
    stamp(tmp_path / "stamps", "food/tomato", picture=".svg", text="A tomato.")
    (tmp_path / "stamps" / "town" / "sub" / "thing0.svg").write_text(SVG)

    assert "food/tomato" not in opened(tmp_path, target)
    found = opened(tmp_path, target, svg=True, svg_size=40)
    assert found["town/sub/thing0"].inputs["image"].shape == (3, 5, 7)
    drawn = found["food/tomato"].inputs["image"]
    assert drawn.shape == (3, 40, 40)
    assert drawn[:, 20, 20].tolist() == [255, 0, 0]
    assert drawn[:, 2, 20].tolist() == [255, 255, 255]  # twice as wide as high: white above and below


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("<svg", "cannot be drawn"),
        ('<!DOCTYPE svg [<!ENTITY a "b">]><svg xmlns="http://www.w3.org/2000/svg">&a;</svg>', "Entities"),
        ('<svg xmlns="http://www.w3.org/2000/svg" width="1e9" height="1e9" viewBox="0 0 1e-9 1e9"><g>', "cannot be dr"),
        (b"\x1f\x8b\x08", "food/tomato.svg is compressed or has more than 16 MiB"),
    ],
)
def test_an_svg_that_is_none_or_hides_something_is_refused(tmp_path, content, reason):
    require_cairo()
    target = stamps(tmp_path / "stamps")
    stamp(tmp_path / "stamps", "food/tomato", picture=".svg")
    path = tmp_path / "stamps" / "food" / "tomato.svg"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())

    with pytest.raises(DataError, match=r"food/tomato.svg") as raised:
        opened(tmp_path, target, svg=True)["food/tomato"].inputs["image"]
    assert reason in str(raised.value)


def test_an_svg_reads_no_other_file(tmp_path):
    require_cairo()
    target = stamps(tmp_path / "stamps")
    Image.fromarray(np.zeros((9, 9, 3), dtype=np.uint8)).save(tmp_path / "secret.png")
    stamp(tmp_path / "stamps", "food/tomato", picture=".svg")
    (tmp_path / "stamps" / "food" / "tomato.svg").write_text(
        '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" width="9" height="9">'
        f'<image width="9" height="9" xlink:href="file://{tmp_path}/secret.png"/></svg>'
    )

    try:
        drawn = opened(tmp_path, target, svg=True)["food/tomato"].inputs["image"]
    except DataError as error:
        assert "nothing is fetched" in str(error)
    else:
        assert int(drawn.min()) == 255


def test_a_drawing_that_never_ends_is_given_up(tmp_path, monkeypatch):
    require_cairo()
    monkeypatch.setattr(tuxpaint, "_MOST_DRAWING_S", 0.5)
    target = stamps(tmp_path / "stamps")
    stamp(tmp_path / "stamps", "food/tomato", picture=".svg")
    uses = "".join(f'<g id="g{n + 1}"><use href="#g{n}"/><use href="#g{n}"/></g>' for n in range(30))
    (tmp_path / "stamps" / "food" / "tomato.svg").write_text(
        f'<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"><g id="g0"/>{uses}</svg>'
    )

    with pytest.raises(DataError, match=r"food/tomato.svg cannot be drawn \(it takes more than 0.5 s\)"):
        opened(tmp_path, target, svg=True)["food/tomato"].inputs["image"]


def test_without_cairosvg_what_to_install_is_said(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "cairosvg", None)

    with pytest.raises(Unavailable, match=r"pip install 'mmbench-benchmarks\[svg\]', or leave \[svg=true\] out"):
        tuxpaint.describe_tuxpaint(stamps(tmp_path / "stamps"), svg=True)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"language": "../x"}, "takes a language such as en"),
        ({"speech": "loud"}, "takes speech=any, speech=none or a language"),
        ({"svg_size": 5}, "16 to 2048 pixels"),
    ],
)
def test_options_out_of_range(tmp_path, options, reason):
    with pytest.raises(UsageError, match=reason):
        tuxpaint.describe_tuxpaint(stamps(tmp_path / "stamps"), **options)


def test_without_stamps_what_to_install_is_said(tmp_path):
    with pytest.raises(Unavailable, match=r"Get it from Debian \(apt install tuxpaint-stamps-default\)"):
        tuxpaint.describe_tuxpaint("")


def test_a_stamp_that_leads_out_of_the_folder_is_refused(tmp_path):
    target = stamps(tmp_path / "stamps")
    path = tmp_path / "stamps" / "town" / "sub" / "thing0.png"
    path.rename(tmp_path / "outside.png")
    path.symlink_to(tmp_path / "outside.png")

    with pytest.raises(DataError, match=r"'town/sub/thing0.png' leads out of the folder of Tux Paint's stamps"):
        tuxpaint.describe_tuxpaint(target)


@pytest.mark.skipif(
    not DEBIAN.is_dir(),
    reason="Debian's tuxpaint-stamps-default is not installed: /usr/share/tuxpaint/stamps is not there",
)
def test_debians_folder_holds_the_stamps_that_its_package_has(monkeypatch):
    monkeypatch.setattr(tuxpaint, "_DEBIAN", DEBIAN)

    info = tuxpaint.describe_tuxpaint("")
    found = opened(Path("nowhere"), "")

    assert info.missing == ("speech", "sound")
    names = info.tasks[0].class_names
    assert Counter(names[sample.targets["category"]] for sample in found.values()) == {
        "letters": 158, "animals": 146, "symbols": 89, "town": 78, "food": 67, "seasonal": 59, "plants": 39,
        "vehicles": 34, "household": 33, "clothes": 19, "space": 16, "people": 6,
    }  # fmt: skip
    koala = found["animals/marsupials/koala"].inputs
    assert koala["text"] == "A koala."
    assert koala["speech"].rate == 44_100
    assert koala["image"].shape == (3, 200, 147)
