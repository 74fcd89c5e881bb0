"""The video encoders keep what their descriptors promise, and their parts are what their papers say."""

from __future__ import annotations

import importlib
import math

import mmbench_video
import numpy as np
import pytest
import torch
from mmbench_video.clips import ClipPixels, evenly_spaced
from mmbench_video.convlstm import ConvLSTM
from torch import nn

from mmbench import Features, Modality
from mmbench.errors import UsageError

SPECS = {spec.name: spec for spec in mmbench_video.mmbench_encoders()}
#: Every encoder, and `frames` with each way over time.
CASES = [
    ("cnn3d", {}),
    ("convlstm", {}),
    ("frames", {"target": "cnn", "pool": "mean"}),
    ("frames", {"target": "cnn[feature_dim=24]", "pool": "lstm"}),
    ("frames", {"target": "vit-tiny", "pool": "attention"}),
]
every_case = pytest.mark.parametrize(("name", "options"), CASES, ids=["-".join([n, *o.values()]) for n, o in CASES])
every_layout = pytest.mark.parametrize("layout", ["vector", "sequence"])


@pytest.fixture(autouse=True)
def one_thread_and_seed():
    torch.set_num_threads(1)
    torch.manual_seed(0)


def build(name, options=None, layout="vector", *, channels=1, size=(12, 12)):
    module, attribute = SPECS[name].factory.split(":")
    modality = Modality(name="clip", kind="video", facts={"channels": channels, "size": list(size)})
    told = {"tuning": "scratch"} if name == "frames" else {}
    given = {**SPECS[name].defaults, **told, **(options or {})}
    return getattr(importlib.import_module(module), attribute)(modality, layout, **given)


def videos(lengths, *, channels=1, size=(12, 12), seed=0):
    rng = np.random.default_rng(seed)
    return [rng.integers(0, 256, (length, channels, *size), dtype=np.uint8) for length in lengths]


def batch(encoder, clips, junk=0):
    """What the core makes of samples of different lengths; `junk` stands where zeros would."""
    rows = [encoder.transform(clip) for clip in clips]
    longest = max(map(len, rows))
    values = np.full((len(rows), longest, *rows[0].shape[1:]), junk, dtype=np.uint8)
    mask = np.zeros((len(rows), longest), dtype=bool)
    for position, row in enumerate(rows):
        values[position, : len(row)], mask[position, : len(row)] = row, True
    return torch.from_numpy(values), torch.from_numpy(mask)


def real(features, row):
    return features.tensor[row] if features.layout == "vector" else features.tensor[row][features.token_mask[row]]


@pytest.mark.parametrize("name", ["cnn3d", "convlstm"])
@pytest.mark.parametrize("width", [1, 2, 16])
def test_a_single_frame_of_one_pixel_is_encoded_at_any_width(name, width):
    encoder = build(name, {"width": width}, size=(1, 1))

    alone = encoder(torch.full((1, 1, 1, 1, 1), 200, dtype=torch.uint8), None).tensor

    assert alone.shape == (1, 64)
    assert alone.isfinite().all()


@every_case
@every_layout
def test_padding_behind_a_short_video_has_no_influence(name, options, layout):
    encoder = build(name, options, layout).eval()
    clips = videos([1, 7, 4, 2])

    padded = encoder(*batch(encoder, clips, junk=213))

    assert padded.layout == layout
    for row, clip in enumerate(clips):
        alone = encoder(torch.from_numpy(encoder.transform(clip)).unsqueeze(0), None)
        torch.testing.assert_close(real(padded, row), real(alone, 0), atol=1e-5, rtol=0)


@every_case
@every_layout
@pytest.mark.parametrize(("channels", "size"), [(1, (1, 1)), (3, (2, 3)), (3, (37, 5)), (1, (130, 70))])
def test_videos_of_any_size_channels_and_length_are_encoded(name, options, layout, channels, size):
    encoder = build(name, options, layout, channels=channels, size=size)

    features = encoder(*batch(encoder, videos([1, 3], channels=channels, size=size)))
    one = encoder(*batch(encoder, videos([1], channels=channels, size=size)))

    assert features.tensor.isfinite().all()
    assert one.tensor.shape[0] == 1
    assert features.tensor.shape[-1] == one.tensor.shape[-1] == encoder.feature_dim


@every_case
@every_layout
def test_bfloat16_autocast_gives_finite_features(name, options, layout):
    encoder = build(name, options, layout)

    with torch.autocast("cpu", dtype=torch.bfloat16):
        features = encoder(*batch(encoder, videos([5, 2])))

    assert features.tensor.isfinite().all()


@every_case
def test_evaluation_is_deterministic_and_dropout_is_for_training(name, options):
    encoder = build(name, {**options, "dropout": 0.5})
    given = batch(encoder, videos([6, 3]))

    assert torch.equal(encoder.eval()(*given).tensor, encoder(*given).tensor)
    if options.get("pool") != "mean":
        assert not torch.equal(encoder.train()(*given).tensor, encoder(*given).tensor)


@every_case
@every_layout
def test_the_gradient_reaches_every_parameter_and_no_padded_frame_lies_on_its_way(name, options, layout):
    encoder = build(name, options, layout)
    features = encoder(*batch(encoder, videos([6, 3])))
    target = torch.randn_like(features.tensor)

    ((features.tensor - target) ** 2).sum().backward()

    assert [key for key, value in encoder.named_parameters() if value.grad is None or not value.grad.any()] == []
    assert all(value.grad.isfinite().all() for value in encoder.parameters())


def test_tokens_of_cnn3d_are_places_in_space_and_time():
    encoder = build("cnn3d", layout="sequence", size=(16, 16))

    features = encoder(*batch(encoder, videos([9, 4], size=(16, 16))))

    # Nine frames become ceil(9 / 4) = 3 steps, four become one; each has 4 x 4 places.
    assert features.tensor.shape == (2, 3 * 16, 64)
    assert features.token_mask.sum(dim=1).tolist() == [48, 16]


@pytest.mark.parametrize(("name", "options", "width"), [(*CASES[1], 64), (*CASES[3], 128), (*CASES[4], 64)])
def test_tokens_of_the_others_are_frames(name, options, width):
    encoder = build(name, options, "sequence")

    features = encoder(*batch(encoder, videos([9, 4])))

    assert features.tensor.shape == (2, 9, width)
    assert features.token_mask.sum(dim=1).tolist() == [9, 4]


def test_the_convolutional_lstm_is_equation_3_of_its_paper():
    """Shi et al. 2015, written out for every place and channel."""
    width, size, steps = 2, 3, 4
    module = ConvLSTM(1, width, (size, size)).double()
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.7)
    frames = torch.randn(1, steps, 1, size, size, dtype=torch.float64)

    got = module(frames)[0]

    of_x, bias, of_h = (
        item.detach().numpy() for item in (module.of_input.weight, module.of_input.bias, module.of_state.weight)
    )
    peep = module.peephole.detach().numpy()

    def convolved(kernel, maps, y, x):
        total = 0.0
        for channel in range(kernel.shape[0]):
            for dy in range(3):
                for dx in range(3):
                    if 0 <= y + dy - 1 < size and 0 <= x + dx - 1 < size:
                        total += kernel[channel, dy, dx] * maps[channel, y + dy - 1, x + dx - 1]
        return total

    def logistic(value):
        return 1 / (1 + math.exp(-value))

    hidden, cell = np.zeros((width, size, size)), np.zeros((width, size, size))
    for step in range(steps):
        x_map, new_hidden, new_cell = frames[0, step].numpy(), hidden.copy(), cell.copy()
        for k in range(width):
            for y in range(size):
                for x in range(size):
                    i, f, g, o = (
                        convolved(of_x[gate * width + k], x_map, y, x)
                        + convolved(of_h[gate * width + k], hidden, y, x)
                        + bias[gate * width + k]
                        for gate in range(4)
                    )
                    old = cell[k, y, x]
                    input_gate = logistic(i + peep[0, k, y, x] * old)
                    forget_gate = logistic(f + peep[1, k, y, x] * old)
                    new = forget_gate * old + input_gate * math.tanh(g)
                    output_gate = logistic(o + peep[2, k, y, x] * new)
                    new_cell[k, y, x], new_hidden[k, y, x] = new, output_gate * math.tanh(new)
        hidden, cell = new_hidden, new_cell
        np.testing.assert_allclose(got[step].detach().numpy(), hidden, atol=1e-12)


def test_a_padded_step_leaves_the_states_as_they_are_wherever_it_stands():
    module = ConvLSTM(2, 3, (4, 4))
    frames = torch.randn(1, 5, 2, 4, 4)
    mask = torch.tensor([[True, False, True, True, False]])

    torch.testing.assert_close(module(frames, mask)[:, -1], module(frames[:, [0, 2, 3]])[:, -1])


@pytest.mark.parametrize(
    ("length", "expected"), [(1, [0]), (4, [0, 1, 2, 3]), (8, [1, 3, 5, 7]), (9, [1, 3, 5, 7]), (100, [12, 37, 62, 87])]
)
def test_the_middle_frame_of_each_of_four_equal_parts_is_kept(length, expected):
    assert evenly_spaced(np.arange(length, dtype=np.uint8), 4).tolist() == expected


def test_a_clip_is_resized_as_images_are_and_grey_is_the_luma_of_colours():
    from mmbench_vision.pixels import SquarePixels

    clip = videos([5], channels=3, size=(30, 20))[0]

    grey = ClipPixels(side=9, channels=1, num_frames=16)(clip)
    colour = ClipPixels(side=9, channels=3, num_frames=16)(clip)

    np.testing.assert_array_equal(grey, [SquarePixels(side=9, channels=1)(frame) for frame in clip])
    np.testing.assert_array_equal(colour, [SquarePixels(side=9, channels=3)(frame) for frame in clip])
    assert ClipPixels(side=9, channels=3, num_frames=2)(clip[:, :1]).shape == (2, 3, 9, 9)


@pytest.mark.parametrize("name", ["cnn3d", "convlstm"])
def test_fit_standardises_each_channel_over_real_frames_only(name):
    encoder = build(name, channels=3)
    values, mask = batch(encoder, videos([8, 2, 5], channels=3), junk=255)

    encoder.fit(values, mask)
    scaled = encoder.scale(values, mask)

    np.testing.assert_allclose(scaled[mask].mean(dim=(0, 2, 3)), [0, 0, 0], atol=1e-5)
    np.testing.assert_allclose(scaled[mask].std(dim=(0, 2, 3), correction=0), [1, 1, 1], atol=1e-5)
    assert not scaled[~mask].any()


@pytest.mark.parametrize(
    ("name", "option", "value", "message"),
    [
        ("cnn3d", "num_frames", 0, "option 'num_frames' must be at least 1, got 0"),
        ("cnn3d", "max_side", 0, "option 'max_side' must be at least 1, got 0"),
        ("convlstm", "width", 0, "option 'width' must be at least 1, got 0"),
        ("convlstm", "dropout", 1.5, "option 'dropout' must be from 0.0 to 1.0, got 1.5"),
        ("frames", "pool", "max", "option 'pool' must be one of mean, lstm, attention; got 'max'"),
        ("frames", "depth", 0, "option 'depth' must be at least 1, got 0"),
    ],
)
def test_an_option_that_cannot_be_is_refused_with_what_to_do(name, option, value, message):
    with pytest.raises(UsageError) as caught:
        build(name, {"target": "cnn", option: value} if name == "frames" else {option: value})

    assert str(caught.value) == message


@every_case
def test_a_sequence_pooled_by_the_core_is_finite_too(name, options):
    features = build(name, options, "sequence")(*batch(build(name, options), videos([3, 1])))

    assert isinstance(features, Features)
    assert features.to_vector().tensor.isfinite().all()
