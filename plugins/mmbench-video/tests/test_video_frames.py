"""`frames`: what is inside is found, named in keys, run on real frames only, and kept when it is frozen."""

from __future__ import annotations

import json
import sys
import textwrap

import numpy as np
import pytest
import torch
from mmbench_video.frames import VideoFrames
from mmbench_video.inner import describe, prepare

from mmbench import Modality
from mmbench.cell import run_cell
from mmbench.config import load_config
from mmbench.errors import Unavailable, UsageError
from mmbench.parts import make_part
from mmbench.plan import local_runtime, make_plan
from mmbench.registry import load_registry
from mmbench.tuning import apply_tuning

#: An image encoder of a local file: pretrained, it gives the mean of each quarter of the image.
PLUGIN = """
    import dataclasses, numpy as np, torch
    from pathlib import Path
    from mmbench import AssetSpec, EncoderInfo, EncoderSpec, Features, Unavailable, hookimpl

    def describe(target, *, tuning, **options):
        if not Path(target).is_file():
            raise Unavailable(f"there are no weights at {target}")
        return EncoderInfo(fingerprint=Path(target).read_text(), licence="CC0-1.0")

    def prepare(target, *, tuning, **options):
        return (AssetSpec(name="w", url="hf:someone/quarters"),)

    @dataclasses.dataclass(frozen=True)
    class Small:
        version = "1"
        def __call__(self, image):
            return np.ascontiguousarray(image[:, ::2, ::2])

    class Quarters(torch.nn.Module):
        feature_dim = 4
        def __init__(self, modality, layout, *, target, tuning, norm):
            super().__init__()
            self.transform, self.gain = Small(), torch.nn.Linear(4, 4)
            self.norm = torch.nn.BatchNorm1d(4) if norm else torch.nn.Identity()
            torch.nn.init.eye_(self.gain.weight), torch.nn.init.zeros_(self.gain.bias)
        def forward(self, values, mask):
            with Path(__file__).with_suffix(".log").open("a") as log:
                log.write(f"{len(values)}\\n")
            side = torch.nn.functional.adaptive_avg_pool2d(values.float().mean(1, keepdim=True), 2)
            return Features(self.norm(self.gain(side.flatten(1) / 255)))

    @hookimpl
    def mmbench_encoders():
        return [EncoderSpec(
            name="quarters", kinds=("image",), target="required", tunings=("frozen", "finetune", "adapter", "scratch"),
            factory="quarters_plugin:Quarters", describe="quarters_plugin:describe", prepare="quarters_plugin:prepare",
            defaults={"norm": False}, version="VERSION")]
"""


@pytest.fixture
def plugin(tmp_path):
    torch.set_num_threads(1)
    path = tmp_path / "quarters_plugin.py"
    path.write_text(textwrap.dedent(PLUGIN).replace("VERSION", "1"))
    (tmp_path / "weights").write_text("abc")
    (tmp_path / "other").write_text("abd")
    registry = load_registry([path])
    yield type("Plugin", (), {"registry": registry, "path": path, "weights": str(tmp_path / "weights")})
    sys.modules.pop("quarters_plugin", None)


def build(target, layout="vector", *, tuning="scratch", pool="mean", **options):
    modality = Modality(name="clip", kind="video", facts={"channels": 1, "size": [8, 8]})
    given = {"pool": pool, "num_frames": 16, "width": 8, "depth": 1, "num_heads": 2, "dropout": 0.0, **options}
    return VideoFrames(modality, layout, target=target, tuning=tuning, **given)


def clips(*lengths):
    rng = np.random.default_rng(0)
    return [rng.integers(0, 256, (length, 1, 8, 8), dtype=np.uint8) for length in lengths]


def stacked(encoder, *lengths):
    rows = [torch.from_numpy(encoder.transform(clip)) for clip in clips(*lengths)]
    mask = torch.arange(max(lengths))[None, :] < torch.tensor(lengths)[:, None]
    return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True), mask


def identity(registry, text):
    return make_part(registry, registry.resolve("encoder", text, kind="video")).identity


def test_tokens_are_what_the_image_encoder_gives_of_each_frame_and_a_vector_is_their_mean(plugin):
    video = clips(3)[0]
    # What Quarters computes, by hand: every second pixel, then the mean of each quarter.
    by_hand = video[:, 0, ::2, ::2].reshape(3, 2, 2, 2, 2).mean(axis=(2, 4)).reshape(3, 4) / 255

    tokens = build(f"quarters:{plugin.weights}", "sequence", tuning="frozen")(
        *stacked(build(f"quarters:{plugin.weights}", tuning="frozen"), 3)
    )
    vector = build(f"quarters:{plugin.weights}", tuning="frozen")(torch.from_numpy(video[None, :, :, ::2, ::2]), None)

    np.testing.assert_allclose(tokens.tensor[0].detach(), by_hand, atol=1e-6)
    np.testing.assert_allclose(vector.tensor[0].detach(), by_hand.mean(axis=0), atol=1e-6)


def test_the_mean_does_not_see_the_order_of_frames_and_the_others_do():
    values = torch.from_numpy(np.stack(clips(6)))
    for pool, same in (("mean", True), ("lstm", False), ("attention", False)):
        encoder = build("cnn", pool=pool).eval()

        assert torch.allclose(encoder(values, None).tensor, encoder(values.flip(1), None).tensor, atol=1e-5) is same


def test_padding_is_not_counted_by_batch_normalisation_in_training(plugin):
    encoder = build(f"quarters/{plugin.weights}[norm=true]").train()
    values, mask = stacked(encoder, 5, 2)

    tokens = build(f"quarters/{plugin.weights}[norm=true]", "sequence").train()(values, mask)
    encoder(values, mask)

    real = values[mask].float().mean(1, keepdim=True)
    frames = torch.nn.functional.adaptive_avg_pool2d(real, 2).flatten(1) / 255
    torch.testing.assert_close(encoder.image.norm.running_mean, 0.1 * frames.mean(dim=0))
    torch.testing.assert_close(tokens.tensor[mask].mean(dim=0), torch.zeros(4), atol=1e-5, rtol=0)
    assert not tokens.tensor[~mask].any()


def test_the_image_encoder_fits_on_the_real_frames_of_training():
    encoder = build("cnn")
    values, mask = stacked(encoder, 4, 1)
    values[~mask] = 255

    encoder.fit(values, mask)

    assert encoder.image.scale.standardise.mean.item() == pytest.approx(values[mask].double().mean().item(), rel=1e-6)


def test_the_key_changes_with_what_is_inside_and_not_with_where_it_lies(plugin, tmp_path):
    first = identity(plugin.registry, f"frames/quarters:{plugin.weights}[tuning=frozen]")
    (tmp_path / "moved").write_text("abc")

    assert identity(plugin.registry, f"frames/quarters:{tmp_path / 'moved'}[tuning=frozen]") == first
    for other in (f"quarters:{tmp_path / 'other'}", f"quarters/{plugin.weights}[norm=true]"):
        assert identity(plugin.registry, f"frames/{other}[tuning=frozen]") != first
    assert identity(plugin.registry, f"frames/quarters:{plugin.weights}[tuning=finetune]") != first
    assert "target" not in first


def test_a_new_version_of_the_image_encoder_changes_the_key_of_scratch_too(plugin, monkeypatch):
    before = identity(plugin.registry, "frames/cnn")
    entries = {entry.spec.name: entry for entry in plugin.registry.entries("encoder") if "image" in entry.spec.kinds}
    monkeypatch.setattr(type(entries["cnn"]), "version", "2")

    assert identity(plugin.registry, "frames/cnn")["fingerprint"] != before["fingerprint"]


def test_a_frozen_one_reads_the_dataset_once_for_all_fusions_and_seeds(plugin, tmp_path):
    config = load_config(
        {
            "dataset": ["moving"],
            "encoder": ["tabular=mlp", f"video=frames/quarters/{plugin.weights}[tuning=frozen]"],
            "fusion": ["concat", "late-transformer"], "seeds": 2, "device": "cpu", "protocol": "none",
            "diagnostics": "none", "train": {"epochs": 1},
        }
    )  # fmt: skip
    runtime = local_runtime(config, cache=tmp_path / "cache", data=tmp_path / "data", jobs=1)
    cells = [cell for cell in make_plan(config, plugin.registry, runtime=runtime).cells() if cell.role == "cell"]
    layouts = set()
    for number, cell in enumerate(cells):
        (tmp_path / str(number)).mkdir()
        result = run_cell(json.loads(json.dumps(cell.payload())), tmp_path / str(number))
        layouts.add(result["info"]["layouts"]["video"])
        assert result["info"]["stored_features"] == ["video"]

    encoded = sum(map(int, plugin.path.with_suffix(".log").read_text().split()))
    assert len(cells) == 4
    # 1,400 videos of 8 frames, once as vectors and once as sequences where a fusion takes those.
    assert encoded == 1400 * 8 * len(layouts)


def test_under_adapters_the_weights_over_time_are_trained_and_the_pretrained_ones_are_not(plugin):
    encoder = build(f"quarters/{plugin.weights}", tuning="adapter", pool="lstm")
    options = {"lr_factor": 1.0, "lora_rank": 2, "lora_alpha": 4.0}
    apply_tuning(encoder, {"ref": "frames", "tuning": "adapter", "tuning_options": options})

    trained = {name.split(".")[0] for name, value in encoder.named_parameters() if value.requires_grad}
    pretrained = {
        name for name, value in encoder.named_parameters() if "lora_" not in name and name.startswith("image.")
    }
    assert trained == {"image", "over_time"}
    assert not any(value.requires_grad for name, value in encoder.named_parameters() if name in pretrained)
    assert all(value.requires_grad for name, value in encoder.named_parameters() if name.startswith("over_time."))


@pytest.mark.parametrize(
    ("target", "tuning", "pool", "message"),
    [
        ("cnm", "scratch", "mean", "no encoder is named 'cnm'. Did you mean 'cnn'?"),
        ("bag-of-embeddings", "scratch", "mean", "takes text, not image"),
        ("cnn", "frozen", "mean", "frames/cnn cannot have tuning=frozen: the image encoder 'cnn' has scratch"),
        ("cnn", "frozen", "lstm", "pool=lstm would keep its random weights; use pool=mean, or a fusion over sequences"),
        ("timm/resnet18[tuning=frozen]", "frozen", "mean", "so write frames/timm/resnet18[…][tuning=…]"),
        ("cnn[augment=crop]", "scratch", "mean", "augment belongs to frames, so write frames/cnn[…][augment=…]"),
        ("cnn[widht=3]", "scratch", "mean", "encoder 'cnn' has no option 'widht'"),
    ],
)  # fmt: skip
def test_an_image_encoder_that_cannot_be_is_refused_while_planning(target, tuning, pool, message):
    with pytest.raises(UsageError) as caught:
        describe(target, tuning=tuning, pool=pool)

    assert message in str(caught.value)


def test_weights_that_are_not_there_make_the_cell_unavailable_with_the_inner_reason(plugin, tmp_path):
    text = f"frames/quarters:{tmp_path / 'nowhere'}[tuning=frozen]"

    part = make_part(plugin.registry, plugin.registry.resolve("encoder", text, kind="video"))

    assert part.unavailable == f"mmbench-video/frames: there are no weights at {tmp_path / 'nowhere'}"
    with pytest.raises(Unavailable, match="there are no weights"):
        describe(f"quarters:{tmp_path / 'nowhere'}", tuning="finetune", pool="lstm")


def test_prepare_fetches_what_the_image_encoder_wants(plugin):
    assert [asset.url for asset in prepare(f"quarters:{plugin.weights}", tuning="frozen")] == ["hf:someone/quarters"]
    assert prepare("cnn", tuning="scratch") == ()
