"""Videos written by PyAV itself are decoded to the right frames; what is broken or boundless is refused by name."""

from __future__ import annotations

import random
import struct
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from mmbench_datasets.manifest import describe, open_manifest
from mmbench_datasets.media import Embedded
from mmbench_datasets.video import check_video, read_video

from mmbench.errors import DataError

av = pytest.importorskip("av", reason="PyAV is not installed: pip install 'mmbench-datasets[video]'")

CODECS = {"mp4": "mpeg4", "mkv": "mpeg4", "avi": "mpeg4", "webm": "libvpx", "gif": "gif", "flv": "flv", "mov": "mpeg4"}


def film(path, levels, *, rate=10, size=(16, 32), sound=False, options=None):
    """Write a video of even frames of these grey levels, on the right half 50 lighter."""
    height, width = size
    with av.open(str(path), "w", container_options=options or {}) as container:
        stream = container.add_stream(CODECS[path.suffix[1:]], rate=rate)
        stream.width, stream.height = width, height
        stream.pix_fmt = "rgb8" if path.suffix == ".gif" else "yuv420p"
        stream.bit_rate = 4_000_000
        track = container.add_stream("libmp3lame", rate=44_100) if sound else None
        for level in levels:
            pixels = np.full((height, width, 3), level, dtype=np.uint8)
            pixels[:, width // 2 :] += 50
            for packet in stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")):
                container.mux(packet)
        container.mux(stream.encode())
        if track is not None:
            silence = av.AudioFrame.from_ndarray(np.zeros((1, 44_100 * 3), dtype=np.int16), format="s16", layout="mono")
            silence.sample_rate = 44_100
            container.mux(track.encode(silence))
            container.mux(track.encode())
    return path


def read(path, **limits):
    return read_video(path, "data.csv line 2", **{"max_seconds": 60.0, **limits})


def refused(path, **limits):
    with pytest.raises(DataError) as caught:
        read(path, **limits)
    assert str(caught.value).startswith(f"data.csv line 2: {path.name} ")
    return str(caught.value)


@pytest.mark.parametrize("ending", CODECS)
def test_every_frame_of_a_short_video_is_decoded_in_order(tmp_path, ending):
    frames = read(film(tmp_path / f"v.{ending}", (10, 80, 160, 200)))

    assert (frames.dtype, frames.shape) == (np.uint8, (4, 3, 16, 32))
    np.testing.assert_allclose(frames[:, :, :, :15].mean(axis=(1, 2, 3)), [10, 80, 160, 200], atol=20)
    np.testing.assert_allclose(frames[:, :, :, 17:].mean(axis=(1, 2, 3)), [60, 130, 210, 250], atol=20)


@pytest.mark.parametrize("ending", ["mp4", "webm", "avi"])
def test_of_a_long_video_the_middle_frame_of_each_part_is_kept(tmp_path, ending):
    path = film(tmp_path / f"v.{ending}", range(0, 200, 10))  # 20 frames: 0, 10, … 190

    frames = read(path, max_frames=4)

    # Parts of 5 frames: numbers 2, 7, 12 and 17.
    np.testing.assert_allclose(frames[..., :15].mean(axis=(1, 2, 3)), [20, 70, 120, 170], atol=8)
    assert read(path, max_frames=1)[..., :15].mean() == pytest.approx(100, abs=8)
    assert len(read(path, max_frames=20)) == len(read(path, max_frames=500)) == 20


def uneven(path, shown):
    """Write a video whose frames are (grey level, milliseconds shown)."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(CODECS[path.suffix[1:]], rate=1000)
        stream.width, stream.height, stream.pix_fmt, stream.bit_rate = 32, 16, "yuv420p", 4_000_000
        stream.codec_context.time_base = Fraction(1, 1000)
        begin = 0
        for level, milliseconds in shown:
            frame = av.VideoFrame.from_ndarray(np.full((16, 32, 3), level, dtype=np.uint8), format="rgb24")
            frame.pts, frame.time_base = begin, Fraction(1, 1000)
            begin += milliseconds
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def levels(frames):
    return frames.mean(axis=(1, 2, 3)).round(-1).tolist()


@pytest.mark.parametrize("ending", ["mp4", "mkv", "webm", "mov"])
@pytest.mark.parametrize(
    ("shown", "expected"),
    [
        # 10 s, of which two frames fill the first nine.
        ([(40, 4500), (120, 4500), *[(200, 50)] * 20], [40] * 4 + [120] * 3 + [200]),
        # A slide show: 1 s, 5 s, 2 s.
        ([(40, 1000), (120, 5000), (200, 2000)], [40, 120, 120, 120, 120, 120, 200, 200]),
    ],
)
def test_frames_are_evenly_spaced_in_time_where_the_frame_rate_varies(tmp_path, ending, shown, expected):
    frames = read(uneven(tmp_path / f"v.{ending}", shown), max_frames=8)

    # The last frame's time is not in every container.
    assert [a for a, b in zip(levels(frames), expected) if a != b] in ([], [120], [200])


def test_what_an_edit_list_leaves_out_is_not_read(tmp_path):
    path = film(tmp_path / "v.mp4", [10] * 10 + [200] * 10)
    content = bytearray(path.read_bytes())
    entry = content.index(b"elst") + 4 + 8  # of the first edit: duration, time in the track, rate
    rate = struct.unpack(">I", content[content.index(b"mdhd") + 16 : content.index(b"mdhd") + 20])[0]
    content[entry : entry + 8] = struct.pack(">Ii", 1000, rate)  # one second, from the first second on
    path.write_bytes(content)

    frames = read(path, max_frames=4)

    assert len(frames) == 4
    np.testing.assert_allclose(frames[..., :15].mean(axis=(1, 2, 3)), [200] * 4, atol=8)


def test_a_video_turned_by_its_header_is_decoded_upright(tmp_path):
    path = film(tmp_path / "v.mp4", (50, 50))
    content = bytearray(path.read_bytes())
    matrix = content.index(b"tkhd") + 4 + 40
    # A telephone held upright: turn by 90 degrees clockwise to show. 16.16 and, in the last column, 2.30 fixed point.
    content[matrix : matrix + 36] = struct.pack(">9i", 0, 1 << 16, 0, -(1 << 16), 0, 0, 16 << 16, 0, 1 << 30)
    path.write_bytes(content)

    frames = read(path)

    assert frames.shape == (2, 3, 32, 16)
    # What was light on the right is light below.
    np.testing.assert_allclose(frames[:, :, :15].mean(), 50, atol=8)
    np.testing.assert_allclose(frames[:, :, 17:].mean(), 100, atol=8)


def test_sound_beside_the_pictures_makes_no_video_longer(tmp_path):
    frames = read(film(tmp_path / "v.mkv", (10, 80, 160), sound=True))

    assert len(frames) == 3


def test_a_video_within_another_file_is_decoded_from_memory(tmp_path):
    content = film(tmp_path / "v.mp4", (10, 80)).read_bytes()

    assert len(read(Embedded("cell 7", content))) == 2
    assert "cell 7 cannot be read as video" in refused(Embedded("cell 7", content[: len(content) // 2]))


@pytest.mark.parametrize("ending", ["mp4", "mkv", "avi", "webm", "mov"])
def test_a_video_cut_in_half_is_refused_before_anything_is_decoded(tmp_path, ending):
    path = film(tmp_path / f"v.{ending}", [random.Random(0).randrange(200) for _ in range(40)], size=(64, 64))
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])

    message = refused(path)

    assert "is cut short" in message or "cannot be read as video" in message
    with pytest.raises(DataError, match=rf"v\.{ending} .*(is cut short|cannot be read)"):
        check_video(path, "data.csv line 2", max_seconds=60.0)


def test_a_video_whose_index_comes_first_is_refused_where_its_end_is_lost(tmp_path):
    path = film(tmp_path / "v.mp4", range(0, 200, 2), size=(64, 64), options={"movflags": "faststart"})
    content = path.read_bytes()
    assert content.index(b"moov") < content.index(b"mdat")
    path.write_bytes(content[: content.index(b"mdat") + (len(content) - content.index(b"mdat")) // 2])

    assert "v.mp4 is cut short: " in refused(path)
    assert " of 10.0 s are there; replace it by a sound MP4, WebM, AVI, MKV or GIF file" in refused(path)


def test_a_video_longer_than_allowed_is_refused_by_its_claim_and_by_what_it_holds(tmp_path):
    path = film(tmp_path / "v.mp4", [9] * 30)
    live = film(tmp_path / "v.webm", [9] * 30, options={"live": "1"})  # claims no length

    assert "v.mp4 claims 3.0 s, more than max_seconds=2; cut it, or allow it by [max_seconds=…]" in refused(
        path, max_seconds=2
    )
    assert "v.webm is longer than max_seconds=2; cut it" in refused(live, max_seconds=2)


def test_more_frames_than_a_camera_takes_are_refused(tmp_path):
    path = film(tmp_path / "v.mkv", [9] * 50, rate=1000)

    assert "holds more than 240 frames for each of 0.1 s" in refused(path, max_seconds=0.1)


def test_frames_that_take_too_much_memory_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("mmbench_datasets.video._MOST_BYTES", 3 * 16 * 32 * 5)
    path = film(tmp_path / "v.mp4", [9] * 10)

    assert "decodes to more than 1 GiB in 64 frames; scale it down, or ask for fewer by [max_frames=…]" in refused(path)
    assert len(read(path, max_frames=5)) == 5


def test_a_giant_picture_is_refused_by_its_header(tmp_path):
    path = film(tmp_path / "v.gif", [9] * 4)
    content = bytearray(path.read_bytes())
    content[6:10] = struct.pack("<HH", 12_000, 10_000)
    path.write_bytes(content)

    assert "claims 12000 x 10000 pixels, more than 64,000,000; scale it down" in refused(path)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"no video at all",
        b"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n/etc/hostname\n#EXT-X-ENDLIST\n",
        b"ffconcat version 1.0\nfile other.mp4\n",
        b"\x00\x00\x00\x18ftypmp42" + bytes(200),
        b"RIFF\xff\xff\xff\xffAVI LIST",
        b"GIF89a",
    ],
)
def test_what_is_no_video_is_refused_by_name(tmp_path, content):
    path = tmp_path / "v.mp4"
    path.write_bytes(content)

    assert "replace it by a sound MP4" in refused(path)


def test_a_playlist_does_not_open_the_files_that_it_names(tmp_path):
    film(tmp_path / "other.mp4", (10, 20))
    (tmp_path / "v.mp4").write_text("ffconcat version 1.0\nfile other.mp4\n")
    (tmp_path / "w.mp4").write_text("#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nother.mp4\n#EXT-X-ENDLIST\n")

    refused(tmp_path / "v.mp4")
    refused(tmp_path / "w.mp4")


def test_a_sound_without_pictures_is_no_video(tmp_path):
    with av.open(str(tmp_path / "v.mkv"), "w") as container:
        track = container.add_stream("libmp3lame", rate=44_100)
        silence = av.AudioFrame.from_ndarray(np.zeros((1, 44_100), dtype=np.int16), format="s16", layout="mono")
        silence.sample_rate = 44_100
        container.mux(track.encode(silence))
        container.mux(track.encode())

    assert "v.mkv holds no pictures, or is cut short before they begin; replace it" in refused(tmp_path / "v.mkv")


@pytest.mark.parametrize("ending", ["mp4", "webm", "avi", "gif"])
def test_bytes_changed_at_random_give_frames_or_a_named_refusal(tmp_path, ending):
    whole = film(tmp_path / f"v.{ending}", range(0, 200, 20)).read_bytes()
    rng = random.Random(ending)
    for trial in range(40):
        content = bytearray(whole)
        for _ in range(1 + trial % 8):
            content[rng.randrange(len(content))] = rng.randrange(256)
        (tmp_path / f"w.{ending}").write_bytes(content)
        try:
            frames = read(tmp_path / f"w.{ending}")
        except DataError as error:
            assert f"w.{ending}" in str(error)
        else:
            assert frames.dtype == np.uint8
            assert frames.shape[:2] == (len(frames), 3)


@pytest.fixture
def manifest(tmp_path, monkeypatch):
    monkeypatch.setenv("MMBENCH_CACHE", str(tmp_path / "cache"))
    for number in range(20):
        film(tmp_path / f"v{number}.webm", range(0, 100, 10))
    rows = [f"{'ab'[number % 2]},v{number}.webm,{number}" for number in range(20)]
    (tmp_path / "data.csv").write_text("\n".join(["label,clip,age", *rows]) + "\n")
    return str(tmp_path / "data.csv")


def test_a_manifests_videos_are_found_by_their_ending_and_limited_by_max_frames(manifest):
    info = describe(manifest)
    first = open_manifest(Path("nowhere"), target=manifest, max_frames=3)["train"][0].inputs["clip"]

    assert [(modality.name, modality.kind) for modality in info.modalities] == [("clip", "video")]
    assert first.shape == (3, 3, 16, 32)
    assert describe(manifest, max_frames=3).fingerprint != info.fingerprint


def test_planning_refuses_a_video_that_is_cut_short(manifest):
    path = Path(manifest).parent / "v7.webm"
    path.write_bytes(path.read_bytes()[:300])

    with pytest.raises(DataError, match=r"data.csv line 9: v7.webm (is cut short|cannot be read|holds no)"):
        describe(manifest)


def test_an_animated_gif_is_a_video_where_that_is_asked_for(tmp_path, monkeypatch):
    monkeypatch.setenv("MMBENCH_CACHE", str(tmp_path / "cache"))
    film(tmp_path / "v.gif", (0, 85, 170))
    (tmp_path / "data.csv").write_text("label,clip\n" + "a,v.gif\nb,v.gif\n" * 10)

    splits = open_manifest(Path("nowhere"), target=str(tmp_path / "data.csv"), clip="clip:video")

    assert splits["train"][0].inputs["clip"].shape == (3, 3, 16, 32)
    still = open_manifest(Path("nowhere"), target=str(tmp_path / "data.csv"), clip="clip")
    assert still["train"][0].inputs["clip"].shape == (3, 16, 32)
