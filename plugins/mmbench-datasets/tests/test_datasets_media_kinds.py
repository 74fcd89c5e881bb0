"""Media as people have them: deep and float pictures, other endings, files cut short, lengths that no header knows."""

from __future__ import annotations

import io
import struct
import zlib
from fractions import Fraction

import numpy as np
import pytest
import soundfile
from manifest_cases import column, opened, refuse, table
from mmbench_datasets.audio import check_audio, read_audio
from mmbench_datasets.image import PixelRange, check_image, read_image
from mmbench_datasets.manifest import describe, read_manifest
from mmbench_datasets.media import Embedded
from mmbench_datasets.mp3 import count_frames, read_claim
from mmbench_datasets.sniff import sniff
from PIL import Image

from mmbench.errors import DataError, UsageError

pytestmark = pytest.mark.usefixtures("own_cache")

NOISE = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)


def files(folder, names, header="label,file", **options):
    """A manifest that names each file in turn, in two classes."""
    return table(folder, header, [f"{'ab'[row % 2]},{name}" for row, name in enumerate(names)], **options)


# Deep pictures


def gradients(offset, dtype, count=20):
    """Pictures of 100 neighboring values above an offset, each another way round."""
    values = np.tile(np.arange(100).reshape(10, 10), (2, 2))
    return [(np.roll(values, row, axis=1) + offset).astype(dtype) for row in range(count)]


@pytest.mark.parametrize(
    ("offset", "dtype", "ending"),
    [
        (90, "uint16", "png"), (2_910, "uint16", "png"), (65_400, "uint16", "png"), (0, "uint16", "tif"),
        (-50, "int32", "tif"), (70_000, "int32", "tif"), (0.25, "float32", "tif"), (-3_000.5, "float32", "tif"),
    ],
)  # fmt: skip
def test_the_range_of_the_column_decides_how_deep_pictures_become_bytes(tmp_path, offset, dtype, ending):
    pictures = gradients(offset, dtype)
    for row, pixels in enumerate(pictures):
        Image.fromarray(pixels).save(tmp_path / f"{row}.{ending}")
    target = files(tmp_path, [f"{row}.{ending}" for row in range(20)])

    values = column(target, "x", x="file")
    low, high = offset, offset + 99
    for row in range(20):
        expected = np.rint((pictures[row].astype(np.float64) - low) / (high - low) * 255)
        assert np.abs(values[f"row-{row + 1:06}"][0].astype(int) - expected).max() <= 1


def test_the_same_contrast_gives_the_same_bytes_with_eight_twelve_and_sixteen_bits(tmp_path):
    rng = np.random.default_rng(0)
    grey = {row: (np.where(np.arange(8) < 4, 90, 170) + rng.integers(0, 20, (8, 8))) for row in range(20)}
    found = {}
    for name, offset in (("i16", 0), ("i12", 2_820)):
        for row, pixels in grey.items():
            Image.fromarray((pixels + offset).astype(np.uint16)).save(tmp_path / f"{name}-{row}.png")
        values = column(files(tmp_path, [f"{name}-{row}.png" for row in grey]), "x", x="file")
        found[name] = np.stack([values[f"row-{row + 1:06}"] for row in grey])

    np.testing.assert_array_equal(found["i12"], found["i16"])
    assert len(np.unique(found["i16"])) >= 30  # 40 levels were written


def chunk(name, content):
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def deep_png(pixels, color_type):
    """Return a PNG file of 16 bits a channel, uint16 (H, W, C): 2 for a color, 6 with alpha, 4 for grey with alpha."""
    height, width, _ = pixels.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)
    header = struct.pack(">IIBBBBB", width, height, 16, color_type, 0, 0, 0)
    data = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + data


@pytest.mark.parametrize(("color_type", "channels"), [(2, 3), (6, 4), (4, 2)])
@pytest.mark.parametrize("offset", [0, 300, 60_000])
def test_the_range_of_the_column_decides_for_deep_colors_too(tmp_path, color_type, channels, offset):
    values = np.arange(200).reshape(10, 20)
    for row in range(20):
        pixels = np.stack([np.roll(values, row * place, axis=1) + offset for place in range(1, channels + 1)], axis=2)
        if channels in (2, 4):
            pixels[..., -1] = 65_535
        (tmp_path / f"{row}.png").write_bytes(deep_png(pixels.astype(np.uint16), color_type))
    found = column(files(tmp_path, [f"{row}.png" for row in range(20)]), "x", x="file")

    for row in range(20):
        for place in range(3):
            shift = row * (1 if channels == 2 else place + 1)
            expected = np.rint(np.roll(values, shift, axis=1) / 199 * 255)
            assert np.abs(found[f"row-{row + 1:06}"][place].astype(int) - expected).max() <= 1


@pytest.mark.parametrize("compression", ["raw", "deflate", "lzw"])
def test_tiff_of_deep_colors_is_read_whole(compression):
    av = pytest.importorskip("av", reason="PyAV is not installed")
    pixels = (np.arange(5 * 8 * 3).reshape(5, 8, 3) * 7 + 300).astype("<u2")
    writer = av.CodecContext.create("tiff", "w")
    writer.width, writer.height, writer.pix_fmt, writer.time_base = 8, 5, "rgb48le", Fraction(1, 1)
    writer.options = {"compression_algo": compression}
    packets = writer.encode(av.VideoFrame.from_ndarray(pixels, format="rgb48le")) + writer.encode(None)
    file = Embedded("a.tif", b"".join(map(bytes, packets)))

    found = read_image(file, "x", channels=3, pixel_range=PixelRange(300, 1_200))
    expected = np.rint((np.clip(pixels.astype(float), 300, 1_200) - 300) / 900 * 255)
    np.testing.assert_array_equal(found, expected.transpose(2, 0, 1).astype(np.uint8))


def test_deep_colors_are_turned_as_their_exif_says_and_their_transparent_parts_are_white():
    pixels = np.zeros((2, 3, 4), np.uint16)
    pixels[0, 0] = (65_535, 0, 0, 65_535)
    content = deep_png(pixels, 6)
    turned = Image.Exif()
    turned[0x0112] = 6
    exif = turned.tobytes().removeprefix(b"Exif\0\0")
    content = content[:33] + chunk(b"eXIf", exif) + content[33:]

    found = read_image(Embedded("a.png", content), "x", channels=3)
    assert found.shape == (3, 3, 2)
    assert found[:, 0, 1].tolist() == [255, 0, 0]
    assert found[:, 0, 0].tolist() == [255, 255, 255]


def test_a_broken_pixel_does_not_make_the_rest_black(tmp_path):
    for row, pixels in enumerate(gradients(2_000, "uint16", 40)):
        pixels[0, 0] = 65_535 if row == 3 else pixels[0, 0]
        Image.fromarray(np.tile(pixels, (4, 4))).save(tmp_path / f"{row}.png")

    value = column(files(tmp_path, [f"{row}.png" for row in range(40)]), "x", x="file")["row-000001"]
    assert (value.min(), value.max()) == (0, 255)
    assert len(np.unique(value)) > 90


@pytest.mark.parametrize(("option", "expected"), [("full", [0, 11, 255]), ("0..4095", [0, 181, 255])])
def test_the_range_of_deep_pictures_can_be_given(tmp_path, option, expected):
    Image.fromarray(np.array([[0, 2_910, 65_535]], dtype=np.uint16)).save(tmp_path / "a.png")
    target = files(tmp_path, ["a.png"] * 20)

    assert column(target, "x", x="file", pixel_range=option)["row-000001"][0, 0].tolist() == expected


@pytest.mark.parametrize("option", ["dark", "5..5", "9..1", "1..", "nan..3"])
def test_a_range_that_is_none_is_refused(tmp_path, option):
    Image.fromarray(NOISE).save(tmp_path / "a.png")

    assert "0..4095" in refuse(files(tmp_path, ["a.png"] * 20), UsageError, x="file", pixel_range=option)


def test_the_transparent_value_of_sixteen_bit_grey_is_white(tmp_path):
    Image.fromarray(np.array([[1_000, 300, 0]], dtype=np.uint16)).save(tmp_path / "a.png", transparency=300)

    values = read_image(tmp_path / "a.png", "x", channels=1, pixel_range=PixelRange(0, 1_000))
    assert values[0, 0].tolist() == [255, 255, 0]


def test_values_of_float_pictures_that_are_not_finite_are_black_or_white(tmp_path):
    Image.fromarray(np.array([[0, np.nan, np.inf, -np.inf, 1]], dtype=np.float32)).save(tmp_path / "a.tif")

    assert read_image(tmp_path / "a.tif", "x", channels=1)[0, 0].tolist() == [0, 0, 255, 0, 255]


# Formats and endings


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "I;16", "I", "F"])
@pytest.mark.parametrize("compression", ["raw", "tiff_lzw"])
def test_tiff_of_every_mode_is_decoded_as_pillow_converts_it(mode, compression):
    image = Image.fromarray(NOISE)
    image = image.convert("L").convert(mode) if mode in ("I;16", "I", "F") else image.convert(mode)
    stream = io.BytesIO()
    image.save(stream, "TIFF", compression=compression)

    values = read_image(Embedded("", stream.getvalue()), "row 2", channels=3)
    if mode in ("1", "L", "P", "RGB", "CMYK"):
        expected = np.asarray(image.convert("RGB")).transpose(2, 0, 1)
        np.testing.assert_array_equal(values, expected)
    assert values.shape == (3, 16, 16)


@pytest.mark.parametrize("ending", [".tif", ".TIFF", ".jfif", ".jpe", "", ".photo"])
def test_the_content_of_files_decides_over_their_ending(tmp_path, ending):
    for row in range(20):
        kind = ("TIFF", "JPEG")[ending in (".jfif", ".jpe")]
        Image.fromarray(NOISE).save(tmp_path / f"{row}{ending}", kind)
    target = files(tmp_path, [f"{row}{ending}" for row in range(20)])

    (modality,) = describe(target, photo="file").modalities
    assert (modality.name, modality.kind) == ("photo", "image")
    assert column(target, "photo", photo="file")["row-000001"].shape == (3, 16, 16)


def test_blanks_around_a_path_are_no_part_of_it(tmp_path):
    Image.fromarray(NOISE).save(tmp_path / "a.png")

    assert column(files(tmp_path, ["a.png ", " a.png"] * 10), "x", x="file")["row-000001"].shape == (3, 16, 16)


CONTENTS = {
    "heic": b"\0\0\0\x18ftypheic\0\0\0\0", "avif": b"\0\0\0\x18ftypavif\0\0\0\0", "jp2": b"\0\0\0\x0cjP  \r\n\x87\n",
    "m4a": b"\0\0\0\x18ftypM4A \0\0\0\0", "aac": b"\xff\xf1P\x80", "wma": b"\x30\x26\xb2\x75\x8e\x66\xcf\x11",
    "npy": b"\x93NUMPY\1\0", "svg": b"<svg xmlns=''/>", "pdf": b"%PDF-1.7", "txt": b"hello", "html": b"<!DOCTYPE html>",
}  # fmt: skip


@pytest.mark.parametrize("ending", CONTENTS)
def test_a_column_of_other_files_is_refused_and_never_read_as_text(tmp_path, ending):
    for row in range(20):
        (tmp_path / f"{row}.{ending}").write_bytes(CONTENTS[ending])
    target = files(tmp_path, [f"{row}.{ending}" for row in range(20)])

    message = refuse(target, image="file")
    assert "line 2" in message
    assert "file:text" in message
    assert {modality.kind for modality in describe(target, image="file:text").modalities} == {"text"}


@pytest.mark.parametrize("cell", ["{}.heic", "owl/{}.npy", "{}.m4a", "a.png?v={}", "'{}.png'", '"""{}.jpg"""'])
def test_cells_that_look_like_files_which_are_not_there_are_refused(tmp_path, cell):
    target = files(tmp_path, [cell.format(row) for row in range(20)])

    assert "file:text" in refuse(target, image="file")


@pytest.mark.parametrize("cell", ["a word {}", "v1.{}", "see table {}.", "Dr. Who {}", "https://example.org/{}"])
def test_text_stays_text(tmp_path, cell):
    target = files(tmp_path, [cell.format(f"n{row}") for row in range(20)])

    assert describe(target, text="file").modalities[0].kind == "text"


def test_images_among_sounds_are_refused_by_their_content(tmp_path):
    for row in range(20):
        if row == 16:
            Image.fromarray(NOISE).save(tmp_path / f"{row}.bin", "PNG")
        else:
            soundfile.write(tmp_path / f"{row}.bin", np.zeros(100), 8_000, format="WAV")

    assert "line 18: 16.bin cannot be read as audio (it is PNG)" in refuse(
        files(tmp_path, [f"{row}.bin" for row in range(20)]), x="file"
    )


@pytest.mark.parametrize(
    ("head", "name", "kind"),
    [
        (b"RIFF\0\0\0\0AVI LIST", "AVI", "video"), (b"RIFF\0\0\0\0WEBPVP8 ", "WebP", "image"),
        (b"RF64\xff\xff\xff\xffWAVE", "WAV", "audio"), (b"\0\0\0\x20ftypisom", "MP4", "video"),
        (b"\0\0\0\x20ftypqt  ", "MP4", "video"), (b"\0\0\0\x20ftypM4V ", "MP4", "video"),
        (b"\xff\xfb\x90\0", "MP3", "audio"), (b"\xff\xd8\xff\xe0", "JPEG", "image"), (b"", "an empty file", ""),
        (b"version https://git-lfs.github.com/spec/v1", "a Git LFS pointer", ""), (b"hello", "", ""),
    ],
)  # fmt: skip
def test_formats_are_told_by_their_first_bytes(head, name, kind):
    assert (sniff(head).name, sniff(head).kind) == (name, kind)


# Files cut short


def encoded(kind, **options):
    stream = io.BytesIO()
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(stream, kind, **options)
    return stream.getvalue()


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF"])
def test_a_picture_cut_short_is_found_when_planning(tmp_path, kind):
    content = encoded(kind)
    for row in range(20):
        (tmp_path / f"{row}.png").write_bytes(content if row != 7 else content[: len(content) * 2 // 3])

    message = refuse(files(tmp_path, [f"{row}.png" for row in range(20)]), x="file")
    assert "line 9: 7.png" in message
    assert "0x" not in message


def test_a_jpeg_with_bytes_after_its_end_is_whole(tmp_path):
    (tmp_path / "a.jpg").write_bytes(encoded("JPEG") + b"appended by a camera")

    check_image(tmp_path / "a.jpg", "x")


def tone(seconds=2.0, rate=16_000):
    return 0.3 * np.sin(2 * np.pi * 440 * np.arange(int(seconds * rate)) / rate)


@pytest.mark.parametrize(
    ("container", "subtype"), [("MP3", "MPEG_LAYER_III"), ("FLAC", "PCM_16"), ("OGG", "VORBIS"), ("WAV", "PCM_16")]
)
@pytest.mark.parametrize("share", [0.25, 0.5, 0.9])
def test_a_sound_cut_short_is_found_when_planning_and_when_decoding(tmp_path, container, subtype, share):
    stream = io.BytesIO()
    soundfile.write(stream, tone(), 16_000, format=container, subtype=subtype)
    whole = Embedded("", stream.getvalue())
    cut = Embedded("", whole.content[: int(len(whole.content) * share)])

    check_audio(whole, "line 2")
    assert abs(len(read_audio(whole, "line 2", max_seconds=9).values) - 32_000) <= 4 * 1152
    with pytest.raises(DataError, match=r"^line 2 (is cut short|cannot be read|holds no sound)"):
        check_audio(cut, "line 2")
    if container != "OGG":  # whose header claims nothing
        with pytest.raises(DataError, match=r"^line 2 (is cut short|cannot be read|holds no sound)"):
            read_audio(cut, "line 2", max_seconds=9)


def test_an_mp3_claims_the_samples_of_its_xing_header():
    stream = io.BytesIO()
    soundfile.write(stream, tone(6.0), 16_000, format="MP3", subtype="MPEG_LAYER_III")
    claim = read_claim(stream)

    assert claim.rate == 16_000
    assert abs(claim.num_samples - 96_000) <= 4 * 1152


def test_an_mp3_without_a_xing_header_claims_nothing_and_is_read_as_far_as_it_goes():
    stream = io.BytesIO()
    options = {"bitrate_mode": "CONSTANT", "compression_level": 0.5}
    soundfile.write(stream, tone(6.0), 16_000, format="MP3", subtype="MPEG_LAYER_III", **options)
    content = stream.getvalue().replace(b"Xing", b"none").replace(b"Info", b"none")
    cut = Embedded("", content[: len(content) // 2])

    assert read_claim(io.BytesIO(content)) is None
    assert 40_000 < len(read_audio(cut, "x", max_seconds=9).values) < 56_000


@pytest.mark.parametrize("mode", ["VARIABLE", "AVERAGE", "CONSTANT"])
@pytest.mark.parametrize(("rate", "channels"), [(16_000, 1), (44_100, 2), (8_000, 1)])
def test_an_mp3_without_a_xing_header_is_read_to_its_end_whatever_its_bit_rate(mode, rate, channels):
    seconds = np.arange(6 * rate) / rate
    loud = np.random.default_rng(0).normal(size=len(seconds)) * 0.3
    sound = np.where((seconds > 2) & (seconds < 4), loud, 0.01 * np.sin(2 * np.pi * 200 * seconds))
    stream = io.BytesIO()
    options = {"bitrate_mode": mode, "compression_level": 0.3}
    samples = np.stack([sound] * channels, axis=1)
    soundfile.write(stream, samples, rate, format="MP3", subtype="MPEG_LAYER_III", **options)
    whole = read_audio(Embedded("", stream.getvalue()), "x", max_seconds=9).values
    content = stream.getvalue()
    frames = count_frames(content)
    second = content.find(content[frames.begin : frames.begin + 2], frames.begin + 60)
    while count_frames(content[second:]).count != frames.count - 1:
        second = content.find(content[frames.begin : frames.begin + 2], second + 1)
    bare = Embedded("", content[second:])

    assert read_claim(io.BytesIO(bare.content)) is None
    found = read_audio(bare, "x", max_seconds=9).values
    assert abs(len(found) - len(whole)) <= 2 * 1152
    # The encoder's delay, which the header would name, is left in.
    loudest = [np.flatnonzero(np.abs(values) > 0.2)[[0, -1]] / rate for values in (found, whole)]
    np.testing.assert_allclose(*loudest, atol=0.1)
    check_audio(bare, "x")


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e300])
def test_a_sound_of_numbers_that_are_not_finite_is_refused_when_planning(tmp_path, value):
    samples = np.concatenate([np.full(100, value), tone(0.5, 8_000)])
    soundfile.write(tmp_path / "a.wav", samples, 8_000, subtype="DOUBLE")

    message = refuse(files(tmp_path, ["a.wav"] * 20), x="file")
    assert "line 2: a.wav holds samples that are no finite numbers" in message


def test_a_rate_that_no_sound_has_is_refused_when_planning(tmp_path):
    content = bytearray(wav(tone(0.5, 8_000)))
    content[24:28] = b"\xff\xff\xff\x7f"
    (tmp_path / "a.wav").write_bytes(content)

    assert "claims 2,147,483,647 samples a second" in refuse(files(tmp_path, ["a.wav"] * 20), x="file")


def wav(samples, *, data_size=None, riff_size=None):
    content = (np.clip(samples, -1, 1) * 32_767).astype("<i2").tobytes()
    data = len(content) if data_size is None else data_size
    riff = 36 + len(content) if riff_size is None else riff_size
    head = b"RIFF" + struct.pack("<I", riff) + b"WAVEfmt " + struct.pack("<IHHIIHH", 16, 1, 1, 8_000, 16_000, 2, 16)
    return head + b"data" + struct.pack("<I", data) + content


@pytest.mark.parametrize(
    ("data", "riff"),
    [(0xFFFFFFFF, 0xFFFFFFFF), (0, 0), (0, 36), (0, 0xFFFFFFFF), (0x7FFFFFDB, 0x7FFFFFFF)],
)
def test_a_wav_of_unknown_length_is_read_to_its_end(data, riff):
    samples = tone(0.5, 8_000)
    file = Embedded("", wav(samples, data_size=data, riff_size=riff))

    check_audio(file, "x")
    np.testing.assert_allclose(read_audio(file, "x", max_seconds=9).values, samples, atol=1e-4)


@pytest.mark.parametrize("content", [b"", wav(np.zeros(0)), b"RIFF", b"fLaC", b"OggS", b"ID3\4\0\0\0\0\0\0"])
def test_a_sound_of_no_length_is_refused_when_planning(tmp_path, content):
    (tmp_path / "a.wav").write_bytes(content)

    message = refuse(files(tmp_path, ["a.wav"] * 20), x="file")
    assert "line 2: a.wav" in message


def test_all_bad_files_are_listed_at_once_and_the_first_twenty_by_name(tmp_path):
    for row in range(60):
        Image.fromarray(NOISE).save(tmp_path / f"{row:02}.png")
        if row < 25:
            (tmp_path / f"{row:02}.png").write_bytes(b"" if row % 2 else b"<html>not found</html>")

    message = refuse(files(tmp_path, [f"{row:02}.png" for row in range(60)]), x="file")
    lines = message.splitlines()
    assert lines[0].startswith("data.csv has 25 faults in 25 rows")
    assert len(lines) == 22
    assert "00.png cannot be read as an image (it is HTML)" in lines[1]
    assert "(it is an empty file)" in lines[2]
    assert lines[-1].strip() == "and 5 more"


# A modality that train lacks


@pytest.mark.parametrize("kind", ["image", "audio", "text", "tabular"])
def test_a_modality_that_no_row_of_train_has_is_refused(tmp_path, kind):
    Image.fromarray(NOISE).save(tmp_path / "a.png")
    soundfile.write(tmp_path / "a.wav", tone(0.1), 16_000)
    cell = {"image": "a.png", "audio": "a.wav", "text": "some words", "tabular": "3"}[kind]
    splits = ["train"] * 10 + ["val"] * 5 + ["test"] * 5
    rows = [
        f"{split},{'ab'[row % 2]},text {row},{'' if split == 'train' else cell}" for row, split in enumerate(splits)
    ]

    message = refuse(table(tmp_path, "split,label,words,x", rows), words="words:text", x="x")
    assert "no row of train has 'x' (10 rows)" in message


def test_headers_say_sizes_rates_and_digests_without_decoding(tmp_path):
    Image.fromarray(NOISE[:8]).save(tmp_path / "a.png")
    soundfile.write(tmp_path / "a.wav", tone(0.5), 16_000)
    rows = [f"{'ab'[row % 2]},a.png,a.wav,{row}.5" for row in range(20)]
    sample = opened(table(tmp_path, "label,photo,sound,age", rows), photo="photo", sound="sound", age="age")["train"][0]

    assert dict(sample.inputs.summary("photo").facts) == {"channels": 3, "size": [8, 16]}
    assert dict(sample.inputs.summary("sound").amounts) == {"rate": 16_000, "seconds": 0.5}
    assert sample.inputs.summary("age").facts == {"num_features": 1}
    assert sample.inputs.summary("photo").digest == int(
        read_manifest(str(tmp_path / "data.csv"), {"photo": "photo"}).digests["a.png"][:16], 16
    )
