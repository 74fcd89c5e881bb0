"""What media named by a manifest are decoded to, and what is said of those that cannot be."""

from __future__ import annotations

import struct
import sys
import zlib

import numpy as np
import pytest
import soundfile
from manifest_cases import column, media, opened, refuse, table
from mmbench_datasets.lazy import LazyInputs
from mmbench_datasets.manifest import describe
from PIL import Image

from mmbench.data import Waveform, check_canonical
from mmbench.errors import DataError, Unavailable

pytestmark = pytest.mark.usefixtures("own_cache")


def test_inputs_are_decoded_one_modality_at_a_time_and_only_when_asked_for(tmp_path):
    target = media(tmp_path)
    sample = opened(target)["train"][0]
    (tmp_path / "a0.wav").unlink()

    assert isinstance(sample.inputs, LazyInputs)
    assert list(sample.inputs) == ["photo", "sound"]
    assert sample.inputs.get("photo").shape == (3, 9, 7)
    with pytest.raises(DataError):
        sample.inputs.get("sound")
    assert sample.inputs.get("nothing") is None


def test_an_image_is_decoded_to_the_pixels_that_were_written(tmp_path):
    rng = np.random.default_rng(0)

    values = column(media(tmp_path), "photo")["s0"]
    np.testing.assert_array_equal(values, rng.integers(0, 256, (9, 7, 3), dtype=np.uint8).transpose(2, 0, 1))
    assert values.flags.c_contiguous


def test_audio_is_mixed_to_mono_at_its_own_rate(tmp_path):
    value = column(media(tmp_path), "sound")["s3"]

    stereo, _ = soundfile.read(tmp_path / "a3.wav", dtype="float32")
    assert isinstance(value, Waveform)
    assert value.rate == 8_000
    np.testing.assert_allclose(value.values, stereo.mean(axis=1), atol=1e-7)
    check_canonical("sound", "audio", value)


@pytest.mark.parametrize(("ending", "subtype"), [("flac", "PCM_16"), ("ogg", "VORBIS"), ("opus", "OPUS")])
def test_flac_vorbis_and_opus_are_read(tmp_path, ending, subtype):
    tone = 0.5 * np.sin(np.arange(16_000) / 8)
    container = {"flac": "FLAC", "ogg": "OGG", "opus": "OGG"}[ending]
    soundfile.write(tmp_path / f"tone.{ending}", tone, 16_000, format=container, subtype=subtype)
    target = table(tmp_path, "label,sound", [f"{'ab'[row % 2]},tone.{ending}" for row in range(20)])

    value = column(target, "sound", sound="sound")["row-000001"]
    assert value.rate == 16_000
    assert np.corrcoef(value.values[2000:14000], tone[2000:14000])[0, 1] > 0.95


def one_image(folder, name, image, pixel_range="auto", **options):
    image.save(folder / name, **options)
    target = table(folder, "label,image", [f"{'ab'[row % 2]},{name}" for row in range(20)])
    return column(target, "image", image="image", pixel_range=pixel_range)["row-000001"]


def test_grey_images_have_one_channel(tmp_path):
    pixels = np.arange(12, dtype=np.uint8).reshape(3, 4)

    np.testing.assert_array_equal(one_image(tmp_path, "grey.png", Image.fromarray(pixels)), pixels[None])


def test_a_column_that_holds_any_colour_gives_three_channels_throughout(tmp_path):
    target = media(tmp_path)
    Image.fromarray(np.full((4, 4), 7, dtype=np.uint8)).save(tmp_path / "i0.png")

    np.testing.assert_array_equal(column(target, "photo")["s0"], np.full((3, 4, 4), 7))


def test_sixteen_bit_grey_of_the_full_range_keeps_its_upper_byte(tmp_path):
    pixels = np.array([[0xABCD, 0x00FF], [0xFFFF, 0x0100]], dtype=np.uint16)

    value = one_image(tmp_path, "deep.png", Image.fromarray(pixels), pixel_range="full")
    np.testing.assert_array_equal(value[0], [[0xAB, 0x00], [0xFF, 0x01]])


def test_an_image_is_turned_as_its_exif_says(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees clockwise
    pixels = np.zeros((16, 32, 3), dtype=np.uint8)
    pixels[:, :16] = 255

    value = one_image(tmp_path, "turned.jpg", Image.fromarray(pixels), exif=exif, quality=95)
    assert value.shape == (3, 32, 16)
    assert value[:, :12].min() > 200
    assert value[:, 20:].max() < 50


def test_transparent_parts_are_white(tmp_path):
    pixels = np.zeros((2, 2, 4), dtype=np.uint8)
    pixels[0, 0] = (255, 0, 0, 255)

    value = one_image(tmp_path, "clear.png", Image.fromarray(pixels))
    assert value[:, 0, 0].tolist() == [255, 0, 0]
    assert value[:, 1, 1].tolist() == [255, 255, 255]


def test_a_video_is_decoded_to_its_frames(tmp_path):
    av = pytest.importorskip("av", reason="PyAV is not installed: pip install 'mmbench-datasets[video]'")
    with av.open(str(tmp_path / "v.mp4"), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = 32, 16, "yuv420p"
        for level in (0, 100, 200):
            frame = av.VideoFrame.from_ndarray(np.full((16, 32, 3), level, dtype=np.uint8), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    target = table(tmp_path, "label,clip", [f"{'ab'[row % 2]},v.mp4" for row in range(20)])

    value = column(target, "clip", clip="clip")["row-000001"]
    assert value.shape == (3, 3, 16, 32)
    assert value.mean(axis=(1, 2, 3)) == pytest.approx([0, 100, 200], abs=6)
    with pytest.raises(DataError, match=r"v.mp4 claims 0.3 s, more than max_seconds=0\.05; cut it, or allow it"):
        column(target, "clip", clip="clip", max_seconds=0.05)


def test_without_pyav_a_video_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "av", None)
    (tmp_path / "v.mp4").write_bytes(b"x")
    target = table(tmp_path, "label,clip", [f"{'ab'[row % 2]},v.mp4" for row in range(20)])

    assert describe(target, clip="clip").modalities[0].kind == "video"
    with pytest.raises(Unavailable, match=r"PyAV: pip install 'mmbench-datasets\[video\]'"):
        opened(target, clip="clip")


def test_an_unreadable_image_names_the_file_and_the_row(tmp_path):
    target = media(tmp_path)
    (tmp_path / "i3.png").write_bytes(b"not a picture")

    with pytest.raises(DataError, match=r"data.csv line 5: i3.png cannot be read as an image .*leave the cell empty"):
        column(target, "photo")


def test_a_cut_off_image_is_an_error_and_not_a_grey_half(tmp_path):
    target = media(tmp_path)
    whole = (tmp_path / "i3.png").read_bytes()
    (tmp_path / "i3.png").write_bytes(whole[: len(whole) // 2])

    with pytest.raises(DataError, match=r"i3\.png cannot be read as an image"):
        column(target, "photo")


def test_an_image_that_claims_billions_of_pixels_costs_no_memory(tmp_path):
    target = media(tmp_path)
    header = b"IHDR" + struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    path = tmp_path / "i3.png"
    whole = path.read_bytes()
    path.write_bytes(whole[:12] + header + struct.pack(">I", zlib.crc32(header)) + whole[33:])

    with pytest.raises(DataError, match=r"i3.png (claims 60000 x 60000 pixels|cannot be read)"):
        column(target, "photo")


def test_unreadable_audio_names_the_file_and_the_row(tmp_path):
    target = media(tmp_path)
    (tmp_path / "a3.wav").write_bytes(b"RIFF....")

    with pytest.raises(DataError, match=r"data.csv line 5: a3.wav cannot be read as audio"):
        column(target, "sound")


def test_audio_whose_header_claims_more_than_is_there_is_refused(tmp_path):
    target = media(tmp_path)
    soundfile.write(tmp_path / "a3.wav", np.random.default_rng(0).uniform(-0.5, 0.5, 40_000), 8_000, format="FLAC")
    whole = (tmp_path / "a3.wav").read_bytes()
    (tmp_path / "a3.wav").write_bytes(whole[: len(whole) // 2])

    with pytest.raises(DataError, match=r"a3.wav (is cut short|cannot be read)"):
        column(target, "sound")


@pytest.mark.parametrize("seconds", [0.1, 36_000])
def test_a_wav_header_that_claims_more_sound_than_the_file_holds_is_refused_when_planning(tmp_path, seconds):
    target = media(tmp_path)
    soundfile.write(tmp_path / "a3.wav", np.zeros(400), 8_000, subtype="PCM_16")
    content = bytearray((tmp_path / "a3.wav").read_bytes())
    content[40:44] = struct.pack("<I", int(seconds * 16_000))
    (tmp_path / "a3.wav").write_bytes(content)

    message = f"a3.wav is cut short: its header claims {int(seconds * 16_000):,} bytes of sound, and 800 are there"
    assert message in refuse(target)
    with pytest.raises(DataError, match=message):
        column(target, "sound")


def test_a_wav_that_was_streamed_has_no_length_in_its_header_and_is_read(tmp_path):
    target = media(tmp_path)
    soundfile.write(tmp_path / "a3.wav", np.zeros(400), 8_000, subtype="PCM_16")
    content = bytearray((tmp_path / "a3.wav").read_bytes())
    content[4:8] = content[40:44] = b"\xff\xff\xff\xff"
    (tmp_path / "a3.wav").write_bytes(content)

    assert column(target, "sound")["s3"].values.shape == (400,)


def test_audio_beyond_max_seconds_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"claims 0.1 s, more than max_seconds=0.01.*\[max_seconds="):
        column(media(tmp_path), "sound", max_seconds=0.01)


def test_audio_without_samples_is_refused(tmp_path):
    target = media(tmp_path)
    soundfile.write(tmp_path / "a3.wav", np.zeros(0), 8_000)

    with pytest.raises(DataError, match=r"a3\.wav holds no sound"):
        column(target, "sound")
