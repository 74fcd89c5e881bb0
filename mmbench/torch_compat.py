"""Interfaces of torch that carry no promise of stability: where each is tested, and what happens without it.

No other module of mmbench or of its plugins uses them. Each is looked up when it is used, so a release of torch that
drops one leaves everything else working: `missing` says why the one thing cannot be done.
"""

from __future__ import annotations

import importlib
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor, nn

from mmbench.errors import Unavailable


class ApiMissing(Unavailable):
    """This version of torch lacks an interface, and nothing can stand in for it."""


@dataclass(frozen=True, kw_only=True)
class Api:
    """Interfaces of torch that one ability of mmbench rests on.

    Attributes:
        paths: All that is looked up, each as "module:attribute".
        without: What mmbench does where one of them is absent.
        tested: The oldest and the newest version of torch in which all of them passed the tests of mmbench.
    """

    paths: tuple[str, ...]
    without: str
    tested: tuple[str, str] = ("2.9", "2.14")

    def missing(self) -> str:
        """Return why this version of torch cannot do it, or ""."""
        for path in self.paths:
            try:
                _resolve(path)
            except (ImportError, AttributeError):
                oldest, newest = self.tested
                name = path.replace(":", ".")
                return f"torch {torch.__version__} has no {name} (torch {oldest} to {newest} has it): {self.without}"
        return ""

    def require(self) -> None:
        """Do nothing where it is there.

        Raises:
            ApiMissing: it is not.
        """
        if reason := self.missing():
            raise ApiMissing(reason)


_DISPATCH_MODE = "torch.utils._python_dispatch:TorchDispatchMode"
_FLOP_COUNTER_MODE = "torch.utils.flop_counter:FlopCounterMode"
_FAST_PATH = "torch.backends.mha"
_DEVICE_CONSTRUCTORS = "torch.utils._device:_device_constructors"
_FAKE_TENSOR_MODE = "torch._subclasses.fake_tensor:FakeTensorMode"
_GRAPH_BREAKS = "torch._dynamo.utils:counters"
_QUANTIZED_LINEAR = "torch.ao.nn.quantized.dynamic:Linear"
_QUANTIZE_DYNAMIC = "torch.ao.quantization:quantize_dynamic"

#: ATen operations that give the host a number, or a tensor whose size only the device knows.
HOST_READS = (
    "_local_scalar_dense",
    "equal",
    "nonzero",
    "masked_select",
    "_unique2",
    "unique_dim",
    "unique_consecutive",
    "bincount",
    "repeat_interleave",
    # On a GPU these check whether the solver converged.
    "_linalg_svd",
    "_linalg_eigh",
)
#: ATen operations that index a tensor, and those that copy one.
INDEXING = ("index", "index_put", "index_put_", "_index_put_impl_")
COPIES = ("copy_", "_to_copy")

OP_INTERCEPTION = Api(paths=(_DISPATCH_MODE,), without="the operations of a forward pass cannot be observed")
FLOP_COUNTER = Api(paths=(_DISPATCH_MODE, _FLOP_COUNTER_MODE), without="FLOPs are not counted")
HOST_WAITS = Api(
    paths=(_DISPATCH_MODE, *(f"torch.ops.aten:{name}" for name in (*HOST_READS, *INDEXING, *COPIES))),
    without="whether a training step waits for the device is unknown",
)
GRAPH_CAPTURE = Api(
    paths=(
        *HOST_WAITS.paths,
        "torch.cuda:CUDAGraph.capture_begin",
        "torch.cuda:default_generators",
        "torch:Generator.graphsafe_set_state",
    ),
    without="training steps are not captured as CUDA graphs",
)
AUTOGRAD_GRAPH = Api(
    paths=("torch.autograd.graph:Node.next_functions",), without="tensors that only autograd holds are not found"
)
FAKE_TENSORS = Api(paths=(_FAKE_TENSOR_MODE,), without="a forward pass on another device cannot be simulated")
GRAPH_BREAKS = Api(paths=(_GRAPH_BREAKS,), without="graph breaks of torch.compile are not counted")
DYNAMIC_QUANTIZATION = Api(
    paths=(_QUANTIZE_DYNAMIC, _QUANTIZED_LINEAR), without="there is no dynamic quantization for CPUs"
)

#: Everything above by name.
APIS: Mapping[str, Api] = {name: value for name, value in list(globals().items()) if isinstance(value, Api)}


# Operations, observed one by one


class OpInterceptor:
    """A context manager that sees each ATen operation of its block. Subclasses define `on_op`.

    Raises:
        ApiMissing: on entering, see `OP_INTERCEPTION`.
    """

    _num_entered = 0

    def on_op(self, func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        """Do the operation, ``func(*args, **kwargs)``, and return its result."""
        raise NotImplementedError

    def __enter__(self) -> Self:
        OP_INTERCEPTION.require()
        self._mode = _dispatch_mode(self.on_op)
        self._mode.__enter__()
        OpInterceptor._num_entered += 1
        return self

    def __exit__(self, *error: Any) -> None:
        OpInterceptor._num_entered -= 1
        self._mode.__exit__(*error)


def are_ops_intercepted() -> bool:
    """Return whether an `OpInterceptor` is active: it sees nothing of what runs in a compiled graph."""
    return OpInterceptor._num_entered > 0


def aten_ops(names: Iterable[str]) -> frozenset[Any]:
    """Return ATen operations by name, all overloads of each as one; those that this version lacks are left out.

    >>> sorted(str(op) for op in aten_ops(["nonzero", "no_such_operation"]))
    ['aten.nonzero']
    """
    found = (getattr(torch.ops.aten, name, None) for name in names)
    return frozenset(op for op in found if op is not None)


def leaves(tree: Any) -> Iterator[Any]:
    """Yield what is nested in lists, tuples and dicts, which are all that operations take.

    >>> list(leaves(([1, (2,)], {"a": 3})))
    [1, 2, 3]
    """
    if isinstance(tree, Mapping):
        tree = tree.values()
    elif not isinstance(tree, list | tuple):
        yield tree
        return
    yield from itertools.chain.from_iterable(map(leaves, tree))


# Floating-point operations


class FlopCounter:
    """A context manager that counts the floating-point operations of its block.

    Args:
        formulas: FLOPs by ATen operation, beside those that torch knows; a formula gets shapes instead of tensors.
            Operations that this version lacks are left out.

    Attributes:
        known: All operations that have a formula.

    Raises:
        ApiMissing: see `FLOP_COUNTER`.
    """

    def __init__(self, formulas: Mapping[str, Callable[..., int]]) -> None:
        FLOP_COUNTER.require()
        mapping = {op: formula for name, formula in formulas.items() for op in aten_ops([name])}
        self._counter = _resolve(_FLOP_COUNTER_MODE)(display=False, custom_mapping=mapping)
        self.known = frozenset(self._counter.flop_registry)
        # A total needs no tracker of modules, and torch's fails on views of parameters where no gradients are taken.
        if hasattr(self._counter, "mod_tracker"):
            self._counter.mod_tracker = _OneModule()

    @property
    def total(self) -> int:
        return int(self._counter.get_total_flops())

    def __enter__(self) -> Self:
        self._counter.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._counter.__exit__(*error)


@contextmanager
def without_fused_transformer() -> Iterator[None]:
    """Run transformer layers as single operations: the fused one hides what it does.

    Without the switch the fused operation is seen, has no formula, and is reported as uncounted.
    """
    try:
        is_on, switch = _resolve(f"{_FAST_PATH}:get_fastpath_enabled"), _resolve(f"{_FAST_PATH}:set_fastpath_enabled")
    except (ImportError, AttributeError):
        yield
        return
    before = is_on()
    switch(False)
    try:
        yield
    finally:
        switch(before)


# CUDA graphs


def new_cuda_graph() -> Any:
    """Return an empty CUDA graph to capture work in."""
    return torch.cuda.CUDAGraph()


def replace_generator_state(device: torch.device, state: Tensor) -> None:
    """Give a GPU's default generator a state of its own: after a broken capture the old one still waits for its end."""
    fresh = torch.Generator(device)
    fresh.set_state(state)
    torch.cuda.default_generators[device.index].graphsafe_set_state(fresh)


def copy_each(targets: Sequence[Tensor], sources: Sequence[Tensor]) -> None:
    """Copy each source to its target, by one call where torch can."""
    together = getattr(torch, "_foreach_copy_", None)
    if together is not None:
        together(targets, sources)
        return
    for target, source in zip(targets, sources, strict=True):
        target.copy_(source)


# Autograd, fake tensors, the compiler


def autograd_leaves(outputs: Iterable[Tensor]) -> list[Tensor]:
    """Return the leaf tensors whose gradient a backward pass from `outputs` would fill.

    Raises:
        ApiMissing: see `AUTOGRAD_GRAPH`.
    """
    AUTOGRAD_GRAPH.require()
    found: dict[int, Tensor] = {}
    seen: set[Any] = set()
    todo = [output.grad_fn for output in outputs if output.grad_fn is not None]
    while todo:
        node = todo.pop()
        if node in seen:
            continue
        seen.add(node)
        variable = getattr(node, "variable", None)
        if isinstance(variable, Tensor):
            found[id(variable)] = variable
        todo += [following for following, _ in node.next_functions if following is not None]
    return list(found.values())


@contextmanager
def fake_tensors() -> Iterator[None]:
    """Let tensors have shapes and devices but no numbers, real ones among them.

    Raises:
        ApiMissing: see `FAKE_TENSORS`.
    """
    FAKE_TENSORS.require()
    with _resolve(_FAKE_TENSOR_MODE)(allow_non_fake_inputs=True):
        yield


def reset_compiler() -> None:
    """Forget all compiled graphs, and how many breaks they had."""
    torch.compiler.reset()
    with suppress(ImportError, AttributeError):
        _resolve(_GRAPH_BREAKS).clear()


def num_graph_breaks() -> int:
    """Return how many graph breaks there were since `reset_compiler`; 0 where torch does not say."""
    if GRAPH_BREAKS.missing():
        return 0
    return sum(_resolve(_GRAPH_BREAKS)["graph_break"].values())


# Dynamic quantization


def quantize_dynamic(model: nn.Module, kinds: set[type[nn.Module]]) -> nn.Module:
    """Give the layers of some kinds int8 weights, in place.

    Raises:
        ApiMissing: see `DYNAMIC_QUANTIZATION`.
    """
    DYNAMIC_QUANTIZATION.require()
    quantized: nn.Module = _resolve(_QUANTIZE_DYNAMIC)(model, kinds, inplace=True)
    return quantized


def is_dynamically_quantized(module: nn.Module) -> bool:
    """Return whether a layer is what `quantize_dynamic` makes."""
    return type(module).__module__.startswith("torch.ao.nn.quantized.dynamic")


class _OneModule:
    """In place of `torch.utils.module_tracker.ModuleTracker`: everything happens in the whole, named "Global"."""

    parents = frozenset({"Global"})

    def __enter__(self) -> _OneModule:
        return self

    def __exit__(self, *_: object) -> None:
        return None


@contextmanager
def meta_device() -> Iterator[None]:
    """Let every constructor of torch make tensors without values, as `with torch.device("meta")` does.

    torch lists its constructors once, at the first call of one under a device. transformers replaces `torch.linspace`
    while it loads weights; a list made meanwhile lacks the real one for as long as the process lives, so a new one is
    made here.
    """
    with suppress(ImportError, AttributeError):  # another release of torch: the list as it is
        _resolve(_DEVICE_CONSTRUCTORS).cache_clear()
    with torch.device("meta"):
        yield


def _dispatch_mode(on_op: Callable[[Any, Sequence[Any], Mapping[str, Any]], Any]) -> Any:
    base: Any = _resolve(_DISPATCH_MODE)

    class Mode(base):  # type: ignore[misc]
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            return on_op(func, args, kwargs or {})

    return Mode()


def _resolve(path: str) -> Any:
    """Return the object at "module:attribute".

    Raises:
        ImportError: there is no such module.
        AttributeError: there is no such attribute.
    """
    module, _, attributes = path.partition(":")
    # Of `torch.ops.aten` the attributes are made on demand, and no module goes by that name.
    found: Any = torch.ops.aten if module == "torch.ops.aten" else importlib.import_module(module)
    for name in attributes.split("."):
        found = getattr(found, name)
    return found
