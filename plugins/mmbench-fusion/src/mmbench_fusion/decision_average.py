"""Decision average: every modality predicts alone, and the probabilities are averaged."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor, nn

from mmbench import Features, TaskSpec
from mmbench_fusion.votes import average_votes, stack_votes


class DecisionAverage(nn.Module):
    """The mean over present modalities of class probabilities, label probabilities or values.

    For multiclass the result is log(mean of softmax), for multilabel the log odds of the mean of sigmoid, for
    regression the mean value; where a sample has no modality it is the uniform distribution, even odds, or zero.

    Source: the mean rule of Kittler et al. 1998, "On combining classifiers" (IEEE TPAMI 20(3)). The supervised
    objective minimises the loss of the average. Where each modality alone leaves several classes open (`quarters`,
    `unique`), that loss has a flat valley: p and 1 - p for the candidates of one modality cost the same as 1/2 and
    1/2 when the other modality makes up for it, and at its ends candidates tie. Losses per modality (the objective
    `joint`) are what makes this rule work there.

    Shapes: {modality: Features of logits (B, K)} -> (B, K). A missing modality has no vote.
    """

    def __init__(self, dims: Mapping[str, int], tasks: Sequence[TaskSpec]) -> None:
        super().__init__()
        self.names = tuple(sorted(dims))
        self.kinds = {task.name: task.kind for task in tasks}

    def forward(self, task: str, logits: Mapping[str, Features]) -> Tensor:
        """Join; see the class."""
        votes, present = stack_votes(logits, self.names)  # (B, M, K), (B, M)
        return average_votes(self.kinds[task], votes, present.to(votes.dtype))
