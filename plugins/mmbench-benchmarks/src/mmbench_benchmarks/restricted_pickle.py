"""Pickles read without running anything in them: a stack machine that knows arrays and plain containers, and no call.

Python's own unpickler calls whatever a file names. This one never looks a name up: it reads the opcodes with
`pickletools`, which only parses, and builds None, bools, numbers, str, bytes, lists, dicts, tuples, sets and numpy
arrays, scalars and dtypes by itself. Every other name is refused, and so is every opcode that would need one.

Memory stays in proportion to the file: lengths are checked against the bytes that are left, an array against the bytes
that it is made of, and empty containers, which cost a hundred times their byte, are counted. So is what is made anew of
an entry of the memo, which one byte can ask for again and again.
"""

from __future__ import annotations

import math
import pickletools
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from mmbench.errors import DataError

_MOST_CONTAINERS = 2_000_000
#: What may be made of entries of the memo: so many times the file, or as much as is cheap.
_LARGEST_SHARE, _CHEAP_BYTES = 8, 64 << 20
#: Hashes of tuples are not seeded: keys can be found that all have the same, and take quadratic time.
_MOST_TUPLE_KEYS = 4096
#: About what an entry of a set or a dict takes in bytes.
_ENTRY_BYTES = 64
_DTYPE = re.compile(r"[biufcSUO?]\d{0,9}")
_KEYS = (str, bytes, int, float, bool, type(None), np.generic)
_ONLY_PLAIN = "and only arrays and plain containers may be built"
_ADVICE = "get the file again from where the dataset is published, or convert it to plain arrays and containers"


class _RefusedError(Exception):
    """What stands in the file is not allowed, or is not a pickle; turned into a `DataError` with the file's name."""


class _Mark:
    """Where the items of a container begin on the stack."""


_MARK = _Mark()


class _Name:
    """A global that is known; it stands on the stack until REDUCE asks for what it would make."""

    def __init__(self, words: str, make: Callable[..., Any] | None = None) -> None:
        self.words = words
        self.make = make
        self.makes_keys = words.endswith(("set", "OrderedDict"))


class _Arguments(tuple[Any, ...]):
    """A tuple that holds a `_Name`: good for REDUCE, and for nothing else."""


class _Pending:
    """An array or a dtype that still waits for its state.

    Attributes:
        dtype: Of a dtype; None for an array.
        keys: Places of the memo that hold it, to be given the finished one.
    """

    def __init__(self, dtype: np.dtype[Any] | None = None) -> None:
        self.dtype = dtype
        self.keys: list[int] = []


def load_pickle(path: Path) -> Any:
    """Read a pickle of plain containers and numpy arrays.

    Arrays are read-only views of the bytes that were read.

    Raises:
        DataError: it names anything else, is cut short, is no pickle, or claims more than its bytes hold.
    """
    try:
        with path.open("rb") as stream:
            size = path.stat().st_size
            return _Machine(_Bounded(stream, size), size).run()
    except _RefusedError as error:
        raise DataError(f"{path.name} is refused: {error}; {_ADVICE}") from None
    except (ValueError, TypeError, IndexError, KeyError, OverflowError, MemoryError, RecursionError, OSError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
        raise DataError(f"{path.name} cannot be read as a pickle ({reason}); {_ADVICE}") from None


class _Bounded:
    """A file that never reads, nor makes room for, more than is left of it."""

    def __init__(self, stream: IO[bytes], size: int) -> None:
        self._stream = stream
        self._left = size
        self.position = 0

    def read(self, size: int) -> bytes:
        if size > self._left:
            raise _RefusedError(
                f"it is cut short: at byte {self.position:,} {size:,} bytes are due, {self._left:,} are left"
            )
        return self._advance(self._stream.read(size))

    def readline(self) -> bytes:
        return self._advance(self._stream.readline())

    def tell(self) -> int:
        return self.position

    def _advance(self, data: bytes) -> bytes:
        self._left -= len(data)
        self.position += len(data)
        return data


class _Machine:
    """The pickle machine: a stack, and a memo of what is used again."""

    def __init__(self, stream: _Bounded, size: int) -> None:
        self._stream = stream
        self._bytes_left = max(_CHEAP_BYTES, _LARGEST_SHARE * size)
        self._tuple_keys = 0
        self._stack: list[Any] = []
        self._memo: dict[int, Any] = {}
        self._containers = 0

    def run(self) -> Any:
        for opcode, argument, _ in pickletools.genops(self._stream):  # type: ignore[arg-type]
            name = opcode.name
            if name in _PUSHED:
                self._stack.append(argument)
            elif name == "STOP":
                break
            elif name in _STEPS:
                _STEPS[name](self, argument)
            else:
                raise _RefusedError(_REFUSED.get(name, "the opcode {name} has no place in plain data").format(
                    name=name, argument=str(argument).replace(" ", "."), top=self._top_name()
                ))  # fmt: skip
        if len(self._stack) != 1:
            raise _RefusedError(f"it ends with {len(self._stack)} objects on its stack instead of one")
        return _finished(self._stack.pop())

    def _top_name(self) -> str:
        names = [item.words for item in self._stack if isinstance(item, _Name)]
        return names[-1] if names else "an object"

    # Containers

    def _count(self) -> None:
        self._containers += 1
        if self._containers > _MOST_CONTAINERS:
            raise _RefusedError(f"it holds more than {_MOST_CONTAINERS:,} containers, far more than any dataset needs")

    def _spend(self, made: Any) -> None:
        """Count the bytes that something new takes."""
        if isinstance(made, np.ndarray):
            size = made.nbytes
        elif isinstance(made, bytes | bytearray):
            size = len(made)
        elif isinstance(made, list | tuple | set | frozenset | dict):
            size = _ENTRY_BYTES * (len(made) + 1)
        else:
            return
        self._bytes_left -= size
        if self._bytes_left < 0:
            raise _RefusedError("it makes much more of its bytes than it has, by using the same ones again and again")

    def _count_tuple_keys(self, keys: list[Any]) -> None:
        """Count those of the coming keys that are tuples, before they are hashed."""
        self._tuple_keys += sum(type(key) is tuple for key in keys)
        if self._tuple_keys > _MOST_TUPLE_KEYS:
            raise _RefusedError(f"more than {_MOST_TUPLE_KEYS:,} of its keys are tuples")

    def _pop(self) -> Any:
        item = self._stack.pop()
        if item is _MARK:
            raise _RefusedError("its stack does not add up")
        return item

    def _take(self, count: int) -> list[Any]:
        """Take the upper items off the stack, each checked to be finished."""
        return [_finished(item) for item in self._take_raw(count)]

    def _take_raw(self, count: int) -> list[Any]:
        start = len(self._stack) - count
        if start < 0:
            raise _RefusedError("its stack does not add up")
        items = self._stack[start:]
        del self._stack[start:]
        return items

    def _to_mark(self) -> list[Any]:
        items = self._take(self._above_mark())
        self._stack.pop()
        return items

    def _above_mark(self) -> int:
        for count, item in enumerate(reversed(self._stack)):
            if item is _MARK:
                return count
        raise _RefusedError("its stack does not add up")

    def push_container(self, item: Any) -> None:
        self._count()
        self._stack.append(item)

    def push_items(self, kind: Callable[[Any], Any]) -> None:
        items = self._to_mark()
        if kind is not list:
            self._count_tuple_keys(items[::2] if kind is _pairs else items)
        self.push_container(kind(items))

    def push_tuple(self, count: int) -> None:
        items = self._take_raw(count)
        if any(isinstance(item, _Name) for item in items):
            items = [item if isinstance(item, _Name) else _finished(item) for item in items]
            self.push_container(_Arguments(items))
        else:
            self.push_container(tuple(map(_finished, items)))

    def push_marked_tuple(self) -> None:
        self.push_tuple(self._above_mark())
        del self._stack[-2]

    def extend(self, items: list[Any]) -> None:
        target = self._stack[-1]
        if type(target) is not list:
            raise _RefusedError(f"it appends to {type(target).__name__}")
        target.extend(items)

    def append(self) -> None:
        self.extend(self._take(1))

    def update(self, items: list[Any]) -> None:
        target = self._stack[-1]
        if type(target) is not dict or len(items) % 2:
            raise _RefusedError(f"it sets items of {type(target).__name__}")
        self._count_tuple_keys(items[::2])
        target.update(_pairs(items))

    def add(self) -> None:
        items = self._to_mark()
        target = self._stack[-1]
        if type(target) is not set:
            raise _RefusedError(f"it adds to {type(target).__name__}")
        self._count_tuple_keys(items)
        target.update(map(_key, items))

    def mark(self) -> None:
        self._stack.append(_MARK)

    def pop(self) -> None:
        self._stack.pop()

    def duplicate(self) -> None:
        self._stack.append(self._pop_and_keep())

    def _pop_and_keep(self) -> Any:
        item = self._pop()
        self._stack.append(item)
        return _finished(item)

    # Memo

    def put(self, key: int) -> None:
        item = self._stack[-1]
        if isinstance(item, _Pending):
            item.keys.append(key)
        self._memo[key] = item

    def memoize(self) -> None:
        self.put(len(self._memo))

    def get(self, key: int) -> None:
        if key not in self._memo:
            raise _RefusedError(f"it uses entry {key} of its memo, which it never wrote")
        self._stack.append(self._memo[key])

    # What would be calls

    def name(self, words: str) -> None:
        known = _NAMES.get(words)
        if known is None:
            raise _RefusedError(f"it asks for {words.replace(' ', '.')}, {_ONLY_PLAIN}")
        self._stack.append(known)

    def stack_name(self) -> None:
        attribute, module = self._pop(), self._pop()
        if not (isinstance(module, str) and isinstance(attribute, str)):
            raise _RefusedError("it asks for a global whose name is no text")
        self.name(f"{module} {attribute}")

    def reduce(self) -> None:
        arguments, called = self._pop(), self._pop()
        if not (isinstance(called, _Name) and called.make and isinstance(arguments, tuple)):
            raise _RefusedError(f"it would call {called.words if isinstance(called, _Name) else type(called).__name__}")
        self._count()
        for argument in arguments if called.makes_keys else ():
            self._spend(argument)  # before the work: its time is what is asked for
            if isinstance(argument, list | tuple):
                keys = [pair[0] for pair in argument if isinstance(pair, list | tuple) and pair]
                self._count_tuple_keys([*argument, *keys])
        made = called.make(*arguments)
        self._spend(made)
        self._stack.append(made)

    def build(self) -> None:
        state, pending = _finished(self._pop()), self._pop()
        if not isinstance(pending, _Pending) or type(state) is not tuple:
            raise _RefusedError(f"it would set the state of {type(pending).__name__}")
        if pending.dtype is None and state and isinstance(state[-1], list):
            self._spend(state[-1])
        made = _array(state) if pending.dtype is None else _byte_order(pending.dtype, state)
        self._spend(made)
        for key in pending.keys:
            self._memo[key] = made
        self._stack.append(made)


def _finished(item: Any) -> Any:
    """Return an item that may stand in a container: a dtype without a state is complete; an array, a name are not."""
    if isinstance(item, _Pending):
        if item.dtype is None:
            raise _RefusedError("it uses an array before it is filled")
        return item.dtype
    if isinstance(item, _Name | _Arguments):
        raise _RefusedError("it keeps a class where data should be")
    if item is _MARK:
        raise _RefusedError("its stack does not add up")
    return item


def _key(item: Any) -> Any:
    """Return what may be a key: scalars and tuples of scalars, whose hash takes no time."""
    parts = item if type(item) is tuple else (item,)
    if not all(isinstance(part, _KEYS) and (type(part) is not int or part.bit_length() <= 64) for part in parts):
        raise _RefusedError(f"a key is {type(item).__name__}, and only texts, numbers and tuples of them are plain")
    return item


def _pairs(items: list[Any]) -> dict[Any, Any]:
    return {_key(key): value for key, value in zip(items[::2], items[1::2])}


def _reconstruct(kind: Any, shape: Any, code: Any) -> _Pending:
    if kind is not _NDARRAY:
        raise _RefusedError(f"it would make an array of the class {getattr(kind, 'words', type(kind).__name__)}")
    return _Pending()


def _dtype(code: Any, *_: Any) -> _Pending:
    if isinstance(code, bytes):
        code = code.decode("ascii", "replace")
    if not (isinstance(code, str) and _DTYPE.fullmatch(code)):
        raise _RefusedError(f"it asks for the dtype {str(code)[:40]!r}, and arrays hold numbers or texts")
    return _Pending(np.dtype(code))


def _byte_order(dtype: np.dtype[Any], state: tuple[Any, ...]) -> np.dtype[Any]:
    _, order, *rest = state
    structured = any(part is not None for part in rest[:3])
    if order not in ("<", ">", "|", "=") or structured:
        raise _RefusedError("it asks for a dtype with fields, and arrays hold numbers or texts")
    return dtype if order in ("|", "=") else dtype.newbyteorder(order)


def _array(state: tuple[Any, ...]) -> NDArray[Any]:
    *_, shape, dtype, fortran, data = state
    return _from_bytes(data, dtype, shape, "F" if fortran else "C")


def _from_bytes(data: Any, dtype: Any, shape: Any, order: Any = "C", axes: Any = None) -> NDArray[Any]:
    """Make an array of exactly the bytes (or, for objects, the list) that the file holds for it."""
    dtype = _finished(dtype)
    if order == "K" and type(axes) is tuple:
        return _from_bytes(data, dtype, shape).transpose(axes)
    if not isinstance(dtype, np.dtype) or type(shape) is not tuple or order not in ("C", "F"):
        raise _RefusedError("it describes an array by something else than dtype, shape and order")
    if not all(type(side) is int and side >= 0 for side in shape):
        raise _RefusedError(f"it asks for an array of shape {shape}")
    count = math.prod(shape)
    if dtype.kind == "O":
        if type(data) is not list or len(data) != count:
            raise _RefusedError(f"it asks for an array of shape {shape} of objects and does not give as many")
        array = np.empty(count, dtype=object)
        for position, item in enumerate(data):
            array[position] = item
        return array.reshape(shape, order=order)
    if isinstance(data, str):  # what Python 2 wrote
        data = data.encode("latin-1")
    if not isinstance(data, bytes | bytearray) or len(data) != count * dtype.itemsize or not dtype.itemsize:
        held = f"{len(data):,} bytes" if isinstance(data, bytes | bytearray) else type(data).__name__
        raise _RefusedError(
            f"it asks for an array {shape} of {dtype}, {count * dtype.itemsize:,} bytes, and holds {held}"
        )
    return np.frombuffer(data, dtype=dtype).reshape(shape, order=order)  # type: ignore[call-overload,no-any-return]


def _scalar(dtype: Any, data: Any = b"") -> Any:
    return _from_bytes(data, dtype, ())[()]


def _encode(text: Any, encoding: Any = "latin1") -> bytes:
    if not isinstance(text, str) or encoding not in ("latin1", "latin-1"):
        raise _RefusedError("it would encode something else than bytes written as text")
    return text.encode("latin-1")


def _no_more(kind: type[Any]) -> Callable[..., Any]:
    def make(*arguments: Any) -> Any:
        if arguments and not (kind is bytearray and isinstance(arguments[0], bytes)):
            raise _RefusedError(f"it would call {kind.__name__} with {len(arguments)} arguments")
        return kind(*arguments[:1])

    return make


def _set(kind: Callable[[Any], Any]) -> Callable[..., Any]:
    def make(items: Any = ()) -> Any:
        if type(items) not in (list, tuple):
            raise _RefusedError("it would make a set of something else than a list")
        return kind([_key(item) for item in items])

    return make


def _complex(real: Any, imaginary: Any = 0.0) -> complex:
    if not (isinstance(real, int | float) and isinstance(imaginary, int | float)):
        raise _RefusedError("it would make a complex number of something else than two numbers")
    return complex(real, imaginary)


def _ordered(*items: Any) -> dict[Any, Any]:
    """An OrderedDict becomes a dict, which keeps order too; Python 2 gives its items as a list of lists."""
    given = items[0] if items else []
    if type(given) is not list or not all(type(pair) in (list, tuple) and len(pair) == 2 for pair in given):
        raise _RefusedError("it would make an OrderedDict of something else than pairs")
    return {_key(key): value for key, value in given}


def _known_names() -> Mapping[str, _Name]:
    makers: dict[str, Callable[..., Any] | None] = {"numpy ndarray": None, "numpy dtype": _dtype}
    for core in ("numpy.core", "numpy._core"):
        makers[f"{core}.multiarray _reconstruct"] = _reconstruct
        makers[f"{core}.multiarray scalar"] = _scalar
        makers[f"{core}.numeric _frombuffer"] = _from_bytes
    for builtins in ("builtins", "__builtin__"):
        makers |= {f"{builtins} {kind.__name__}": _no_more(kind) for kind in (bytes, bytearray, dict, list)}
        makers |= {f"{builtins} set": _set(set), f"{builtins} frozenset": _set(frozenset)}
        makers[f"{builtins} complex"] = _complex
    makers["_codecs encode"] = _encode
    makers["collections OrderedDict"] = _ordered
    return {words: _Name(words.replace(" ", "."), make) for words, make in makers.items()}


_NAMES = _known_names()
_NDARRAY = _NAMES["numpy ndarray"]

#: Opcodes whose argument, as `pickletools` decodes it, is the object itself.
_PUSHED = frozenset(
    (
        *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"),
        *("STRING", "BINSTRING", "SHORT_BINSTRING", "UNICODE", "SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8"),
        *("BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"),
    )
)
_STEPS: Mapping[str, Callable[[_Machine, Any], None]] = {
    "PROTO": lambda machine, argument: None,
    "FRAME": lambda machine, argument: None,
    "NONE": lambda machine, argument: machine._stack.append(None),
    "NEWTRUE": lambda machine, argument: machine._stack.append(True),
    "NEWFALSE": lambda machine, argument: machine._stack.append(False),
    "MARK": lambda machine, argument: machine.mark(),
    "POP": lambda machine, argument: machine.pop(),
    "POP_MARK": lambda machine, argument: (machine._to_mark(), None)[1],
    "DUP": lambda machine, argument: machine.duplicate(),
    "EMPTY_LIST": lambda machine, argument: machine.push_container([]),
    "EMPTY_DICT": lambda machine, argument: machine.push_container({}),
    "EMPTY_SET": lambda machine, argument: machine.push_container(set()),
    "EMPTY_TUPLE": lambda machine, argument: machine.push_container(()),
    "LIST": lambda machine, argument: machine.push_items(list),
    "DICT": lambda machine, argument: machine.push_items(_pairs),
    "TUPLE": lambda machine, argument: machine.push_marked_tuple(),
    "FROZENSET": lambda machine, argument: machine.push_items(_set(frozenset)),
    "TUPLE1": lambda machine, argument: machine.push_tuple(1),
    "TUPLE2": lambda machine, argument: machine.push_tuple(2),
    "TUPLE3": lambda machine, argument: machine.push_tuple(3),
    "APPEND": lambda machine, argument: machine.append(),
    "APPENDS": lambda machine, argument: machine.extend(machine._to_mark()),
    "SETITEM": lambda machine, argument: machine.update(machine._take(2)),
    "SETITEMS": lambda machine, argument: machine.update(machine._to_mark()),
    "ADDITEMS": lambda machine, argument: machine.add(),
    "PUT": lambda machine, argument: machine.put(argument),
    "BINPUT": lambda machine, argument: machine.put(argument),
    "LONG_BINPUT": lambda machine, argument: machine.put(argument),
    "MEMOIZE": lambda machine, argument: machine.memoize(),
    "GET": lambda machine, argument: machine.get(argument),
    "BINGET": lambda machine, argument: machine.get(argument),
    "LONG_BINGET": lambda machine, argument: machine.get(argument),
    "GLOBAL": lambda machine, argument: machine.name(argument),
    "STACK_GLOBAL": lambda machine, argument: machine.stack_name(),
    "REDUCE": lambda machine, argument: machine.reduce(),
    "BUILD": lambda machine, argument: machine.build(),
}
_REFUSED: Mapping[str, str] = {
    **dict.fromkeys(("PERSID", "BINPERSID"), "it refers to an object outside the file (a persistent id)"),
    **dict.fromkeys(("EXT1", "EXT2", "EXT4"), "it refers to the extension registry (code {argument})"),
    **dict.fromkeys(("NEWOBJ", "NEWOBJ_EX", "OBJ"), "it would make an instance of {top}"),
    "INST": "it asks for {argument}, " + _ONLY_PLAIN,
    **dict.fromkeys(("NEXT_BUFFER", "READONLY_BUFFER"), "its arrays lie outside the file (out-of-band buffers)"),
}
