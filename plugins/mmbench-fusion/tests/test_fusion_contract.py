"""What every fusion promises to the core, whatever its formula."""

from __future__ import annotations

import inspect
from importlib import import_module

import pytest
import torch
from fusion_cases import (
    BY_NAME,
    DECISION_LEVEL,
    DIMS,
    FEATURE_LEVEL,
    JOINING,
    SEQUENCE,
    TASKS,
    build,
    inputs,
    random_features,
    random_votes,
    run,
    shake,
)
from mmbench_fusion import ALL_SETS, FUSIONS
from mmbench_fusion.tensor import affordable_width

from mmbench import Features, TaskSpec
from mmbench.errors import UsageError

every_fusion = pytest.mark.parametrize("spec", [BY_NAME[name] for name in JOINING], ids=lambda spec: spec.name)


def without(features, missing, content):
    """The same features, in which nobody has one modality; `content` stands in its place."""
    given = features[missing]
    gone = torch.zeros_like(given.present if given.layout == "vector" else given.token_mask)
    return {**features, missing: Features(torch.full_like(given.tensor, content), gone)}


@pytest.mark.parametrize("spec", FUSIONS, ids=lambda spec: spec.name)
def test_defaults_are_the_factorys_options_and_stand_in_the_descriptor_only(spec):
    module, _, attribute = spec.factory.partition(":")
    parameters = inspect.signature(getattr(import_module(module), attribute)).parameters

    options = {name: value for name, value in parameters.items() if value.kind is value.KEYWORD_ONLY}
    assert set(options) == set(spec.defaults)
    assert all(value.default is value.empty for value in options.values())
    assert list(parameters)[:2] == ["dims", "tasks"]


def test_the_ten_fusions_of_the_first_set_are_in_grid_all_and_no_others():
    assert [spec.name for spec in FUSIONS if spec.in_all] == [
        "single",
        "concat",
        "sum",
        "max",
        "gated",
        "tensor",
        "low-rank-tensor",
        "attention",
        "cross-attention",
        "decision-average",
    ]


@every_fusion
def test_what_a_fusion_solves_and_what_it_cannot_are_known_sets_and_do_not_overlap(spec):
    assert set(spec.solves) | set(spec.cannot_solve) <= set(ALL_SETS)
    assert not set(spec.solves) & set(spec.cannot_solve)


@every_fusion
def test_the_order_of_the_modalities_in_dicts_changes_nothing(spec):
    forwards, backwards = sorted(DIMS), sorted(DIMS, reverse=True)
    features = inputs(spec)
    one = build(spec, {name: DIMS[name] for name in forwards}).double().eval()
    other = build(spec, {name: DIMS[name] for name in backwards}).double().eval()

    expected = run(one, spec, {name: features[name] for name in forwards})

    assert torch.equal(run(other, spec, {name: features[name] for name in backwards}), expected)


@every_fusion
def test_a_samples_result_does_not_depend_on_its_batch_mates(spec):
    module = shake(build(spec))
    features = inputs(spec)

    together = run(module, spec, features)
    alone = [
        run(module, spec, {n: Features(f.tensor[row : row + 1], f.mask[row : row + 1]) for n, f in features.items()})
        for row in range(6)
    ]

    torch.testing.assert_close(torch.cat(alone), together, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", SEQUENCE)
def test_more_padding_changes_nothing(name):
    module = shake(build(BY_NAME[name]))
    features = random_features("sequence")
    padded = {
        name: Features(
            torch.cat([given.tensor, torch.full((6, 3, DIMS[name]), -7.0, dtype=torch.float64)], dim=1),
            torch.cat([given.token_mask, torch.zeros(6, 3, dtype=torch.bool)], dim=1),
        )
        for name, given in features.items()
    }

    torch.testing.assert_close(module(padded), module(features), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("missing", sorted(DIMS))
@every_fusion
def test_what_stands_in_place_of_a_missing_modality_has_no_influence(spec, missing):
    module = shake(build(spec))
    features = inputs(spec, gaps=False)

    zeros = run(module, spec, without(features, missing, 0.0))

    assert torch.equal(run(module, spec, without(features, missing, 1e3)), zeros)
    assert torch.equal(run(module, spec, without(features, missing, float("nan"))), zeros)


@every_fusion
def test_a_missing_modality_and_a_sample_without_any_give_finite_results_and_gradients(spec):
    module = shake(build(spec)).train()
    features = without(inputs(spec), "audio", 0.0)  # and sample 2 has lost text too, by its gaps
    for name in ("image", "text"):
        features[name].mask[0] = False
    for given in features.values():
        given.tensor.requires_grad_()

    result = run(module, spec, features)
    result.square().sum().backward()

    assert result.isfinite().all()
    gradients = [p.grad for p in module.parameters()] + [given.tensor.grad for given in features.values()]
    assert all(gradient.isfinite().all() for gradient in gradients if gradient is not None)


@every_fusion
def test_every_parameter_gets_a_gradient(spec):
    module = shake(build(spec)).train()
    for given in (features := inputs(spec)).values():
        given.tensor.requires_grad_()

    result = run(module, spec, features)
    (result * torch.randn_like(result)).sum().backward()

    without_gradient = [n for n, p in module.named_parameters() if p.grad is None or not p.grad.abs().max() > 1e-12]
    assert without_gradient == []
    assert all(given.tensor.grad.abs().max() > 0 for given in features.values())


@every_fusion
def test_the_saved_state_is_the_whole_fusion(spec):
    module = shake(build(spec, seed=0))
    copy = build(spec, seed=1).double().eval()
    features = inputs(spec)

    copy.load_state_dict(module.state_dict())

    assert torch.equal(run(copy, spec, features), run(module, spec, features))


@every_fusion
def test_evaluation_is_deterministic_and_a_batch_of_one_trains(spec):
    module = build(spec).double()
    for given in (features := inputs(spec, 1)).values():
        given.tensor.requires_grad_()

    run(module.train(), spec, features).sum().backward()
    module.eval()

    assert torch.equal(run(module, spec, features), run(module, spec, features))


@every_fusion
def test_bfloat16_autocast_gives_nearly_the_same(spec):
    module = build(spec).eval()
    features = {name: Features(given.tensor.float(), given.mask) for name, given in inputs(spec).items()}

    with torch.autocast("cpu", torch.bfloat16):
        result = run(module, spec, features)

    assert result.isfinite().all()
    torch.testing.assert_close(result.float(), run(module, spec, features), rtol=0.1, atol=0.2)


@pytest.mark.parametrize("name", FEATURE_LEVEL)
def test_four_modalities_and_a_batch_without_masks_fit_every_fusion(name):
    spec = BY_NAME[name]
    dims = {"type": 4, "a.b": 5, "forward": 6, "audio": 3}  # names that nn.ModuleDict refuses
    module = build(spec, dims)
    shape = (2,) if spec.accepts == "vector" else (2, 3)

    result = run(module, spec, {name: Features(torch.randn(*shape, dim)) for name, dim in dims.items()})

    assert result.shape == (2, module.fused_dim)


@pytest.mark.parametrize("name", DECISION_LEVEL)
def test_a_decision_rule_serves_every_kind_of_task_and_trains_all_modalities(name):
    module = build(BY_NAME[name]).train()
    for task in TASKS:
        votes = random_votes(task, gaps=False)
        for given in votes.values():
            given.tensor.requires_grad_()

        result = module(task.name, votes)
        result.square().sum().backward()

        assert result.shape == (6, task.num_outputs)
        assert all(given.tensor.grad.abs().max() > 0 for given in votes.values())


def test_a_sure_and_wrong_vote_of_one_modality_leaves_the_average_finite():
    module = build(
        BY_NAME["decision-average"], {"a": 3, "b": 3}, [TaskSpec(name="t", kind="multiclass", num_outputs=2)]
    )
    votes = {"a": Features(torch.tensor([[200.0, -200.0]])), "b": Features(torch.tensor([[-200.0, 200.0]]))}

    assert module("t", votes).exp().tolist() == [[0.5, 0.5]]


def test_the_factors_of_low_rank_tensor_fusion_are_registered():
    module = build(BY_NAME["low-rank-tensor"], {"image": 48, "audio": 192}, small=False)

    by_name = {name: parameter.numel() for name, parameter in module.named_parameters()}

    assert by_name["factors"] == 2 * 4 * 33 * 128  # modalities x rank x (1 + modality_dim) x fused_dim
    assert sum(by_name.values()) == 33_792 + 49 * 32 + 193 * 32 + 2 * 64 + 4 + 128 + 2 * 128


@pytest.mark.parametrize(
    ("num_modalities", "wanted", "limit", "width"),
    [(2, 16, 2048, 16), (3, 16, 2048, 11), (6, 16, 2048, 2), (11, 16, 2048, 1)],
)
def test_the_width_of_tensor_fusion_keeps_the_tensor_affordable(num_modalities, wanted, limit, width):
    assert affordable_width(num_modalities, wanted, limit) == width


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("low-rank-tensor", {"rank": 0}, "option 'rank' must be at least 1, got 0"),
        ("mutan", {"rank": 0}, "option 'rank' must be at least 1, got 0"),
        ("tensor", {"max_tensor_dim": 7}, "3 modalities needs at least 8 entries, but max_tensor_dim is 7; raise it"),
        ("cross-attention", {"num_heads": 3}, "width=8 cannot be divided among num_heads=3"),
        ("multiplicative", {"form": "cube"}, "option 'form' must be one of matrix, vector, scalar, got 'cube'"),
        ("mag", {"main": "imgae"}, "mag has no modality 'imgae' to be its main one. Did you mean 'image'?"),
        ("late-transformer", {"num_layers": 0}, "option 'num_layers' must be at least 1, got 0"),
        ("mult", {"num_layers": 0}, "option 'num_layers' must be at least 1, got 0"),
        ("bottleneck", {"num_layers": 1}, "option 'num_layers' must be at least 2, got 1"),
        ("perceiver", {"num_latents": 0}, "option 'num_latents' must be at least 1, got 0"),
    ],
)
def test_an_impossible_option_says_what_is_possible(name, options, message):
    with pytest.raises(UsageError) as caught:
        build(BY_NAME[name], **options)

    assert message in str(caught.value)
