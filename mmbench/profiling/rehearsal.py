"""Imported by the server that cells are forked from: counts the operations of a small network without data.

The first count in a process takes torch four times as long as the second, for it makes an object of every operation
that it meets. Made before the fork, they serve every cell. On the meta device nothing is computed and no thread begins,
which a fork would not survive.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mmbench.profiling.flops import count_flops
from mmbench.torch_compat import FLOP_COUNTER, meta_device


def _forward() -> Tensor:
    """Do once what encoders and fusions commonly do."""
    images, rows, words = torch.empty(2, 1, 8, 8), torch.empty(2, 4, 8), torch.arange(4).expand(2, -1)
    layers = [nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.GroupNorm(1, 2), nn.ReLU(inplace=True), nn.GELU()]
    network = nn.Sequential(*layers, nn.MaxPool2d(2), nn.Flatten(), nn.Linear(18, 8), nn.LayerNorm(8)).eval()
    seen = network(images)
    absent = rows.isnan().any(dim=2) | (words == 0)
    read = F.embedding(words, torch.empty(4, 8)).masked_fill(~absent.unsqueeze(2), 0.0)
    heard = F.max_pool1d(F.conv1d(rows.permute(0, 2, 1).clone(), torch.empty(8, 8, 1), torch.empty(8)), 2).mean(dim=2)
    parts = rows.unbind(dim=1), rows.split(4, dim=2), rows.double().gather(1, torch.ones_like(rows, dtype=torch.int64))
    said = (
        F.scaled_dot_product_attention(rows, read, rows).sum(dim=1) + parts[0][0] * torch.sin(-parts[1][0][:, 0]).sum()
    )
    both = torch.cat([seen @ torch.empty(8, 8), heard], dim=1) * torch.sigmoid(F.pad(said, (0, 8))).clamp(min=0.1)
    outer = torch.bmm(both.unsqueeze(2), torch.stack([both, both], dim=1).contiguous()[:, :1]).flatten(1)
    return torch.where(outer > 0, outer.softmax(dim=1).tanh() / 2 - 1, outer.exp())


if not FLOP_COUNTER.missing():
    with meta_device():
        count_flops(_forward)
