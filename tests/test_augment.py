"""Augmentations equal plain loops, respect masks and types, draw as they say, and touch nothing but training steps."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn

from mmbench.augment import (
    Augment,
    hidden,
    mirrored,
    moved,
    noisy,
    repeated,
    rolled,
    tinted,
    turned,
    without,
)
from mmbench.batches import SplitData
from mmbench.columns import Column
from mmbench.config import RunConfig, TrainConfig
from mmbench.errors import Unavailable, UsageError
from mmbench.features import Features
from mmbench.model import Batch, Input, MultimodalModel
from mmbench.parts import make_part
from mmbench.plan import make_plan
from mmbench.registry import Entry, Registry
from mmbench.spec import AUGMENTATIONS, DatasetSpec, EncoderSpec, FusionSpec, Modality, ObjectiveSpec, TaskSpec
from mmbench.train import Trainer

pytestmark = pytest.mark.usefixtures("one_thread")
CPU = torch.device("cpu")
#: By kind: values that an encoder may read, and their mask.
SHAPES = {
    "image": ((6, 3, 16, 12), torch.uint8, None),
    "audio": ((6, 40, 8), torch.float16, [40, 7, 1, 23, 40, 12]),
    "text": ((6, 20), torch.int32, [20, 1, 2, 9, 20, 13]),
    "video": ((6, 5, 3, 8, 8), torch.uint8, None),
    "tabular": ((6, 4), torch.float32, None),
    "sequence": ((6, 20, 3), torch.float32, [20, 1, 2, 9, 20, 13]),
}
EVERY = [(kind, name) for kind, names in AUGMENTATIONS.items() for name in names]


def values_of(kind, seed=0):
    shape, dtype, lengths = SHAPES[kind]
    generator = torch.Generator().manual_seed(seed)
    if dtype.is_floating_point:
        values = torch.randn(shape, generator=generator).to(dtype)
    else:
        values = torch.randint(0, 256, shape, generator=generator).to(dtype)
    mask = None if lengths is None else torch.arange(shape[1]) < torch.tensor(lengths)[:, None]
    return values, mask


def augment_of(kind, *names, seed=0):
    augment = Augment(kind, names, seed, CPU)
    augment.fit(*values_of(kind, seed=5))
    return augment


@pytest.mark.parametrize(("kind", "name"), EVERY)
def test_every_change_keeps_shape_type_and_its_input_and_follows_from_the_seed(kind, name):
    values, mask = values_of(kind)
    before = values.clone()

    first = augment_of(kind, name)(Input(values, mask))
    again = augment_of(kind, name)(Input(values, mask))
    other = augment_of(kind, name, seed=1)(Input(values, mask))

    assert first.values.shape == values.shape
    assert first.values.dtype == values.dtype
    assert torch.equal(values, before)
    assert torch.equal(first.values, again.values)
    assert not torch.equal(first.values, values)
    assert not torch.equal(first.values, other.values)


@pytest.mark.parametrize(("kind", "name"), [pair for pair in EVERY if SHAPES[pair[0]][2]])
def test_padding_has_no_influence_and_stays_as_it_is(kind, name):
    values, mask = values_of(kind)
    strange = values.clone()
    strange[~mask] = 77

    clean = augment_of(kind, name)(Input(values, mask))
    found = augment_of(kind, name)(Input(strange, mask))

    assert torch.equal(found.mask, clean.mask)
    assert torch.equal(found.values[found.mask], clean.values[clean.mask])
    if name != "drop":
        assert torch.equal(found.mask, mask)
        assert (found.values[~mask] == 77).all()


@pytest.mark.parametrize(("kind", "name"), EVERY)
def test_a_batch_in_which_nobody_has_the_modality_is_left_alone(kind, name):
    values, mask = values_of(kind)
    nobody = Input(values[:0], None if mask is None else mask[:0], torch.zeros(0, dtype=torch.long))

    assert augment_of(kind, name)(nobody) is nobody


def test_moved_images_repeat_their_edges():
    values, _ = values_of("image")
    rows, columns = torch.tensor([0, 2, -2, 1, 0, -1]), torch.tensor([0, -1, 1, 0, 1, -1])

    found = moved(values, rows, columns)

    for b in range(6):
        for y in range(16):
            for x in range(12):
                source = min(max(y - int(rows[b]), 0), 15), min(max(x - int(columns[b]), 0), 11)
                assert torch.equal(found[b, :, y, x], values[b, :, source[0], source[1]])


def test_all_frames_of_a_video_move_and_turn_over_together():
    values, _ = values_of("video")
    alike = values[:, :1].expand_as(values).contiguous()

    found = augment_of("video", "crop", "flip")(Input(alike)).values

    assert torch.equal(found, found[:, :1].expand_as(found))
    assert torch.equal(mirrored(values, torch.tensor([True, *[False] * 5]))[0], values[0].flip(-1))


def test_a_quarter_turn_is_clockwise_and_a_zoom_of_two_shows_the_middle():
    values, _ = values_of("image")
    square = values[:, :, :8, :8].contiguous()
    ones = torch.ones(6)

    quarter = turned(square, ones * math.pi / 2, ones)
    ramp = torch.arange(8.0).expand(1, 1, 8, 8).contiguous()
    zoomed = turned(ramp, torch.zeros(1), torch.full((1,), 2.0))

    assert torch.equal(quarter, square.rot90(-1, dims=(2, 3)))
    assert zoomed[0, 0, 3].tolist() == pytest.approx([1.75, 2.25, 2.75, 3.25, 3.75, 4.25, 4.75, 5.25])
    wide = turned(values, ones * math.pi, ones)
    assert torch.equal(wide, values.flip(2, 3))


def test_a_turn_keeps_pixels_square_in_images_that_are_not():
    wide = torch.zeros(1, 1, 9, 17)
    wide[0, 0, 4, 8 + 3] = 1.0  # three to the right of the middle

    found = turned(wide, torch.tensor([math.pi / 2]), torch.ones(1))

    assert found[0, 0, 4 + 3, 8].item() == pytest.approx(1.0, abs=1e-5)  # three below it


def test_tint_is_brightness_then_contrast_then_saturation():
    pixels = torch.tensor([[[[100.0, 40.0]], [[50.0, 60.0]], [[20.0, 80.0]]]])

    found = tinted(pixels, torch.tensor([1.1]), torch.tensor([0.8]), torch.tensor([1.2]))

    bright = pixels.numpy()[0, :, 0] * 1.1
    luma = np.array([0.299, 0.587, 0.114])
    mean = (luma @ bright).mean()
    contrasted = mean + (bright - mean) * 0.8
    grey = luma @ contrasted
    np.testing.assert_allclose(found[0, :, 0].numpy(), grey + (contrasted - grey) * 1.2, rtol=1e-5)


def test_bytes_are_rounded_and_stay_within_their_range():
    values = torch.tensor([[[[255, 254, 101]]]], dtype=torch.uint8)

    found = tinted(values, torch.tensor([1.15]), torch.tensor([1.0]), torch.tensor([1.0]))

    assert found.tolist() == [[[[255, 255, 116]]]]


def test_noise_is_in_proportion_to_the_deviation_of_the_real_part():
    values, mask = values_of("audio")
    values = values.float()
    normal = torch.randn(values.shape, generator=torch.Generator().manual_seed(4))

    found = noisy(values, mask, torch.full((6,), 0.1), normal)

    for b in range(6):
        real = values[b][mask[b]].numpy()
        expected = real + 0.1 * real.std() * normal[b][mask[b]].numpy()
        np.testing.assert_allclose(found[b][mask[b]].numpy(), expected, rtol=1e-4, atol=1e-6)


def test_a_roll_goes_round_within_the_real_part():
    values, mask = values_of("audio")
    by = torch.tensor([3, -2, 5, 0, 40, 1])

    found = rolled(values, mask, by)

    for b, length in enumerate(SHAPES["audio"][2]):
        assert np.array_equal(found[b, :length].numpy(), np.roll(values[b, :length].numpy(), int(by[b]), axis=0))
        assert torch.equal(found[b, length:], values[b, length:])


@pytest.mark.parametrize("axis", [1, 2])
def test_a_hidden_span_holds_the_fill_and_the_rest_stays(axis):
    values, mask = values_of("audio")
    begin, width = torch.tensor([0, 1, 0, 2, 4, 3]), torch.tensor([0, 2, 1, 3, 4, 1])
    fill = torch.arange(6.0)

    found = hidden(values, mask, begin, width, fill, axis)

    for b in range(6):
        for t in range(40):
            for m in range(8):
                place = (t, m)[axis - 1]
                inside = int(begin[b]) <= place < int(begin[b] + width[b]) and bool(mask[b, t])
                assert found[b, t, m] == (fill[b].half() if inside else values[b, t, m])


@pytest.mark.parametrize("masked", [True, False])
def test_dropped_tokens_close_the_gap_and_the_first_and_last_stay(masked):
    values, mask = values_of("text")
    gone = torch.rand(6, 20, generator=torch.Generator().manual_seed(2)) < 0.5

    found, kept = without(values, mask if masked else None, gone)

    for b, length in enumerate(SHAPES["text"][2] if masked else [20] * 6):
        stays = [t for t in range(length) if not gone[b, t] or t in (0, length - 1)]
        assert kept[b].tolist() == [t < len(stays) for t in range(20)]
        assert found[b, : len(stays)].tolist() == values[b, stays].tolist()


def test_a_dropped_frame_shows_the_one_before_it():
    values = torch.arange(5).view(1, 5, 1, 1, 1)

    found = repeated(values, torch.tensor([[True, False, True, True, False]]))

    assert found.flatten().tolist() == [0, 1, 1, 1, 4]


def test_columns_get_noise_by_their_own_deviation_drop_to_their_mean_and_keep_nan():
    column = torch.tensor([[10.0, 0.0], [20.0, 0.001], [30.0, 0.002]])
    values = torch.tensor([[1.0, float("nan")]]).expand(4000, 2).contiguous()
    noise, drop = Augment("tabular", ["noise"], 0, CPU), Augment("tabular", ["drop"], 0, CPU)
    noise.fit(column)
    drop.fit(column)

    shaken, dropped = noise(Input(values)).values, drop(Input(values)).values

    # Uniform amounts up to 0.1 times a normal: the deviation is 0.1 / sqrt(3) of the column's, 8.165.
    assert (shaken[:, 0] - 1.0).std().item() == pytest.approx(8.165 * 0.1 / math.sqrt(3), rel=0.06)
    assert set(dropped[:, 0].tolist()) == {1.0, 20.0}
    assert (dropped[:, 0] == 20.0).float().mean().item() == pytest.approx(0.1, abs=0.015)
    assert shaken[:, 1].isnan().all()
    assert dropped[:, 1].isnan().all()


def test_what_is_drawn_is_spread_as_the_table_says():
    augment = Augment("image", [], 0, CPU)
    ramp = torch.arange(16.0).expand(4000, 1, 16, 16).contiguous()

    by = ramp[:, 0, 8, 8] - augment.crop(ramp, None)[0][:, 0, 8, 8]
    flipped = augment.flip(ramp, None)[0][:, 0, 0, 0] == 15.0
    roll = Augment("audio", [], 0, CPU)
    wave = torch.arange(100.0).expand(4000, 100)
    shifts = (-roll.roll(wave, None)[0][:, 0]) % 100

    assert sorted(set(by.tolist())) == [-2, -1, 0, 1, 2]
    assert all((by == step).float().mean().item() == pytest.approx(0.2, abs=0.03) for step in range(-2, 3))
    assert flipped.float().mean().item() == pytest.approx(0.5, abs=0.03)
    assert sorted(set(shifts.tolist())) == [*range(11), *range(90, 100)]


def test_spec_augment_hides_two_spans_of_up_to_a_tenth_of_the_time_and_two_of_a_third_of_the_bands():
    generator = torch.Generator().manual_seed(1)
    values = torch.randn(2000, 50, 80, generator=generator)
    augment = Augment("audio", [], 0, CPU)

    time = (augment.time_mask(values, None)[0] != values).all(dim=2)
    bands = (augment.frequency_mask(values, None)[0] != values).all(dim=1)

    assert time.sum(dim=1).max() <= 10
    assert bands.sum(dim=1).max() <= 54
    # Widths from 0 to 5 and from 0 to 27: twice the mean, less what overlaps.
    assert 4.5 <= time.float().sum(dim=1).mean() <= 5.0
    assert 22.0 <= bands.float().sum(dim=1).mean() <= 27.0


def test_bands_of_a_waveform_cannot_be_hidden_and_the_reason_says_what_can():
    with pytest.raises(
        Unavailable, match=r"reads a spectrogram \(B, T, M\), but this one reads \(2, 100\); use time-mask"
    ):
        Augment("audio", ["frequency-mask"], 0, CPU)(Input(torch.zeros(2, 100)))


class Watch(nn.Module):
    feature_dim = 2

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(2, 2)
        self.seen = {True: [], False: []}

    def forward(self, values, mask=None):
        self.seen[self.training].append(values.clone())
        return Features(self.layer(values))


class Pass(nn.Module):
    fused_dim = 2

    def forward(self, features):
        return features["a"].tensor


class Supervised(nn.Module):
    def __init__(self):
        super().__init__()
        self.batches = []

    def forward(self, step):
        self.batches.append(step.batch)
        return {"task": step.task_loss(step.output.logits)}


def test_training_steps_read_changed_inputs_and_nothing_else_does():
    torch.manual_seed(0)
    encoder, objective = Watch(), Supervised()
    task = TaskSpec(name="label", kind="multiclass", num_outputs=2)
    model = MultimodalModel({"a": encoder}, {"a": "vector"}, Pass(), (task,))
    values = np.random.default_rng(0).normal(size=(12, 2)).astype(np.float32)
    column = Column(values=values, offsets=None, present=np.ones(12, dtype=bool))
    data = SplitData({"a": column}, {"label": np.arange(12) % 2}, CPU)
    augment = Augment("tabular", ["noise"], 3, CPU)
    augment.fit(torch.from_numpy(values))
    trainer = Trainer(
        model,
        objective,
        data,
        data,
        (task,),
        {"label": None},
        TrainConfig(epochs=2, batch_size=6),
        order_seed=0,
        noise_seed=0,
        augments={"a": augment},
    )

    trainer.run()

    given = {tuple(row) for row in values.tolist()}
    assert all(tuple(row) not in given for rows in encoder.seen[True] for row in rows.tolist())
    assert all(tuple(row) in given for rows in encoder.seen[False] for row in rows.tolist())
    assert torch.equal(objective.batches[0].inputs["a"].values, encoder.seen[True][0])
    assert isinstance(objective.batches[0], Batch)


def registry_of():
    both = EncoderSpec(name="both", kinds=("image", "audio"), factory="m:E", version="1")
    net = EncoderSpec(name="net", kinds=("image",), factory="m:E", version="1", tunings=("scratch", "frozen"))
    words = EncoderSpec(name="words", kinds=("text",), factory="m:E", version="1")
    fusion = FusionSpec(name="join", factory="m:F", version="1", min_modalities=1)
    objective = ObjectiveSpec(name="supervised", factory="m:O", version="1")
    dataset = DatasetSpec(
        name="pairs",
        factory="m:D",
        version="1",
        modalities=(Modality(name="photo", kind="image"), Modality(name="caption", kind="text")),
        tasks=(TaskSpec(name="label", kind="multiclass", num_outputs=2),),
    )
    specs = (both, net, words, fusion, objective, dataset)
    return Registry(entries=[Entry(spec=spec, dist="lab", dist_version="1", plugin="lab") for spec in specs])


def test_augment_is_part_of_identity_and_label_only_where_it_is_given():
    registry = registry_of()

    plain, same, given = (
        make_part(registry, registry.resolve("encoder", text, "image"))
        for text in ("net", 'net[augment=""]', 'net[augment="color + crop"]')
    )

    assert "augment" not in plain.identity
    assert same.digest == plain.digest
    assert given.identity["augment"] == {"names": ["crop", "color"], "version": "1"}
    assert (plain.label, given.label) == ("net", "net[augment=crop+color]")


@pytest.mark.parametrize(
    ("text", "kind", "message"),
    [
        (
            "net[augment=croq]",
            "image",
            "encoder 'net': augment=croq is nothing for image; there are crop, flip, rotate, scale, color. "
            "Did you mean 'crop'?",
        ),
        ("both[augment=crop]", "audio", "augment=crop is nothing for audio; there are noise, shift, time-mask"),
        ("words[augment=flip]", None, "augment=flip is nothing for text; there are drop."),
        ("net[augment=3]", "image", 'augment must be names joined by "+", as augment="crop+flip", got 3'),
        ("join[augment=crop]", None, "augment"),
    ],
)
def test_an_unknown_augmentation_names_the_known_ones_of_its_kind(text, kind, message):
    with pytest.raises(UsageError) as caught:
        registry_of().resolve("fusion" if text.startswith("join") else "encoder", text, kind)

    assert message in str(caught.value)


def test_a_frozen_encoder_with_augmentation_is_incompatible_with_the_reason():
    config = RunConfig(
        dataset=("pairs",), encoder=('photo=net[tuning=frozen,augment="flip"]', "caption=words"), fusion=("join",)
    )

    cells = [cell for cell in make_plan(config, registry_of()).cells() if cell.role == "cell"]

    assert {cell.status for cell in cells} == {"incompatible"}
    assert "net[augment=flip,tuning=frozen] of 'photo' is frozen, so its features are computed once" in cells[0].reason


def test_the_cell_is_told_what_to_do_in_the_order_of_doing():
    config = RunConfig(
        dataset=("pairs",), encoder=("photo=net[augment=flip+crop]", "caption=words[augment=drop]"), fusion=("join",)
    )

    cell = next(cell for cell in make_plan(config, registry_of()).cells() if cell.role == "cell")

    told = {name: part["augment"] for name, part in cell.payload()["encoders"].items()}
    assert told == {"photo": ["crop", "flip"], "caption": ["drop"]}


def test_an_image_is_rotated_by_at_most_fifteen_degrees_to_either_side():
    size, radius = 65, 28
    values = torch.zeros(64, 1, size, size)
    values[:, :, 31:34, 59:62] = 1.0  # a square whose middle lies to the right of the image's
    at = torch.arange(size) - size // 2

    found = Augment("image", ["rotate"], 0, CPU)(Input(values, None)).values[:, 0]

    mass = found.sum(dim=(1, 2))
    rows, columns = (found * at[:, None]).sum(dim=(1, 2)) / mass, (found * at).sum(dim=(1, 2)) / mass
    assert torch.hypot(rows, columns).tolist() == pytest.approx([radius] * 64, abs=0.3)
    angles = torch.atan2(rows, columns).rad2deg()
    assert angles.abs().max() <= 15.2
    assert angles.min() < -10
    assert angles.max() > 10
