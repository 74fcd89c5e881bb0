"""Building blocks for encoders agree with their formulas and let nothing through from padding."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from mmbench.blocks import (
    BidirectionalRNN,
    Standardiser,
    TransformerBlock,
    check_heads,
    check_range,
    sinusoidal_positions,
    span_means,
)
from mmbench.errors import UsageError


@pytest.fixture(autouse=True)
def seeded(one_thread):
    torch.manual_seed(0)


def lengths_to_mask(lengths, longest):
    return torch.arange(longest) < torch.tensor(lengths)[:, None]


def test_an_unfitted_standardiser_changes_nothing():
    values = torch.randn(3, 4)

    torch.testing.assert_close(Standardiser(4)(values), values)


def test_a_standardiser_takes_mean_and_deviation_over_known_values():
    standardise = Standardiser(3)

    standardise.fit(torch.tensor([[1.0, 4.0, 7.0], [3.0, float("nan"), 7.0], [5.0, 8.0, 7.0]]))

    assert standardise.mean.tolist() == [3.0, 6.0, 7.0]
    assert standardise.std.tolist() == pytest.approx([math.sqrt(8 / 3), 2.0, 1.0])


def test_a_standardiser_leaves_padding_out():
    standardise = Standardiser(1)
    values = torch.tensor([[[1.0], [3.0], [1e9]], [[5.0], [float("inf")], [1e9]]])

    standardise.fit(values, lengths_to_mask([2, 1], 3))

    assert standardise.mean.item() == 3.0
    assert standardise.std.item() == pytest.approx(math.sqrt(8 / 3))


def test_a_standardiser_reads_more_rows_than_fit_in_one_part_and_any_axis():
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, size=(2500, 3, 50, 50), dtype=np.uint8)
    standardise = Standardiser(3, axis=1)

    standardise.fit(images)

    np.testing.assert_allclose(standardise.mean, images.mean(axis=(0, 2, 3)), rtol=1e-6)
    np.testing.assert_allclose(standardise.std, images.std(axis=(0, 2, 3)), rtol=1e-6)


@pytest.mark.parametrize("constant", [0.1, 123456.7, -3e8, 1e-20])
def test_a_constant_feature_is_only_shifted(constant):
    standardise = Standardiser(1)

    standardise.fit(torch.full((1000, 1), constant))

    assert standardise.std.item() == 1.0
    assert standardise(torch.tensor([[constant]])).item() == pytest.approx(0.0, abs=abs(constant) * 1e-6)


def test_a_small_spread_around_a_large_mean_is_not_lost():
    standardise = Standardiser(1)

    standardise.fit(torch.tensor([[4096.0], [4097.0], [4098.0]]))

    assert standardise.std.item() == pytest.approx(math.sqrt(2 / 3), rel=1e-6)


def test_a_transformer_block_agrees_with_torchs_own_layer():
    block = TransformerBlock(12, 3, mlp_dim=20, dropout=0.0)
    oracle = nn.TransformerEncoderLayer(12, 3, 20, 0.0, activation="gelu", batch_first=True, norm_first=True)
    theirs = oracle.state_dict()
    ours = block.state_dict()
    names = {
        "self_attn.in_proj_weight": "query_key_value.weight",
        "self_attn.in_proj_bias": "query_key_value.bias",
        "self_attn.out_proj.weight": "output.weight",
        "self_attn.out_proj.bias": "output.bias",
        "linear1.weight": "mlp.1.weight",
        "linear1.bias": "mlp.1.bias",
        "linear2.weight": "mlp.3.weight",
        "linear2.bias": "mlp.3.bias",
        "norm1.weight": "attention_norm.weight",
        "norm1.bias": "attention_norm.bias",
        "norm2.weight": "mlp.0.weight",
        "norm2.bias": "mlp.0.bias",
    }
    assert set(names.values()) == set(ours)
    oracle.load_state_dict({key: ours[names[key]] for key in theirs})
    tokens = torch.randn(4, 7, 12)
    mask = lengths_to_mask([7, 3, 1, 5], 7)

    got = block(tokens, mask)
    expected = oracle(tokens, src_key_padding_mask=~mask)

    torch.testing.assert_close(got[mask], expected[mask], atol=1e-5, rtol=0)
    torch.testing.assert_close(block(tokens), oracle(tokens), atol=1e-5, rtol=0)


def test_a_sample_without_any_real_token_is_finite_and_so_is_its_gradient():
    block = TransformerBlock(8, 2, mlp_dim=8, dropout=0.0)
    tokens = torch.randn(2, 3, 8)

    got = block(tokens, lengths_to_mask([0, 3], 3))
    got.sum().backward()

    assert got.isfinite().all()
    assert all(parameter.grad.isfinite().all() for parameter in block.parameters())


@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_a_bidirectional_network_agrees_with_torchs_own_on_packed_sequences(cell):
    rnn = BidirectionalRNN(cell, 4, 3, num_layers=2, dropout=0.0)
    oracle = {"lstm": nn.LSTM, "gru": nn.GRU}[cell](4, 3, num_layers=2, bidirectional=True, batch_first=True)
    for layer in range(2):
        for suffix, one_way in (("", rnn.forwards[layer]), ("_reverse", rnn.backwards[layer])):
            for part in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"):
                getattr(oracle, f"{part}_l{layer}{suffix}").data = getattr(one_way, f"{part}_l0").data
    lengths = [6, 1, 4]
    tokens = torch.randn(3, 6, 4)
    packed = nn.utils.rnn.pack_padded_sequence(tokens, torch.tensor(lengths), batch_first=True, enforce_sorted=False)

    got = rnn(tokens, lengths_to_mask(lengths, 6))
    expected, _ = nn.utils.rnn.pad_packed_sequence(oracle(packed)[0], batch_first=True)

    torch.testing.assert_close(got, expected, atol=1e-6, rtol=0)
    torch.testing.assert_close(rnn(tokens), oracle(tokens)[0], atol=1e-6, rtol=0)


@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_dropout_between_layers_acts_in_training_only(cell):
    rnn = BidirectionalRNN(cell, 4, 3, num_layers=2, dropout=0.5)
    tokens = torch.randn(2, 5, 4)

    assert not torch.equal(rnn(tokens), rnn(tokens))
    rnn.eval()
    assert torch.equal(rnn(tokens), rnn(tokens))


@pytest.mark.parametrize("dim", [1, 2, 5, 8])
def test_positions_are_bounded_and_all_different(dim):
    positions = sinusoidal_positions(20, dim)

    assert positions.shape == (20, dim)
    assert positions.abs().max() <= 1.0
    assert len({tuple(row) for row in positions.tolist()}) == 20


def test_positions_match_their_formula():
    positions = sinusoidal_positions(4, 4)

    expected = [[math.sin(t), math.sin(t * 1e-4), math.cos(t), math.cos(t * 1e-4)] for t in range(4)]
    np.testing.assert_allclose(positions, expected, atol=1e-6)


def test_checks_say_what_is_allowed():
    check_range("width", 1, 1)
    check_heads("width", 12, 4)
    with pytest.raises(UsageError, match="option 'width' must be at least 1, got 0"):
        check_range("width", 0, 1)
    with pytest.raises(UsageError, match=r"option 'dropout' must be from 0.0 to 1.0, got nan"):
        check_range("dropout", float("nan"), 0.0, 1.0)
    with pytest.raises(UsageError, match="width=10 cannot be divided among num_heads=4; choose heads from 1, 2, 5, 10"):
        check_heads("width", 10, 4)


@pytest.mark.parametrize("num_spans", [1, 3, 4, 7])
def test_span_means_are_adaptive_averages_over_the_real_tokens_alone(num_spans):
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randn(4, 9, 2, generator=generator)
    lengths = [9, 5, 1, 0]
    mask = torch.arange(9) < torch.tensor(lengths)[:, None]

    found = span_means(tokens.masked_fill(~mask[..., None], float("nan")), mask, num_spans)

    for row, length in enumerate(lengths[:3]):
        expected = torch.nn.functional.adaptive_avg_pool1d(tokens[row, :length].T, num_spans).T
        torch.testing.assert_close(found[row], expected)
    assert found[3].tolist() == [[0.0, 0.0]] * num_spans
    torch.testing.assert_close(span_means(tokens, None, num_spans)[0], found[0])
