"""Stacking: every modality predicts alone, and a linear model learns what to make of the predictions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mmbench import Features, TaskSpec
from mmbench.spec import TaskKind
from mmbench_fusion.presence import masked_mean_over_modalities
from mmbench_fusion.votes import stack_votes

#: Log-probabilities are cut off here: beyond it a modality is sure, and its weights need not know how sure.
_SURE = 15.0


class Stacking(nn.Module):
    """logits = mean over present v_m + sum over m of (D_m v_m + d_m a_m) + c, with D, d and c zero at the start.

    v_m are the log-probabilities of modality m (log odds for labels, values for regression), zero where a sample lacks
    it, which the flag a_m = 1 tells. So it starts as the logarithmic mean of the votes, and weight decay draws it back.

    Whether this is stacking is up to the objective. Under `supervised` the weights and the unimodal models are trained
    together. Under `independent` and `stacked` no gradient of this layer reaches the unimodal models; under `stacked`
    it learns from samples that they were not trained on, as stacking asks for: on their own training samples all of
    them look surer than they are.

    Source: Wolpert 1992, doi:10.1016/S0893-6080(05)80023-1, with probabilities as Ting & Witten 1999,
    doi:10.1613/jair.594. Differs in one held-out share instead of cross-validation.

    Shapes: {modality: Features of logits (B, K)} -> (B, K). A sample without any modality gets c and the d of all.
    """

    def __init__(self, dims: Mapping[str, int], tasks: Sequence[TaskSpec]) -> None:
        super().__init__()
        self.names = tuple(sorted(dims))
        self.kinds = {task.name: task.kind for task in tasks}
        self.rows = {task.name: row for row, task in enumerate(tasks)}
        # One tensor for all tasks, as wide as the widest; each reads its corner.
        shape = (len(tasks), len(self.names), max(task.num_outputs for task in tasks))
        self.weight = nn.Parameter(torch.zeros(*shape, shape[2]))  # (tasks, M, K read, K given)
        self.absence = nn.Parameter(torch.zeros(shape))  # (tasks, M, K)
        self.bias = nn.Parameter(torch.zeros(shape[0], shape[2]))  # (tasks, K)

    def forward(self, task: str, logits: Mapping[str, Features]) -> Tensor:
        """Join; see the class."""
        votes, present = stack_votes(logits, self.names)  # (B, M, K), (B, M)
        row, width = self.rows[task], votes.shape[2]
        votes = _readable(self.kinds[task], votes).masked_fill(~present.unsqueeze(2), 0.0)
        moved = torch.einsum("bmi,mio->bo", votes, self.weight[row, :, :width, :width].float())
        moved = moved + (~present).float() @ self.absence[row, :, :width].float() + self.bias[row, :width].float()
        return masked_mean_over_modalities(votes, present) + moved


def _readable(kind: TaskKind, votes: Tensor) -> Tensor:
    if kind == "multiclass":
        return F.log_softmax(votes, dim=2).clamp(min=-_SURE)
    return votes.clamp(-_SURE, _SURE) if kind == "multilabel" else votes
