"""timm's models give what timm gives, over the pixels that timm's own transform makes, and use no network."""

from __future__ import annotations

import json
import socket
from pathlib import Path

import numpy as np
import pytest
import torch

from mmbench import Features, Modality
from mmbench.errors import Unavailable, UsageError
from mmbench.part_code import load_attribute
from mmbench.testing import check

timm = pytest.importorskip("timm", reason="timm is not installed")

from mmbench_vision import timm_files, timm_presets  # noqa: E402
from mmbench_vision.timm_model import TimmImage  # noqa: E402  (imports what may be absent)

SHARED = Path(__file__).parents[4] / "shared" / "weights"
SMALL = {"resnet10t": 64, "vit_tiny_patch16_224": 32, "mobilenetv3_small_050": 64}


@pytest.fixture(autouse=True)
def own_caches(tmp_path, monkeypatch):
    torch.set_num_threads(1)
    torch.manual_seed(0)
    monkeypatch.setenv("MMBENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)


@pytest.fixture
def no_network(monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("the network was asked")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


def save(folder, name="resnet10t", *, size=64, **config):
    """Save a model with fresh weights as timm writes them for the hub; return it."""
    given = {"img_size": size} if name.startswith("vit") else {}
    model = timm.create_model(name, num_classes=7, **given).eval()
    for module in model.modules():  # running statistics that are not those of a fresh model
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
    model.pretrained_cfg = {**model.pretrained_cfg, "input_size": (3, size, size), **config}
    timm.models.save_for_hf(model, folder, safe_serialization=True)
    return model


def build(target, layout="vector", *, channels=3, tuning="frozen", size=0, stages=3):
    modality = Modality(name="photo", kind="image", facts={"channels": channels, "size": [50, 70]})
    return TimmImage(modality, layout, target=target, tuning=tuning, size=size, stages=stages).eval()


def picture(channels=3, height=50, width=70):
    return np.random.default_rng(0).integers(0, 256, (channels, height, width), dtype=np.uint8)


def pixels(encoder, *images):
    return torch.from_numpy(np.stack([encoder.transform(image) for image in images]))


def reference(model, image):
    """The image as timm itself prepares it for this model: float (1, 3, H, W)."""
    from PIL import Image

    config = timm.data.resolve_model_data_config(model)
    prepare = timm.data.create_transform(**config, is_training=False)
    return prepare(Image.fromarray(image.transpose(1, 2, 0))).unsqueeze(0)


@torch.no_grad()
@pytest.mark.parametrize("name", SMALL)
def test_a_vector_is_what_the_models_own_classifier_reads(tmp_path, name):
    model = save(tmp_path / "model", name, size=SMALL[name])
    encoder = build(f"local-dir:{tmp_path / 'model'}")

    given = encoder(pixels(encoder, picture()))

    expected = model.forward_head(model.forward_features(reference(model, picture())), pre_logits=True)
    assert isinstance(given, Features)
    assert given.values.shape == (1, encoder.feature_dim)
    torch.testing.assert_close(given.values, expected, atol=1e-5, rtol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("name", SMALL)
def test_a_sequence_is_the_last_feature_map_or_the_patches(tmp_path, name):
    model = save(tmp_path / "model", name, size=SMALL[name])
    encoder = build(f"local-dir:{tmp_path / 'model'}", "sequence")

    given = encoder(pixels(encoder, picture())).values

    last = model.forward_features(reference(model, picture()))
    expected = last[:, 1:] if last.dim() == 3 else last.flatten(2).transpose(1, 2)  # the ViT has one class token
    torch.testing.assert_close(given, expected, atol=1e-5, rtol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("name", SMALL)
def test_a_pyramid_is_the_last_stages(tmp_path, name):
    model = save(tmp_path / "model", name, size=SMALL[name])
    encoder = build(f"local-dir:{tmp_path / 'model'}", "pyramid", stages=2)

    given = encoder(pixels(encoder, picture()))

    stages = model.forward_intermediates(reference(model, picture()), indices=2, intermediates_only=True, norm=False)
    assert encoder.feature_dim == tuple(stage.shape[1] for stage in stages)
    for value, stage in zip(given.values, stages):
        torch.testing.assert_close(value, stage.flatten(2).transpose(1, 2), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("config", [{"crop_mode": "border"}, {"crop_mode": "squash"}, {"interpolation": "bilinear"}])
@pytest.mark.parametrize(("height", "width"), [(50, 70), (1, 1), (3, 200), (300, 90)])
def test_pixels_are_bytes_of_timms_own_transform(tmp_path, config, height, width):
    model = save(tmp_path / "model", crop_pct=0.9, mean=(0.5, 0.4, 0.3), **config)
    encoder = build(f"local-dir:{tmp_path / 'model'}")
    image = picture(3, height, width)

    made = encoder.transform(image)

    assert (made.dtype, made.shape) == (np.uint8, (3, 64, 64))
    normalised = (torch.from_numpy(made).float() - encoder.mean) / encoder.std
    torch.testing.assert_close(normalised, reference(model, image), atol=1e-5, rtol=0)


@torch.no_grad()
def test_a_grey_image_is_given_three_times(tmp_path):
    save(tmp_path / "model")
    grey = picture(1)
    small, full = (build(f"local-dir:{tmp_path / 'model'}", channels=channels) for channels in (1, 3))

    assert small.transform(grey).shape == (1, 64, 64)
    torch.testing.assert_close(
        small(pixels(small, grey)).values, full(pixels(full, np.repeat(grey, 3, axis=0))).values, atol=1e-5, rtol=0
    )


@torch.no_grad()
@pytest.mark.parametrize("layout", ["vector", "sequence", "pyramid"])
def test_fresh_weights_need_no_file_and_take_any_size_and_channels(layout, no_network):
    for name, side, channels in (("resnet10t", 33, 1), ("vit_tiny_patch16_224", 48, 3)):
        encoder = build(name, layout, channels=channels, tuning="scratch", size=side)

        given = encoder(pixels(encoder, picture(channels), picture(channels, 9, 31)))

        assert encoder.transform(picture(channels)).shape == (channels, side, side)
        assert given.layout == layout
        assert all(value.isfinite().all() for value in (given.values if layout == "pyramid" else (given.values,)))


def test_another_size_is_taken_by_pretrained_models_too(tmp_path):
    for name in ("resnet10t", "vit_tiny_patch16_224"):
        save(tmp_path / name, name, size=64)
        encoder = build(f"local-dir:{tmp_path / name}", "sequence", size=96)

        assert encoder(pixels(encoder, picture())).values.shape[1] == {"resnet10t": 9}.get(name, 36)


def test_weights_that_lack_a_tensor_are_refused(tmp_path):
    from safetensors.torch import load_file, save_file

    save(tmp_path / "model")
    file = tmp_path / "model" / "model.safetensors"
    tensors = load_file(file)
    del tensors["layer1.0.conv1.weight"]
    save_file(tensors, file)

    with pytest.raises(Unavailable, match=r"lack 1 tensors of resnet10t, the first is 'layer1\.0\.conv1\.weight'"):
        build(f"local-dir:{tmp_path / 'model'}")


class Hostile:
    """A pickle of this makes a file when it is read as code."""

    def __init__(self, file):
        self.file = file

    def __reduce__(self):
        return Path.touch, (self.file,)


def test_weights_in_pytorchs_own_format_are_read_as_tensors_and_never_as_code(tmp_path):
    model = save(tmp_path / "model")
    target = f"local-dir:{tmp_path / 'model'}"
    expected = build(target).model.state_dict()["conv1.0.weight"]
    (tmp_path / "model" / "model.safetensors").unlink()
    torch.save(model.state_dict(), tmp_path / "model" / "pytorch_model.bin")

    torch.testing.assert_close(build(target).model.state_dict()["conv1.0.weight"], expected)
    evil = {**model.state_dict(), "evil": Hostile(tmp_path / "run")}
    torch.save(evil, tmp_path / "model" / "pytorch_model.bin")
    with pytest.raises(Unavailable, match="holds more than tensors"):
        build(target)
    assert not (tmp_path / "run").exists()


def test_weights_of_another_model_are_refused(tmp_path):
    save(tmp_path / "model")
    config = tmp_path / "model" / "config.json"
    config.write_text(config.read_text().replace("resnet10t", "resnet14t"))

    with pytest.raises(Unavailable, match=r"cannot be loaded into it|lack \d+ tensors"):
        build(f"local-dir:{tmp_path / 'model'}")


def test_a_name_that_timm_does_not_have_gets_the_nearest():
    with pytest.raises(UsageError, match=r"has no model named 'resnet19'\. Did you mean .*'resnet18'"):
        build("resnet19", tuning="scratch")


def test_a_folder_of_another_library_is_refused(tmp_path):
    save(tmp_path / "model")
    (tmp_path / "model" / "config.json").write_text(json.dumps({"model_type": "bert"}))

    with pytest.raises(Unavailable, match="names no architecture"):
        timm_files.describe(f"local-dir:{tmp_path / 'model'}", tuning="frozen")


def test_neither_planning_nor_building_asks_the_network(no_network):
    for target in ("resnet18", "resnet18.a1_in1k", "hf-hub:org/model"):
        for ask in (timm_files.describe, lambda target, **_: build(target)):
            with pytest.raises(Unavailable) as caught:
                ask(target, tuning="frozen")
            assert str(caught.value) == (
                f"the weights of timm/{target} are not at hand: run `mmbench prepare -e image=timm/{target}`, "
                "or give a local folder as timm/local-dir:PATH"
            )


def cache(tmp_path, tag, letter):
    repository = tmp_path / "hub" / f"models--timm--resnet10t.{tag}"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(letter * 40)
    save(repository / "snapshots" / (letter * 40))


def test_a_name_without_a_tag_means_the_only_weights_in_the_hubs_cache(tmp_path, no_network):
    cache(tmp_path, "c3_in1k", "a")

    assert timm_files.describe("resnet10t", tuning="frozen").fingerprint == "a" * 40
    assert timm_files.describe("resnet10t.c3_in1k", tuning="frozen").fingerprint == "a" * 40
    assert build("resnet10t").feature_dim == 512
    cache(tmp_path, "other", "b")
    with pytest.raises(UsageError, match=r"several weights .*: resnet10t\.c3_in1k, resnet10t\.other"):
        timm_files.describe("resnet10t", tuning="frozen")


def test_what_to_fetch_is_the_repository_that_timm_names(monkeypatch):
    import huggingface_hub

    def unreachable(*args, **kwargs):
        raise OSError("no route to host")

    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", unreachable)

    (asset,) = timm_files.prepare("resnet18", tuning="frozen")

    assert asset.url == "hf:timm/resnet18.a1_in1k"
    assert timm_files.prepare("resnet18", tuning="scratch") == ()
    with pytest.raises(UsageError, match="no model named 'resnet19'"):
        timm_files.prepare("resnet19", tuning="frozen")


@pytest.mark.skipif(
    not (SHARED / "tf_efficientnet_lite0").is_dir(), reason="timm's tf_efficientnet_lite0 is not in shared/weights"
)
@torch.no_grad()
def test_real_weights_in_half_precision_are_read_as_timm_reads_them():
    folder = SHARED / "tf_efficientnet_lite0"
    encoder = build(f"local-dir:{folder}")
    model = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()

    given = encoder(pixels(encoder, picture())).values

    expected = model.forward_head(model.forward_features(reference(model, picture())), pre_logits=True)
    assert encoder.feature_dim == 1280
    assert given.dtype == torch.float32
    torch.testing.assert_close(given, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    "reference",
    [
        pytest.param("timm/resnet10t[size=32]", marks=pytest.mark.slow),
        pytest.param("timm/vit_tiny_patch16_224[size=32]", marks=pytest.mark.full),
    ],
)
def test_fresh_models_conform_as_mmbench_check_says(reference):
    results = list(check(reference, level="smoke"))

    assert len(results) > 20
    assert [(result.check, result.found) for result in results if result.status == "fail"] == []


def test_every_preset_is_a_model_and_weights_that_timm_knows():
    for target, _, _ in timm_presets.PRESETS.values():
        assert target in timm.list_pretrained()


def test_a_preset_is_the_reference_that_it_stands_for(tmp_path, no_network):
    spec = next(spec for spec in timm_presets.specs() if spec.name == "vit-tiny-patch16")
    modality = Modality(name="photo", kind="image", facts={"channels": 3, "size": [50, 70]})

    encoder = load_attribute(spec.factory)(modality, "vector", tuning="scratch", size=32, stages=3)

    assert encoder.feature_dim == 192
    with pytest.raises(Unavailable, match=r"timm/vit_tiny_patch16_224\.augreg_in21k_ft_in1k are not at hand"):
        load_attribute(spec.describe)(tuning="frozen", size=0, stages=3)
    assert load_attribute(spec.prepare)(tuning="scratch", size=0, stages=3) == ()


class Payload:
    """Touches a file if it is unpickled."""

    def __init__(self, canary):
        self.canary = canary

    def __reduce__(self):
        return (Path.touch, (self.canary,))


@pytest.mark.parametrize("wrapper", [None, "state_dict", "model"])
def test_a_pickled_checkpoint_runs_no_code(tmp_path, monkeypatch, wrapper):
    model = save(tmp_path / "model")
    (tmp_path / "model" / "model.safetensors").unlink()
    tensors = {**model.state_dict(), "payload": Payload(tmp_path / "canary")}
    torch.save({wrapper: tensors} if wrapper else tensors, tmp_path / "model" / "pytorch_model.bin")
    # An older timm reads pickles whole: its reader must not be asked.
    monkeypatch.setattr(
        "timm.models._helpers._torch_load",
        lambda *args, **kwargs: torch.load(args[0], weights_only=False),
        raising=False,
    )

    with pytest.raises(Unavailable, match="cannot be read"):
        build(f"local-dir:{tmp_path / 'model'}")

    assert not (tmp_path / "canary").exists()


@torch.no_grad()
@pytest.mark.parametrize("wrapper", [None, "state_dict", "state_dict_ema"])
def test_a_pickled_checkpoint_of_tensors_gives_what_safetensors_give(tmp_path, wrapper):
    model = save(tmp_path / "model")
    expected = build(f"local-dir:{tmp_path / 'model'}")
    (tmp_path / "model" / "model.safetensors").unlink()
    tensors = {f"module.{name}": value for name, value in model.state_dict().items()}
    torch.save({wrapper: tensors} if wrapper else tensors, tmp_path / "model" / "pytorch_model.bin")

    encoder = build(f"local-dir:{tmp_path / 'model'}")

    values = pixels(encoder, picture())
    torch.testing.assert_close(encoder(values).values, expected(values).values, rtol=0, atol=0)
    assert "state_dict" not in encoder.model.pretrained_cfg


def test_a_checkpoint_that_is_no_mapping_of_tensors_is_refused(tmp_path):
    save(tmp_path / "model")
    (tmp_path / "model" / "model.safetensors").unlink()
    torch.save({"state_dict": {"conv1": "text"}}, tmp_path / "model" / "pytorch_model.bin")

    with pytest.raises(Unavailable, match="holds no mapping of tensors"):
        build(f"local-dir:{tmp_path / 'model'}")


@pytest.mark.parametrize("tuning", ["scratch", "frozen"])
@pytest.mark.parametrize("option", ["checkpoint_path", "pretrained_cfg_overlay"])
def test_weights_named_by_a_folders_model_args_are_refused(tmp_path, tuning, option):
    save(tmp_path / "model")
    torch.save({"payload": Payload(tmp_path / "canary")}, tmp_path / "other.pth")
    config = json.loads((tmp_path / "model" / "config.json").read_text())
    other = str(tmp_path / "other.pth")
    config["model_args"] = {option: {"file": other} if option == "pretrained_cfg_overlay" else other}
    (tmp_path / "model" / "config.json").write_text(json.dumps(config))

    with pytest.raises(Unavailable, match=f"sets {option}"):
        build(f"local-dir:{tmp_path / 'model'}", tuning=tuning)
    with pytest.raises(Unavailable, match=f"sets {option}"):
        timm_files.describe(f"local-dir:{tmp_path / 'model'}", tuning=tuning)

    assert not (tmp_path / "canary").exists()


@torch.no_grad()
def test_of_a_folders_model_args_only_those_of_the_architecture_count(tmp_path):
    save(tmp_path / "model")
    plain = build(f"local-dir:{tmp_path / 'model'}")
    config = json.loads((tmp_path / "model" / "config.json").read_text())
    config["model_args"] = {
        "drop_rate": 0.25, "features_only": True, "cache_dir": "/nowhere", "exportable": True, "feature_cls": "fx",
        "pretrained_strict": False, "url": None,
    }  # fmt: skip
    (tmp_path / "model" / "config.json").write_text(json.dumps(config))

    encoder = build(f"local-dir:{tmp_path / 'model'}")

    assert encoder.model.drop_rate == 0.25
    values = pixels(encoder, picture())
    torch.testing.assert_close(encoder(values).values, plain(values).values, rtol=0, atol=0)
