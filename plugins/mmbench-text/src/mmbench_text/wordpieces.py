"""From text to the token numbers of a pretrained model's own tokenizer."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from mmbench.errors import Unavailable
from mmbench.weights import WeightFolder, content_hash
from mmbench_text.pretrained_files import TOKENIZER_FILES


@dataclass(frozen=True)
class WordPieces:
    """The token numbers of a text, special tokens included.

    Attributes:
        tokenizer: Hash of the tokenizer's files: what names this transform, wherever the folder lies.
        max_length: What comes after so many tokens is cut off; the special ones stay.
        fixed_length: Whether shorter texts are padded to `max_length`, for models that were trained so.
        folder: Where the tokenizer is.
    """

    version: ClassVar[str] = "1"

    tokenizer: str
    max_length: int
    fixed_length: bool
    folder: Path = field(repr=False, compare=False)

    @classmethod
    def of(cls, folder: WeightFolder, *, max_length: int, fixed_length: bool) -> WordPieces:
        """Return the transform for a folder's tokenizer."""
        files = folder.matching(TOKENIZER_FILES)
        digest = content_hash(folder.path, files)
        return cls(tokenizer=digest, max_length=max_length, fixed_length=fixed_length, folder=folder.path)

    def __call__(self, text: str) -> NDArray[np.int32]:
        """Shapes: text -> int32 (T,), T from 1 to `max_length`."""
        tokenizer = load_tokenizer(self.folder)
        padding = "max_length" if self.fixed_length else False
        numbers = tokenizer(text, truncation=True, max_length=self.max_length, padding=padding)["input_ids"]
        # Tokenizers without special tokens make nothing of an empty text.
        return np.asarray(numbers or [_filler(tokenizer)], dtype=np.int32)

    def pieces(self, text: str) -> tuple[str, list[tuple[int, int]]]:
        """Return the text, and where in it each token stands; special tokens stand nowhere.

        There are no places, and so too few for the tokens, where the tokenizer is one of the slow kind.
        """
        tokenizer = load_tokenizer(self.folder)
        if not tokenizer.is_fast:
            return text, []
        padding = "max_length" if self.fixed_length else False
        found = tokenizer(
            text, truncation=True, max_length=self.max_length, padding=padding, return_offsets_mapping=True
        )
        return text, [(int(begin), int(end)) for begin, end in found["offset_mapping"]]


@lru_cache(maxsize=8)
def load_tokenizer(folder: Path) -> Any:
    """Return the tokenizer of a folder; no network, no code of the folder's own.

    Raises:
        Unavailable: there is none, or it cannot be read.
    """
    import transformers

    try:
        return transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # the library raises whatever its readers of a dozen formats raise
        raise Unavailable(f"the tokenizer in {folder} cannot be read: {error}") from error


def _filler(tokenizer: Any) -> int:
    for number in (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id):
        if number is not None:
            return int(number)
    return 0
