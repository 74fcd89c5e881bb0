"""The sequence encoders keep what their descriptors promise, at any length and any amount of padding."""

import importlib
import subprocess
import sys

import mmbench_sequence
import numpy as np
import pytest
import torch
from mmbench_sequence.embedded import EmbeddedSteps
from torch import nn

from mmbench import Features, Modality
from mmbench.errors import UsageError

SPECS = {spec.name: spec for spec in mmbench_sequence.mmbench_encoders() if spec.in_all}
PROMISES = [(name, layout) for name, spec in SPECS.items() for layout in spec.layouts if layout != "pyramid"]
LENGTHS = [1, 2, 3, 17, 50]


@pytest.fixture(autouse=True)
def one_thread_and_seed():
    torch.set_num_threads(1)
    torch.manual_seed(0)


def build(name, layout="vector", *, num_features=5, **options):
    module, attribute = SPECS[name].factory.split(":")
    modality = Modality(name="steps", kind="sequence", facts={"num_features": num_features})
    return getattr(importlib.import_module(module), attribute)(modality, layout, **{**SPECS[name].defaults, **options})


def sequences(lengths, *, extra=0, filler=0.0):
    generator = torch.Generator().manual_seed(0)
    longest = max(lengths) + extra
    values = torch.randn(len(lengths), longest, 5, generator=generator)
    mask = torch.arange(longest) < torch.tensor(lengths)[:, None]
    return values.masked_fill(~mask.unsqueeze(-1), filler), mask


@pytest.mark.parametrize("lengths", [[1], [9], [1, 2], LENGTHS])
@pytest.mark.parametrize(("name", "layout"), PROMISES)
def test_features_have_the_promised_shape_for_any_batch_size_and_length(name, layout, lengths):
    encoder = build(name, layout)

    features = encoder(*sequences(lengths))

    assert isinstance(features, Features)
    assert features.layout == layout
    expected = (len(lengths), 64) if layout == "vector" else (len(lengths), max(lengths), 64)
    assert features.tensor.shape == expected
    assert encoder.feature_dim == 64


@pytest.mark.parametrize("filler", [0.0, 100.0, float("nan"), float("inf")])
@pytest.mark.parametrize(("name", "layout"), PROMISES)
def test_neither_padding_nor_batch_mates_have_any_influence(name, layout, filler):
    encoder = build(name, layout).eval()
    values, mask = sequences(LENGTHS, extra=11, filler=filler)
    encoder.fit(values, mask)

    features = encoder(values, mask)

    for position, length in enumerate(LENGTHS):
        expected = encoder(values[position : position + 1, :length], None).tensor[0]
        got = features.tensor[position]
        if layout == "sequence":
            got = got[:length]
        torch.testing.assert_close(got, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize(("name", "layout"), PROMISES)
def test_the_gradient_reaches_every_parameter_and_is_finite_over_nan_padding(name, layout):
    encoder = build(name, layout)
    values, mask = sequences(LENGTHS, extra=3, filler=float("nan"))

    features = encoder(values, mask)
    features.to_vector().tensor.square().sum().backward()

    assert all(parameter.grad.isfinite().all() and parameter.grad.any() for parameter in encoder.parameters())


@pytest.mark.parametrize(("name", "layout"), PROMISES)
def test_bfloat16_autocast_gives_finite_features(name, layout):
    encoder = build(name, layout)

    with torch.autocast("cpu", dtype=torch.bfloat16):
        features = encoder(*sequences(LENGTHS))

    assert features.tensor.isfinite().all()


@pytest.mark.parametrize("name", SPECS)
def test_it_learns_whether_a_pulse_is_early_or_late(name):
    encoder = build(name, dropout=0.1)
    target = torch.arange(32) % 2
    values = torch.randn(32, 12, 5, generator=torch.Generator().manual_seed(1)) * 0.1
    values[target == 0, 1] += 2.0
    values[target == 1, 10] += 2.0
    encoder.fit(values, None)
    head = nn.Linear(64, 2)
    optimiser = torch.optim.AdamW([*encoder.parameters(), *head.parameters()], lr=5e-3)
    for _ in range(60):
        optimiser.zero_grad()
        nn.functional.cross_entropy(head(encoder(values, None).tensor), target).backward()
        optimiser.step()
    encoder.eval()

    assert (head(encoder(values, None).tensor).argmax(dim=1) == target).all()


@pytest.mark.parametrize("name", SPECS)
def test_fit_standardises_over_real_steps_and_survives_a_constant_feature(name):
    encoder = build(name)
    values, mask = sequences(LENGTHS, filler=float("nan"))
    values[..., 4] = 3.0

    encoder.fit(values, mask)

    real = values[mask].double()
    np.testing.assert_allclose(encoder.standardise.mean, real.mean(dim=0), rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(encoder.standardise.std[:4], real[:, :4].std(dim=0, correction=0), rtol=1e-5)
    assert encoder.standardise.std[4] == 1.0


def test_the_transform_keeps_the_first_steps():
    sequence = np.arange(20, dtype=np.float32).reshape(10, 2)

    np.testing.assert_array_equal(build("gru", max_length=4).transform(sequence), sequence[:4])
    assert build("gru").transform == build("transformer").transform


def test_options_change_the_network_as_they_say():
    assert build("gru", width=6, depth=2).rnn.forwards[1].input_size == 12
    assert build("gru", feature_dim=9).feature_dim == 9
    assert len(build("transformer", depth=3).blocks) == 3
    assert build("transformer", width=8, num_heads=2).embed.out_features == 8


@pytest.mark.parametrize(
    ("name", "option", "value", "message"),
    [
        ("gru", "depth", 0, "option 'depth' must be at least 1, got 0"),
        ("gru", "max_length", 0, "option 'max_length' must be at least 1, got 0"),
        ("transformer", "num_heads", 5, "width=48 cannot be divided among num_heads=5"),
        ("transformer", "dropout", 1.1, "option 'dropout' must be from 0.0 to 1.0, got 1.1"),
    ],
)
def test_an_option_that_cannot_be_is_refused(name, option, value, message):
    with pytest.raises(UsageError) as caught:
        build(name, **{option: value})

    assert message in str(caught.value)


def test_the_light_module_imports_no_torch():
    code = "import sys, mmbench_sequence; mmbench_sequence.mmbench_encoders(); print('torch' in sys.modules)"

    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "False"


@pytest.mark.parametrize("filler", [0.0, 100.0, float("nan")])
def test_a_pyramid_has_every_layer_ends_with_the_sequence_and_never_reads_padding(filler):
    encoders = []
    for layout in ("sequence", "pyramid"):
        torch.manual_seed(3)
        encoders.append(build("transformer", layout).eval())
    sequence, pyramid = encoders
    values, mask = sequences(LENGTHS, extra=11, filler=filler)

    levels = pyramid(values, mask)

    assert levels.layout == "pyramid"
    assert pyramid.feature_dim == (48, 64)
    assert [level.shape[-1] for level in levels.values] == list(pyramid.feature_dim)
    assert torch.equal(levels.values[-1], sequence(values, mask).tensor)
    for position, length in enumerate(LENGTHS):
        by_itself = pyramid(values[position : position + 1, :length], None)
        for level, real, expected in zip(levels.values, levels.mask, by_itself.values):
            torch.testing.assert_close(level[position][real[position]], expected[0], atol=1e-5, rtol=0)


@pytest.mark.parametrize("filler", [0.0, float("nan")])
def test_steps_are_linear_in_each_step_alone_and_their_vector_the_means_of_spans(filler):
    specs = {spec.name: spec for spec in mmbench_sequence.mmbench_encoders()}
    modality = Modality(name="steps", kind="sequence", facts={"num_features": 5})
    sequence, vector = (
        EmbeddedSteps(modality, layout, **specs["steps"].defaults).eval() for layout in ("sequence", "vector")
    )
    values, mask = sequences(LENGTHS, extra=4, filler=filler)
    sequence.fit(values, mask)
    vector.load_state_dict(sequence.state_dict())

    tokens, pooled = sequence(values, mask).tensor, vector(values, mask).tensor

    assert vector.feature_dim == 16 * 32
    for position, length in enumerate(LENGTHS):
        real = values[position, :length]
        scaled = (real - sequence.standardise.mean) / sequence.standardise.std
        expected = scaled @ sequence.embed.weight.T + sequence.embed.bias
        torch.testing.assert_close(tokens[position, :length], expected)
        spans = torch.nn.functional.adaptive_avg_pool1d(expected.T, 16).T.flatten()
        torch.testing.assert_close(pooled[position], spans)
