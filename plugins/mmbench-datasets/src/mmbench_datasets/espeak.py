"""Speech from eSpeak NG, synthesised in a process of its own: the library keeps state and is not thread safe.

Run as ``python -m mmbench_datasets.espeak OUT.npz`` with a JSON list of utterances on standard input. The process is
fresh for every batch of utterances because a word's samples depend on what the library spoke before it: the same list
gives the same bytes, whatever the parent did earlier. Nothing of the GPL-3 library is loaded into the parent.
"""

from __future__ import annotations

import ctypes
import itertools
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mmbench.errors import Unavailable

_INSTALL = "install it with `pip install espeakng-loader` or choose another dataset"
_TIMEOUT_S = 300

# Names and values of speak_lib.h.
_AUDIO_OUTPUT_SYNCHRONOUS = 2
_INITIALIZE_DONT_EXIT = 0x8000
_CHARS_UTF8 = 1
_RATE, _PITCH = 1, 3

#: The library cuts off longer paths (its buffer is 160 bytes) and then finds nothing.
_LONGEST_DATA_PATH = 120


@dataclass(frozen=True, kw_only=True)
class Utterance:
    """What to say and how.

    Attributes:
        text: In the voice's language.
        voice: eSpeak NG's name, "LANGUAGE+VARIANT".
        words_per_minute: 80 to 450.
        pitch: 0 to 99; 50 is the variant's own.
    """

    text: str
    voice: str
    words_per_minute: int = 175
    pitch: int = 50


def synthesise(utterances: Sequence[Utterance]) -> tuple[list[NDArray[np.int16]], int]:
    """Say every utterance, in order.

    Returns:
        One int16 array (L,) per utterance, and the rate in Hz (22,050).

    Raises:
        Unavailable: eSpeak NG or its data are not installed or do not load.
    """
    request = json.dumps([asdict(utterance) for utterance in utterances])
    with tempfile.TemporaryDirectory(prefix="mmbench-espeak-") as folder:
        out = Path(folder) / "speech.npz"
        command = [sys.executable, "-P", "-m", "mmbench_datasets.espeak", str(out)]
        try:
            done = subprocess.run(command, input=request, capture_output=True, text=True, timeout=_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            raise Unavailable(
                f"eSpeak NG did not finish {len(utterances)} words in {_TIMEOUT_S} s; {_INSTALL}"
            ) from None
        if done.returncode != 0 or not out.exists():
            last = (done.stderr.strip().splitlines() or [f"it ended with status {done.returncode}"])[-1]
            raise Unavailable(f"eSpeak NG cannot speak here: {last[:400]}; {_INSTALL}")
        with np.load(out, allow_pickle=False) as arrays:
            joined, offsets, rate = arrays["joined"], arrays["offsets"], int(arrays["rate"])
    return [joined[begin:end] for begin, end in itertools.pairwise(offsets)], rate


class _Speaker:
    """The eSpeak NG library of the package espeakng-loader, through ctypes.

    Args:
        folder: Scratch space.
    """

    def __init__(self, folder: Path) -> None:
        import espeakng_loader

        self._library: Any = ctypes.CDLL(str(espeakng_loader.get_library_path()))
        data = Path(espeakng_loader.get_data_path())
        if not (data / "phondata").is_file():
            raise FileNotFoundError(f"the folder {data} lacks eSpeak NG's data")
        if len(str(data)) > _LONGEST_DATA_PATH:
            short = folder / "espeak-ng-data"
            short.symlink_to(data)
            data = short
        self._library.espeak_Synth.argtypes = [
            ctypes.c_char_p, ctypes.c_size_t, ctypes.c_uint, ctypes.c_int, ctypes.c_uint, ctypes.c_uint,
            ctypes.c_void_p, ctypes.c_void_p,
        ]  # fmt: skip
        self.rate: int = self._library.espeak_Initialize(
            _AUDIO_OUTPUT_SYNCHRONOUS, 0, str(data).encode(), _INITIALIZE_DONT_EXIT
        )
        if self.rate <= 0:
            raise OSError(f"eSpeak NG does not start with the data in {data}")
        self._chunks: list[NDArray[np.int16]] = []
        callback_type = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p)
        self._callback = callback_type(self._keep)  # kept alive: the library calls it later
        self._library.espeak_SetSynthCallback(self._callback)

    def say(self, utterance: Utterance) -> NDArray[np.int16]:
        """Return the samples (L,) of one utterance."""
        if self._library.espeak_SetVoiceByName(utterance.voice.encode()) != 0:
            raise ValueError(f"eSpeak NG has no voice {utterance.voice!r}")
        self._library.espeak_SetParameter(_RATE, utterance.words_per_minute, 0)
        self._library.espeak_SetParameter(_PITCH, utterance.pitch, 0)
        self._chunks.clear()
        text = utterance.text.encode()
        if self._library.espeak_Synth(text, len(text) + 1, 0, 1, 0, _CHARS_UTF8, None, None) != 0:
            raise OSError(f"eSpeak NG failed to say {utterance.text!r}")
        self._library.espeak_Synchronize()
        return np.concatenate(self._chunks) if self._chunks else np.zeros(0, dtype=np.int16)

    def _keep(self, samples: Any, count: int, _events: Any) -> int:
        if samples and count > 0:
            self._chunks.append(np.ctypeslib.as_array(samples, (count,)).copy())
        return 0


def _main() -> None:
    speaker = _Speaker(Path(sys.argv[1]).parent)
    spoken = [speaker.say(Utterance(**item)) for item in json.load(sys.stdin)]
    offsets = np.cumsum([0, *(len(samples) for samples in spoken)])
    joined = np.concatenate(spoken) if spoken else np.zeros(0, dtype=np.int16)
    np.savez(sys.argv[1], joined=joined, offsets=offsets, rate=np.int64(speaker.rate))


if __name__ == "__main__":
    _main()
