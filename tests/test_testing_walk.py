"""Hidden tensors are found wherever a module may keep them, and registered ones are never taken for hidden."""

from __future__ import annotations

import functools
from collections.abc import Callable
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

from mmbench.testing.walk import Recorder, hidden_tensors, used_in_forward
from mmbench.torch_compat import autograd_leaves


def weight() -> Tensor:
    return torch.ones(3, requires_grad=True)


def closure() -> Callable[[Tensor], Tensor]:
    kept = weight()
    return lambda x: x * kept


def default() -> Callable[..., Tensor]:
    def scale(x: Tensor, kept: Tensor = weight()) -> Tensor:  # noqa: B008
        return x * kept

    return scale


PLACES: dict[str, tuple[Callable[[], object], str]] = {
    "an attribute": (weight, "kept"),
    "a list": (lambda: [1, weight()], "kept[1]"),
    "a dict of tuples": (lambda: {"a": (0, weight())}, "kept['a'][1]"),
    "an object": (lambda: SimpleNamespace(inner=SimpleNamespace(w=weight())), "kept.inner.w"),
    "a partial": (lambda: functools.partial(torch.mul, weight()), "kept.args[0]"),
    "a closure": (closure, "kept<closure kept>"),
    "a default": (default, "kept.__defaults__[0]"),
    "a module in a list": (lambda: [nn.Linear(3, 1, bias=False)], "kept[0]['weight']"),
}


@pytest.mark.parametrize("place", PLACES)
def test_a_tensor_is_found_in(place: str) -> None:
    make, path = PLACES[place]
    module = nn.Sequential(nn.Linear(2, 2))
    module.kept = make()  # type: ignore[assignment]

    assert [hidden.path for hidden in hidden_tensors(module)] == [path]


@pytest.mark.parametrize(
    "module",
    [
        nn.LSTM(3, 4, num_layers=2, bidirectional=True),
        nn.MultiheadAttention(8, 2),
        nn.BatchNorm1d(3),
        nn.utils.parametrizations.weight_norm(nn.Linear(3, 3)),
        nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, batch_first=True), 2),
    ],
)
def test_torchs_own_layers_hide_nothing(module: nn.Module) -> None:
    assert hidden_tensors(module) == []


def test_other_names_and_views_of_registered_tensors_are_not_hidden() -> None:
    module = nn.Linear(3, 3)
    module.again = [module.weight, module.weight.data, module.bias[:2].detach()]  # type: ignore[assignment]
    module.weight.grad = torch.ones(3, 3)

    assert hidden_tensors(module) == []


def test_autograd_names_the_leaves_that_a_backward_would_fill() -> None:
    a, b, c = weight(), weight(), weight()

    found = autograd_leaves([(a * b).sum() + c.detach().sum()])

    assert {id(leaf) for leaf in found} == {id(a), id(b)}


def test_a_constant_kept_between_two_forwards_is_seen_and_one_made_anew_is_not() -> None:
    kept, x = torch.randn(3), torch.randn(2, 3)

    used = used_in_forward(nn.Identity(), lambda: x * kept + torch.tensor([1.0, 2.0, 3.0]) + torch.ones(3), [x])

    assert [tensor.data_ptr() for tensor in used.foreign] == [kept.data_ptr()]
    assert used.waits == []


@pytest.mark.parametrize(
    ("act", "name"),
    [
        (lambda x: x.sum().item(), "_local_scalar_dense"),
        (lambda x: x[x > 0], "index"),
        (lambda x: 1 if (x > 0).any() else 0, "_local_scalar_dense"),
        (lambda x: x.nonzero(), "nonzero"),
    ],
)
def test_places_that_would_wait_for_the_device_are_named(act: Callable[[Tensor], object], name: str) -> None:
    with Recorder() as recorder:
        act(torch.randn(4))

    assert name in recorder.waits
