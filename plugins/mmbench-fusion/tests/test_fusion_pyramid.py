"""Fusions of several layers: against their formulas sample by sample, and what they promise to the core."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from fusion_cases import BY_NAME, PYRAMID, build, shake
from mmbench_fusion.levels import aligned
from test_fusion_formulas import array, linear, norm, relu, sigmoid

from mmbench import Features

DIMS = {"text": (4, 6, 6), "audio": (5, 7), "image": (3, 8, 9)}
LENGTHS = {"text": (5, 5, 5), "audio": (4, 2), "image": (6, 4, 1)}
NAMES = sorted(DIMS)
SMALL = {"pyramid": {"fused_dim": 8}, "mmtm": {"model_dim": 6, "squeeze_dim": 5, "fused_dim": 8}}
every_fusion = pytest.mark.parametrize("name", PYRAMID)


def made(name, *, seed=0, dims=DIMS):
    return shake(build(BY_NAME[name], dims, seed=seed, small=False, **SMALL[name]))


def levels_of(size=6, *, gaps=True, seed=1):
    """Features with padding in every layer; sample 1 lacks audio and text, 2 image, 3 all. 1000 stands at gaps."""
    generator = torch.Generator().manual_seed(seed)
    lacking = {"audio": [1, 3], "image": [2, 3], "text": [1, 3]}
    features = {}
    for name in NAMES:
        values, masks = [], []
        for length, dim in zip(LENGTHS[name], DIMS[name]):
            real = torch.arange(length) < torch.randint(1, length + 1, (size, 1), generator=generator)
            if gaps:
                real[[row for row in lacking[name] if row < size]] = False
            tokens = torch.randn(size, length, dim, generator=generator, dtype=torch.float64)
            values.append(tokens.masked_fill(~real[..., None], 1e3))
            masks.append(real)
        features[name] = Features(tuple(values), tuple(masks))
    return features


def rows_of(features, rows):
    return {
        name: Features(tuple(value[rows] for value in given.values), tuple(mask[rows] for mask in given.mask))
        for name, given in features.items()
    }


def sample_of(features, row):
    """What one sample has: {modality: [tokens (T, D) by layer]}, without padding and without what it lacks."""
    return {
        name: [value[row][mask[row]].detach().numpy() for value, mask in zip(given.values, given.mask)]
        for name, given in features.items()
        if given.mask[0][row].any()
    }


def members(level):
    """(modality, layer) at one of three levels; audio has two layers and joins at the second."""
    found = []
    for name in NAMES:
        layer = level - (3 - len(DIMS[name]))
        if layer >= 0:
            found.append((name, layer))
    return found


def pyramid(module, sample):
    absent = [float(name not in sample) for name in NAMES]
    state = []
    for level in range(3):
        parts = list(state)
        for place, (name, layer) in enumerate(members(level)):
            if name in sample:
                parts.extend(norm(module.layer_norms[level][place], sample[name][layer].mean(axis=0)))
            else:
                parts.extend([0.0] * DIMS[name][layer])
        state = relu(norm(module.norms[level], linear(module.linears[level], np.array([*parts, *absent]))))
    return state


def mmtm(module, sample):
    carried = {name: np.zeros(6) for name in NAMES}
    for level in range(3):
        tokens = {}
        squeezed = []
        for place, (name, layer) in enumerate(members(level)):
            if name in sample:
                project, layer_norm = module.projections[level][place]
                tokens[name] = norm(layer_norm, linear(project, sample[name][layer])) + carried[name]
            squeezed.extend(tokens[name].mean(axis=0) if name in sample else np.zeros(6))
        joint = relu(linear(module.squeezes[level], np.array(squeezed)))
        for place, (name, _) in enumerate(members(level)):
            if name in sample:
                gate = 2.0 * sigmoid(linear(module.excitations[level][place], joint))
                hidden = [relu(linear(module.nexts[level][place], gate * token)) for token in tokens[name]]
                carried[name] = sum(hidden) / len(hidden)
    return relu(norm(module.norm, linear(module.linear, np.concatenate([carried[name] for name in NAMES]))))


FORMULAS = {"pyramid": pyramid, "mmtm": mmtm}


def test_layers_of_unequal_number_are_aligned_from_the_last():
    levels = [[(member.name, member.layer, member.dim) for member in level] for level in aligned(DIMS)]

    assert levels == [
        [("image", 0, 3), ("text", 0, 4)],
        [("audio", 0, 5), ("image", 1, 8), ("text", 1, 6)],
        [("audio", 1, 7), ("image", 2, 9), ("text", 2, 6)],
    ]


@pytest.mark.parametrize("gaps", [False, True])
@every_fusion
def test_a_fusion_of_layers_equals_its_formula(name, gaps):
    module = made(name)
    features = levels_of(gaps=gaps)

    fused = module(features).detach().numpy()

    assert fused.shape == (6, module.fused_dim)
    expected = np.stack([FORMULAS[name](module, sample_of(features, row)) for row in range(6)])
    np.testing.assert_allclose(fused, expected, rtol=1e-5, atol=1e-5)


@every_fusion
def test_neither_the_order_of_modalities_nor_batch_mates_nor_more_padding_change_anything(name):
    module, features = made(name), levels_of()
    turned = made(name, dims={key: DIMS[key] for key in reversed(DIMS)})
    padded = {
        key: Features(
            tuple(torch.cat([value, torch.full_like(value[:, :1], float("nan"))], dim=1) for value in given.values),
            tuple(torch.cat([mask, torch.zeros_like(mask[:, :1])], dim=1) for mask in given.mask),
        )
        for key, given in features.items()
    }

    fused = module(features)

    assert torch.equal(turned({key: features[key] for key in reversed(NAMES)}), fused)
    torch.testing.assert_close(module(padded), fused, rtol=1e-9, atol=1e-9)
    alone = torch.cat([module(rows_of(features, [row])) for row in range(6)])
    torch.testing.assert_close(alone, fused, rtol=1e-9, atol=1e-9)


@every_fusion
def test_gradients_are_finite_with_gaps_and_reach_every_parameter_and_every_layer(name):
    module, features = made(name).train(), levels_of()
    inputs = [value.requires_grad_() for given in features.values() for value in given.values]

    result = module(features)
    (result * torch.randn_like(result)).sum().backward()

    gradients = [parameter.grad for parameter in module.parameters()] + [value.grad for value in inputs]
    assert all(gradient.isfinite().all() and gradient.abs().max() > 1e-12 for gradient in gradients)


@every_fusion
def test_layers_without_masks_are_real_throughout(name):
    module, features = made(name), levels_of(gaps=False)
    bare = {key: Features(given.values) for key, given in features.items()}
    full = {
        key: Features(given.values, tuple(torch.ones_like(mask) for mask in given.mask))
        for key, given in features.items()
    }

    assert torch.equal(module(bare), module(full))


@every_fusion
def test_the_saved_state_is_the_whole_fusion_of_layers(name):
    module, copy, features = made(name), made(name, seed=1), levels_of()

    copy.load_state_dict(module.state_dict())

    assert torch.equal(copy(features), module(features))


def test_an_exchange_that_says_nothing_leaves_every_channel_as_it_is():
    module = made("mmtm")
    with torch.no_grad():
        for level in module.excitations:
            for layer in level:
                layer.weight.zero_()
                layer.bias.zero_()
    features = levels_of(gaps=False)
    other = {**features, "audio": levels_of(gaps=False, seed=9)["audio"]}
    gates = []
    module.nexts[2][1].register_forward_hook(lambda layer, given, result: gates.append(given[0]))

    module(features)
    module(other)

    assert torch.equal(gates[0], gates[1])  # the image hears nothing of the audio
    assert array(module.linear.weight).shape == (8, 18)
