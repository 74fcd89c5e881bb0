"""Weighted decisions: every modality predicts alone; learned weights say whose probabilities count how much."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from mmbench import Features, TaskSpec
from mmbench_fusion.votes import average_votes, stack_votes


class DecisionWeighted(nn.Module):
    """Like decision-average, with weights softmax(v_task) over the modalities that a sample has.

    Source: the linear opinion pool (Stone 1961, doi:10.1214/aoms/1177704873) with trained weights, one set per task,
    equal at the start. What `decision-average` says of its flat valley holds here too.

    Shapes: {modality: Features of logits (B, K)} -> (B, K). A missing modality's weight goes to the others.
    """

    def __init__(self, dims: Mapping[str, int], tasks: Sequence[TaskSpec]) -> None:
        super().__init__()
        self.names = tuple(sorted(dims))
        self.kinds = {task.name: task.kind for task in tasks}
        self.rows = {task.name: row for row, task in enumerate(tasks)}
        self.weight_logits = nn.Parameter(torch.zeros(len(tasks), len(self.names)))

    def forward(self, task: str, logits: Mapping[str, Features]) -> Tensor:
        """Join; see the class."""
        votes, present = stack_votes(logits, self.names)  # (B, M, K), (B, M)
        weights = self.weight_logits[self.rows[task]].float().softmax(dim=0)
        return average_votes(self.kinds[task], votes, weights * present)
