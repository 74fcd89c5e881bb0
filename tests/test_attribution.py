"""Attribution against its definition: completeness, finite differences, models that look at one modality only."""

from __future__ import annotations

import base64
import io
import json
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from mmbench.batches import SplitData
from mmbench.columns import Column
from mmbench.data import Waveform
from mmbench.diagnostics import Subject
from mmbench.diagnostics.attribution import FILE_NAME, MAX_BYTES, Explained, attribute, choose
from mmbench.diagnostics.depiction import Looked, depicted, hundredths, png, pooled, segments, spectrogram
from mmbench.diagnostics.integrated import integrated_gradients
from mmbench.features import Features
from mmbench.model import MultimodalModel
from mmbench.spec import TaskSpec

pytestmark = pytest.mark.usefixtures("one_thread")
LABEL = TaskSpec(name="label", kind="multiclass", num_outputs=2)


# Integrated gradients


def smooth(x):
    return (torch.sin(x["a"]) * x["b"].sum(dim=(1, 2)).exp().unsqueeze(1)).sum(dim=1) + x["a"].prod(dim=1)


def points_of(seed):
    rng = torch.Generator().manual_seed(seed)
    return {
        "a": torch.randn(3, 4, generator=rng, dtype=torch.float64),
        "b": torch.randn(3, 2, 2, generator=rng, dtype=torch.float64) / 4,
    }


def test_attributions_add_up_to_what_the_function_gains_over_the_baseline():
    at, baseline = points_of(0), points_of(1)

    found = integrated_gradients(smooth, at, baseline, 400)

    total = found["a"].sum(dim=1) + found["b"].sum(dim=(1, 2))
    assert total.tolist() == pytest.approx((smooth(at) - smooth(baseline)).tolist(), abs=1e-4)


def test_one_step_is_the_finite_difference_halfway_times_the_way():
    at, baseline = points_of(2), points_of(3)

    found = integrated_gradients(smooth, at, baseline, 1)

    middle = {key: (at[key] + baseline[key]) / 2 for key in at}
    for key, place in (("a", (1, 2)), ("b", (0, 1, 0))):
        up, down = ({k: v.clone() for k, v in middle.items()} for _ in range(2))
        up[key][place] += 1e-5
        down[key][place] -= 1e-5
        slope = float((smooth(up) - smooth(down))[place[0]]) / 2e-5
        expected = slope * float(at[key][place] - baseline[key][place])
        assert float(found[key][place]) == pytest.approx(expected, rel=1e-6)


def test_a_linear_function_gives_weight_times_way_in_any_number_of_steps():
    weight = torch.tensor([2.0, -1.0, 0.5])

    found = integrated_gradients(
        lambda x: x[0] @ weight, {0: torch.tensor([[3.0, 1.0, 4.0]])}, {0: torch.tensor([[1.0, 1.0, 0.0]])}, 3
    )

    assert found[0].tolist() == [pytest.approx([4.0, 0.0, 2.0])]


def test_nan_is_left_where_it_is_and_gets_nothing():
    seen = []

    def value(x):
        seen.append(x[0].detach().isnan().tolist())
        return x[0].nan_to_num().sum(dim=1)

    found = integrated_gradients(value, {0: torch.tensor([[float("nan"), 2.0]])}, {0: torch.zeros(1, 2)}, 2)

    assert found[0].tolist() == [[0.0, 2.0]]
    assert seen == [[[True, False]]] * 2


def test_a_function_without_a_gradient_attributes_nothing():
    found = integrated_gradients(lambda x: x[0].argmax(dim=1).float(), {0: torch.ones(1, 3)}, {0: torch.zeros(1, 3)}, 4)

    assert found[0].tolist() == [[0.0, 0.0, 0.0]]


# Which samples


def test_the_surest_right_the_surest_wrong_the_middle_and_the_least_sure_are_chosen():
    first = np.array([0.6, 0.99, 0.05, 0.2, 0.98, 0.51, 0.97])
    target = np.array([0, 0, 0, 1, 0, 0, 1])  # the third and the last are wrong

    chosen = choose(LABEL, np.stack([first, 1 - first], axis=1), target, np.ones(7, dtype=bool))

    assert [(one.position, one.why, one.output) for one in chosen] == [
        (1, "surest right", 0),
        (6, "surest wrong", 0),
        (2, "of median confidence", 1),
        (5, "least sure", 0),
    ]


def test_where_nothing_is_wrong_nothing_wrong_is_shown_and_no_sample_twice():
    chosen = choose(LABEL, np.array([[0.9, 0.1], [0.2, 0.8]]), np.array([0, 1]), np.ones(2, dtype=bool))

    assert [(one.position, one.why) for one in chosen] == [(0, "surest right"), (1, "of median confidence")]


def test_samples_that_have_every_modality_come_first():
    prediction = np.array([[0.99, 0.01], [0.7, 0.3]])

    chosen = choose(LABEL, prediction, np.array([0, 0]), np.array([False, True]))

    assert chosen[0].position == 1


def test_of_values_errors_are_chosen():
    task = TaskSpec(name="amount", kind="regression", num_outputs=1)

    chosen = choose(task, np.array([[1.0], [5.0], [2.0]]), np.array([[1.1], [0.0], [3.0]]), np.ones(3, dtype=bool))

    assert [(one.position, one.why) for one in chosen] == [
        (0, "smallest error"),
        (1, "largest error"),
        (2, "median error"),
    ]


# A model whose answer is known


class Pixels(nn.Module):
    """Mean brightness of the left half of an image."""

    feature_dim = 1

    def forward(self, values: Tensor, mask: Tensor | None = None) -> Tensor:
        return values.float()[..., : values.shape[-1] // 2].flatten(1).mean(dim=1, keepdim=True) / 100


class Words(nn.Module):
    """The mean vector of tokens; number 1 counts, all others are zero."""

    feature_dim = 1

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(4, 1)
        with torch.no_grad():
            self.table.weight.copy_(torch.tensor([[0.0], [2.0], [0.0], [0.0]]))

    def forward(self, values: Tensor, mask: Tensor | None = None) -> Features:
        assert mask is not None
        return Features(Features(self.table(values), mask).to_vector().tensor)


class Weighed(nn.Module):
    """One number: features by fixed weights, or their product."""

    fused_dim = 1

    def __init__(self, weights) -> None:
        super().__init__()
        self.weights = weights

    def forward(self, features: dict[str, Features]) -> Tensor:
        values = {name: given.tensor for name, given in features.items()}
        if self.weights is None:
            return values["image"] * values["text"]
        return sum(self.weights[name] * value for name, value in values.items())


class Given:
    """Stands in for `DisturbedInputs`."""

    def __init__(self, originals, kinds, transforms=None) -> None:
        self.values, self.kinds, self.encode = originals, kinds, {}
        self.transforms = transforms or {}

    def originals(self, name, positions):
        return [self.values[name][position] for position in positions]

    def ids(self, positions):
        return [f"id-{position}" for position in positions]

    def transform_of(self, name):
        return self.transforms.get(name), ""


IMAGES = np.random.default_rng(0).integers(0, 256, (12, 1, 8, 8), dtype=np.uint8)
TEXTS = [("x" if at % 2 else "y") + "aab"[: 1 + at % 3] for at in range(12)]


class Letters:
    def __call__(self, text):
        return np.array([{"x": 1, "y": 2}.get(letter, 3) for letter in text], dtype=np.int32)

    def pieces(self, text):
        return text, [(at, at + 1) for at in range(len(text))]


def subject_of(weights):
    model = MultimodalModel(
        {"image": Pixels(), "text": Words()}, {"image": "vector", "text": "vector"}, Weighed(weights), [LABEL]
    ).eval()
    with torch.no_grad():
        model.heads[0].weight.copy_(torch.tensor([[-1.0], [1.0]]))
        model.heads[0].bias.zero_()
    tokens = [Letters()(text) for text in TEXTS]
    offsets = np.concatenate([[0], np.cumsum([len(row) for row in tokens])])
    everybody = np.ones(12, dtype=bool)
    columns = {
        "image": Column(values=IMAGES, offsets=None, present=everybody),
        "text": Column(values=np.concatenate(tokens), offsets=offsets, present=everybody),
    }
    split = SplitData(columns, {"label": np.arange(12) % 2}, torch.device("cpu"))
    with torch.no_grad():
        clean = torch.softmax(model(split.batch(torch.arange(12))).logits["label"], dim=1).numpy()
    return Subject(
        model, dict.fromkeys(("train", "val", "test"), split), [LABEL], {"label": None}, {"label": clean}, True
    )


def given():
    return Given({"image": IMAGES, "text": TEXTS}, {"image": "image", "text": "text"}, {"text": Letters()})


def by_name(sample):
    return {item["name"]: item for item in sample["modalities"]}


def test_a_model_that_reads_the_text_alone_gives_it_all_evidence():
    made = attribute(subject_of({"image": 0.0, "text": 1.0}), given())

    assert made is not None
    for sample in made["samples"]:
        found = by_name(sample)
        assert found["image"]["evidence"] == 0.0
        assert found["text"]["evidence"] == pytest.approx(sample["to"] - sample["from"], abs=1e-3)
        assert abs(found["text"]["evidence"]) > 0.05
        # Of the letters only x has a vector; without one there is nothing to say.
        text = TEXTS[int(sample["id"].removeprefix("id-"))]
        assert found["text"]["words"] == [
            [letter, found["text"]["words"][at][1] if letter == "x" else 0] for at, letter in enumerate(text)
        ]
        assert [abs(part) for letter, part in found["text"]["words"] if letter == "x"] == [100] * text.count("x")
        assert not np.any(found["image"]["grid"])


def test_a_model_that_reads_the_left_half_of_the_image_shows_the_left_half():
    made = attribute(subject_of({"image": 1.0, "text": 0.0}), given())

    assert made is not None
    for sample in made["samples"]:
        found = by_name(sample)
        assert found["text"]["evidence"] == 0.0
        assert found["image"]["evidence"] == pytest.approx(sample["to"] - sample["from"], abs=1e-3)
        grid = np.array(found["image"]["grid"])
        assert grid.shape == (8, 8)
        assert not grid[:, 4:].any()
        assert np.abs(grid[:, :4]).max() == 100
        # What is brighter than the mean speaks for class 1, what is darker for class 0.
        brighter = IMAGES[int(sample["id"].removeprefix("id-")), 0, :, :4] > IMAGES.mean()
        sign = 1 if sample["predicted"] == 1 else -1
        assert (sign * grid[:, :4][brighter] >= 0).all()
        assert (sign * grid[:, :4][~brighter] <= 0).all()


def test_a_product_is_shared_out_and_the_shares_add_up():
    made = attribute(subject_of(None), given())

    assert made is not None
    for sample in made["samples"]:
        total = sum(item["evidence"] for item in sample["modalities"])
        assert total == pytest.approx(sample["to"] - sample["from"], abs=1e-3)


def trained(label):
    """Two modalities of two numbers each and a small network over both, trained until it knows the label."""
    rng = np.random.default_rng(5)
    corners = {"a": [-1.0, -1.0, 1.0, 1.0], "b": [-1.0, 1.0, -1.0, 1.0]}
    arrays = {name: np.tile(signs, 16)[:, None] + rng.normal(0, 0.2, (64, 2)) for name, signs in corners.items()}
    arrays = {name: values.astype(np.float32) for name, values in arrays.items()}
    target = label(arrays["a"].mean(axis=1) > 0, arrays["b"].mean(axis=1) > 0).astype(np.int64)
    torch.manual_seed(5)

    class Same(nn.Module):
        feature_dim = 2

        def forward(self, values, mask=None):
            return values

    class Hidden(nn.Module):
        fused_dim = 16

        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(4, 16)

        def forward(self, features):
            return torch.tanh(self.layer(torch.cat([features[name].tensor for name in ("a", "b")], dim=1)))

    model = MultimodalModel({"a": Same(), "b": Same()}, {"a": "vector", "b": "vector"}, Hidden(), [LABEL])
    columns = {name: Column(values=values, offsets=None, present=np.ones(64, bool)) for name, values in arrays.items()}
    split = SplitData(columns, {"label": target}, torch.device("cpu"))
    batch = split.batch(torch.arange(64))
    optimiser = torch.optim.Adam(model.parameters(), lr=0.05)
    for _ in range(300):
        optimiser.zero_grad()
        nn.functional.cross_entropy(model(batch).logits["label"], batch.targets["label"]).backward()
        optimiser.step()
    clean = torch.softmax(model.eval()(batch).logits["label"].detach(), dim=1).numpy()
    assert (clean.argmax(axis=1) == target).all()
    splits = dict.fromkeys(("train", "val", "test"), split)
    model.zero_grad(set_to_none=True)
    made = attribute(
        Subject(model, splits, [LABEL], {"label": None}, {"label": clean}, True),
        Given(arrays, {"a": "tabular", "b": "tabular"}),
    )
    assert made is not None
    found = [{name: item["evidence"] for name, item in by_name(sample).items()} for sample in made["samples"]]
    return found, made["samples"]


def test_the_modality_that_alone_tells_the_label_has_nearly_all_evidence():
    found, samples = trained(lambda a, b: a)

    for evidence, sample in zip(found, samples):
        assert evidence["a"] > 0.3
        assert abs(evidence["b"]) < 0.1 * evidence["a"]
        assert sum(evidence.values()) == pytest.approx(sample["to"] - sample["from"], abs=0.01)


def test_exclusive_or_needs_both():
    found, _ = trained(lambda a, b: a ^ b)

    for evidence in found:
        assert 0.2 < evidence["a"] / sum(evidence.values()) < 0.8


def test_nothing_of_the_model_is_left_changed():
    subject = subject_of(None)
    before = {name: value.clone() for name, value in subject.model.state_dict().items()}

    attribute(subject, given())

    assert all(torch.equal(before[name], value) for name, value in subject.model.state_dict().items())
    assert all(parameter.grad is None for parameter in subject.model.parameters())
    assert not any(module._forward_hooks for module in subject.model.modules())


def test_an_encoder_that_refuses_floating_point_has_evidence_and_no_map():
    subject = subject_of({"image": 1.0, "text": 0.0})

    class Strict(Pixels):
        def forward(self, values, mask=None):
            if values.dtype != torch.uint8:
                raise TypeError("bytes only")
            return super().forward(values, mask)

    subject.model.encoders[0] = Strict()

    made = attribute(subject, given())

    assert made is not None
    found = by_name(made["samples"][0])
    assert "grid" not in found["image"]
    assert found["image"]["picture"]["width"] == 8
    assert found["image"]["evidence"] != 0.0


def test_an_embedding_of_positions_is_not_taken_for_that_of_the_tokens():
    subject = subject_of({"image": 0.0, "text": 1.0})

    class Placed(Words):
        def __init__(self):
            super().__init__()
            self.places = nn.Embedding(9, 1)

        def forward(self, values, mask=None):
            places = torch.arange(values.shape[1]).expand(values.shape)
            self.places(places)  # asked first
            return super().forward(values, mask)

    subject.model.encoders[1] = Placed()

    made = attribute(subject, given())

    assert made is not None
    for sample in made["samples"]:
        assert all((part != 0) == (letter == "x") for letter, part in by_name(sample)["text"]["words"])


def test_a_search_is_not_explained():
    subject = subject_of(None)
    searching = TaskSpec(name="label", kind="retrieval", num_outputs=1)

    assert attribute(Subject(**{**subject.__dict__, "tasks": [searching]}), given()) is None


def test_the_attribution_of_a_modality_that_a_sample_lacks_is_zero():
    subject = subject_of({"image": 1.0, "text": 1.0})
    split = subject.data["test"]
    split._held["text"] = type(split._held["text"])(
        split._held["text"].values, split._held["text"].lengths, None, np.arange(12) >= 10
    )

    explained = Explained(subject, LABEL, choose(LABEL, subject.clean["label"], np.arange(12) % 2, np.arange(12) < 10))
    looked = explained.features()
    explained.inputs(looked, {"image": "image", "text": "text"})

    assert [one.present for one in looked["text"]] == [False] * len(looked["text"])
    assert [one.evidence for one in looked["text"]] == [0.0] * len(looked["text"])


# What is shown


def test_a_large_noisy_dataset_stays_under_the_limit():
    big = np.random.default_rng(1).integers(0, 256, (12, 3, 300, 200), dtype=np.uint8)
    subject = subject_of({"image": 1.0, "text": 0.0})
    held = given()
    held.values["image"] = list(big)
    held.values["text"] = ["<script>" * 100_000] * 12
    # The encoder's own input is small; the original is drawn where that is no picture.
    made = attribute(subject, held)

    assert made is not None
    assert len(json.dumps(made)) <= MAX_BYTES
    assert len(made["samples"]) >= 3
    for sample in made["samples"]:
        words = by_name(sample)["text"]["words"]
        assert sum(len(text) for text, _ in words) <= 400


def test_pngs_are_what_another_reader_reads():
    image = pytest.importorskip("PIL.Image")
    rng = np.random.default_rng(2)
    for shape in ((1, 5, 7), (3, 4, 9), (3, 1, 1)):
        pixels = rng.integers(0, 256, shape, dtype=np.uint8)

        read = np.asarray(image.open(io.BytesIO(png(pixels))))

        assert np.array_equal(read if read.ndim == 3 else read[..., None], pixels.transpose(1, 2, 0))
    assert zlib.crc32(png(pixels)[12:29]) == int.from_bytes(png(pixels)[29:33], "big")


def test_a_tone_is_a_bright_line_at_its_height():
    time = np.arange(8000) / 8000
    low, high = (spectrogram(np.sin(2 * np.pi * hertz * time).astype(np.float32), 8000) for hertz in (300, 3000))

    assert low.shape[0] == 64
    assert low.shape[1] <= 96
    assert int(high.mean(axis=1).argmax()) < 16 < 48 < int(low.mean(axis=1).argmax())
    assert spectrogram(np.zeros(3, dtype=np.float32), 8000).shape == (64, 1)


def test_maps_keep_their_sums():
    values = np.random.default_rng(3).normal(size=(37, 5))

    assert pooled(values, 16).shape == (16, 5)
    assert pooled(values, 16).sum(axis=0) == pytest.approx(values.sum(axis=0))
    assert hundredths(np.zeros(3)) == [0, 0, 0]


def test_words_get_the_sum_of_their_tokens():
    # Two tokens of "abc", one of its last letter, and a mark that stands nowhere.
    assert segments("abc d", [(0, 3), (0, 3), (2, 3), (5, 5)], np.array([1.5, 1.5, 1.0, 7.0])) == [
        ["ab", 100], ["c", 100], [" d", 0],
    ]  # fmt: skip
    assert segments("ab", [(0, 9), (-1, 1)], np.array([1.0, 2.0])) == [["ab", 0]]


def test_columns_are_those_that_matter_most():
    row = np.array([1.0, np.nan, 3.0], dtype=np.float32)

    found = depicted("t", "tabular", Looked(True, 1.0, None, np.array([0.1, 0.0, -0.4]), row), row, None, side=96)

    assert found["columns"] == [[2, 3.0, -100], [0, 1.0, 25], [1, None, 0]]


def test_stored_tokens_of_a_square_lie_over_the_picture_and_others_along_a_strip():
    picture = np.zeros((3, 20, 20), dtype=np.uint8)

    square = depicted("i", "image", Looked(True, 1.0, np.arange(4.0), None, None), picture, None, side=96)
    odd = depicted("i", "image", Looked(True, 1.0, np.arange(5.0), None, None), picture, None, side=96)

    assert (square["grid"], square["by"]) == ([[0, 33], [67, 100]], "tokens")
    assert odd["steps"] == [0, 25, 50, 75, 100]


def test_videos_show_the_frame_that_matters_most():
    video = np.stack([np.full((1, 6, 6), 40 * at, dtype=np.uint8) for at in range(4)])
    amounts = np.zeros((4, 1, 6, 6))
    amounts[2, 0, 1, 5] = -3.0

    found = depicted("v", "video", Looked(True, 1.0, None, amounts, video), video, None, side=96)

    assert found["steps"] == [0, 0, -100, 0]
    assert found["grid"][1] == [0, 0, 0, 0, 0, -100]
    assert base64.b64decode(found["picture"]["png"]) == png(video[2])


def test_spectrograms_end_where_the_encoder_stops_reading():
    class Cut:
        max_seconds = 0.5

    wave = Waveform(np.zeros(8000, dtype=np.float32), 8000)

    found = depicted("a", "audio", Looked(True, 1.0, None, np.ones((200, 4)), None), wave, Cut(), side=96)

    assert found["seconds"] == 0.5
    assert found["steps"] == [pytest.approx(100, abs=30)] * 64
    assert found["picture"]["width"] <= 96


# A trained cell


def run_one(folder: Path, depth: str, **flags):
    from mmbench.cell import run_cell
    from mmbench.config import load_config
    from mmbench.plan import local_runtime, make_plan
    from mmbench.registry import load_registry

    config = load_config({"diagnostics": depth, "protocol": "none", "device": "cpu", "baselines": False, **flags})
    runtime = local_runtime(config, cache=folder / "cache", data=folder / "data", jobs=1)
    cell = next(cell for cell in make_plan(config, load_registry(), runtime=runtime).cells() if cell.encoders)
    place = folder / depth
    place.mkdir()
    payload = {**json.loads(json.dumps(cell.payload())), "threads": 1}
    return run_cell(payload, place), place / FILE_NAME


def test_a_trained_cell_leaves_what_it_looked_at_beside_its_predictions(tmp_path):
    encoders = ["sequence=gru[width=8,feature_dim=8]", "image=mlp[width=16,depth=1,feature_dim=8,max_side=8]"]
    selection = {"dataset": ["unique"], "fusion": ["concat"], "encoder": encoders}
    train = {"epochs": 2, "limit": 200, "batch_size": 50}

    result, file = run_one(tmp_path, "full", **selection, train=train)

    assert result["info"]["warnings"] == []
    assert file.stat().st_size <= MAX_BYTES
    made = json.loads(file.read_text())
    assert "attribution" not in json.dumps(result["info"])
    first = made["samples"][0]
    assert first["why"] == "surest right"
    assert first["true"] == first["predicted"]
    found = by_name(first)
    assert sum(item["evidence"] for item in found.values()) == pytest.approx(first["to"] - first["from"], abs=0.02)
    assert np.array(found["image"]["grid"]).shape == (8, 8)
    assert found["image"]["picture"]["width"] == 8
    assert len(found["sequence"]["steps"]) == found["sequence"]["length"]
