"""Building models of the transformers library for encoders: from a folder, offline, in float32, nothing left to chance.

The library is imported inside the functions: mmbench itself does not need it, the plugins that call them do.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from mmbench.blocks import check_range
from mmbench.errors import Unavailable
from mmbench.weights import WeightFolder

#: Last parts of the names of attention's projections to queries and values (or of the one that makes all three), as
#: the libraries call them. LoRA adapts these: Hu et al. 2021, arXiv:2106.09685, section 4.2.
_PROJECTIONS = frozenset(
    {
        "query", "value", "query_proj", "value_proj", "q_proj", "v_proj", "q_lin", "v_lin", "q", "v",
        "qkv", "qkv_proj", "query_key_value", "Wqkv", "c_attn", "in_proj",
    }
)  # fmt: skip


def load_config(folder: WeightFolder) -> Any:
    """Return the library's config object of a folder.

    Raises:
        Unavailable: there is none that can be read, it asks for code of its own, or the library does not know it.
    """
    model_type = folder.config().get("model_type")
    import transformers

    if not isinstance(model_type, str) or model_type not in transformers.models.auto.configuration_auto.CONFIG_MAPPING:
        raise Unavailable(
            f"{folder.path / 'config.json'} has model_type {model_type!r}, which transformers "
            f"{transformers.__version__} does not know; a newer transformers may"
        )
    try:
        return transformers.AutoConfig.from_pretrained(folder.path, local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise Unavailable(
            f"{folder.path / 'config.json'} cannot be read as a config of {model_type}: {error}"
        ) from None


def build(model_class: Any, config: Any, folder: WeightFolder, tuning: str, *, needed: str = "") -> nn.Module:
    """Return a model of the library in float32, with the folder's weights or, for "scratch", with fresh ones.

    Args:
        model_class: A class of the library.
        config: What it is built by.
        folder: Where the weights are.
        tuning: "scratch", or anything else for the folder's weights.
        needed: Only the parameters whose name begins so have to be in the folder; the caller uses no others.

    Raises:
        Unavailable: the folder's weights are not there, damaged, or do not fit the model.
    """
    with _quiet():
        if tuning == "scratch":
            fresh: nn.Module = model_class(config).float()
            return fresh
        folder.weights()
        try:
            model, loaded = model_class.from_pretrained(
                folder.path,
                config=config,
                dtype=torch.float32,
                local_files_only=True,
                ignore_mismatched_sizes=True,  # so that they are listed below
                output_loading_info=True,
            )
        except Exception as error:  # a damaged or hostile file raises whatever its reader happens to
            raise Unavailable(f"the weights in {folder.path} cannot be loaded: {error}") from error
    wrong = sorted(
        key
        for key in {*loaded["missing_keys"], *(item[0] for item in loaded["mismatched_keys"])}
        if key.startswith(needed) and not _is_pooler(key)
    )
    if wrong:
        raise Unavailable(
            f"the weights in {folder.path} do not fit {model_class.__name__}: {len(wrong)} tensors are missing or "
            f"have another shape, the first is {wrong[0]!r}"
        )
    pretrained: nn.Module = model.float()
    return pretrained


def drop_pooler(model: nn.Module) -> None:
    """Take away the dense layer over the first token that pretraining ended with, or that was never trained at all."""
    pooler = getattr(model, "pooler", None)
    if isinstance(pooler, nn.Module) and any(True for _ in pooler.parameters()):
        model.register_module("pooler", None)


def plain_linears(model: nn.Module) -> None:
    """Put `nn.Linear` in place of GPT-2's transposed layers, which are the same and which adapters do not know."""
    from transformers.pytorch_utils import Conv1D

    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, Conv1D):
                num_inputs, num_outputs = child.weight.shape
                linear = nn.Linear(num_inputs, num_outputs, device=child.weight.device, dtype=child.weight.dtype)
                with torch.no_grad():
                    linear.weight.copy_(child.weight.T)
                    linear.bias.copy_(child.bias)
                setattr(parent, name, linear)


def attention_projections(module: nn.Module) -> tuple[str, ...]:
    """Return the last parts of the names of all projections to queries and values: what LoRA adapts by default.

    >>> attention_projections(nn.ModuleDict({"q_proj": nn.Linear(2, 2), "mlp": nn.Linear(2, 2)}))
    ('q_proj',)
    """
    found = set()
    for name, child in module.named_modules():
        last = name.rpartition(".")[2]
        weight = getattr(child, "weight", None)
        if last in _PROJECTIONS and isinstance(weight, nn.Parameter) and weight.dim() == 2:
            found.add(last)
    return tuple(sorted(found))


def spread_layers(num_layers: int, wanted: int) -> tuple[int, ...]:
    """Return `wanted` of the layers 1 … `num_layers`, evenly spread, the last one among them.

    Raises:
        UsageError: fewer than one are wanted, or more than there are.

    >>> spread_layers(12, 3)
    (4, 8, 12)
    """
    check_range("stages", wanted, 1, num_layers)
    return tuple(round(num_layers * (place + 1) / wanted) for place in range(wanted))


def _is_pooler(key: str) -> bool:
    return key.startswith("pooler.") or ".pooler." in key


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the library's progress bars and reports out of the log; what matters in them is raised."""
    from transformers.utils import logging

    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()
