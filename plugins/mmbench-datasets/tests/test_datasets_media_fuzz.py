"""Damaged and made-up media: each is read within the limits or refused by a DataError, and nothing else happens."""

from __future__ import annotations

import io
import random

import numpy as np
import pytest
import soundfile
from damage import bounds, damaged
from mmbench_datasets.audio import audio_summary, check_audio, read_audio
from mmbench_datasets.image import check_image, image_summary, range_of_images, read_image
from mmbench_datasets.media import Embedded
from mmbench_datasets.mp3 import read_claim
from mmbench_datasets.sniff import sniff
from mmbench_datasets.video import check_video, read_video, video_summary
from PIL import Image

from mmbench.errors import DataError

# Pillow warns of what it then refuses, or reads around.
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:PIL")

FILMS = ("mp4", "mkv", "avi")
IMAGES = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF")
SOUNDS = {"WAV": "PCM_16", "FLAC": "PCM_16", "OGG": "VORBIS", "MP3": "MPEG_LAYER_III", "AIFF": "PCM_16"}


def picture(kind: str, mode: str = "RGB") -> bytes:
    stream = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 256, (24, 20, 3), dtype=np.uint8)
    image = Image.fromarray(pixels)
    image = Image.fromarray(pixels[..., 0].astype(np.uint16) * 257) if mode == "I;16" else image.convert(mode)
    image.save(stream, kind)
    return stream.getvalue()


def sound(container: str) -> bytes:
    stream = io.BytesIO()
    tone = 0.3 * np.sin(np.arange(4_000) / 5)
    soundfile.write(stream, tone, 16_000, format=container, subtype=SOUNDS[container])
    return stream.getvalue()


def film(tmp_path, ending: str) -> bytes:
    av = pytest.importorskip("av", reason="PyAV is not installed: pip install 'mmbench-datasets[video]'")
    path = tmp_path / f"v.{ending}"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = 32, 16, "yuv420p"
        for level in range(0, 200, 20):
            frame = av.VideoFrame.from_ndarray(np.full((16, 32, 3), level, dtype=np.uint8), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path.read_bytes()


def attempt(read) -> bool:
    """Return whether a file was read; a DataError is the only other way out, and names no address."""
    try:
        read()
    except DataError as error:
        assert str(error).startswith("line 2")
        assert "0x7" not in str(error)
        return False
    return True


def read_all_of_an_image(content: bytes) -> list[bool]:
    file = Embedded("", content)
    sniff(content)
    range_of_images([file])
    read = [
        attempt(lambda: check_image(file, "line 2")),
        attempt(lambda: image_summary(file, "line 2")),
    ]
    for channels in (1, 3):
        try:
            values = read_image(file, "line 2", channels=channels)
        except DataError:
            read.append(False)
        else:
            assert (values.dtype, values.shape[0], values.ndim) == (np.uint8, channels, 3)
            read.append(True)
    return read


def read_all_of_a_sound(content: bytes) -> bool:
    file = Embedded("", content)
    sniff(content)
    read_claim(io.BytesIO(content))
    attempt(lambda: check_audio(file, "line 2", max_seconds=5))
    attempt(lambda: audio_summary(file, "line 2"))
    try:
        value = read_audio(file, "line 2", max_seconds=5)
    except DataError as error:
        assert str(error).startswith("line 2")
        return False
    assert 0 < len(value.values) <= 5 * value.rate
    return True


def read_all_of_a_film(content: bytes) -> bool:
    file = Embedded("", content)
    attempt(lambda: check_video(file, "line 2", max_seconds=5))
    attempt(lambda: video_summary(file, "line 2"))
    return attempt(lambda: read_video(file, "line 2", max_seconds=5, max_frames=4))


def fuzz(content: bytes, read, rounds: int) -> None:
    """Read damaged copies of a file, and in the end the file itself as before."""
    rng = random.Random(0)
    whole = read(content)
    for _ in range(rounds):
        changed = damaged(content, rng)
        with bounds():
            read(changed)
    assert read(content) == whole
    assert whole is True or all(whole)


@pytest.mark.parametrize("kind", IMAGES)
def test_damaged_pictures_are_read_or_refused(kind):
    fuzz(picture(kind), read_all_of_an_image, 100)


@pytest.mark.parametrize("container", SOUNDS)
def test_damaged_sounds_are_read_or_refused(container):
    fuzz(sound(container), read_all_of_a_sound, 100)


@pytest.mark.parametrize("ending", FILMS)
def test_damaged_videos_are_read_or_refused(tmp_path, ending):
    fuzz(film(tmp_path, ending), read_all_of_a_film, 100)


@pytest.mark.full
@pytest.mark.parametrize("kind", [*IMAGES, *SOUNDS, *FILMS])
def test_500_damaged_files_of_each_kind_are_read_or_refused(tmp_path, kind):
    if kind in IMAGES:
        fuzz(picture(kind), read_all_of_an_image, 500)
    elif kind in SOUNDS:
        fuzz(sound(kind), read_all_of_a_sound, 500)
    else:
        fuzz(film(tmp_path, kind), read_all_of_a_film, 500)


@pytest.mark.full
@pytest.mark.parametrize("seed", range(4))
def test_thousands_of_damaged_media_are_read_or_refused(tmp_path, seed):
    rng = random.Random(seed)
    pictures = [picture(kind) for kind in IMAGES] + [
        picture("PNG", "P"),
        picture("PNG", "I;16"),
        picture("TIFF", "CMYK"),
    ]
    sounds = [sound(container) for container in SOUNDS]
    films = [film(tmp_path, ending) for ending in FILMS]

    for _ in range(300):
        read_all_of_an_image(damaged(rng.choice(pictures), rng))
        read_all_of_a_sound(damaged(rng.choice(sounds), rng))
    for _ in range(100):
        read_all_of_a_film(damaged(rng.choice(films), rng))
    for _ in range(300):
        head = rng.choice([content[: rng.randrange(1, 40)] for content in (*pictures, *sounds)])
        noise = head + rng.randbytes(rng.randrange(200))
        read_all_of_an_image(noise)
        read_all_of_a_sound(noise)
