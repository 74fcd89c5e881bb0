"""Files of NumPy arrays as inputs: vectors and sequences computed beforehand."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray

from mmbench.errors import DataError

_MOST_BYTES = 1 << 30
_ADVICE = "save it again by numpy.save, as one array of numbers with one axis (features) or two (steps, features)"


def array_shape(path: Path, where: str) -> tuple[int, ...]:
    """Return the shape that the header of a ``.npy`` or ``.npz`` file states.

    Raises:
        DataError: it is no array of numbers, holds several arrays, or is larger than 1 GiB.
    """
    return _read(path, where, decode=False).shape


def read_array(path: Path, where: str) -> NDArray[np.float32]:
    """Return the array of a ``.npy`` or ``.npz`` file as float32.

    Raises:
        DataError: it is no finite array of numbers of one or two axes; see `array_shape`.
    """
    array = _read(path, where, decode=True)
    with np.errstate(over="ignore"):
        values = array.astype(np.float32)
    if np.isinf(values).any():
        raise DataError(f"{where}: {path.name} holds infinity, or a number too large for 32-bit floats")
    return values


def _read(path: Path, where: str, *, decode: bool) -> NDArray[np.generic]:
    try:
        with path.open("rb") as stream:
            if stream.read(2) != b"PK":
                stream.seek(0)
                return _from_stream(stream, path, where, path.stat().st_size, decode=decode)
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
            if len(names) != 1:
                raise DataError(f"{where}: {path.name} holds {len(names)} arrays, where one is due; {_ADVICE}")
            with archive.open(names[0]) as member:
                return _from_stream(member, path, where, archive.getinfo(names[0]).file_size, decode=decode)
    except DataError:
        raise
    except Exception as error:  # the parsers of headers and archives raise a dozen kinds
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
        raise DataError(f"{where}: {path.name} cannot be read as an array ({reason}); {_ADVICE}") from None


def _from_stream(stream: IO[bytes], path: Path, where: str, length: int, *, decode: bool) -> NDArray[np.generic]:
    version = np.lib.format.read_magic(stream)
    header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, fortran_order, dtype = header(stream)
    if dtype.kind not in "uifb" or not 1 <= len(shape) <= 2 or min(shape) < 1:
        raise DataError(f"{where}: {path.name} is {dtype} of shape {shape}; {_ADVICE}")
    size = int(np.prod(shape, dtype=object)) * dtype.itemsize
    if size > _MOST_BYTES:
        raise DataError(f"{where}: {path.name} claims {size:,} bytes, more than 1 GiB; divide it")
    if size > length:
        raise DataError(f"{where}: {path.name} is cut short: its header claims {size:,} bytes; {_ADVICE}")
    if not decode:
        return np.broadcast_to(np.zeros((), dtype), shape)
    content = stream.read(size)
    if len(content) < size:
        raise DataError(f"{where}: {path.name} is cut short: {len(content):,} of {size:,} bytes are there; {_ADVICE}")
    return np.frombuffer(content, dtype).reshape(shape, order="F" if fortran_order else "C")
