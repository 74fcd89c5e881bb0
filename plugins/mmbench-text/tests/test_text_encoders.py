"""The text encoders keep what their descriptors promise, at any length and any amount of padding."""

import importlib

import mmbench_text
import pytest
import torch
from torch import nn

from mmbench import Features, Modality
from mmbench.errors import UsageError

EVERY = {spec.name: spec for spec in mmbench_text.mmbench_encoders() if not spec.takes_tuning}
SPECS = {name: spec for name, spec in EVERY.items() if name != "tokens"}
PROMISES = [(name, layout) for name, spec in SPECS.items() for layout in spec.layouts if layout != "pyramid"]
TEXTS = ["", "a", "zéro", "ноль", "零", "a much longer sentence, with words", "صفر", "twenty-two"]


@pytest.fixture(autouse=True)
def one_thread_and_seed():
    torch.set_num_threads(1)
    torch.manual_seed(0)


def build(name, layout="vector", **options):
    module, attribute = EVERY[name].factory.split(":")
    modality = Modality(name="word", kind="text")
    return getattr(importlib.import_module(module), attribute)(modality, layout, **{**EVERY[name].defaults, **options})


def padded(encoder, texts, *, extra=0, filler=0):
    rows = [encoder.transform(text) for text in texts]
    lengths = torch.tensor([len(row) for row in rows])
    longest = int(lengths.max()) + extra
    values = torch.full((len(rows), longest), filler, dtype=torch.int32)
    for position, row in enumerate(rows):
        values[position, : len(row)] = torch.from_numpy(row)
    return values, torch.arange(longest) < lengths[:, None]


def alone(encoder, text):
    return encoder(torch.from_numpy(encoder.transform(text)).unsqueeze(0), None)


@pytest.mark.parametrize("texts", [[""], ["seven"], ["", "one"], TEXTS])
@pytest.mark.parametrize(("name", "layout"), PROMISES)
def test_features_have_the_promised_shape_for_any_batch_size_and_length(name, layout, texts):
    encoder = build(name, layout)

    features = encoder(*padded(encoder, texts))

    assert isinstance(features, Features)
    assert features.layout == layout
    assert features.tensor.shape[0] == len(texts)
    assert features.tensor.shape[-1] == encoder.feature_dim == 64
    assert features.tensor.isfinite().all()
    assert features.present.all()


@pytest.mark.parametrize("filler", [0, 5, -1, 2_000_000_000])
@pytest.mark.parametrize(("name", "layout"), PROMISES)
def test_neither_padding_nor_batch_mates_have_any_influence(name, layout, filler):
    encoder = build(name, layout).eval()

    features = encoder(*padded(encoder, TEXTS, extra=13, filler=filler))

    for position, text in enumerate(TEXTS):
        got = features.tensor[position]
        if layout == "sequence":
            got = got[features.token_mask[position]]
        torch.testing.assert_close(got, alone(encoder, text).tensor[0], atol=1e-5, rtol=0)


@pytest.mark.parametrize(("name", "layout"), PROMISES)
def test_the_gradient_reaches_every_parameter(name, layout):
    encoder = build(name, layout)

    encoder(*padded(encoder, TEXTS)).tensor.square().sum().backward()

    without = [
        key for key, parameter in encoder.named_parameters() if parameter.grad is None or not parameter.grad.any()
    ]
    assert without == []


@pytest.mark.parametrize(("name", "layout"), PROMISES)
def test_bfloat16_autocast_gives_finite_features(name, layout):
    encoder = build(name, layout)

    with torch.autocast("cpu", dtype=torch.bfloat16):
        features = encoder(*padded(encoder, TEXTS))

    assert features.tensor.isfinite().all()


@pytest.mark.parametrize("name", SPECS)
def test_it_learns_which_words_hold_an_x(name):
    encoder = build(name, dropout=0.1)
    texts = ["six", "sixteen", "exit", "ox", "box", "mix", "taxi", "xylophone"]
    texts += ["ten", "thirteen", "enter", "cow", "bow", "mill", "bus", "telephone"]
    target = torch.tensor([1] * 8 + [0] * 8)
    values, mask = padded(encoder, texts)
    head = nn.Linear(encoder.feature_dim, 2)
    optimiser = torch.optim.AdamW([*encoder.parameters(), *head.parameters()], lr=5e-3)
    for _ in range(40):
        optimiser.zero_grad()
        nn.functional.cross_entropy(head(encoder(values, mask).to_vector().tensor), target).backward()
        optimiser.step()
    encoder.eval()

    preds = head(encoder(values, mask).to_vector().tensor).argmax(dim=1)

    assert (preds == target).float().mean() == 1.0


@pytest.mark.parametrize("name", ["embedding-lstm", "text-transformer"])
def test_the_order_of_characters_matters(name):
    encoder = build(name).eval()

    difference = alone(encoder, "on").tensor - alone(encoder, "no").tensor

    assert difference.abs().max() > 1e-3


def test_a_bag_is_the_mean_of_its_embeddings():
    encoder = build("bag-of-embeddings", dropout=0.5).eval()
    numbers = encoder.transform("drei")

    expected = sum(encoder.embedding.weight[int(number)] for number in numbers) / len(numbers)

    torch.testing.assert_close(alone(encoder, "drei").tensor[0], expected)


@pytest.mark.parametrize(
    ("name", "option", "value", "message"),
    [
        ("embedding-lstm", "vocabulary_size", 1, "option 'vocabulary_size' must be at least 2, got 1"),
        ("embedding-lstm", "embedding_dim", 0, "option 'embedding_dim' must be at least 1, got 0"),
        ("text-transformer", "num_heads", 7, "width=48 cannot be divided among num_heads=7"),
        ("text-transformer", "max_length", 0, "option 'max_length' must be at least 1, got 0"),
        ("bag-of-embeddings", "max_ngram", -1, "option 'max_ngram' must be at least 0, got -1"),
    ],
)
def test_an_option_that_cannot_be_is_refused(name, option, value, message):
    with pytest.raises(UsageError) as caught:
        build(name, **{option: value})

    assert message in str(caught.value)


def test_options_change_the_network_as_they_say():
    assert build("embedding-lstm", embedding_dim=5).embedding.weight.shape == (2048, 5)
    assert build("embedding-lstm", depth=2, width=6).rnn.forwards[1].input_size == 12
    assert len(build("text-transformer", depth=3).blocks) == 3
    assert build("bag-of-embeddings", vocabulary_size=100, feature_dim=7).embedding.weight.shape == (100, 7)
    assert build("text-transformer", max_length=4).transform("a long text").shape == (4,)


@pytest.mark.parametrize("filler", [0, -1])
def test_a_pyramid_has_every_layer_ends_with_the_sequence_and_never_reads_padding(filler):
    encoders = []
    for layout in ("sequence", "pyramid"):
        torch.manual_seed(3)
        encoders.append(build("text-transformer", layout).eval())
    sequence, pyramid = encoders
    values, mask = padded(pyramid, TEXTS, extra=3, filler=filler)

    levels = pyramid(values, mask)

    assert levels.layout == "pyramid"
    assert pyramid.feature_dim == (48, 64)
    assert [level.shape[-1] for level in levels.values] == list(pyramid.feature_dim)
    assert torch.equal(levels.values[-1], sequence(values, mask).tensor)
    for position, text in enumerate(TEXTS):
        by_itself = alone(pyramid, text)
        for level, real, expected in zip(levels.values, levels.mask, by_itself.values):
            torch.testing.assert_close(level[position][real[position]], expected[0], atol=1e-5, rtol=0)


@pytest.mark.parametrize("filler", [0, -1])
def test_tokens_are_rows_of_the_table_and_their_vector_the_means_of_spans(filler):
    sequence, vector = build("tokens", "sequence").eval(), build("tokens").eval()
    vector.load_state_dict(sequence.state_dict())
    values, mask = padded(sequence, TEXTS, extra=3, filler=filler)

    tokens, pooled = sequence(values, mask), vector(values, mask).tensor

    assert vector.feature_dim == 16 * 32
    for position, text in enumerate(TEXTS):
        expected = torch.stack([sequence.embedding.weight[number] for number in sequence.transform(text)])
        assert torch.equal(tokens.tensor[position][tokens.mask[position]], expected)
        spans = torch.nn.functional.adaptive_avg_pool1d(expected.T, 16).T.flatten()
        torch.testing.assert_close(pooled[position], spans)
