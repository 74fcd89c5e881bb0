"""What the host has to do with a training step: where it waits for the device, and what it decides by itself."""

from __future__ import annotations

import copy
import itertools
import random
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from mmbench.torch_compat import COPIES, HOST_READS, INDEXING, OpInterceptor, aten_ops, leaves

#: What a `Step` tells from the host: a graph would keep it as it was when it was captured.
HOST_VALUES = ("epoch", "progress", "generator")

_StepT = TypeVar("_StepT")
_ASK_THE_DEVICE = aten_ops(HOST_READS)
_REPEAT = aten_ops(["repeat_interleave"])
_INDEXED = aten_ops(INDEXING)
_COPIES = aten_ops(COPIES)


class HostWaits(OpInterceptor):
    """Notes the operations inside the block that wait for the device, or that copy from the host while they wait.

    Tensors on the CPU count as the host's where `device` is another one: what they are asked costs no wait. With the
    CPU as the device every tensor counts as the device's, so that code can be checked where there is no GPU.

    Args:
        device: Where the step computes.

    Attributes:
        waits: What was found, such as ``"aten.nonzero"``, each once.
        copies: What came from the host's memory, whether waited for or not: a graph would keep the first.

    >>> with HostWaits(torch.device("cpu")) as seen:
    ...     _ = torch.ones(3)[torch.ones(3) > 0]
    >>> seen.waits
    ['aten.index by a mask']
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.waits: list[str] = []
        self.copies: list[str] = []

    def on_op(self, func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        given = [item for item in leaves((args, kwargs)) if isinstance(item, Tensor)]
        packet = func.overloadpacket
        if any(item.device.type == self.device.type for item in given):
            if packet in _ASK_THE_DEVICE and not _size_is_given(packet, kwargs):
                self._note(self.waits, str(packet))
            elif packet in _INDEXED and _has_mask(args[1]):
                self._note(self.waits, f"{packet} by a mask")
        result = func(*args, **kwargs)
        if packet in _COPIES:
            self._look_at_copy(str(packet), args, kwargs, result)
        return result

    def _look_at_copy(self, name: str, args: Sequence[Any], kwargs: Mapping[str, Any], result: Tensor) -> None:
        source = args[1] if name == "aten.copy_" else args[0]
        target = args[0] if name == "aten.copy_" else result
        if not isinstance(source, Tensor) or source.device.type == target.device.type:
            return
        at_once = bool(kwargs.get("non_blocking", args[2] if name == "aten.copy_" and len(args) > 2 else False))
        if target.device.type == "cpu":
            self._note(self.waits, f"{name} to the host")
        elif not at_once:
            self._note(self.waits, f"{name} from the host that waits for its end")
        if source.device.type == "cpu":
            self._note(self.copies, f"{name} from the host")

    @staticmethod
    def _note(found: list[str], what: str) -> None:
        if what not in found:
            found.append(what)


def host_state(modules: Mapping[str, nn.Module]) -> dict[str, Any]:
    """Return what a captured step takes for granted, by name: where tensors lie, flags, plain numbers, generators.

    >>> host_state({"model": nn.Dropout(0.1)})
    {'model.training': True, 'model.p': 0.1, 'model.inplace': False}
    """
    found: dict[str, Any] = {}
    for root, whole in modules.items():
        for path, module in whole.named_modules(prefix=root):
            tensors = itertools.chain(
                module.named_parameters(recurse=False, remove_duplicate=False),
                module.named_buffers(recurse=False, remove_duplicate=False),
            )
            own = {**vars(module), **dict(tensors)}
            for name, value in own.items():
                if isinstance(value, Tensor):
                    found[f"{path}.{name}"] = (value.data_ptr(), tuple(value.shape), value.requires_grad)
                elif isinstance(value, bool | int | float | str):
                    found[f"{path}.{name}"] = value
                elif isinstance(value, random.Random | np.random.Generator | torch.Generator):
                    found[f"{path}.{name}"] = _state_of(value)
    return found


def watched(step: _StepT, read: set[str]) -> _StepT:
    """Return a copy of a `Step` that notes which of its host values are read."""
    kind: Any = type(step)

    class Watched(kind):  # type: ignore[misc]
        def __getattribute__(self, name: str) -> Any:
            if name in HOST_VALUES:
                read.add(name)
            return super().__getattribute__(name)

    made = copy.copy(step)
    object.__setattr__(made, "__class__", Watched)
    return made


def drawn_on_host(device: torch.device) -> tuple[Any, ...]:
    """Return the state of the host's generators: another one later means that something was drawn in between.

    Args:
        device: Where a step computes: the CPU's own generator is that device's.
    """
    torch_state = b"" if device.type == "cpu" else torch.get_rng_state().numpy().tobytes()
    return random.getstate(), repr(np.random.get_state(legacy=False)), torch_state


def difference(before: Mapping[str, Any], after: Mapping[str, Any]) -> str:
    """Return the name of something that is no longer as it was, or ""."""
    return next((name for name in {**before, **after} if before.get(name) != after.get(name)), "")


def _state_of(generator: random.Random | np.random.Generator | torch.Generator) -> str:
    if isinstance(generator, random.Random):
        return repr(generator.getstate())
    if isinstance(generator, np.random.Generator):
        return repr(generator.bit_generator.state)
    return repr(generator.get_state().tolist())


def _size_is_given(packet: Any, kwargs: Mapping[str, Any]) -> bool:
    return packet in _REPEAT and kwargs.get("output_size") is not None


def _has_mask(indices: Any) -> bool:
    return any(isinstance(item, Tensor) and item.dtype in (torch.bool, torch.uint8) for item in leaves(indices))
