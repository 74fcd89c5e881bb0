"""Majority vote: every modality names one class, and the most named one wins."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from mmbench import Features, TaskSpec
from mmbench.spec import TaskKind
from mmbench_fusion.presence import masked_mean_over_modalities
from mmbench_fusion.votes import average_votes, multiply_votes, stack_votes


class MajorityVote(nn.Module):
    """In evaluation, votes are counted; mean probabilities break ties and never outweigh a vote.

    For multiclass the result is log((votes for k + mean probability of k) / (number of voters + 1)); for multilabel the
    log odds of (votes for yes + mean probability of yes) / (number of voters + 1); for regression, which has no votes,
    the median of the present values (the mean of the middle two).

    Votes have no gradient: in training the result is that of `decision-product`, which trains every modality. The
    objective `joint` trains the voters one by one, as the rule assumes.

    Source: Kittler et al. 1998, "On combining classifiers" (IEEE TPAMI 20(3)), the majority vote and median rules.

    Shapes: {modality: Features of logits (B, K)} -> (B, K). A missing modality has no vote.
    """

    def __init__(self, dims: Mapping[str, int], tasks: Sequence[TaskSpec]) -> None:
        super().__init__()
        self.names = tuple(sorted(dims))
        self.kinds = {task.name: task.kind for task in tasks}

    def forward(self, task: str, logits: Mapping[str, Features]) -> Tensor:
        """Join; see the class."""
        votes, present = stack_votes(logits, self.names)  # (B, M, K), (B, M)
        kind = self.kinds[task]
        return multiply_votes(kind, votes, present) if self.training else count_votes(kind, votes, present)


def count_votes(kind: TaskKind, votes: Tensor, present: Tensor) -> Tensor:
    """Count votes as `MajorityVote` says. Shapes: votes (B, M, K), present (B, M) -> (B, K)."""
    if kind == "regression":
        # NaN marks the absent for nanquantile, which no sample's gradient passes: this runs in evaluation only.
        middle = votes.masked_fill(~present.unsqueeze(2), float("nan")).nanquantile(0.5, dim=1)
        return middle.nan_to_num(0.0)
    pooled = average_votes(kind, votes, present.to(votes.dtype))
    num_voters = present.sum(dim=1, keepdim=True)  # (B, 1)
    if kind == "multilabel":
        named = (votes > 0).to(votes.dtype)
        mean = pooled.sigmoid()
    else:
        classes = torch.arange(votes.shape[2], device=votes.device)  # F.one_hot would make a GPU wait
        named = (votes.argmax(dim=2, keepdim=True) == classes).to(votes.dtype)
        mean = pooled.exp()
    share = masked_mean_over_modalities(named, present)
    smoothed = (share * num_voters + mean) / (num_voters + 1)
    return smoothed.logit(eps=1e-6) if kind == "multilabel" else smoothed.clamp(min=1e-30).log()
