"""Every fusion against its formula, written again sample by sample: what is absent is left out, not masked."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from fusion_cases import (
    BY_NAME,
    DECISION_LEVEL,
    DIMS,
    FEATURE_LEVEL,
    TASKS,
    build,
    random_features,
    random_votes,
    shake,
)

NAMES = sorted(DIMS)  # ["audio", "image", "text"]
ORACLES = {}


def oracle(name):
    """Register a formula: (module, {modality: vector (D,) or tokens (T, D)} of what one sample has) -> (F,)."""

    def register(function):
        ORACLES[name] = function
        return function

    return register


def array(parameter):
    return parameter.detach().double().numpy()


def linear(layer, x):
    y = np.einsum("oi,...i->...o", array(layer.weight), x)
    return y if layer.bias is None else y + array(layer.bias)


def norm(layer, x):
    centred = x - x.mean(axis=-1, keepdims=True)
    scaled = centred / np.sqrt((centred**2).mean(axis=-1, keepdims=True) + 1e-5)
    return scaled * array(layer.weight) + array(layer.bias)


def relu(x):
    return np.maximum(x, 0.0)


def sigmoid(x):
    return 1.0 / (1.0 + np.exp(-x))


def softmax(x):
    e = np.exp(x - x.max())
    return e / e.sum()


def gelu(x):
    return 0.5 * x * (1.0 + np.vectorize(math.erf)(x / math.sqrt(2.0)))


def projected(module, sample):
    """h_m of the modalities that are there, by position in the sorted names."""
    p = module.projections
    return {m: norm(p.norms[m], linear(p.linears[m], sample[name])) for m, name in enumerate(NAMES) if name in sample}


def marked(module, sample):
    """Projected tokens with the mark of their modality."""
    return {m: tokens + array(module.projections.marks)[m] for m, tokens in projected(module, sample).items()}


def or_zeros(found, width):
    return [found.get(m, np.zeros(width)) for m in range(len(NAMES))]


def hidden_layer(module, parts):
    return relu(norm(module.norm, linear(module.linear, np.concatenate(parts))))


def split_heads(x, heads):
    return [x[:, h * (x.shape[1] // heads) : (h + 1) * (x.shape[1] // heads)] for h in range(heads)]


def attend(query, key, value, heads):
    out = []
    for q, k, v in zip(split_heads(query, heads), split_heads(key, heads), split_heads(value, heads)):
        rows = [sum(w * v[j] for j, w in enumerate(softmax(k @ q[i] / math.sqrt(q.shape[1])))) for i in range(len(q))]
        out.append(np.stack(rows))
    return np.concatenate(out, axis=1)


def multihead(layer, queries, tokens):
    if len(tokens) == 0:
        return np.zeros_like(queries)
    key, value = np.split(linear(layer.key_value, tokens), 2, axis=1)
    return linear(layer.out, attend(linear(layer.query, queries), key, value, layer.num_heads))


def block(layer, tokens):
    """The core's pre-norm transformer block."""
    query, key, value = np.split(linear(layer.query_key_value, norm(layer.attention_norm, tokens)), 3, axis=1)
    tokens = tokens + linear(layer.output, attend(query, key, value, layer.num_heads))
    return tokens + mlp(layer.mlp, tokens)


def mlp(layers, tokens):
    return linear(layers[3], gelu(linear(layers[1], norm(layers[0], tokens))))


def rest_of(tokens, own, width):
    parts = [part for m, part in sorted(tokens.items()) if m != own]
    return np.concatenate(parts) if parts else np.zeros((0, width))


@oracle("concat")
def concat(module, sample):
    vectors = [sample.get(name, np.zeros(DIMS[name])) for name in NAMES]
    return hidden_layer(module, [*vectors, [float(name not in sample) for name in NAMES]])


@oracle("dual-encoder")
def dual_encoder(module, sample):
    scale = math.exp(min(float(module.log_scale.detach()), math.log(100)))
    parts = []
    for m, name in enumerate(NAMES):
        vector = sample.get(name, np.zeros(DIMS[name])) @ array(module.projections[m].weight).T
        parts.append(vector / max(np.linalg.norm(vector), 1e-12) * math.sqrt(scale))
    return np.concatenate(parts)


@oracle("sum")
def sum_(module, sample):
    return sum(projected(module, sample).values())


@oracle("mean")
def mean(module, sample):
    found = projected(module, sample)
    return sum(found.values()) / len(found)


@oracle("max")
def max_(module, sample):
    return np.max(list(projected(module, sample).values()), axis=0)


@oracle("product")
def product(module, sample):
    return np.prod(list(projected(module, sample).values()), axis=0)


@oracle("gated")
def gated(module, sample):
    everything = np.concatenate([sample.get(name, np.zeros(DIMS[name])) for name in NAMES])
    gates = sigmoid(norm(module.gate_norm, linear(module.gates, everything))).reshape(len(NAMES), -1)
    return sum(
        gates[m] * np.tanh(linear(module.linears[m], sample[name])) for m, name in enumerate(NAMES) if name in sample
    )


@oracle("tensor")
def tensor(module, sample):
    width = module.projections.linears[0].out_features
    a, b, c = (np.concatenate([[1.0], h]) for h in or_zeros(projected(module, sample), width))
    flat = [x * y * z for x, y, z in itertools.product(a, b, c)]
    return relu(norm(module.norm, linear(module.linear, np.array(flat))))


@oracle("low-rank-tensor")
def low_rank_tensor(module, sample):
    factors, weights = array(module.factors), array(module.rank_weights)
    width = factors.shape[2] - 1
    extended = [np.concatenate([[1.0], h]) for h in or_zeros(projected(module, sample), width)]
    fused = array(module.bias).copy()
    for j, r in itertools.product(range(factors.shape[3]), range(factors.shape[1])):
        fused[j] += weights[r] * math.prod(
            sum(extended[m][d] * factors[m, r, d, j] for d in range(width + 1)) for m in range(len(NAMES))
        )
    return norm(module.norm, fused)


@oracle("attention")
def attention(module, sample):
    found = list(projected(module, sample).values())
    weights = softmax(np.array([linear(module.query, np.tanh(linear(module.key, h)))[0] for h in found]))
    return sum(w * h for w, h in zip(weights, found))


@oracle("film")
def film(module, sample):
    found = projected(module, sample)
    vectors = or_zeros(found, module.fused_dim)
    total = 0.0
    for m in found:
        modulation = linear(module.conditions[m], np.concatenate([v for o, v in enumerate(vectors) if o != m]))
        total = total + (1.0 + modulation[: module.fused_dim]) * vectors[m] + modulation[module.fused_dim :]
    return relu(norm(module.norm, total))


def interact(step, form, z, x):
    shifted = linear(step.condition, z)
    read = linear(step.read, x)
    if form == "matrix":
        return np.einsum("fij,i,j->f", array(step.bilinear), z, x) + shifted + read
    return linear(step.gain, z) * read + shifted


@oracle("multiplicative")
def multiplicative(module, sample):
    width = module.projections.linears[0].out_features
    first, *later = or_zeros(projected(module, sample), width)
    for step, layer, z in zip(module.interactions, module.norms, later):
        first = norm(layer, interact(step, step.form, z, first))
    return first


@oracle("mutan")
def mutan(module, sample):
    found = projected(module, sample)
    fused = np.zeros(module.fused_dim)
    for r in range(module.rank):
        rows = slice(r * module.fused_dim, (r + 1) * module.fused_dim)
        fused += np.prod([linear(module.cores[m], np.tanh(h))[rows] for m, h in found.items()], axis=0)
    return norm(module.norm, fused)


@oracle("mcb")
def mcb(module, sample):
    width = module.projections.linears[0].out_features
    places, signs = module.places.numpy(), array(module.signs)
    sketches = []
    for m, h in enumerate(or_zeros(projected(module, sample), width)):
        sketch = np.zeros(module.fused_dim)
        for d, value in enumerate([*h, 1.0]):
            sketch[places[m, d]] += signs[m, d] * value
        sketches.append(sketch)
    pooled = sketches[0]
    for sketch in sketches[1:]:
        convolved = np.zeros(module.fused_dim)
        for i, j in itertools.product(range(module.fused_dim), repeat=2):
            convolved[(i + j) % module.fused_dim] += pooled[i] * sketch[j]
        pooled = convolved
    rooted = np.sign(pooled) * (np.sqrt(np.abs(pooled) + 1e-3) - np.sqrt(1e-3))
    return rooted / np.linalg.norm(rooted) * np.sqrt(module.fused_dim)


@oracle("deep-sets")
def deep_sets(module, sample):
    marks = array(module.marks)
    total = sum(relu(linear(module.phi, h + marks[m])) for m, h in projected(module, sample).items())
    return relu(norm(module.norm, linear(module.rho, total)))


@oracle("late-transformer")
def late_transformer(module, sample):
    marks = array(module.marks)
    tokens = np.stack([array(module.summary)[0], *(h + marks[m] for m, h in projected(module, sample).items())])
    for layer in module.blocks:
        tokens = block(layer, tokens)
    return norm(module.norm, tokens[0])


@oracle("product-of-experts")
def product_of_experts(module, sample):
    above, below = np.zeros(module.fused_dim), np.ones(module.fused_dim)
    for m, h in projected(module, sample).items():
        mean_, log_precision = np.split(linear(module.experts[m], h), 2)
        precision = np.exp(np.clip(log_precision, -6.0, 6.0))
        above += precision * mean_
        below += precision
    return above / below


@oracle("mag")
def mag(module, sample):
    main = sample.get("audio", np.zeros(DIMS["audio"]))
    move = array(module.bias).copy()
    for gate, shift, name in zip(module.gates, module.shifts, ["image", "text"]):
        if name in sample:
            move += relu(linear(gate, np.concatenate([sample[name], main]))) * linear(shift, sample[name])
    limit = min(1.0, module.beta * np.linalg.norm(main) / np.linalg.norm(move)) if "audio" in sample else 1.0
    return norm(module.norm, main + limit * move)


@oracle("mixture-of-experts")
def mixture_of_experts(module, sample):
    found = projected(module, sample)
    joined = np.concatenate(or_zeros(found, module.experts[0].in_features))
    scores = linear(module.gate[2], relu(linear(module.gate[0], joined)))
    weights = softmax(scores[list(found)])
    return sum(w * relu(linear(module.experts[m], h)) for w, (m, h) in zip(weights, found.items()))


@oracle("cross-attention")
def cross_attention(module, sample):
    tokens = marked(module, sample)
    width = module.projections.marks.shape[1]
    pooled = {}
    for m, own in tokens.items():
        looked_up = multihead(module.attentions[m], own, rest_of(tokens, m, width))
        pooled[m] = norm(module.attended_norms[m], own + looked_up).mean(axis=0)
    return hidden_layer(module, or_zeros(pooled, width))


@oracle("similarity-attention")
def similarity_attention(module, sample):
    tokens = marked(module, sample)
    width = module.projections.marks.shape[1]
    pooled = {}
    for m, own in tokens.items():
        sums = []
        for n, partner in tokens.items():
            if n == m:
                continue
            a, b = linear(module.similarity, own), linear(module.similarity, partner)
            weights = softmax((a @ b.T).ravel() / math.sqrt(width)).reshape(len(own), len(partner))
            sums.append(sum(weights[i, j] * own[i] for i in range(len(own)) for j in range(len(partner))))
        pooled[m] = np.mean(sums, axis=0) if sums else own.mean(axis=0)
    return hidden_layer(module, or_zeros(pooled, width))


@oracle("nl-gate")
def nl_gate(module, sample):
    tokens = marked(module, sample)
    width = module.projections.marks.shape[1]
    pooled = {}
    for m, own in tokens.items():
        rest = rest_of(tokens, m, width)
        query, key, value = linear(module.queries[m], own), linear(module.keys[m], rest), linear(module.values[m], rest)
        rows = []
        for i in range(len(own)):
            found = sum(w * value[j] for j, w in enumerate(softmax(key @ query[i]))) if len(rest) else 0 * query[i]
            rows.append(own[i] + linear(module.outs[m], found))
        pooled[m] = np.mean(rows, axis=0)
    return hidden_layer(module, or_zeros(pooled, width))


def lstm(layer, tokens):
    weight_x, weight_h = array(layer.weight_ih_l0), array(layer.weight_hh_l0)
    bias = array(layer.bias_ih_l0) + array(layer.bias_hh_l0)
    state = cell = np.zeros(layer.hidden_size)
    states = []
    for token in tokens:
        i, f, g, o = np.split(weight_x @ token + weight_h @ state + bias, 4)
        cell = sigmoid(f) * cell + sigmoid(i) * np.tanh(g)
        state = sigmoid(o) * np.tanh(cell)
        states.append(state)
    return np.stack(states)


@oracle("bilstm")
def bilstm(module, sample):
    tokens = np.concatenate([part for _, part in sorted(marked(module, sample).items())])
    ahead = lstm(module.rnn.forwards[0], tokens)
    back = lstm(module.rnn.backwards[0], tokens[::-1])[::-1]
    return hidden_layer(module, [ahead.mean(axis=0), back.mean(axis=0)])


@oracle("attention-lstm")
def attention_lstm(module, sample):
    states = lstm(module.lstm, np.concatenate([part for _, part in sorted(marked(module, sample).items())]))
    weights = softmax(np.array([linear(module.query, np.tanh(linear(module.key, state)))[0] for state in states]))
    return hidden_layer(module, [sum(w * state for w, state in zip(weights, states))])


@oracle("mult")
def mult(module, sample):
    tokens = marked(module, sample)
    width = module.projections.marks.shape[1]
    pooled = {}
    for m, own in tokens.items():
        parts = []
        for (target, source), layers in zip(module.pairs, module.crossmodal):
            if target != m:
                continue
            reading, read = own, tokens.get(source, np.zeros((0, width)))
            for layer in layers:
                read_norm = norm(layer.source_norm, read) if len(read) else read
                reading = reading + multihead(layer.attend, norm(layer.token_norm, reading), read_norm)
                reading = reading + mlp(layer.mlp, reading)
            parts.append(reading)
        pooled[m] = block(module.own[m], np.concatenate(parts, axis=1)).mean(axis=0)
    return hidden_layer(module, or_zeros(pooled, (len(NAMES) - 1) * width))


@oracle("bottleneck")
def bottleneck(module, sample):
    streams = {m: np.concatenate([array(module.summaries)[m], tokens]) for m, tokens in marked(module, sample).items()}
    shared = array(module.bottlenecks)
    for blocks in module.layers:
        given = []
        for m in streams:
            read = block(blocks[m], np.concatenate([streams[m], shared]))
            streams[m] = read[: len(streams[m])]
            given.append(read[len(streams[m]) :])
        shared = np.mean(given, axis=0)
    return hidden_layer(
        module, [np.mean([norm(module.summary_norm, stream[0]) for stream in streams.values()], axis=0)]
    )


@oracle("early-concat")
def early_concat(module, sample):
    vectors = [sample.get(name, np.zeros(DIMS[name])) for name in NAMES]
    state = np.concatenate([*vectors, [float(name not in sample) for name in NAMES]])
    for layer, layer_norm in zip(module.linears, module.norms):
        state = relu(norm(layer_norm, linear(layer, state)))
    return state


@oracle("early-transformer")
def early_transformer(module, sample):
    row = [array(module.summary)]
    for _, tokens in sorted(marked(module, sample).items()):
        half = tokens.shape[1] // 2
        rates = [10_000.0 ** (-i / (half - 1)) for i in range(half)]
        angles = np.outer(np.arange(len(tokens)), rates)
        row.append(tokens + np.concatenate([np.sin(angles), np.cos(angles)], axis=1))
    tokens = np.concatenate(row)
    for layer in module.blocks:
        tokens = block(layer, tokens)
    return hidden_layer(module, [norm(module.summary_norm, tokens[0])])


@oracle("perceiver")
def perceiver(module, sample):
    tokens = norm(module.token_norm, np.concatenate([part for _, part in sorted(marked(module, sample).items())]))
    latents = array(module.latents)
    for _ in range(module.num_rounds):
        latents = latents + multihead(module.attend, norm(module.latent_norm, latents), tokens)
        latents = block(module.block, latents)
    return norm(module.norm, latents.mean(axis=0))


def sample_of(features, row):
    """What one sample has: its vector or its real tokens, by modality."""
    found = {}
    for name, given in features.items():
        if given.layout == "vector":
            if bool(given.present[row]):
                found[name] = given.tensor[row].numpy()
        elif bool(given.token_mask[row].any()):
            found[name] = given.tensor[row][given.token_mask[row]].numpy()
    return found


def test_every_feature_level_fusion_has_a_formula_here():
    assert sorted(ORACLES) == sorted(FEATURE_LEVEL)


@pytest.mark.parametrize("gaps", [False, True], ids=["complete", "with gaps"])
@pytest.mark.parametrize("name", FEATURE_LEVEL)
def test_a_fusion_equals_its_formula(name, gaps):
    module = shake(build(BY_NAME[name]))
    features = random_features(BY_NAME[name].accepts, gaps=gaps)

    fused = module(features).detach().numpy()

    expected = np.stack([ORACLES[name](module, sample_of(features, row)) for row in range(6)])
    assert fused.shape == (6, module.fused_dim)
    np.testing.assert_allclose(fused, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("form", ["vector", "scalar"])
def test_the_other_forms_of_multiplicative_interaction_equal_their_formulas(form):
    module = shake(build(BY_NAME["multiplicative"], form=form))
    features = random_features("vector")

    fused = module(features).detach().numpy()

    expected = np.stack([multiplicative(module, sample_of(features, row)) for row in range(6)])
    np.testing.assert_allclose(fused, expected, rtol=1e-5, atol=1e-5)


def test_single_gives_the_vector_itself_and_zeros_where_it_is_missing():
    module = build(BY_NAME["single"], {"audio": 5})
    features = {"audio": random_features("vector")["audio"]}

    fused = module(features)

    assert module.fused_dim == 5
    assert torch.equal(fused[0], features["audio"].tensor[0])
    assert fused[1].tolist() == [0.0] * 5


def average(kind, votes, weights):
    total = sum(weights)
    if kind == "multiclass":
        return np.log(sum(w * softmax(v) for w, v in zip(weights, votes)) / total)
    if kind == "multilabel":
        p = sum(w * sigmoid(v) for w, v in zip(weights, votes)) / total
        return np.log(p / (1.0 - p))
    return sum(w * v for w, v in zip(weights, votes)) / total


def decision_formula(name, module, task, sample):
    votes, places = list(sample.values()), [NAMES.index(modality) for modality in sample]
    if name == "decision-average":
        return average(task.kind, votes, [1.0] * len(votes))
    if name == "decision-weighted":
        weights = softmax(array(module.weight_logits)[TASKS.index(task)])
        return average(task.kind, votes, weights[places])
    if name == "stacking":
        row, width = TASKS.index(task), task.num_outputs
        read = [np.log(softmax(v)) if task.kind == "multiclass" else v for v in votes]
        moved = sum(v @ array(module.weight)[row, m, :width, :width] for m, v in zip(places, read))
        gone = sum(array(module.absence)[row, m, :width] for m in range(3) if m not in places)
        return np.mean(read, axis=0) + moved + gone + array(module.bias)[row, :width]
    if name == "decision-product":
        if task.kind == "multiclass":
            return np.sum([np.log(softmax(v)) for v in votes], axis=0)
        return np.sum(votes, axis=0) if task.kind == "multilabel" else np.mean(votes, axis=0)
    if task.kind == "regression":
        return np.median(votes, axis=0)
    pooled = average(task.kind, votes, [1.0] * len(votes))
    if task.kind == "multilabel":
        p = (np.sum([v > 0 for v in votes], axis=0) + sigmoid(pooled)) / (len(votes) + 1)
        return np.log(p / (1.0 - p))
    counts = np.bincount([v.argmax() for v in votes], minlength=task.num_outputs)
    return np.log((counts + np.exp(pooled)) / (len(votes) + 1))


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.kind)
@pytest.mark.parametrize("name", DECISION_LEVEL)
def test_a_decision_rule_equals_its_formula(name, task):
    module = shake(build(BY_NAME[name]))
    votes = random_votes(task)

    joined = module(task.name, votes).detach().numpy()

    expected = np.stack(
        [decision_formula(name, module, task, dict(sorted(sample_of(votes, row).items()))) for row in range(6)]
    )
    np.testing.assert_allclose(joined, expected, rtol=1e-5, atol=1e-5)


def test_two_votes_outweigh_one_however_sure_it_is():
    module = build(BY_NAME["majority-vote"]).eval()
    votes = random_votes(TASKS[0], 1, gaps=False)
    for name, logits in {"audio": [0.1, 0, 0, 0], "image": [0.1, 0, 0, 0], "text": [0, 99.0, 0, 0]}.items():
        votes[name].tensor.copy_(torch.tensor([logits]))

    probabilities = module("class", votes).exp()[0]

    # (2 + (0.2692 + 0.2692 + 0) / 3) / 4, (1 + (0.2436 + 0.2436 + 1) / 3) / 4
    assert probabilities.tolist() == pytest.approx([0.5449, 0.3739, 0.0406, 0.0406], abs=1e-4)


def test_a_sample_without_any_modality_gets_the_uniform_distribution_even_odds_and_zero():
    for name in DECISION_LEVEL:
        module = build(BY_NAME[name]).eval()
        for task, expected in zip(TASKS, ([0.25] * 4, [0.5] * 3, [0.0] * 2)):
            votes = {n: type(v)(v.tensor, torch.zeros(6, dtype=torch.bool)) for n, v in random_votes(task).items()}

            joined = module(task.name, votes)

            share = {"multiclass": joined.softmax(dim=1), "multilabel": joined.sigmoid(), "regression": joined}[
                task.kind
            ]
            assert share[0].tolist() == pytest.approx(expected), (name, task.kind)
