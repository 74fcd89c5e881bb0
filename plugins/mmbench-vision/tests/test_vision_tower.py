"""Image towers of the transformers library give what the library gives, over the pixels that its processor makes."""

from __future__ import annotations

import json
import shutil
import socket

import numpy as np
import pytest
import torch

from mmbench import Modality
from mmbench.columns import transform_key
from mmbench.errors import Unavailable, UsageError
from mmbench.testing import check

transformers = pytest.importorskip("transformers", reason="transformers is not installed")

from mmbench_vision import tower_files  # noqa: E402
from mmbench_vision.tower import TransformerImage  # noqa: E402  (imports what may be absent)

SMALL = {
    "hidden_size": 32,
    "num_hidden_layers": 4,
    "num_attention_heads": 2,
    "intermediate_size": 48,
    "image_size": 32,
    "patch_size": 8,
}
TEXT = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 48, "vocab_size": 99}
SQUARE = {"height": 32, "width": 32}


@pytest.fixture(autouse=True)
def quiet_and_own(tmp_path, monkeypatch):
    torch.set_num_threads(1)
    torch.manual_seed(0)
    transformers.logging.set_verbosity_error()
    monkeypatch.setenv("MMBENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))


def clip():
    config = transformers.CLIPConfig(vision_config=SMALL, text_config=TEXT)
    processor = transformers.CLIPImageProcessor(size={"shortest_edge": 32}, crop_size=SQUARE)
    return transformers.CLIPModel(config), processor


def siglip():
    config = transformers.SiglipConfig(vision_config=SMALL, text_config=TEXT)
    return transformers.SiglipModel(config), transformers.SiglipImageProcessor(size=SQUARE)


def vit():
    return transformers.ViTModel(transformers.ViTConfig(**SMALL)), transformers.ViTImageProcessor(size=SQUARE)


def dinov2():
    processor = transformers.BitImageProcessor(size={"shortest_edge": 36}, crop_size=SQUARE)
    return transformers.Dinov2Model(transformers.Dinov2Config(**SMALL)), processor


def dinov2_with_registers():
    processor = transformers.BitImageProcessor(size={"shortest_edge": 36}, crop_size=SQUARE)
    config = transformers.Dinov2WithRegistersConfig(**SMALL)
    return transformers.Dinov2WithRegistersModel(config), processor


def deit():
    processor = transformers.DeiTImageProcessor(size={"height": 36, "width": 36}, crop_size=SQUARE)
    return transformers.DeiTModel(transformers.DeiTConfig(**SMALL)), processor


def convnext():
    config = transformers.ConvNextConfig(hidden_sizes=[8, 16, 24, 32], depths=[1, 1, 1, 1])
    return transformers.ConvNextModel(config), transformers.ConvNextImageProcessor(size={"shortest_edge": 64})


FAMILIES = {make.__name__: make for make in (clip, siglip, vit, dinov2, dinov2_with_registers, deit, convnext)}
#: Tokens before those of the patches: class, distillation, registers.
PREFIX = {"clip": 1, "siglip": 0, "vit": 1, "dinov2": 1, "dinov2_with_registers": 5, "deit": 2}


def save(tmp_path, family):
    model, processor = FAMILIES[family]()
    folder = tmp_path / family
    model.eval().save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder, getattr(model, "vision_model", model), processor


def build(folder, layout="vector", *, channels=3, tuning="frozen", pooling="auto", stages=2):
    modality = Modality(name="photo", kind="image", facts={"channels": channels, "size": [50, 70]})
    return TransformerImage(modality, layout, target=str(folder), tuning=tuning, pooling=pooling, stages=stages).eval()


def picture(channels=3, height=50, width=70):
    return np.random.default_rng(0).integers(0, 256, (channels, height, width), dtype=np.uint8)


def encode(encoder, image):
    return encoder(torch.from_numpy(encoder.transform(image)).unsqueeze(0))


def given_to(processor, image):
    return processor(torch.from_numpy(image), input_data_format="channels_first", return_tensors="pt")["pixel_values"]


@torch.no_grad()
@pytest.mark.parametrize("family", FAMILIES)
def test_a_vector_is_what_the_family_pools_to(tmp_path, family):
    folder, model, processor = save(tmp_path, family)

    vector = encode(build(folder), picture()).values

    expected = model(pixel_values=given_to(processor, picture()))
    # ViT's and DeiT's poolers are dense layers that most checkpoints lack.
    pooled = expected.last_hidden_state[:, 0] if family in ("vit", "deit") else expected.pooler_output.flatten(1)
    torch.testing.assert_close(vector, pooled, atol=1e-5, rtol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("family", PREFIX)
def test_a_sequence_is_the_patches_without_the_tokens_before_them(tmp_path, family):
    folder, model, processor = save(tmp_path, family)

    tokens = encode(build(folder, "sequence"), picture()).values

    expected = model(pixel_values=given_to(processor, picture())).last_hidden_state[:, PREFIX[family] :]
    assert tokens.shape == (1, 16, 32)
    torch.testing.assert_close(tokens, expected, atol=1e-5, rtol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("family", PREFIX)
def test_a_pyramid_ends_with_the_sequence_and_begins_with_an_earlier_layer(tmp_path, family):
    folder, model, processor = save(tmp_path, family)

    early, last = encode(build(folder, "pyramid"), picture()).values

    hidden = model(pixel_values=given_to(processor, picture()), output_hidden_states=True).hidden_states
    torch.testing.assert_close(early, hidden[2][:, PREFIX[family] :], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(last, encode(build(folder, "sequence"), picture()).values)


@torch.no_grad()
def test_other_poolings_can_be_asked_for(tmp_path):
    folder, model, processor = save(tmp_path, "clip")
    last = model(pixel_values=given_to(processor, picture())).last_hidden_state

    torch.testing.assert_close(encode(build(folder, pooling="cls"), picture()).values, last[:, 0])
    torch.testing.assert_close(encode(build(folder, pooling="mean"), picture()).values, last[:, 1:].mean(dim=1))
    with pytest.raises(UsageError, match="must be one of auto, cls, mean; got 'max'"):
        build(folder, pooling="max")


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(("height", "width"), [(1, 1), (3, 100), (90, 40)])
def test_images_of_any_size_become_bytes_of_one_size(tmp_path, family, height, width):
    folder, _, processor = save(tmp_path, family)
    encoder = build(folder)

    made = encoder.transform(picture(3, height, width))

    assert made.dtype == np.uint8
    assert made.shape == encoder.transform(picture()).shape
    normalised = (torch.from_numpy(made).float() - encoder.mean) / encoder.std
    torch.testing.assert_close(normalised, given_to(processor, picture(3, height, width)), atol=1e-5, rtol=0)


@torch.no_grad()
def test_a_grey_image_is_given_three_times(tmp_path):
    folder, _, _ = save(tmp_path, "clip")
    grey = picture(1)

    assert build(folder, channels=1).transform(grey).shape == (1, 32, 32)
    torch.testing.assert_close(
        encode(build(folder, channels=1), grey).values, encode(build(folder), np.repeat(grey, 3, axis=0)).values
    )


def test_the_cache_key_follows_the_processor_and_not_the_folder(tmp_path):
    folder, _, _ = save(tmp_path, "vit")
    moved, changed = (shutil.copytree(folder, tmp_path / name) for name in ("moved", "changed"))
    settings = json.loads((changed / "preprocessor_config.json").read_text())
    (changed / "preprocessor_config.json").write_text(json.dumps({**settings, "resample": 3}))

    key, same, other = (transform_key(build(path), fallback="") for path in (folder, moved, changed))

    assert key == same != other
    assert str(tmp_path) not in key


def test_what_cannot_be_used_says_why(tmp_path):
    folder, _, _ = save(tmp_path, "convnext")
    with pytest.raises(Unavailable, match="type 'convnext' give no pyramid here; timm's do"):
        build(folder, "pyramid")
    (folder / "preprocessor_config.json").unlink()
    with pytest.raises(Unavailable, match=r"has no preprocessor_config\.json"):
        build(folder)
    transformers.BertModel(transformers.BertConfig(**TEXT)).save_pretrained(tmp_path / "bert")
    with pytest.raises(Unavailable, match="'bert', which is no image tower"):
        build(tmp_path / "bert")


def test_neither_planning_nor_building_asks_the_network(monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("the network was asked")

    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    for ask in (tower_files.WEIGHTS.describe, lambda target, **_: build(target)):
        with pytest.raises(
            Unavailable, match="run `mmbench prepare -e image=transformers/openai/clip-vit-base-patch32`"
        ):
            ask("openai/clip-vit-base-patch32", tuning="frozen")


@pytest.mark.slow
@pytest.mark.parametrize("family", ["clip", "siglip", "vit", "dinov2"])
def test_it_conforms_as_mmbench_check_says(tmp_path, family):
    folder, _, _ = save(tmp_path, family)

    results = list(check(f"encoder:mmbench-vision/transformers:{folder}", level="smoke"))

    assert len(results) > 20
    assert [(result.check, result.found) for result in results if result.status == "fail"] == []
