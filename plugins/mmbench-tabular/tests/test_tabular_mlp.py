"""The tabular perceptron standardises by training values and knows which values are missing."""

import subprocess
import sys

import mmbench_tabular
import numpy as np
import pytest
import torch
from mmbench_tabular.columns import ColumnTokens
from mmbench_tabular.mlp import TabularMLP
from torch import nn

from mmbench import Features, Modality
from mmbench.errors import UsageError

NAN = float("nan")
SPEC = mmbench_tabular.mmbench_encoders()[0]


@pytest.fixture(autouse=True)
def one_thread_and_seed():
    torch.set_num_threads(1)
    torch.manual_seed(0)


def build(num_features=3, **options):
    modality = Modality(name="table", kind="tabular", facts={"num_features": num_features})
    return TabularMLP(modality, "vector", **{**SPEC.defaults, **options})


def inputs_of_first_layer(encoder, values):
    seen = []
    encoder.layers[0].register_forward_hook(lambda module, args, output: seen.append(args[0].detach()))
    encoder(values, None)
    return seen[0]


@pytest.mark.parametrize("batch_size", [1, 2, 33])
def test_features_have_the_promised_shape_for_any_batch_size(batch_size):
    features = build()(torch.randn(batch_size, 3), None)

    assert isinstance(features, Features)
    assert features.layout == "vector"
    assert features.tensor.shape == (batch_size, 64)


def test_columns_are_standardised_by_known_training_values_and_missing_ones_flagged():
    encoder = build()
    encoder.fit(torch.tensor([[1.0, 10.0, 5.0], [3.0, NAN, 5.0], [NAN, 30.0, 5.0]]), None)

    inputs = inputs_of_first_layer(encoder, torch.tensor([[3.0, NAN, 5.0], [2.0, 40.0, 7.0]]))

    # Means 2, 20, 5; deviations 1, 10 and, for the constant column, 1.
    assert inputs.tolist() == [[1.0, 0.0, 0.0, 0.0, 1.0, 0.0], [0.0, 2.0, 2.0, 0.0, 0.0, 0.0]]


def test_a_column_never_seen_in_training_stays_finite():
    encoder = build()
    encoder.fit(torch.tensor([[1.0, NAN, 2.0], [3.0, NAN, 4.0]]), None)

    features = encoder(torch.tensor([[1.0, 5.0, NAN], [NAN, NAN, NAN]]), None)

    assert features.tensor.isfinite().all()


def test_missing_values_give_finite_gradients_to_every_parameter():
    encoder = build()
    values = torch.randn(16, 3)
    values[::3, 0] = NAN
    values[1::3, 2] = NAN
    values[::4, 1] = NAN

    encoder(values, None).tensor.square().sum().backward()

    assert all(parameter.grad.isfinite().all() and parameter.grad.any() for parameter in encoder.parameters())


def test_a_samples_features_do_not_depend_on_its_batch_mates():
    encoder = build().eval()
    values = torch.randn(9, 3)
    values[4, 1] = NAN

    alone = torch.cat([encoder(value.unsqueeze(0), None).tensor for value in values])

    torch.testing.assert_close(encoder(values, None).tensor, alone, atol=1e-5, rtol=0)


def test_it_learns_from_which_values_are_missing():
    encoder = build(dropout=0.1)
    values = torch.randn(64, 3)
    target = torch.arange(64) % 2
    values[target == 1, 1] = NAN
    encoder.fit(values, None)
    head = nn.Linear(64, 2)
    optimiser = torch.optim.AdamW([*encoder.parameters(), *head.parameters()], lr=3e-3)
    for _ in range(30):
        optimiser.zero_grad()
        nn.functional.cross_entropy(head(encoder(values, None).tensor), target).backward()
        optimiser.step()
    encoder.eval()

    assert (head(encoder(values, None).tensor).argmax(dim=1) == target).all()


def test_bfloat16_autocast_gives_finite_features():
    encoder = build()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        features = encoder(torch.tensor([[1e6, NAN, -3.0]]), None)

    assert features.tensor.isfinite().all()


def test_the_transform_keeps_the_row():
    row = np.array([1.0, np.nan, 3.0], dtype=np.float32)

    np.testing.assert_array_equal(build().transform(row), row)
    assert build().transform == build(width=7).transform


def test_options_change_the_network_as_they_say():
    encoder = build(width=5, depth=3, feature_dim=7, dropout=0.3)

    shapes = [layer.weight.shape for layer in encoder.layers if isinstance(layer, nn.Linear)]
    assert shapes == [(5, 6), (5, 5), (5, 5), (7, 5)]
    assert encoder.feature_dim == 7


@pytest.mark.parametrize(("option", "value"), [("width", 0), ("depth", 0), ("feature_dim", 0), ("dropout", 2.0)])
def test_an_option_that_cannot_be_is_refused(option, value):
    with pytest.raises(UsageError, match=f"option '{option}' must be"):
        build(**{option: value})


def test_the_light_module_imports_no_torch():
    code = "import sys, mmbench_tabular; mmbench_tabular.mmbench_encoders(); print('torch' in sys.modules)"

    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "False"


def test_each_column_is_a_token_of_its_own_and_knows_when_it_is_missing():
    modality = Modality(name="table", kind="tabular", facts={"num_features": 2})
    encoder, joined = ColumnTokens(modality, "sequence", token_dim=4), ColumnTokens(modality, "vector", token_dim=4)
    encoder.fit(torch.tensor([[1.0, 10.0], [3.0, NAN], [5.0, 30.0]]))  # means 3 and 20, deviations 1.633 and 10
    joined.load_state_dict(encoder.state_dict())
    values = torch.tensor([[3.0, 40.0], [NAN, 20.0]])

    tokens = encoder(values).tensor

    weight, bias = encoder.weight, encoder.bias
    torch.testing.assert_close(tokens[0], torch.stack([bias[0], 2.0 * weight[1, 0] + bias[1]]))
    torch.testing.assert_close(tokens[1], torch.stack([weight[0, 1] + bias[0], bias[1]]))
    assert joined.feature_dim == 8
    assert torch.equal(joined(values).tensor, tokens.flatten(1))
