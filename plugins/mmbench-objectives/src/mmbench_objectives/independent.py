"""Independent training: every modality learns to predict alone, and only then are the predictions joined."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from mmbench import Features, TaskSpec
from mmbench.blocks import check_range
from mmbench_objectives.unimodal import unimodal_losses

if TYPE_CHECKING:
    from mmbench.model import MultimodalModel, Output
    from mmbench.train import EpochStart, Step

_Votes = dict[str, dict[str, Tensor]]


class Independent(nn.Module):
    """loss = sum over modalities of loss(that modality's heads alone) + loss(fusion of votes that pass no gradient).

    So the encoders and heads learn what they would learn if each were trained by itself, and a decision rule joins
    models that never saw each other. Rules without weights (`decision-average`, `majority-vote`) have no second term.

    With a held-out share, unimodal models are trained on the rest of the training set, and the fusion on the votes that
    they give for the held-out samples: as they stand at the beginning of each epoch, as many of them per step as the
    batch has samples. That is stacking (Wolpert 1992, doi:10.1016/S0893-6080(05)80023-1) with one fold.

    The epoch is chosen for the joined prediction, so all modalities stop at one epoch. The loss is averaged over whole
    batches; what a sample lacks does not train. After the late fusion of independently trained models in Baltrusaitis
    et al. 2017, arXiv:1705.09406, section 6.1.

    Args:
        dims: Feature width by modality.
        tasks: What is predicted.
        held_out_share: Share of the training set that only the fusion learns from.

    Raises:
        UsageError: `held_out_share` is not within 0 and 0.9.
    """

    needs_unimodal_heads = True

    def __init__(self, dims: Mapping[str, int], tasks: Sequence[TaskSpec], *, held_out_share: float) -> None:
        super().__init__()
        check_range("held_out_share", held_out_share, 0.0, 0.9)
        self.held_out_share = held_out_share
        self._held_out: tuple[_Votes, dict[str, Tensor], dict[str, Tensor]] | None = None
        self._task_loss: Callable[[Mapping[str, Tensor], Mapping[str, Tensor]], Tensor] | None = None

    def before_epoch(self, start: EpochStart) -> None:
        """Let the unimodal models vote on what is held out."""
        if not (self.held_out_share and _learns(start.model.fusion)):
            return
        votes: dict[tuple[str, str], list[Tensor]] = {}
        present: dict[str, list[Tensor]] = {}
        targets: dict[str, list[Tensor]] = {}
        for batch in start.held_out():
            output = start.model(batch)
            for name, here in _present(start.model, output).items():
                present.setdefault(name, []).append(here)
            for name, by_task in output.unimodal_logits.items():
                for task, logits in by_task.items():
                    votes.setdefault((task, name), []).append(logits.float())
            for task, target in batch.targets.items():
                targets.setdefault(task, []).append(target)
        joined: _Votes = {}
        for (task, name), parts in votes.items():
            joined.setdefault(task, {})[name] = torch.cat(parts)
        self._held_out = (
            joined,
            {name: torch.cat(parts) for name, parts in present.items()},
            {task: torch.cat(parts) for task, parts in targets.items()},
        )
        self._task_loss = start.task_loss

    def forward(self, step: Step) -> Mapping[str, Tensor]:
        """Return for each modality {"unimodal.NAME": scalar}, and "fusion" where there is anything to learn."""
        alone = unimodal_losses(step.output, step.task_loss)
        losses = {f"unimodal.{name}": loss for name, loss in alone.items()}
        if _learns(step.model.fusion):
            losses["fusion"] = self._fusion_loss(step)
        return losses

    def _fusion_loss(self, step: Step) -> Tensor:
        fusion = step.model.fusion
        if self._held_out is None:
            votes: _Votes = {}
            for name, by_task in step.output.unimodal_logits.items():
                for task, logits in by_task.items():
                    votes.setdefault(task, {})[name] = logits.detach()
            return step.task_loss(_joined(fusion, votes, _present(step.model, step.output)))
        held, present, targets = self._held_out
        assert self._task_loss is not None
        total = len(next(iter(present.values())))
        drawn = torch.randint(total, (step.batch.size,), generator=step.generator)
        rows = drawn.to(next(iter(present.values())).device, non_blocking=True)
        votes = {task: {name: given[rows] for name, given in by_name.items()} for task, by_name in held.items()}
        logits = _joined(fusion, votes, {name: given[rows] for name, given in present.items()})
        return self._task_loss(logits, {task: given[rows] for task, given in targets.items()})


def _joined(fusion: nn.Module, votes: _Votes, present: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {
        task: fusion(task, {name: Features(given, present[name]) for name, given in by_name.items()})
        for task, by_name in votes.items()
    }


def _present(model: MultimodalModel, output: Output) -> dict[str, Tensor]:
    """Who votes, by modality (B,): whoever is there, and everybody where a policy fills what is missing."""
    filled = model.missing is not None
    return {
        name: torch.ones_like(given.present) if filled else given.present for name, given in output.features.items()
    }


def _learns(fusion: nn.Module) -> bool:
    return any(parameter.requires_grad for parameter in fusion.parameters())
