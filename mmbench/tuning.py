"""How an encoder is trained: whole, not at all, at a rate of its own, or through low-rank adapters."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from mmbench.errors import ContractError, Unavailable
from mmbench.spec import Tuning


@dataclass(frozen=True, kw_only=True)
class EncoderTuning:
    """What a cell does with one encoder's weights.

    Attributes:
        tuning: "scratch" trains everything, "frozen" nothing, "finetune" everything at a rate of its own, "adapter"
            low-rank additions to the linear layers (LoRA; Hu et al. 2021, arXiv:2106.09685).
        lr_factor: Times the learning rate of the rest.
        freeze_epochs: Epochs before the first layer is trained, so that new heads do not disturb old weights.
        gradual: Whether layers join one group an epoch, the last first (Howard & Ruder 2018, arXiv:1801.06146).
    """

    tuning: Tuning = "scratch"
    lr_factor: float = 1.0
    freeze_epochs: int = 0
    gradual: bool = False

    def num_open(self, num_groups: int, epoch: int) -> int:
        """Return how many of an encoder's groups of layers, counted from the last, are trained in an epoch.

        >>> [EncoderTuning(tuning="finetune", freeze_epochs=1, gradual=True).num_open(3, epoch) for epoch in range(5)]
        [0, 1, 2, 3, 3]
        """
        if self.tuning == "frozen" or epoch < self.freeze_epochs:
            return 0
        return min(num_groups, epoch - self.freeze_epochs + 1) if self.gradual else num_groups


def read_tuning(part: Mapping[str, Any]) -> EncoderTuning:
    """Return the tuning of an encoder as a payload describes it."""
    options = part["tuning_options"]
    known = ("lr_factor", "freeze_epochs", "gradual")
    return EncoderTuning(tuning=part["tuning"], **{name: options[name] for name in known if name in options})


def apply_tuning(encoder: nn.Module, part: Mapping[str, Any]) -> None:
    """Freeze an encoder or give it adapters, as its part of the payload asks.

    An encoder may name the layers that adapters go to by ``adapter_targets``, endings of their qualified names; by
    default all linear layers get one, or all convolutions where there is no linear layer. It may name children that no
    pretrained weights exist for by ``fresh_parts``: they are trained whole beside the adapters.

    Raises:
        Unavailable: adapters are asked for and peft is not installed.
        ContractError: the encoder has no layer that an adapter could go to.
    """
    if part["tuning"] == "frozen":
        encoder.requires_grad_(False)
    elif part["tuning"] == "adapter":
        _add_adapters(encoder, part)


def layer_groups(encoder: nn.Module) -> list[list[nn.Parameter]]:
    """Split an encoder's parameters into groups from its first layers to its last.

    The blocks of its longest `nn.ModuleList` or `nn.Sequential` are a group each; what is registered before them
    joins the first, what comes after them the last.
    """
    parameters = list(encoder.parameters())
    chains = [module for module in encoder.modules() if isinstance(module, nn.ModuleList | nn.Sequential)]
    chain = max(chains, key=len, default=None)
    if chain is None:
        return [parameters] if parameters else []
    first_block: dict[int, int] = {}
    for number, block in enumerate(chain):
        for parameter in block.parameters():
            first_block.setdefault(id(parameter), number)
    groups: list[list[nn.Parameter]] = [[] for _ in chain]
    reached = 0
    for parameter in parameters:
        # Registration order tells before from after: what follows the last block belongs to the last group.
        reached = first_block.get(id(parameter), reached)
        groups[reached].append(parameter)
    return [group for group in groups if group]


def _add_adapters(encoder: nn.Module, part: Mapping[str, Any]) -> None:
    if importlib.util.find_spec("peft") is None:
        raise Unavailable(f"{part['ref']} with tuning=adapter needs the package 'peft': pip install peft")
    from peft import LoraConfig, inject_adapter_in_model

    targets = _adapter_targets(encoder)
    if not targets:
        raise ContractError(
            f"encoder {part['ref']} has no linear layer or convolution for an adapter; use tuning=finetune"
        )
    options = part["tuning_options"]
    config = LoraConfig(r=options["lora_rank"], lora_alpha=options["lora_alpha"], target_modules=targets)
    inject_adapter_in_model(config, encoder)
    fresh = tuple(getattr(encoder, "fresh_parts", ()))
    for name, parameter in encoder.named_parameters():
        parameter.requires_grad_("lora_" in name or name.partition(".")[0] in fresh)


def _adapter_targets(encoder: nn.Module) -> list[str]:
    named = dict(encoder.named_modules())
    endings = getattr(encoder, "adapter_targets", ())
    # A depthwise convolution has nothing of low rank to add to.
    for kind in (nn.Linear, nn.Conv2d | nn.Conv1d):
        found = [
            name
            for name, module in named.items()
            if isinstance(module, kind)
            and getattr(module, "groups", 1) == 1
            and (not endings or name.endswith(tuple(endings)))
        ]
        if found:
            return found
    return []
