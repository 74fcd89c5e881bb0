"""`timm`: any image model of the timm library, with weights from a folder, from the hub's cache, or fresh ones."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from inspect import signature
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from mmbench import Features, Modality
from mmbench.blocks import check_range
from mmbench.errors import Unavailable, UsageError, did_you_mean
from mmbench.pretrained import attention_projections
from mmbench.spec import Layout
from mmbench_vision.timm_files import HUB, LOCAL, architecture, find
from mmbench_vision.timm_presets import target_of
from mmbench_vision.timm_transform import TimmPixels

#: Of the options that timm's functions take as keywords, those that decide what is loaded or returned.
_LOADER_OPTIONS = ("checkpoint_path", "features_only", "feature_cls", "out_indices", "device", "dtype", "pruned")


class TimmImage(nn.Module):
    """An image model without its classifier.

    A vector is what the model's own classifier would read; a sequence has one token per patch or per position of the
    last feature map, without class or register tokens; a pyramid has the last `stages` stages (blocks, for a
    transformer), each a sequence.

    Images are resized and cropped as the weights' own data config says and normalised by its mean and deviation. Grey
    images are kept grey on the way and given three times to pretrained weights; fresh weights have one channel then.

    Source: Wightman 2019, doi:10.5281/zenodo.4414861; each architecture has its own paper.

    Args:
        target: ``NAME``, ``NAME.TAG``, ``local-dir:PATH`` or ``hf-hub:ORGANISATION/NAME``.
        tuning: "scratch" for fresh weights, anything else for the pretrained ones.
        size: Side of the square that images become, in pixels; 0 takes the model's own.
        stages: How many stages a pyramid has.

    Shapes: uint8 (B, C, H, W) -> (B, D), (B, T, D), or `stages` of (B, T_i, D_i).

    Raises:
        Unavailable: the weights are not there or cannot be used.
        UsageError: timm has no such model, or an option is out of range.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, modality: Modality, layout: Layout, *, target: str, tuning: str, size: int, stages: int) -> None:
        super().__init__()
        check_range("size", size, 0)
        check_range("stages", stages, 1)
        self.layout = layout
        grey = modality.facts["channels"] == 1
        channels = 1 if grey and tuning == "scratch" else 3
        self.model = _create(target, tuning, channels, size, stages if layout == "pyramid" else 0)
        config = _data_config(self.model, size)
        mean, std = (_for_channels(config[name], channels) for name in ("mean", "std"))
        self.register_buffer("mean", torch.tensor(mean).view(1, -1, 1, 1) * 255)
        self.register_buffer("std", torch.tensor(std).view(1, -1, 1, 1) * 255)
        self.transform = TimmPixels(
            size=(config["input_size"][1], config["input_size"][2]),
            channels=1 if grey else 3,
            interpolation=config["interpolation"],
            crop_pct=config["crop_pct"],
            crop_mode=config["crop_mode"],
            fill=_for_channels(config["mean"], 1 if grey else 3),
        )
        self.feature_dim = _width(self.model, layout)
        self.adapter_targets = attention_projections(self.model)

    def forward(self, values: Tensor, mask: Tensor | None = None) -> Features:
        pixels = (values.to(self.mean.dtype) - self.mean) / self.std  # grey is repeated over the channels here
        if self.layout == "vector":
            return Features(self.model(pixels))
        if self.layout == "sequence":
            return Features(self._tokens(self.model.forward_features(pixels)))
        return Features(tuple(stage.flatten(2).transpose(1, 2) for stage in self._stages(pixels)))

    def _tokens(self, last: Tensor) -> Tensor:
        """Bring what the model's body gives to (B, T, D), without class and register tokens."""
        if last.dim() == 4:
            return last.flatten(1, 2) if _channels_last(self.model) else last.flatten(2).transpose(1, 2)
        return last[:, getattr(self.model, "num_prefix_tokens", 0) :]

    def _stages(self, pixels: Tensor) -> list[Tensor]:
        """Return the feature maps of the chosen stages, each (B, D_i, H_i, W_i)."""
        maps: list[Tensor] = self.model(pixels)
        return [stage.permute(0, 3, 1, 2) if _channels_last(self.model) else stage for stage in maps]


def __getattr__(name: str) -> Any:
    """Return the factory of a preset, by its name in Python: `vit_tiny_patch16`."""
    target = target_of(name)
    if target is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

    def preset(modality: Modality, layout: Layout, *, tuning: str, size: int, stages: int) -> TimmImage:
        return TimmImage(modality, layout, target=target, tuning=tuning, size=size, stages=stages)

    return preset


def _create(target: str, tuning: str, channels: int, size: int, stages: int) -> nn.Module:
    """Return the model without its classifier, or as a list of its last stages where `stages` is not 0."""
    import timm

    given: dict[str, Any] = {"in_chans": channels}
    name = target
    if tuning != "scratch" or target.startswith((LOCAL, *HUB)):
        folder = find(target)
        config, name = folder.config(), architecture(folder)
        given["pretrained_cfg"] = _pretrained_config(config)
        given = {**_architecture_options(config), **given}
        if tuning != "scratch":
            files = folder.weights()
            if len(files) > 1:
                raise Unavailable(f"{folder.path} holds weights in {len(files)} files; timm reads one")
            given["pretrained_cfg_overlay"] = {"state_dict": _state_dict(target, files[0])}
    elif "." in target:
        name = target.partition(".")[0]
    if not timm.is_model(name):
        hint = did_you_mean(name, timm.list_models())
        raise UsageError(f"timm {timm.__version__} has no model named {name!r}.{hint}")
    if size and _fixed_size(name, given):
        given["img_size"] = size
    given["num_classes"] = 0
    if stages:
        given.update(features_only=True, out_indices=tuple(range(-stages, 0)))
    try:
        with _noting_missing() as missing:
            model: nn.Module = timm.create_model(name, pretrained=tuning != "scratch", **given)
    except Exception as error:  # a damaged or hostile file raises whatever its reader happens to
        if tuning == "scratch":
            raise UsageError(f"timm cannot build {target!r} with these options: {error}") from error
        raise Unavailable(f"the weights of {target!r} cannot be loaded into it: {error}") from error
    if missing:
        raise Unavailable(
            f"the weights of {target!r} lack {len(missing)} tensors of {name}, the first is {missing[0]!r}"
        )
    model.pretrained_cfg.pop("state_dict", None)  # timm keeps a second copy of all tensors there
    return model


def _state_dict(target: str, file: Path) -> dict[str, Tensor]:
    """Return the tensors of a weight file; a pickle is read as tensors only, whatever timm's own reader would do.

    Raises:
        Unavailable: the file cannot be read so, or holds anything else.
    """
    from timm.models import clean_state_dict

    try:
        if file.suffix == ".safetensors":
            content: Any = load_file(file)
        else:
            content = torch.load(file, map_location="cpu", weights_only=True)
    except UnpicklingError as error:  # torch's own words advise to read the file as code
        raise Unavailable(
            f"the weights of {target!r} cannot be read from {file}: it is damaged or holds more than tensors; "
            "use the same weights as safetensors"
        ) from error
    except Exception as error:  # a damaged or hostile file raises whatever its reader happens to
        raise Unavailable(f"the weights of {target!r} cannot be read from {file}: {error}") from error
    for key in ("state_dict_ema", "model_ema", "state_dict", "model"):  # training checkpoints, as timm writes them
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
            break
    if not isinstance(content, dict) or not content or not all(isinstance(item, Tensor) for item in content.values()):
        raise Unavailable(f"the weights of {target!r} cannot be read from {file}: it holds no mapping of tensors")
    return clean_state_dict(content)


def _architecture_options(config: dict[str, Any]) -> dict[str, Any]:
    """Return the ``model_args`` of a folder's config without those that say what timm loads, and from where."""
    from timm.models import build_model_with_cfg, create_model

    options = config.get("model_args") or {}
    if not isinstance(options, dict):
        raise Unavailable("the model_args of the weights' config.json are no JSON object")
    loader = {*signature(create_model).parameters, *signature(build_model_with_cfg).parameters, *_LOADER_OPTIONS}
    return {name: value for name, value in options.items() if name not in loader}


@contextmanager
def _noting_missing() -> Iterator[list[str]]:
    """Collect the names of the parameters that a checkpoint lacks, of which timm only writes a line to its log."""
    logger = logging.getLogger("timm.models._builder")
    missing: list[str] = []

    def note(record: logging.LogRecord) -> bool:
        found = re.match(r"Missing keys \((.*?)\)", record.getMessage())
        missing.extend(found.group(1).split(", ") if found else ())
        return False

    level = logger.level
    logger.addFilter(note)
    logger.setLevel(logging.INFO)
    try:
        yield missing
    finally:
        logger.setLevel(level)
        logger.removeFilter(note)


def _pretrained_config(config: dict[str, Any]) -> dict[str, Any]:
    """Return what a folder's config says of its weights, in the names of timm's `PretrainedCfg`."""
    import dataclasses

    from timm.models import PretrainedCfg

    said = dict(config.get("pretrained_cfg") or config)
    for name in ("num_classes", "label_names", "label_descriptions"):
        if name in config:
            said.setdefault(name, config[name])
    said["architecture"] = config["architecture"]
    if "labels" in said:
        said["label_names"] = said.pop("labels")
    known = {item.name for item in dataclasses.fields(PretrainedCfg)}
    # Where the weights come from is decided here, and never a matter of the network.
    sources = {"url", "file", "state_dict", "hf_hub_id", "hf_hub_filename", "source", "custom_load"}
    return {name: value for name, value in said.items() if name in known - sources}


def _fixed_size(name: str, given: dict[str, Any]) -> bool:
    """Whether the architecture is built for one size of image, so that another has to be asked for."""
    import timm

    config = timm.get_pretrained_cfg(name, allow_unregistered=True)
    own = given.get("pretrained_cfg", {}).get("fixed_input_size")
    return bool(own if own is not None else getattr(config, "fixed_input_size", False))


def _data_config(model: nn.Module, size: int) -> dict[str, Any]:
    import timm.data

    override = {"input_size": (3, size, size)} if size else {}
    config: dict[str, Any] = timm.data.resolve_data_config(override, pretrained_cfg=model.pretrained_cfg, verbose=False)
    return config


def _for_channels(levels: tuple[float, ...], channels: int) -> tuple[float, ...]:
    """Return one level per channel: the mean over colours where there is only grey."""
    if channels == len(levels):
        return tuple(levels)
    return (sum(levels) / len(levels),) * channels


def _width(model: nn.Module, layout: Layout) -> int | tuple[int, ...]:
    if layout == "pyramid":
        return tuple(model.feature_info.channels())
    if layout == "sequence":
        return int(model.num_features)
    return int(getattr(model, "head_hidden_size", model.num_features))


def _channels_last(model: nn.Module) -> bool:
    return str(getattr(model, "output_fmt", "NCHW")).upper().endswith("NHWC")
