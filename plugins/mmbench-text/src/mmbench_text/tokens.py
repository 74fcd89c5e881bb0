"""From any text to token numbers by hashing: nothing to learn, nothing to store, the same on every machine."""

from __future__ import annotations

import itertools
import unicodedata
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

# Written around every text, so that an empty one has tokens too and n-grams can tell the edge of a word.
_BEGIN, _END = "\x02", "\x03"


@dataclass(frozen=True)
class Characters:
    """One number per character of the normalised text, between a begin and an end mark.

    Attributes:
        vocabulary_size: Characters hash to 0 … vocabulary_size - 1.
        max_length: At most so many numbers, counting the begin mark; what comes later is cut off.
    """

    version: ClassVar[str] = "1"

    vocabulary_size: int
    max_length: int

    def __call__(self, text: str) -> NDArray[np.int32]:
        """Shapes: text of n characters -> int32 (T,), T = min(n + 2, max_length)."""
        marked = _BEGIN + normalise(text) + _END
        return _hashed(iter(marked[: self.max_length]), self.vocabulary_size)

    def pieces(self, text: str) -> tuple[str, list[tuple[int, int]]]:
        """Return the text as it is read, and where in it each number's character stands; the marks stand nowhere.

        >>> Characters(vocabulary_size=64, max_length=3).pieces("Abc")
        ('abc', [(0, 0), (0, 1), (1, 2)])
        """
        read = normalise(text)
        length = len(read)
        return read, [(0, 0), *((at, at + 1) for at in range(length)), (length, length)][: self.max_length]


@dataclass(frozen=True)
class WordsAndNgrams:
    """One number per word and per character n-gram within a word, begin and end mark included.

    Attributes:
        vocabulary_size: Words and n-grams hash to 0 … vocabulary_size - 1.
        max_ngram: n-grams have 1 to `max_ngram` characters.
        max_length: At most so many numbers; what comes later is cut off.
    """

    version: ClassVar[str] = "1"

    vocabulary_size: int
    max_ngram: int
    max_length: int

    def __call__(self, text: str) -> NDArray[np.int32]:
        """Shapes: text -> int32 (T,), T at least 1."""
        pieces = (piece for piece, _, _ in self._pieces(normalise(text)))
        return _hashed(pieces, self.vocabulary_size, limit=self.max_length)

    def pieces(self, text: str) -> tuple[str, list[tuple[int, int]]]:
        """Return the text as it is read, and where in it each number's word or n-gram stands.

        >>> WordsAndNgrams(vocabulary_size=64, max_ngram=1, max_length=9).pieces("A bc")
        ('a bc', [(0, 1), (0, 1), (2, 4), (2, 3), (3, 4)])
        """
        read = normalise(text)
        return read, [(begin, end) for _, begin, end in itertools.islice(self._pieces(read), self.max_length)]

    def _pieces(self, text: str) -> Iterator[tuple[str, int, int]]:
        """Yield words and n-grams in their marks, and the part of the text that each covers without them."""
        after = 0
        for word in text.split() or [""]:
            begin = text.index(word, after)
            after = begin + len(word)
            marked = _BEGIN + word + _END
            yield marked, begin, after
            for size in range(1, self.max_ngram + 1):
                for start in range(len(marked) - size + 1):
                    piece = marked[start : start + size]
                    if piece not in (_BEGIN, _END, marked):
                        # The begin mark stands before the word's first character.
                        yield piece, max(begin + start - 1, begin), min(begin + start - 1 + size, after)


def normalise(text: str) -> str:
    """Return text in Unicode's compatibility composition, without case.

    >>> normalise("ＦÜＮＦ")
    'fünf'
    """
    # Case folding can undo the composition, so it is composed again (Unicode 15, section 3.13, D146).
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())


def _hashed(pieces: Iterator[str], size: int, limit: int | None = None) -> NDArray[np.int32]:
    numbers = []
    for piece in pieces:
        if limit is not None and len(numbers) == limit:
            break
        # Lone surrogates, which broken files can hold, have no UTF-8 form of their own.
        numbers.append(zlib.crc32(piece.encode("utf-8", "surrogatepass")) % size)
    return np.array(numbers, dtype=np.int32)
