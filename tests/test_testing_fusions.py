"""The conformance checks catch every seeded fault of a fusion by name, and leave correct fusions alone."""

from __future__ import annotations

import sys
import textwrap
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from seeded import failures, fusion_package

SOUND = """
class Fusion(nn.Module):
    def __init__(self, dims, tasks):
        super().__init__()
        self.names = sorted(dims)
        self.fused_dim = 16
        self.layers = nn.ModuleList(nn.Linear(dims[name], 16) for name in self.names)
        self.dropout = nn.Dropout(0.2)

    def forward(self, features):
        total = sum(layer(features[name].tensor) for name, layer in zip(self.names, self.layers))
        return self.dropout(total.relu())
"""

#: By fault: what to replace in the sound fusion, by what, and the checks that must fail.
FAULTS: dict[str, tuple[str, str, set[str]]] = {
    "weights-in-a-plain-list": (
        "nn.ModuleList(nn.Linear(dims[name], 16) for name in self.names)",
        "[nn.Linear(dims[name], 16) for name in self.names]",
        {"fusion.weights-are-registered"},
    ),
    "weights-in-a-dict-of-lists": (
        "nn.ModuleList(nn.Linear(dims[name], 16) for name in self.names)",
        "(lambda kept: [functools.partial(F.linear, weight=kept[name][0]) for name in self.names])"
        "({name: [nn.Parameter(torch.randn(16, dims[name]) / 4)] for name in dims})",
        {"fusion.weights-are-registered"},
    ),
    "weights-in-a-closure": (
        "self.layers = nn.ModuleList(nn.Linear(dims[name], 16) for name in self.names)",
        "hidden = {name: nn.Linear(dims[name], 16) for name in dims}; "
        "self.layers = [lambda x, name=name: hidden[name](x) for name in self.names]",
        {"fusion.weights-are-registered"},
    ),
    "random-projection-kept-as-a-plain-tensor": (
        "return self.dropout(total.relu())",
        "self.__dict__.setdefault('mix', torch.randn(16, 16)); return self.dropout(total.relu() @ self.mix)",
        {"fusion.constants-are-registered"},
    ),
    "a-parameter-never-used": (
        "self.dropout =",
        "self.spare = nn.Linear(4, 4); self.dropout =",
        {"fusion.every-parameter-trains"},
    ),
    "a-parameter-behind-a-detach": (
        "return self.dropout(total.relu())",
        "return self.dropout(total.relu()) * self.scale.detach()",
        {"fusion.every-parameter-trains"},
    ),
    "detach-of-one-modality": (
        "layer(features[name].tensor) for",
        "layer(features[name].tensor.detach() if name == self.names[0] else features[name].tensor) for",
        {"fusion.every-modality-gets-gradient"},
    ),
    "squeeze-that-breaks-a-batch-of-one": (
        "return self.dropout(total.relu())",
        "return self.dropout(total.relu()).squeeze()",
        {"fusion.batch-of-one"},
    ),
    "dropout-left-on": (
        "return self.dropout(total.relu())",
        "return F.dropout(total.relu(), 0.2)",
        {"fusion.eval-is-deterministic"},
    ),
    "batch-statistics-in-eval": (
        "return self.dropout(total.relu())",
        "return F.batch_norm(total, None, None, training=True)",
        {"fusion.batch-of-one"},
    ),
    "mean-over-the-batch": (
        "return self.dropout(total.relu())",
        "return self.dropout(total.relu()) - total.mean(dim=0)",
        {"fusion.batch-mates-do-not-matter"},
    ),
    "wrong-width": ("self.fused_dim = 16", "self.fused_dim = 17", {"fusion.declared-width"}),
    "order-of-the-dict": (
        "sum(layer(features[name].tensor) for name, layer in zip(self.names, self.layers))",
        "sum(layer(F.pad(given.tensor, (0, 64))[:, : layer.in_features]) "
        "for given, layer in zip(features.values(), self.layers))",
        {"fusion.order-does-not-matter"},
    ),
    "ignores-one-modality": (
        "zip(self.names, self.layers))",
        "list(zip(self.names, self.layers))[1:]) + 0 * self.layers[0](features[self.names[0]].tensor)",
        {"fusion.every-parameter-trains", "fusion.every-modality-counts"},
    ),
    "fixed-device": (
        "self.dropout =",
        "self.scale = nn.Parameter(torch.ones(16, device='cpu')); self.dropout =",
        {"fusion.made-on-any-device", "fusion.every-parameter-trains"},
    ),
    "a-device-of-its-own-in-forward": (
        "return self.dropout(total.relu())",
        "return self.dropout(total.relu()) + torch.ones(16, device='cpu')",
        {"fusion.follows-device"},
    ),
    "needs-a-gpu": (
        "self.dropout =",
        "self.scale = nn.Parameter(torch.ones(16).cuda()); self.dropout =",
        {"fusion.made-on-any-device", "fusion.builds"},
    ),
    "global-seed": ("super().__init__()", "super().__init__(); torch.manual_seed(0)", {"fusion.leaves-seeds-alone"}),
    "global-numpy-seed-in-forward": (
        "return self.dropout(total.relu())",
        "np.random.seed(1); return self.dropout(total.relu())",
        {"fusion.leaves-seeds-alone"},
    ),
    "clock-as-seed": (
        "self.dropout =",
        "nn.init.normal_(self.layers[0].weight, generator=torch.Generator().manual_seed(uuid.uuid4().int % 2**31)); "
        "self.dropout =",
        {"fusion.same-seed-same-weights"},
    ),
    "default-dtype": (
        "super().__init__()",
        "super().__init__(); torch.set_default_dtype(torch.float64); torch.set_default_dtype(torch.float32); "
        "torch.backends.cudnn.benchmark = not torch.backends.cudnn.benchmark",
        {"fusion.leaves-settings-alone"},
    ),
    "nan-without-any-modality": (
        "return self.dropout(total.relu())",
        "there = torch.stack([features[name].present for name in self.names], 1).float(); "
        "return self.dropout(total.relu()) / there.sum(1, keepdim=True)",
        {"fusion.missing-is-finite"},
    ),
    "nan-gradient-behind-a-where": (
        "return self.dropout(total.relu())",
        "norm = sum(features[name].tensor.square().sum(1, keepdim=True) for name in self.names).sqrt(); "
        "return torch.where(norm > 0, self.dropout(total.relu()) / norm, torch.zeros_like(total))",
        {"fusion.missing-is-finite"},
    ),
    "changes-its-input": (
        "total = sum(",
        "features[self.names[0]].tensor.mul_(2); total = sum(",
        {"fusion.inputs-stay-as-they-are"},
    ),
    "exponential-without-care": (
        "return self.dropout(total.relu())",
        "return self.dropout((total * 60).exp() / (total * 60).exp().sum(1, keepdim=True))",
        {"fusion.runs"},
    ),
    "names-that-a-module-dict-refuses": (
        "nn.ModuleList(nn.Linear(dims[name], 16) for name in self.names)",
        "(setattr(self, 'by_name', nn.ModuleDict({name: nn.Linear(dims[name], 16) for name in self.names})), "
        "list(self.by_name.values()))[1]",
        {"fusion.any-modality-name"},
    ),
    "an-option-that-the-factory-does-not-take": ("def forward", "def forward", {"fusion.options-fit-the-factory"}),
}
ADDED = {"a-parameter-behind-a-detach": ("self.dropout =", "self.scale = nn.Parameter(torch.ones(16)); self.dropout =")}
FACTS: dict[str, dict[str, object]] = {"an-option-that-the-factory-does-not-take": {"defaults": {"rank": 4}}}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_seeded_fault_of_a_fusion_is_caught_by_the_right_check(fault: str, tmp_path: Path) -> None:
    old, new, expected = FAULTS[fault]
    code = SOUND.replace(*ADDED[fault]) if fault in ADDED else SOUND
    assert old in code
    package = fusion_package(tmp_path, f"seeded-{fault}", code.replace(old, new, 1), **FACTS.get(fault, {}))

    caught = failures(package)

    assert {check: result.found for check, result in caught.items()}.keys() == expected
    assert all(result.found and result.expected and result.mend for result in caught.values())


def test_a_sound_fusion_passes_every_check(tmp_path: Path) -> None:
    assert failures(fusion_package(tmp_path, "seeded-sound", SOUND)) == {}


#: Fusions on torch's own layers, written as they should be: no check may complain.
CORRECT: dict[str, tuple[str, dict[str, object]]] = {
    "attention-over-modalities": (
        """
        class Fusion(nn.Module):
            def __init__(self, dims, tasks, *, fused_dim, num_heads):
                super().__init__()
                self.names, self.fused_dim = sorted(dims), fused_dim
                self.project = nn.ModuleList(nn.Linear(dims[name], fused_dim) for name in self.names)
                self.query = nn.Parameter(torch.randn(1, 1, fused_dim) * 0.02)
                self.attend = nn.MultiheadAttention(fused_dim, num_heads, dropout=0.1, batch_first=True)
                self.norm = nn.LayerNorm(fused_dim)

            def forward(self, features):
                tokens = [layer(features[name].tensor) for name, layer in zip(self.names, self.project)]
                tokens = torch.stack(tokens, dim=1)
                there = torch.stack([features[name].present for name in self.names], dim=1)
                query = self.query.expand(len(tokens), -1, -1).to(tokens.dtype)
                # The query is a key too, so that no sample is without one.
                keys = torch.cat([query, tokens], dim=1)
                padding = torch.cat([torch.zeros_like(there[:, :1]), ~there], dim=1)
                joined, _ = self.attend(query, keys, keys, key_padding_mask=padding, need_weights=False)
                return self.norm(joined.squeeze(1))
        """,
        {"defaults": {"fused_dim": 16, "num_heads": 4}},
    ),
    "attention-over-tokens": (
        """
        class Fusion(nn.Module):
            def __init__(self, dims, tasks, *, fused_dim):
                super().__init__()
                self.names, self.fused_dim = sorted(dims), fused_dim
                self.project = nn.ModuleList(nn.Linear(dims[name], fused_dim) for name in self.names)
                self.absent = nn.Parameter(torch.zeros(1, 1, fused_dim))
                layer = nn.TransformerEncoderLayer(fused_dim, 2, 32, dropout=0.1, batch_first=True, norm_first=True)
                self.layers = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)

            def forward(self, features):
                tokens, masks = [], []
                for name, layer in zip(self.names, self.project):
                    mask = features[name].token_mask
                    tokens.append(layer(features[name].tensor.masked_fill(~mask.unsqueeze(-1), 0)))
                    masks.append(mask)
                tokens.append(self.absent.expand(len(tokens[0]), -1, -1).to(tokens[0].dtype))
                masks.append(torch.ones_like(masks[0][:, :1]))
                joined = self.layers(torch.cat(tokens, 1), src_key_padding_mask=~torch.cat(masks, 1))
                return joined[:, -1]
        """,
        {"accepts": "sequence", "defaults": {"fused_dim": 16}},
    ),
    "lstm-over-modalities": (
        """
        class Fusion(nn.Module):
            def __init__(self, dims, tasks):
                super().__init__()
                self.names, self.fused_dim = sorted(dims), 24
                self.project = nn.ModuleList(nn.Linear(dims[name], 16) for name in self.names)
                self.lstm = nn.LSTM(16, 12, batch_first=True, bidirectional=True)

            def forward(self, features):
                tokens = torch.stack([p(features[n].tensor) for n, p in zip(self.names, self.project)], dim=1)
                _, (last, _) = self.lstm(tokens)
                return last.transpose(0, 1).flatten(1)
        """,
        {},
    ),
    "lstm-over-packed-tokens": (
        """
        class Fusion(nn.Module):
            def __init__(self, dims, tasks):
                super().__init__()
                self.names, self.fused_dim = sorted(dims), 12 * len(dims)
                self.lstms = nn.ModuleList(nn.LSTM(dims[name], 12, batch_first=True) for name in self.names)

            def forward(self, features):
                lasts = []
                for name, lstm in zip(self.names, self.lstms):
                    mask = features[name].token_mask
                    lengths = mask.sum(1)
                    packed = nn.utils.rnn.pack_padded_sequence(
                        features[name].tensor, lengths.clamp(min=1).cpu(), batch_first=True, enforce_sorted=False
                    )
                    last = lstm(packed)[1][0][-1]
                    lasts.append(torch.where(lengths.unsqueeze(1) > 0, last, torch.zeros_like(last)))
                return torch.cat(lasts, dim=1)
        """,
        {"accepts": "sequence"},
    ),
    "batch-norm": (
        """
        class Fusion(nn.Module):
            def __init__(self, dims, tasks):
                super().__init__()
                self.names, self.fused_dim = sorted(dims), 20
                self.norms = nn.ModuleList(nn.BatchNorm1d(dims[name]) for name in self.names)
                self.layers = nn.Sequential(
                    nn.Linear(sum(dims.values()), 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Dropout(0.1), nn.Linear(32, 20)
                )

            def forward(self, features):
                parts = [norm(features[name].tensor) for name, norm in zip(self.names, self.norms)]
                return self.layers(torch.cat(parts, dim=1))
        """,
        {},
    ),
    "tied-and-frozen-weights": (
        """
        class Fusion(nn.Module):
            def __init__(self, dims, tasks):
                super().__init__()
                self.names, self.fused_dim = sorted(dims), 16
                self.project = nn.ModuleList(nn.Linear(dims[name], 16) for name in self.names)
                self.shared = nn.Linear(16, 16)
                self.again = self.shared
                self.by_name = dict(zip(self.names, self.project))
                self.register_buffer("mix", torch.linalg.qr(torch.randn(16, 16))[0])
                self.frozen = nn.Linear(16, 16).requires_grad_(False)
                self.gain = nn.utils.parametrizations.weight_norm(nn.Linear(16, 16))
                self.register_buffer("log_scale", torch.zeros(()), persistent=False)

            def forward(self, features):
                total = sum(self.by_name[name](features[name].tensor) for name in self.names)
                total = self.again(self.shared(total).tanh()) @ self.mix + self.frozen(total)
                total = self.gain(total) * self.log_scale.exp() + torch.tensor([0.5], device=total.device)
                return Features(total, losses={"size": 1e-3 * total.square().mean()})
        """,
        {},
    ),
    "mean-over-present-logits": (
        """
        class Fusion(nn.Module):
            def __init__(self, dims, tasks):
                super().__init__()
                self.tasks = {task.name: task.kind for task in tasks}

            def forward(self, task, logits):
                names = sorted(logits)
                there = torch.stack([logits[name].present for name in names]).unsqueeze(-1)
                values = torch.stack([logits[name].tensor for name in names])
                if self.tasks[task] == "multiclass":
                    values = values.float().log_softmax(-1)
                values = torch.where(there, values, torch.zeros_like(values))
                return values.sum(0) / there.sum(0).clamp(min=1)
        """,
        {"level": "decision"},
    ),
}


@pytest.mark.parametrize("name", CORRECT)
def test_a_correct_fusion_on_torchs_own_layers_raises_no_alarm(name: str, tmp_path: Path) -> None:
    code, facts = CORRECT[name]
    package = fusion_package(tmp_path, f"correct-{name}", textwrap.dedent(code), **facts)

    assert {check: result.found for check, result in failures(package).items()} == {}


SEQUENCE_FAULTS: dict[str, tuple[str, set[str]]] = {
    "padding-counted": ("features[name].tensor.mean(1)", {"fusion.padding-content"}),
    "padding-in-the-count": (
        "(features[name].tensor * features[name].token_mask.unsqueeze(-1)).sum(1) / features[name].tensor.shape[1]",
        {"fusion.padding-amount"},
    ),
    "nan-on-a-fully-masked-sample": (
        "(features[name].tensor * features[name].tensor.mean(-1).masked_fill(~features[name].token_mask, float('-inf'))"
        ".softmax(-1).unsqueeze(-1)).sum(1)",
        {"fusion.missing-is-finite"},
    ),
    "one-token-only": ("features[name].to_vector().tensor + 0 * features[name].tensor[:, 1]", {"fusion.many-sizes"}),
}


@pytest.mark.parametrize("fault", SEQUENCE_FAULTS)
def test_a_seeded_fault_with_tokens_is_caught_by_the_right_check(fault: str, tmp_path: Path) -> None:
    pooled, expected = SEQUENCE_FAULTS[fault]
    code = SOUND.replace("layer(features[name].tensor)", f"layer({pooled})")
    package = fusion_package(tmp_path, f"seeded-{fault}", code, accepts="sequence")

    assert set(failures(package)) == expected


def test_attention_that_gives_nan_without_keys_is_caught(tmp_path: Path) -> None:
    code = CORRECT["attention-over-modalities"][0]
    code = (
        code.replace("torch.cat([query, tokens], dim=1)", "tokens")
        .replace("torch.cat([torch.zeros_like(there[:, :1]), ~there], dim=1)", "~there")
        .replace(", need_weights=False", "")
    )
    package = fusion_package(
        tmp_path, "seeded-nan-attention", textwrap.dedent(code), defaults={"fused_dim": 16, "num_heads": 4}
    )

    caught = failures(package)

    assert set(caught) == {"fusion.missing-is-finite"}
    assert "the output holds NaN" in caught["fusion.missing-is-finite"].found
