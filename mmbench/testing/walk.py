"""Finding the tensors that a module uses: in its object graph, in autograd, in the ops of a forward."""

from __future__ import annotations

import functools
import types
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from mmbench.torch_compat import OpInterceptor, leaves

_MAX_OBJECTS = 50_000
_REGISTERED = {"_parameters", "_buffers", "_modules", "_non_persistent_buffers_set"}
_NOT_STATE = ("_hooks", "_pre_hooks", "_hooks_with_kwargs", "_always_called", "_flat_weight_refs")
_LEAVES = (
    str,
    bytes,
    int,
    float,
    complex,
    bool,
    type(None),
    types.ModuleType,
    torch.dtype,
    torch.device,
    torch.Generator,
)


@dataclass(frozen=True)
class Hidden:
    """A tensor that a module holds but did not register.

    Attributes:
        path: Where it was found, "fusion.factors[0]"; "" when only autograd or an op betrayed it.
    """

    tensor: Tensor
    path: str

    def __str__(self) -> str:
        return f"{self.path or 'a tensor in a closure or a global'} {tuple(self.tensor.shape)}"


def registered(module: nn.Module) -> list[Tensor]:
    """Return every parameter and buffer."""
    return [*module.parameters(), *module.buffers()]


def storages(tensors: Iterable[Tensor]) -> set[int]:
    """Return where tensors keep their numbers, so that views and copies of the handle are recognised."""
    return {address for tensor in tensors if (address := _storage(tensor))}


def hidden_tensors(module: nn.Module, *, ignore: Iterable[str] = ("transform",)) -> list[Hidden]:
    """Return the leaf tensors in a module's object graph that are neither parameters nor buffers of it.

    Looks into attributes of every registered submodule, lists, dicts, sets, tuples, `functools.partial`, closures,
    defaults, bound methods, other objects' attributes and modules that are not registered.

    Args:
        module: Where to begin.
        ignore: Attributes of `module` itself that are not part of its forward.
    """
    known = storages(registered(module))
    inside = {id(child) for child in module.modules()}
    skip = {id(module.__dict__.get(name)) for name in ignore if name in module.__dict__}
    found: dict[int, Hidden] = {}
    seen: set[int] = set()
    keep: list[Any] = []  # ids stay valid only while their objects live
    todo: deque[tuple[str, Any]] = deque((name, child) for name, child in module.named_modules())
    while todo and len(seen) < _MAX_OBJECTS:
        path, item = todo.popleft()
        if id(item) in seen or id(item) in skip:
            continue
        seen.add(id(item))
        keep.append(item)
        if isinstance(item, Tensor):
            if item.grad_fn is None and _storage(item) not in known and not _is_registered_grad(item, module):
                found.setdefault(id(item), Hidden(item, path))
            continue
        todo.extend(_children(path, item, is_inside=id(item) in inside))
    return list(found.values())


class Recorder(OpInterceptor):
    """Records what the ops of a forward read that nobody in it made, and where the device would have to be waited for.

    Attributes:
        foreign: Tensors that ops read and that no op had made before, by address; kept alive.
        made: Tensors that ops made, by address; kept alive.
        waits: Names of ops that need a number on the host.
    """

    _WAITS = (
        "aten::_local_scalar_dense",
        "aten::item",
        "aten::nonzero",
        "aten::is_nonzero",
        "aten::equal",
        "aten::masked_select",
        "aten::unique",
    )

    def __init__(self) -> None:
        self.foreign: dict[int, Tensor] = {}
        self.waits: list[str] = []
        self.made: dict[int, Tensor] = {}

    def on_op(self, func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        name = func.name().partition(".")[0]
        given = [item for item in leaves((args, kwargs)) if isinstance(item, Tensor)]
        if name.startswith(self._WAITS) or (
            name == "aten::index" and any(item.dtype == torch.bool for item in given[1:])
        ):
            self.waits.append(name.removeprefix("aten::"))
        if name != "aten::lift_fresh":  # torch.tensor([...]) in a forward: made here and now
            for item in given:
                if _storage(item) not in self.made:
                    self.foreign.setdefault(_storage(item), item)
        result = func(*args, **kwargs)
        for item in leaves(result):
            if isinstance(item, Tensor) and _storage(item) not in self.foreign:
                self.made[_storage(item)] = item
        return result


@dataclass
class Used:
    """Tensors that two forwards in a row read and that are neither registered nor inputs.

    Attributes:
        foreign: Those tensors.
        waits: See `Recorder`.
    """

    foreign: list[Tensor] = field(default_factory=list)
    waits: list[str] = field(default_factory=list)


def used_in_forward(module: nn.Module, forward: Callable[[], Any], inputs: Iterable[Tensor]) -> Used:
    """Run a forward twice and see what it reads."""
    known = storages([*registered(module), *inputs])
    with torch.no_grad():
        with Recorder() as first:
            forward()
        with Recorder() as second:
            forward()
    # What the first run read or made is still alive, so an equal address means the same tensor.
    before = {*first.foreign, *first.made}
    again = [item for address, item in second.foreign.items() if address in before and address not in known]
    return Used([item for item in again if item.dim() > 0], sorted(set(first.waits)))


def _children(path: str, item: Any, *, is_inside: bool) -> Iterator[tuple[str, Any]]:
    if isinstance(item, (*_LEAVES, type)):
        return
    if isinstance(item, Mapping):
        for key, value in list(item.items()):
            yield f"{path}[{key!r}]", value
    elif isinstance(item, list | tuple | set | frozenset | deque):
        for position, value in enumerate(list(item)):
            yield f"{path}[{position}]", value
    elif isinstance(item, functools.partial):
        yield from ((f"{path}.func", item.func), (f"{path}.args", item.args), (f"{path}.keywords", item.keywords))
    elif isinstance(item, types.MethodType):
        yield path, item.__self__
        yield path, item.__func__
    elif isinstance(item, types.FunctionType):
        yield f"{path}.__defaults__", item.__defaults__
        yield f"{path}.__kwdefaults__", item.__kwdefaults__
        for name, cell in zip(item.__code__.co_freevars, item.__closure__ or ()):
            try:
                yield f"{path}<closure {name}>", cell.cell_contents
            except ValueError:  # not filled yet
                continue
    elif isinstance(item, nn.Module):
        yield from _module_children(path, item, is_inside=is_inside)
    else:
        for name, value in list(getattr(item, "__dict__", {}).items()):
            yield f"{path}.{name}", value
        for name in getattr(type(item), "__slots__", ()):
            if isinstance(name, str) and hasattr(item, name):
                yield f"{path}.{name}", getattr(item, name)


def _module_children(path: str, module: nn.Module, *, is_inside: bool) -> Iterator[tuple[str, Any]]:
    prefix = f"{path}." if path else ""
    for name, value in list(module.__dict__.items()):
        if name.endswith(_NOT_STATE) or (name in _REGISTERED and is_inside):
            continue
        if name in _REGISTERED:
            yield path, value  # a module that nobody registered: all it holds is hidden
        else:
            yield f"{prefix}{name}", value
    # Tensors kept on the class are shared by all instances and follow none of them.
    for owner in type(module).__mro__:
        if owner.__module__.startswith("torch."):
            break
        for name, value in vars(owner).items():
            if isinstance(value, Tensor | nn.Module | list | tuple | dict | functools.partial):
                yield f"{type(module).__name__}.{name}", value


def _is_registered_grad(tensor: Tensor, module: nn.Module) -> bool:
    return any(parameter.grad is tensor for parameter in module.parameters())


def _storage(tensor: Tensor) -> int:
    try:
        return tensor.untyped_storage().data_ptr() or id(tensor)
    except (NotImplementedError, RuntimeError):  # a subclass without storage
        return id(tensor)
