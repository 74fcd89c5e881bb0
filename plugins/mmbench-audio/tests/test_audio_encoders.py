"""The audio encoders keep what their descriptors promise, at any length and any amount of padding."""

import importlib

import mmbench_audio
import numpy as np
import pytest
import torch
from mmbench_audio.conv1d import LearnedFilterbank
from mmbench_audio.masked import FrameNorm, MaskedConv
from torch import nn

from mmbench import Features, Modality, Waveform
from mmbench.errors import UsageError

RATE = 8_000
EVERY = {spec.name: spec for spec in mmbench_audio.mmbench_encoders() if not spec.takes_tuning}
SPECS = {name: spec for name, spec in EVERY.items() if name != "frames"}
PROMISES = [(name, layout) for name, spec in SPECS.items() for layout in spec.layouts if layout != "pyramid"]
LENGTHS = [1, 2, 79, 80, 81, 1000, 2777, 4001]  # in samples


@pytest.fixture(autouse=True)
def one_thread_and_seed():
    torch.set_num_threads(1)
    torch.manual_seed(0)


def build(name, layout="vector", **options):
    module, attribute = EVERY[name].factory.split(":")
    modality = Modality(name="voice", kind="audio", facts={"rate": RATE})
    return getattr(importlib.import_module(module), attribute)(modality, layout, **{**EVERY[name].defaults, **options})


def noise(length, *, seed=0, rate=RATE):
    return Waveform(np.random.default_rng(seed).standard_normal(length).astype(np.float32) * 0.1, rate)


def tone(frequency, *, length=2000, seed=0):
    rng = np.random.default_rng(seed)
    wave = np.sin(2 * np.pi * frequency * np.arange(length) / RATE + rng.uniform(0, 6)) * rng.uniform(0.1, 0.5)
    return Waveform((wave + 0.01 * rng.standard_normal(length)).astype(np.float32), RATE)


def padded(rows, *, extra=0, filler=0.0):
    """Join transformed samples to one batch: values (B, T, …) and mask (B, T)."""
    lengths = torch.tensor([len(row) for row in rows])
    longest = int(lengths.max()) + extra
    values = torch.full((len(rows), longest, *rows[0].shape[1:]), filler, dtype=torch.from_numpy(rows[0]).dtype)
    for position, row in enumerate(rows):
        values[position, : len(row)] = torch.from_numpy(row)
    return values, torch.arange(longest) < lengths[:, None]


def alone(encoder, row):
    return encoder(torch.from_numpy(row).unsqueeze(0), None)


@pytest.mark.parametrize("lengths", [[1], [5], [1, 2], [2777, 81], LENGTHS])
@pytest.mark.parametrize(("name", "layout"), PROMISES)
def test_features_have_the_promised_shape_for_any_batch_size_and_length(name, layout, lengths):
    encoder = build(name, layout)
    values, mask = padded([encoder.transform(noise(length)) for length in lengths])

    features = encoder(values, mask)

    assert isinstance(features, Features)
    assert features.layout == layout
    assert features.tensor.shape[0] == len(lengths)
    assert features.tensor.shape[-1] == encoder.feature_dim == 64
    assert features.tensor.isfinite().all()
    assert features.present.all()


@pytest.mark.parametrize("filler", [0.0, 100.0, float("nan"), float("inf")])
@pytest.mark.parametrize(("name", "layout"), PROMISES)
def test_neither_padding_nor_batch_mates_have_any_influence(name, layout, filler):
    encoder = build(name, layout).eval()
    rows = [encoder.transform(noise(length, seed=length)) for length in LENGTHS]
    encoder.fit(*padded(rows))

    features = encoder(*padded(rows, extra=37, filler=filler))

    for position, row in enumerate(rows):
        expected = alone(encoder, row)
        got = features.tensor[position]
        if layout == "sequence":
            got = got[features.token_mask[position]]
        torch.testing.assert_close(got, expected.tensor[0], atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", SPECS)
def test_nan_in_the_padding_does_not_reach_the_gradient(name):
    encoder = build(name)
    values, mask = padded([encoder.transform(noise(length)) for length in (500, 3000)], extra=9, filler=float("nan"))

    encoder(values, mask).tensor.square().sum().backward()

    assert all(parameter.grad.isfinite().all() for parameter in encoder.parameters())


@pytest.mark.parametrize(("name", "layout"), PROMISES)
def test_the_gradient_reaches_every_parameter(name, layout):
    encoder = build(name, layout)
    values, mask = padded([encoder.transform(noise(length, seed=length)) for length in (3000, 4000, 5001)])

    encoder(values, mask).tensor.square().sum().backward()

    without = [
        key for key, parameter in encoder.named_parameters() if parameter.grad is None or not parameter.grad.any()
    ]
    assert without == []


@pytest.mark.parametrize(("name", "layout"), PROMISES)
def test_bfloat16_autocast_gives_finite_features(name, layout):
    encoder = build(name, layout)
    values, mask = padded([encoder.transform(noise(length)) for length in (1, 700, 3000)])

    with torch.autocast("cpu", dtype=torch.bfloat16):
        features = encoder(values, mask)

    assert features.tensor.isfinite().all()


@pytest.mark.parametrize("name", SPECS)
def test_it_learns_to_tell_a_low_tone_from_a_high_one(name):
    encoder = build(name, dropout=0.1)
    target = torch.arange(32) % 2
    rows = [encoder.transform(tone((300, 700)[label], length=1500 + 60 * i, seed=i)) for i, label in enumerate(target)]
    values, mask = padded(rows)
    encoder.fit(values, mask)
    head = nn.Linear(encoder.feature_dim, 2)
    optimiser = torch.optim.AdamW([*encoder.parameters(), *head.parameters()], lr=3e-3)
    for _ in range(20):
        optimiser.zero_grad()
        nn.functional.cross_entropy(head(encoder(values, mask).tensor), target).backward()
        optimiser.step()
    encoder.eval()

    preds = head(encoder(values, mask).tensor).argmax(dim=1)

    assert (preds == target).float().mean() == 1.0


@pytest.mark.parametrize("name", [name for name, spec in SPECS.items() if "level" in spec.defaults])
def test_without_level_loudness_makes_no_difference(name):
    encoder = build(name).eval()
    soft = tone(440)
    loud = Waveform(soft.values * 8, soft.rate)

    features = [alone(encoder, encoder.transform(sample)).tensor for sample in (soft, loud)]

    torch.testing.assert_close(features[0], features[1], atol=0.02, rtol=0.02)


@pytest.mark.parametrize("name", [name for name, spec in SPECS.items() if "level" in spec.defaults])
def test_with_level_loudness_stays(name):
    encoder = build(name, level=True).eval()
    soft = tone(440)
    loud = Waveform(soft.values * 8, soft.rate)

    rows = [encoder.transform(sample).astype(np.float32) for sample in (soft, loud)]

    if name == "conv1d":
        np.testing.assert_allclose(rows[1], rows[0] * 8, rtol=2e-3)
    else:
        np.testing.assert_allclose((rows[1] - rows[0])[:, 10:30].mean(), np.log(64), rtol=0.01)


@pytest.mark.parametrize("name", ["logmel-cnn", "logmel-lstm"])
def test_fit_standardises_each_band_over_real_frames_only(name):
    encoder = build(name)
    rows = [encoder.transform(noise(length, seed=length)) for length in (1000, 3000, 8000)]

    encoder.fit(*padded(rows, extra=20, filler=float("nan")))

    frames = np.concatenate(rows).astype(np.float64)
    np.testing.assert_allclose(encoder.standardise.mean, frames.mean(axis=0), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(encoder.standardise.std, frames.std(axis=0), rtol=1e-5)
    assert {"standardise.mean", "standardise.std"} <= set(encoder.state_dict())


@pytest.mark.parametrize("name", SPECS)
def test_silence_gives_finite_features_before_and_after_fit(name):
    encoder = build(name)
    silence = torch.from_numpy(encoder.transform(Waveform(np.zeros(2000, dtype=np.float32), RATE))).unsqueeze(0)

    before = encoder(silence, None).tensor
    encoder.fit(silence, None)
    after = encoder(silence, None).tensor

    assert before.isfinite().all()
    assert after.isfinite().all()


@pytest.mark.parametrize(
    ("name", "option", "value", "message"),
    [
        ("logmel-cnn", "num_mels", 0, "option 'num_mels' must be at least 1, got 0"),
        ("logmel-cnn", "rate", 10, "option 'rate' must be at least 100, got 10"),
        ("logmel-lstm", "hop_ms", 0.0, "option 'hop_ms' must be at least 1.0, got 0.0"),
        ("logmel-lstm", "depth", 0, "option 'depth' must be at least 1, got 0"),
        ("conv1d", "max_seconds", 0.0, "option 'max_seconds' must be at least 0.01, got 0.0"),
        ("conv1d", "dropout", -0.1, "option 'dropout' must be from 0.0 to 1.0, got -0.1"),
    ],
)
def test_an_option_that_cannot_be_is_refused(name, option, value, message):
    with pytest.raises(UsageError) as caught:
        build(name, **{option: value})

    assert message in str(caught.value)


def test_options_change_the_network_as_they_say():
    assert build("logmel-cnn", width=4, num_mels=20).project.in_features == 8 * 3  # 20 bands, halved three times
    assert build("logmel-lstm", width=7, depth=2).rnn.forwards[1].input_size == 14
    assert len(build("conv1d", depth=2).blocks) == 2
    assert build("conv1d", num_filters=12).filterbank.cosines.shape == (12, 161)  # 20 ms at 8 kHz
    assert build("conv1d", depth=0, width=5).project.in_features == 24
    assert build("logmel-cnn", feature_dim=10).feature_dim == 10


@pytest.mark.parametrize(("length", "tokens"), [(1, 1), (100, 1), (800, 1), (801, 2), (8000, 10)])
def test_conv1d_has_a_token_every_100_ms(length, tokens):
    encoder = build("conv1d", "sequence")

    assert alone(encoder, encoder.transform(noise(length))).tensor.shape == (1, tokens, 64)


@pytest.mark.parametrize(("time", "stride", "kernel"), [(1, 2, 3), (7, 2, 3), (8, 2, 5), (13, 3, 7), (5, 1, 3)])
def test_a_masked_convolution_shortens_the_mask_as_it_shortens_time(time, stride, kernel):
    block = MaskedConv(nn.Conv1d(2, 4, kernel, stride=stride, padding=kernel // 2))
    for length in range(1, time + 1):
        mask = torch.arange(time)[None] < length
        values = torch.randn(1, 2, time) * mask

        out, out_mask = block(values, mask)
        short, _ = block(values[:, :, :length], None)

        assert out.shape[-1] == out_mask.shape[-1]
        assert out_mask.sum() == short.shape[-1]
        torch.testing.assert_close(out[:, :, : short.shape[-1]], short, atol=1e-6, rtol=0)
        assert (out[:, :, short.shape[-1] :] == 0).all()


@pytest.mark.parametrize("shape", [(2, 3, 5), (2, 3, 4, 5)])
def test_frame_norm_matches_its_formula(shape):
    norm = FrameNorm(3)
    norm.gain.data = torch.tensor([1.0, 2.0, 3.0])
    norm.bias.data = torch.tensor([0.0, -1.0, 1.0])
    values = torch.randn(shape)

    expected = torch.empty(shape)
    for sample in range(shape[0]):
        for frame in range(shape[-1]):
            column = values[sample, ..., frame]
            scaled = (column - column.mean()) / (column.var(correction=0) + 1e-5).sqrt()
            for channel in range(3):
                expected[sample, channel, ..., frame] = scaled[channel] * norm.gain[channel] + norm.bias[channel]

    torch.testing.assert_close(norm(values), expected)


def test_the_learned_filterbank_starts_out_tuned_to_mel_spaced_tones_whatever_their_phase():
    bank = LearnedFilterbank(32, RATE, half_window=100, hop=80)
    highest = 2595 * np.log10(1 + RATE / 2 / 700)
    frequency = 700 * (10 ** (highest * 11 / 33 / 2595) - 1)  # centre of the eleventh band
    phases = torch.linspace(0, 6, 7)[:, None]
    waves = torch.sin(2 * np.pi * frequency * torch.arange(4000) / RATE + phases)

    log_power, _ = bank(waves, None)  # (7, 50, 32)

    inner = log_power[:, 5:-5]
    assert (inner.argmax(dim=2) == 10).all()
    assert inner[:, :, 10].std() < 0.02


def test_fit_standardises_the_log_power_of_each_learned_band_over_real_frames():
    encoder = build("conv1d")
    rows = [encoder.transform(noise(length, seed=length)) for length in (1000, 3000, 8000)]

    encoder.fit(*padded(rows, extra=500, filler=float("nan")))

    with torch.no_grad():
        frames = torch.cat([encoder._log_power(torch.from_numpy(row)[None], None)[0][0] for row in rows]).double()
    np.testing.assert_allclose(encoder.standardise_power.mean, frames.mean(dim=0), rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(encoder.standardise_power.std, frames.std(dim=0, correction=0), rtol=1e-4)


@pytest.mark.parametrize("filler", [0.0, 100.0, float("nan")])
def test_a_pyramid_has_every_layer_ends_with_the_sequence_and_never_reads_padding(filler):
    encoders = []
    for layout in ("sequence", "pyramid"):
        torch.manual_seed(3)
        encoders.append(build("logmel-cnn", layout).eval())
    sequence, pyramid = encoders
    rows = [pyramid.transform(noise(length)) for length in LENGTHS]
    values, mask = padded(rows, extra=5, filler=filler)

    levels = pyramid(values, mask)

    assert levels.layout == "pyramid"
    assert pyramid.feature_dim == (16 * 20, 32 * 10, 64)
    assert [level.shape[-1] for level in levels.values] == list(pyramid.feature_dim)
    assert torch.equal(levels.values[-1], sequence(values, mask).tensor)
    for position, row in enumerate(rows):
        by_itself = alone(pyramid, row)
        for level, real, expected in zip(levels.values, levels.mask, by_itself.values):
            torch.testing.assert_close(level[position][real[position]], expected[0], atol=1e-5, rtol=0)


@pytest.mark.parametrize("filler", [0.0, 100.0, float("nan")])
def test_a_token_of_frames_joins_four_of_them_and_nothing_else(filler):
    encoder = build("frames", "sequence", token_dim=3).eval()
    rows = [encoder.transform(noise(length)) for length in LENGTHS]
    values, mask = padded(rows, extra=3, filler=filler)
    encoder.fit(values, mask)

    features = encoder(values, mask)

    for position, row in enumerate(rows):
        scaled = encoder.standardise(torch.from_numpy(row).float())
        num_tokens = -(-len(row) // 4)
        joined = torch.zeros(4 * num_tokens, 40)
        joined[: len(row)] = scaled
        expected = joined.view(num_tokens, 160) @ encoder.embed.weight.T + encoder.embed.bias
        torch.testing.assert_close(features.tensor[position][features.mask[position]], expected, atol=1e-5, rtol=0)


def test_the_vector_of_frames_holds_the_means_of_spans_whatever_the_padding():
    vector, sequence = build("frames").eval(), build("frames", "sequence").eval()
    vector.load_state_dict(sequence.state_dict())
    rows = [vector.transform(noise(length)) for length in LENGTHS]

    found = vector(*padded(rows, extra=7, filler=float("nan"))).tensor

    assert vector.feature_dim == 16 * 32
    for position, row in enumerate(rows):
        tokens = alone(sequence, row).tensor[0]
        expected = torch.nn.functional.adaptive_avg_pool1d(tokens.T, 16).T.flatten()
        torch.testing.assert_close(found[position], expected, atol=1e-5, rtol=0)
