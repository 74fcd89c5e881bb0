"""Interfaces that torch may drop are used in one module, and without any of them the rest goes on and says why."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from packaging.version import Version
from profile_cases import DIGIT, Encoder
from seeded import fusion_package
from torch import Tensor, nn

from mmbench import torch_compat
from mmbench.capture import CapturedSteps
from mmbench.model import Batch, MultimodalModel
from mmbench.profiling import _count_flops
from mmbench.profiling.findings import Findings
from mmbench.profiling.flops import count_flops
from mmbench.profiling.variants import UnsupportedError, prepare
from mmbench.testing.suite import Suite
from mmbench.torch_compat import APIS, Api, ApiMissing, OpInterceptor
from mmbench.variant import Variant

ROOT = Path(__file__).resolve().parents[1]
SOURCES = sorted([*ROOT.glob("mmbench/**/*.py"), *ROOT.glob("plugins/*/src/**/*.py")])

#: Uses outside `mmbench.torch_compat` that stay, by file and name.
ALLOWED = {
    # A module that the fork server imports ahead, by name and without torch; one that is gone is passed over.
    ("mmbench/executors/local.py", "torch._dynamo"),
}
#: What torch does not document, although no part of its name begins with an underscore.
UNDOCUMENTED = re.compile(
    r"torch\.(utils\.flop_counter|utils\.pytree|cuda\.CUDAGraph|cuda\.default_generators|ao\.|backends\.mha|ops\b)"
    r"|.*\.graphsafe_set_state$"
)
_PRIVATE = re.compile(r"(torch|nn)\.(?:.*\.)?_(?!_)")
#: Private attributes of modules and tensors, as `module._parameters`.
_OF_OBJECTS = {name for kind in (nn.Module(), torch.ones(1)) for name in dir(kind) if re.match(r"_[a-z]", name)} - set(
    dir(object)
)


def uses(path: Path) -> Iterator[tuple[str, str]]:
    """Yield what a file uses of torch that torch does not promise to keep."""
    tree = ast.parse(path.read_text())
    names: list[str] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            names.append(ast.unparse(node))
            owner = node.value.id if isinstance(node.value, ast.Name) else ""
            if node.attr in _OF_OBJECTS and owner not in ("self", "cls"):
                yield str(path.relative_to(ROOT)), ast.unparse(node)
        elif isinstance(node, ast.Import):
            names += [item.name for item in node.names]
        elif isinstance(node, ast.ImportFrom):
            names += [f"{node.module}.{item.name}" for item in node.names]
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and re.fullmatch(r"[\w.]+", node.value):
            names.append(node.value)
    for name in names:
        if _PRIVATE.match(name) or UNDOCUMENTED.match(name):
            yield str(path.relative_to(ROOT)), name


@pytest.mark.parametrize(
    "line",
    [
        "from torch._subclasses.fake_tensor import FakeTensorMode",
        "import torch._dynamo",
        "x = torch.ops.aten.relu",
        "kind = nn.modules.batchnorm._BatchNorm",
        "held = module._parameters",
        "graph = torch.cuda.CUDAGraph()",
        "from torch.utils.flop_counter import flop_registry",
    ],
)
def test_a_use_of_something_private_is_found(tmp_path, monkeypatch, line):
    monkeypatch.setattr("test_torch_compat.ROOT" if __name__ == "test_torch_compat" else f"{__name__}.ROOT", tmp_path)
    (tmp_path / "new.py").write_text(f"{line}\n")

    assert list(uses(tmp_path / "new.py"))


def test_nothing_private_of_torch_is_used_outside_the_one_module():
    assert len(SOURCES) > 150

    found = {use for path in SOURCES if path.name != "torch_compat.py" for use in uses(path)}

    assert found == ALLOWED


def test_the_one_module_imports_nothing_private_before_it_is_asked_to():
    tree = ast.parse((ROOT / "mmbench/torch_compat.py").read_text())

    imported = {
        name
        for node in ast.walk(tree)
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in ([node.module] if isinstance(node, ast.ImportFrom) else [item.name for item in node.names])
        if name and name.startswith("torch")
    }
    assert imported == {"torch"}


@pytest.mark.parametrize("name", APIS)
def test_every_tested_version_has_it(name):
    oldest, newest = map(Version, APIS[name].tested)
    here = Version(torch.__version__).release[:2]
    if not oldest.release <= here <= newest.release:
        pytest.skip(f"torch {torch.__version__} is not among the tested versions")

    assert APIS[name].missing() == ""


@pytest.fixture
def without(monkeypatch):
    """Return what makes this version of torch lack one interface."""
    resolve = torch_compat._resolve

    def lack(*paths: str) -> None:
        def look(path: str) -> object:
            if path in paths:
                raise AttributeError(path)
            return resolve(path)

        monkeypatch.setattr(torch_compat, "_resolve", look)

    return lack


@pytest.mark.parametrize(
    ("name", "path"), [(name, path) for name, api in APIS.items() for path in dict.fromkeys(api.paths)]
)
def test_what_is_missing_is_named_with_what_that_costs(without, name, path):
    without(path)

    told = APIS[name].missing()

    assert told.startswith(f"torch {torch.__version__} has no {path.replace(':', '.')} (")
    assert told.endswith(APIS[name].without)
    with pytest.raises(ApiMissing, match=re.escape(told)):
        APIS[name].require()


@pytest.mark.parametrize("path", ["torch.no_such_module:Thing", "torch:no_such_thing", "torch.ops.aten:no_such_op"])
def test_neither_a_module_nor_an_attribute_nor_an_operation_need_be_there(path):
    assert "has no" in Api(paths=(path,), without="nothing else is lost").missing()


def test_operations_are_seen_one_by_one_and_only_meanwhile():
    class Names(OpInterceptor):
        def __init__(self) -> None:
            self.seen: list[str] = []

        def on_op(self, func, args, kwargs):
            self.seen.append(func.name())
            return func(*args, **kwargs)

    assert not torch_compat.are_ops_intercepted()
    with Names() as names:
        assert torch_compat.are_ops_intercepted()
        total = (torch.ones(2) * 3).sum()
    torch.zeros(1)

    assert names.seen == ["aten::ones", "aten::mul.Tensor", "aten::sum"]
    assert total == 6.0
    assert not torch_compat.are_ops_intercepted()


def test_an_error_ends_the_observation():
    class Nothing(OpInterceptor):
        def on_op(self, func, args, kwargs):
            raise KeyError(func.name())

    with pytest.raises(KeyError, match="ones"), Nothing():
        torch.ones(1)

    assert not torch_compat.are_ops_intercepted()
    assert torch.ones(1).item() == 1.0


def test_without_a_flop_counter_the_profile_says_so(without):
    without("torch.utils.flop_counter:FlopCounterMode")
    found = Findings(contended=False)

    _count_flops(lambda batch: batch, Batch(2, {}, {}), found)

    (flops,) = found.metrics
    assert (flops.name, flops.value) == ("flops_per_sample", None)
    assert "has no torch.utils.flop_counter.FlopCounterMode" in flops.note
    with pytest.raises(ApiMissing):
        count_flops(lambda: None)


def test_a_flop_counter_without_a_tracker_of_modules_counts_the_same(monkeypatch):
    from torch.utils.flop_counter import FlopCounterMode

    layer, x = nn.Linear(8, 4), torch.ones(2, 8)
    init = FlopCounterMode.__init__

    def untracked(self, *args, **kwargs):
        init(self, *args, **kwargs)
        tracker = self.mod_tracker
        del self.mod_tracker
        monkeypatch.setattr(FlopCounterMode, "mod_tracker", tracker, raising=False)

    monkeypatch.setattr(FlopCounterMode, "__init__", untracked)

    assert count_flops(lambda: layer(x)).total == 2 * 2 * 8 * 4


def test_attention_costs_two_products():
    shapes = (2, 4, 10, 16), (2, 4, 12, 16), (2, 4, 12, 16)
    query, key, value = map(torch.ones, shapes)

    counted = count_flops(lambda: nn.functional.scaled_dot_product_attention(query, key, value))

    assert counted.total == 2 * (2 * 4) * (10 * 16 * 12) + 2 * (2 * 4) * (10 * 12 * 16)


def test_without_a_switch_the_fused_transformer_layer_is_named_as_uncounted(without):
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True).eval()
    x = torch.ones(1, 3, 8)
    assert count_flops(lambda: layer(x)).uncounted == ()

    without("torch.backends.mha:get_fastpath_enabled")

    assert "aten._transformer_encoder_layer_fwd" in count_flops(lambda: layer(x)).uncounted


@pytest.mark.parametrize("path", torch_compat.GRAPH_CAPTURE.paths)
def test_without_what_capturing_needs_steps_are_usual_ones(without, path):
    without(path)

    class OnCuda:
        device = torch.device("cuda")
        objective = nn.Identity()

    steps = CapturedSteps(OnCuda(), num_steps=1000)

    assert steps.reason.startswith(f"torch {torch.__version__} has no {path.replace(':', '.')}")
    assert steps.facts() == {"captured": False, "reason": steps.reason}


def test_tensors_are_copied_one_by_one_where_torch_cannot_copy_many(monkeypatch):
    monkeypatch.delattr(torch, "_foreach_copy_")
    targets = [torch.zeros(2), torch.zeros(3, dtype=torch.int64)]

    torch_compat.copy_each(targets, [torch.tensor([1.0, 2.0]), torch.tensor([3, 4, 5])])

    assert [target.tolist() for target in targets] == [[1.0, 2.0], [3, 4, 5]]


class First(nn.Module):
    fused_dim = 8

    def forward(self, features):
        return next(iter(features.values())).tensor


@pytest.mark.parametrize("path", torch_compat.DYNAMIC_QUANTIZATION.paths)
def test_without_dynamic_quantization_int8_is_not_measured(without, path):
    without(path)
    model = MultimodalModel({"image": Encoder(nn.Linear(8, 8))}, {"image": "vector"}, First(), [DIGIT]).eval()

    with pytest.raises(UnsupportedError, match="no dynamic quantization for CPUs"):
        prepare(model, Variant(precision="int8"), torch.device("cpu"))


SUM = """
class Fusion(nn.Module):
    def __init__(self, dims, tasks):
        super().__init__()
        self.fused_dim = 8
        self.layers = nn.ModuleDict({name: nn.Linear(dim, 8) for name, dim in dims.items()})

    def forward(self, features):
        return sum(layer(features[name].tensor) for name, layer in self.layers.items())
"""


@pytest.mark.parametrize(
    ("check", "path"),
    [
        ("constants-are-registered", "torch.utils._python_dispatch:TorchDispatchMode"),
        ("does-not-wait", "torch.utils._python_dispatch:TorchDispatchMode"),
        ("weights-are-registered", "torch.autograd.graph:Node.next_functions"),
        ("follows-device", "torch._subclasses.fake_tensor:FakeTensorMode"),
    ],
)
def test_a_check_of_plugins_that_cannot_be_done_is_skipped_with_the_reason(without, tmp_path, check, path):
    folder = fusion_package(tmp_path, "sum-up", SUM)

    def checked():
        suite = Suite(folder)
        return next(suite.result(item) for item in suite.items if item.check.name == f"fusion.{check}")

    assert checked().status == "pass"

    without(path)
    result = checked()

    assert result.status == "skip"
    assert f"has no {path.replace(':', '.')}" in result.found


def test_graph_breaks_are_not_counted_where_torch_does_not_say(without):
    without("torch._dynamo.utils:counters")

    torch_compat.reset_compiler()

    assert torch_compat.num_graph_breaks() == 0


def test_graph_breaks_are_counted_until_the_compiler_is_reset():
    def breaks(x: Tensor) -> Tensor:
        y = x + 1
        torch._dynamo.graph_break()
        return y * 2

    torch_compat.reset_compiler()
    torch.compile(breaks, backend="eager")(torch.ones(1))

    assert torch_compat.num_graph_breaks() == 1

    torch_compat.reset_compiler()
    assert torch_compat.num_graph_breaks() == 0


def test_leaves_are_those_of_torch():
    from torch.utils import _pytree

    tree = ([1, (torch.ones(1), None)], {"a": [2.5, "word"], "b": ()})

    assert [str(item) for item in torch_compat.leaves(tree)] == [str(item) for item in _pytree.tree_leaves(tree)]


def test_every_constructor_makes_meta_tensors_although_one_was_replaced_at_first(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    constructors = torch.utils._device._device_constructors
    constructors.cache_clear()
    with monkeypatch.context() as patched, torch.device("meta"):
        patched.setattr(torch, "linspace", lambda *_: None)
        torch.empty(1)
    try:
        with torch.device("meta"):
            assert not torch.linspace(0, 1, 3).is_meta
        with torch_compat.meta_device():
            assert torch.linspace(0, 1, 3).is_meta
    finally:
        constructors.cache_clear()
