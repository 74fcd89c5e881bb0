"""Product of decisions: every modality predicts alone; the probabilities are multiplied."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor, nn

from mmbench import Features, TaskSpec
from mmbench_fusion.votes import multiply_votes, stack_votes


class DecisionProduct(nn.Module):
    """The product over present modalities of their probabilities, renormalised; for regression the mean value.

    For multiclass the result is the sum of log softmax, for multilabel the sum of the logits.

    Source: the product rule of Kittler et al. 1998, "On combining classifiers" (IEEE TPAMI 20(3)), with equal priors:
    right where modalities are independent given the label.

    Shapes: {modality: Features of logits (B, K)} -> (B, K). A missing modality is a factor of one.
    """

    def __init__(self, dims: Mapping[str, int], tasks: Sequence[TaskSpec]) -> None:
        super().__init__()
        self.names = tuple(sorted(dims))
        self.kinds = {task.name: task.kind for task in tasks}

    def forward(self, task: str, logits: Mapping[str, Features]) -> Tensor:
        """Join; see the class."""
        return multiply_votes(self.kinds[task], *stack_votes(logits, self.names))
