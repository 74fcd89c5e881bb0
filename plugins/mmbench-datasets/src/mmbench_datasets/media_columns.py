"""Columns of media: what decodes a row, and what its header says without decoding."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TypeAlias

from mmbench.data import Array, Waveform
from mmbench.input_statistics import InputSummary
from mmbench_datasets.audio import audio_summary, read_audio
from mmbench_datasets.image import PixelRange, image_summary, is_deep, is_grey, range_of_images, read_image
from mmbench_datasets.media import Embedded, MediaFile
from mmbench_datasets.video import MAX_FRAMES, read_video, video_summary

#: The file of a row, None where the row lacks the modality.
FileOf: TypeAlias = Callable[[int], MediaFile | None]


@dataclass(frozen=True)
class _Column:
    """A column of files.

    Attributes:
        file: Of a row.
        where: Says where a row stands, for messages.
        digest: 64 bits of a row's content, 0 where not known; embedded content is hashed here.
    """

    file: FileOf
    where: Callable[[int], str]
    digest: Callable[[int], int] = lambda row: 0

    def _digest(self, row: int, file: MediaFile) -> int:
        return content_digest(file.content) if isinstance(file, Embedded) else self.digest(row)


@dataclass(frozen=True)
class ImageColumn(_Column):
    """Images.

    Attributes:
        rows: All rows of the dataset: its images are grey only where all of these are.
        train: Rows that decide the range of 16-bit and float images.
        channels: Of every decoded image; 0 looks at the headers.
        pixel_range: Of 16-bit and float images; None takes it from `train`.
    """

    rows: Sequence[int] = ()
    train: Sequence[int] = ()
    channels: int = 0
    pixel_range: PixelRange | None = None

    def __call__(self, row: int) -> Array | None:
        file = self.file(row)
        if file is None:
            return None
        pixel_range = self._range if self._deep(file) else None
        return read_image(file, self.where(row), channels=self._channels, pixel_range=pixel_range)

    def summary(self, row: int) -> InputSummary | None:
        """Return what the header of a row's image says, None where the row has none."""
        file = self.file(row)
        if file is None:
            return None
        return image_summary(file, self.where(row), channels=self._channels, digest=self._digest(row, file))

    @cached_property
    def _channels(self) -> int:
        return self.channels or (1 if all(is_grey(file) for file in self._files(self.rows)) else 3)

    @cached_property
    def _range(self) -> PixelRange | None:
        return self.pixel_range or range_of_images(self._files(self.train))

    def _deep(self, file: MediaFile) -> bool:
        """Whether an image has more than 8 bits; columns of compressed photographs are not looked at twice."""
        return not str(file.name).lower().endswith((".jpg", ".jpeg", ".gif", ".bmp", ".webp")) and is_deep(file)

    def _files(self, rows: Sequence[int]) -> Iterator[MediaFile]:
        """Yield the files of some rows, those that several rows name once."""
        seen: set[MediaFile] = set()
        for row in rows:
            file = self.file(row)
            if file is None or file in seen:
                continue
            if not isinstance(file, Embedded):  # whose content is not to be held
                seen.add(file)
            yield file


@dataclass(frozen=True)
class AudioColumn(_Column):
    """Sounds of at most `max_seconds`."""

    max_seconds: float = 600.0

    def __call__(self, row: int) -> Waveform | None:
        file = self.file(row)
        return None if file is None else read_audio(file, self.where(row), max_seconds=self.max_seconds)

    def summary(self, row: int) -> InputSummary | None:
        """Return what the header of a row's sound says, None where the row has none."""
        file = self.file(row)
        return None if file is None else audio_summary(file, self.where(row), digest=self._digest(row, file))


@dataclass(frozen=True)
class VideoColumn(_Column):
    """Videos of at most `max_seconds`, of which `max_frames` are kept."""

    max_seconds: float = 600.0
    max_frames: int = MAX_FRAMES

    def __call__(self, row: int) -> Array | None:
        file = self.file(row)
        if file is None:
            return None
        return read_video(file, self.where(row), max_seconds=self.max_seconds, max_frames=self.max_frames)

    def summary(self, row: int) -> InputSummary | None:
        """Return what the header of a row's video says, None where the row has none."""
        file = self.file(row)
        return None if file is None else video_summary(file, self.where(row), digest=self._digest(row, file))


def content_digest(content: bytes) -> int:
    """Return 64 bits that depend on a file's bytes and nothing else; never 0."""
    return int.from_bytes(hashlib.blake2b(content, digest_size=8).digest(), "big") or 1
