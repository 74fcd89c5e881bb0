"""The image encoders keep what their descriptors promise."""

import importlib

import mmbench_vision
import numpy as np
import pytest
import torch
from torch import nn

from mmbench import Features, Modality
from mmbench.errors import UsageError

EVERY = {spec.name: spec for spec in mmbench_vision.mmbench_encoders() if not spec.takes_tuning}
SPECS = {name: spec for name, spec in EVERY.items() if name != "patches"}
PROMISES = [(name, layout) for name, spec in SPECS.items() for layout in spec.layouts if layout != "pyramid"]


@pytest.fixture(autouse=True)
def one_thread_and_seed():
    torch.set_num_threads(1)
    torch.manual_seed(0)


def build(name, layout="vector", *, channels=1, size=(8, 8), **options):
    module, attribute = EVERY[name].factory.split(":")
    modality = Modality(name="photo", kind="image", facts={"channels": channels, "size": size})
    return getattr(importlib.import_module(module), attribute)(modality, layout, **{**EVERY[name].defaults, **options})


def images(encoder, count, *, channels=1, size=(8, 8), seed=0):
    rng = np.random.default_rng(seed)
    raw = rng.integers(0, 256, size=(count, channels, *size), dtype=np.uint8)
    return torch.from_numpy(np.stack([encoder.transform(image) for image in raw]))


@pytest.mark.parametrize("batch_size", [1, 2, 33])
@pytest.mark.parametrize(("name", "layout"), PROMISES)
def test_features_have_the_promised_shape_for_any_batch_size(name, layout, batch_size):
    encoder = build(name, layout)

    features = encoder(images(encoder, batch_size), None)

    assert isinstance(features, Features)
    assert features.layout == layout
    assert features.tensor.shape[0] == batch_size
    assert features.tensor.shape[-1] == encoder.feature_dim == 64


@pytest.mark.parametrize("name", ["cnn", "vit-tiny"])
@pytest.mark.parametrize("size", [(8, 8), (16, 16), (28, 28), (200, 100)])
def test_a_default_sequence_has_sixteen_tokens_for_any_image(name, size):
    encoder = build(name, "sequence", size=size)

    assert encoder(images(encoder, 2, size=size), None).tensor.shape == (2, 16, 64)


@pytest.mark.parametrize(("name", "layout"), PROMISES)
@pytest.mark.parametrize(("channels", "size"), [(1, (1, 1)), (3, (2, 3)), (3, (37, 5)), (1, (130, 70))])
def test_images_of_any_size_and_channels_are_encoded(name, layout, channels, size):
    encoder = build(name, layout, channels=channels, size=size)

    features = encoder(images(encoder, 2, channels=channels, size=size), None)

    assert features.tensor.isfinite().all()


@pytest.mark.parametrize("width", [1, 2, 8, 16])
def test_a_single_image_of_one_pixel_is_encoded_by_a_cnn_of_any_width(width):
    encoder = build("cnn", size=(1, 1), width=width)

    alone = encoder(torch.full((1, 1, 1, 1), 200, dtype=torch.uint8), None).tensor

    assert alone.shape == (1, 64)
    assert alone.isfinite().all()


@pytest.mark.parametrize(("name", "layout"), PROMISES)
def test_a_samples_features_do_not_depend_on_its_batch_mates(name, layout):
    encoder = build(name, layout).eval()
    values = images(encoder, 9)

    together = encoder(values, None).tensor
    alone = torch.cat([encoder(value.unsqueeze(0), None).tensor for value in values])

    torch.testing.assert_close(together, alone, atol=1e-5, rtol=0)


@pytest.mark.parametrize(("name", "layout"), PROMISES)
def test_the_gradient_reaches_every_parameter(name, layout):
    encoder = build(name, layout)

    encoder(images(encoder, 8), None).tensor.square().sum().backward()

    without = [
        key for key, parameter in encoder.named_parameters() if parameter.grad is None or not parameter.grad.any()
    ]
    assert without == []


@pytest.mark.parametrize(("name", "layout"), PROMISES)
def test_bfloat16_autocast_gives_finite_features(name, layout):
    encoder = build(name, layout)

    with torch.autocast("cpu", dtype=torch.bfloat16):
        features = encoder(images(encoder, 4), None)

    assert features.tensor.isfinite().all()


@pytest.mark.parametrize(("name", "layout"), PROMISES)
def test_it_learns_to_tell_left_from_right(name, layout):
    encoder = build(name, layout, dropout=0.1)
    values = torch.from_numpy(np.random.default_rng(0).integers(0, 60, size=(64, 1, 8, 8), dtype=np.uint8))
    target = torch.arange(64) % 2
    values[target == 0, :, :, :4] += 120
    values[target == 1, :, :, 4:] += 120
    encoder.fit(values, None)
    head = nn.Linear(encoder.feature_dim, 2)
    optimiser = torch.optim.AdamW([*encoder.parameters(), *head.parameters()], lr=3e-3)
    for _ in range(30):
        optimiser.zero_grad()
        nn.functional.cross_entropy(head(encoder(values, None).to_vector().tensor), target).backward()
        optimiser.step()
    encoder.eval()

    preds = head(encoder(values, None).to_vector().tensor).argmax(dim=1)

    assert (preds == target).float().mean() == 1.0


@pytest.mark.parametrize("name", SPECS)
def test_fit_standardises_each_channel_and_survives_a_constant_one(name):
    encoder = build(name, channels=3)
    values = images(encoder, 50, channels=3).clone()
    values[:, 2] = 7

    encoder.fit(values, None)
    scaled = encoder.scale(values).detach()

    np.testing.assert_allclose(scaled[:, :2].mean(dim=(0, 2, 3)), [0, 0], atol=1e-4)
    np.testing.assert_allclose(scaled[:, :2].std(dim=(0, 2, 3), correction=0), [1, 1], atol=1e-4)
    assert (scaled[:, 2] == 0).all()
    assert "scale.standardise.mean" in encoder.state_dict()


@pytest.mark.parametrize(
    ("name", "option", "value", "message"),
    [
        ("cnn", "max_side", 0, "option 'max_side' must be at least 1, got 0"),
        ("cnn", "width", 0, "option 'width' must be at least 1, got 0"),
        ("mlp", "depth", 0, "option 'depth' must be at least 1, got 0"),
        ("mlp", "dropout", 1.5, "option 'dropout' must be from 0.0 to 1.0, got 1.5"),
        ("vit-tiny", "grid", 0, "option 'grid' must be at least 1, got 0"),
        ("vit-tiny", "num_heads", 5, "width=32 cannot be divided among num_heads=5; choose heads from 1, 2, 4, 8, 16"),
    ],
)
def test_an_option_that_cannot_be_is_refused_with_what_to_do(name, option, value, message):
    with pytest.raises(UsageError) as caught:
        build(name, **{option: value})

    assert message in str(caught.value)


def test_options_change_the_network_as_they_say():
    assert build("cnn", width=4, feature_dim=10).blocks[2][0].out_channels == 16
    assert build("cnn", width=4, feature_dim=10).feature_dim == 10
    assert len([layer for layer in build("mlp", depth=3, width=9).layers if isinstance(layer, nn.Linear)]) == 4
    assert len(build("vit-tiny", depth=3).blocks) == 3
    assert build("vit-tiny", grid=2).position.shape == (4, 32)
    assert build("cnn", size=(100, 100), max_side=20).transform.side == 20


def test_cnn_matches_its_formula():
    encoder = build("cnn", width=2, feature_dim=3, size=(4, 4)).eval()
    values = images(encoder, 2, size=(4, 4))
    encoder.fit(values, None)

    maps = (values.double() - values.double().mean()) / values.double().std(correction=0)
    for convolution, norm, _ in encoder.blocks:
        maps = nn.functional.conv2d(maps, convolution.weight.double(), convolution.bias.double(), padding=1)
        groups = maps.reshape(2, norm.num_groups, -1)
        groups = (groups - groups.mean(2, keepdim=True)) / (groups.var(2, correction=0, keepdim=True) + norm.eps).sqrt()
        maps = groups.reshape(maps.shape).relu()  # gain 1 and bias 0 before training
    expected = maps.flatten(1) @ encoder.project.weight.double().T + encoder.project.bias.double()

    torch.testing.assert_close(encoder(values, None).tensor.double(), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("name", "options", "shapes"),
    [
        ("cnn", {}, [(3, 256, 16), (3, 64, 32), (3, 16, 64)]),
        ("cnn", {"width": 6, "feature_dim": 5}, [(3, 256, 6), (3, 64, 12), (3, 16, 5)]),
        ("vit-tiny", {}, [(3, 16, 32), (3, 16, 64)]),
        ("vit-tiny", {"depth": 1}, [(3, 16, 64)]),
        ("vit-tiny", {"depth": 3, "width": 8}, [(3, 16, 8), (3, 16, 8), (3, 16, 64)]),
    ],
)
def test_a_pyramid_has_every_layer_and_ends_with_the_sequence(name, options, shapes):
    encoders = []
    for layout in ("sequence", "pyramid"):
        torch.manual_seed(3)
        encoders.append(build(name, layout, size=(32, 32), **options).eval())
    sequence, pyramid = encoders
    values = images(pyramid, 3, size=(32, 32))

    levels = pyramid(values, None)

    assert levels.layout == "pyramid"
    assert levels.mask is None
    assert [tuple(level.shape) for level in levels.values] == shapes
    assert pyramid.feature_dim == tuple(shape[-1] for shape in shapes)
    assert torch.equal(levels.values[-1], sequence(values, None).tensor)


def test_the_early_levels_of_a_pyramid_are_the_maps_of_the_blocks():
    encoder = build("cnn", "pyramid", size=(32, 32)).eval()
    values = images(encoder, 2, size=(32, 32))

    first = encoder(values, None).values[0]

    maps = encoder.blocks[0](encoder.scale(values))
    for row in range(16):
        for column in range(16):
            assert torch.equal(first[:, 16 * row + column], maps[:, :, row, column])


def test_patches_are_linear_in_each_patch_alone():
    encoder = build("patches", "sequence", channels=3, size=(32, 32), token_dim=5).eval()
    values = images(encoder, 2, channels=3, size=(32, 32))
    encoder.fit(values)

    tokens = encoder(values, None).tensor

    assert tokens.shape == (2, 16, 5)
    weight, bias = encoder.embed.weight.detach(), encoder.embed.bias.detach()
    scaled = encoder.scale(values)
    for row in range(4):
        for column in range(4):
            patch = scaled[:, :, 8 * row : 8 * row + 8, 8 * column : 8 * column + 8]
            expected = (patch[:, None] * weight).sum(dim=(2, 3, 4)) + bias
            torch.testing.assert_close(tokens[:, 4 * row + column], expected)


def test_the_vector_of_patches_is_all_of_them_side_by_side():
    vector, sequence = build("patches", size=(9, 7)), build("patches", "sequence", size=(9, 7))
    vector.load_state_dict(sequence.state_dict())
    values = images(vector, 3, size=(9, 7))

    assert vector.feature_dim == 16 * 32
    assert torch.equal(vector(values, None).tensor, sequence(values, None).tensor.flatten(1))
