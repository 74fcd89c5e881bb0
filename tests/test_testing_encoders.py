"""The conformance checks catch every seeded fault of an encoder by name, and leave correct encoders alone."""

from __future__ import annotations

import sys
import textwrap
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from seeded import encoder_package, failures

SOUND = """
from dataclasses import dataclass

@dataclass(frozen=True)
class Steps:
    version = "1"

    def __call__(self, sample):
        return sample[:100]

class Encoder(nn.Module):
    feature_dim = 12

    def __init__(self, modality, layout):
        super().__init__()
        self.layout = layout
        self.transform = Steps()
        self.layers = nn.Sequential(nn.Linear(modality.facts["num_features"], 24), nn.ReLU(), nn.Dropout(0.1))
        self.last = nn.Linear(24, 12)
        self.register_buffer("mean", torch.zeros(modality.facts["num_features"]))

    def fit(self, values, mask=None):
        self.mean.copy_(values.flatten(0, 1).mean(0) if mask is None else values[mask].mean(0))

    def forward(self, values, mask=None):
        if mask is not None:
            values = values.masked_fill(~mask.unsqueeze(-1), 0)
        tokens = self.last(self.layers(values - self.mean))
        features = Features(tokens, mask)
        return features if self.layout == "sequence" else Features(features.to_vector().values)
"""

#: By fault: what to replace in the sound encoder, by what, and the checks that must fail.
FAULTS: dict[str, tuple[str, str, set[str]]] = {
    "layers-in-a-plain-list": (
        'nn.Sequential(nn.Linear(modality.facts["num_features"], 24), nn.ReLU(), nn.Dropout(0.1))',
        'functools.partial(lambda steps, x: steps[1](steps[0](x)), [nn.Linear(modality.facts["num_features"], 24), nn.ReLU()])',
        {"encoder.weights-are-registered"},
    ),
    "fitted-mean-not-registered": (
        'self.register_buffer("mean", torch.zeros(modality.facts["num_features"]))',
        'self.mean = torch.zeros(modality.facts["num_features"])',
        {"encoder.constants-are-registered"},
    ),
    "fitted-number-not-saved": (
        "self.mean.copy_(values.flatten(0, 1).mean(0) if mask is None else values[mask].mean(0))",
        "self.shift = float(values.mean()) + 1",
        {"encoder.state-survives"},
    ),
    "padding-in-the-mean": (
        "features = Features(tokens, mask)",
        "features = Features(tokens)",
        {"encoder.padding-amount"},
    ),
    "padding-reaches-the-tokens": (
        "values = values.masked_fill(~mask.unsqueeze(-1), 0)",
        "values = values + values.mean(1, keepdim=True)",
        {"encoder.padding-content"},
    ),
    "dropout-left-on": (
        "tokens = self.last(self.layers(values - self.mean))",
        "tokens = F.dropout(self.last(self.layers(values - self.mean)), 0.1)",
        {"encoder.eval-is-deterministic"},
    ),
    "normalised-over-the-batch": (
        "tokens = self.last(self.layers(values - self.mean))",
        "tokens = self.last(self.layers(values - values.mean(0, keepdim=True)))",
        {"encoder.batch-mates-do-not-matter"},
    ),
    "squeezed": (
        "features.to_vector().values)",
        "features.to_vector().values.squeeze(0))",
        {"encoder.batch-of-one"},
    ),
    "wrong-width": ("feature_dim = 12", "feature_dim = 13", {"encoder.declared-width"}),
    "no-width": ("feature_dim = 12", "width = 12", {"encoder.declared-width"}),
    "a-sequence-where-a-vector-was-asked": (
        'return features if self.layout == "sequence" else Features(features.to_vector().values)',
        "return features",
        {"encoder.declared-width"},
    ),
    "no-transform": ("self.transform = Steps()", "pass", {"encoder.builds"}),
    "random-transform": (
        "return sample[:100]",
        "return sample[:100] + np.random.normal(size=sample.shape).astype(np.float32)",
        {"encoder.transform-is-regular"},
    ),
    "transform-of-two-dtypes": (
        "return sample[:100]",
        "return sample[:100].astype(np.float32 if len(sample) < 6 else np.float64)",
        {"encoder.transform-is-regular"},
    ),
    "global-seed": ("super().__init__()", "super().__init__(); random.seed(3)", {"encoder.leaves-seeds-alone"}),
    "fixed-device": (
        "self.last = nn.Linear(24, 12)",
        "self.last = nn.Linear(24, 12, device='cpu')",
        {"encoder.made-on-any-device"},
    ),
    "nan-on-an-empty-sample": (
        "features.to_vector().values)",
        "(tokens * mask.unsqueeze(-1)).sum(1) / mask.sum(1, keepdim=True) if mask is not None else tokens.mean(1))",
        {"encoder.empty-input"},
    ),
    "blind": (
        "tokens = self.last(self.layers(values - self.mean))",
        "tokens = self.last(self.layers(torch.zeros_like(values) + values.detach() * 0))",
        {"encoder.input-counts", "encoder.every-parameter-trains"},
    ),
    "head-never-used": (
        "self.last = nn.Linear(24, 12)",
        "self.last = nn.Linear(24, 12); self.head = nn.Linear(12, 1000)",
        {"encoder.every-parameter-trains"},
    ),
    "default-dtype-left-changed": (
        "super().__init__()",
        "super().__init__(); torch.set_num_threads(torch.get_num_threads() + 1)",
        {"encoder.leaves-settings-alone"},
    ),
}

READ = {"fitted-number-not-saved": ("values - self.mean", "values - getattr(self, 'shift', 0.0)")}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_seeded_fault_of_an_encoder_is_caught_by_the_right_check(fault: str, tmp_path: Path) -> None:
    old, new, expected = FAULTS[fault]
    assert old in SOUND
    code = SOUND.replace(*READ[fault]) if fault in READ else SOUND
    package = encoder_package(tmp_path, f"seeded-encoder-{fault}", code.replace(old, new, 1))

    caught = failures(package)

    assert {check: result.found for check, result in caught.items()}.keys() == expected
    assert all(result.found and result.expected and result.mend for result in caught.values())


@pytest.mark.parametrize("layouts", [("vector",), ("sequence",), ("vector", "sequence")])
def test_a_sound_encoder_passes_every_check(layouts: tuple[str, ...], tmp_path: Path) -> None:
    name = f"sound-encoder-{'-'.join(layouts)}"

    assert failures(encoder_package(tmp_path, name, SOUND, layouts=layouts)) == {}


#: Encoders on torch's own layers, written as they should be: no check may complain.
CORRECT: dict[str, tuple[str, dict[str, object]]] = {
    "batch-norm-cnn": (
        """
        class Pixels:
            def __call__(self, sample):
                return sample

        class Encoder(nn.Module):
            feature_dim = 10

            def __init__(self, modality, layout):
                super().__init__()
                self.transform = Pixels()
                self.layers = nn.Sequential(
                    nn.Conv2d(modality.facts["channels"], 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU(),
                    nn.MaxPool2d(2), nn.Conv2d(8, 16, 3, bias=False), nn.BatchNorm2d(16), nn.ReLU(),
                    nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 10),
                )

            def forward(self, values, mask=None):
                return self.layers(values.float() / 127.5 - 1)
        """,
        {"kinds": ("image",)},
    ),
    "lstm": (
        """
        class Words:
            def __call__(self, sample):
                return np.array([1 + sum(word.encode()) % 50 for word in sample.split()], dtype=np.int64)

        class Encoder(nn.Module):
            feature_dim = 10

            def __init__(self, modality, layout):
                super().__init__()
                self.transform = Words()
                self.embed = nn.Embedding(51, 8, padding_idx=0)
                self.lstm = nn.LSTM(8, 10, batch_first=True, num_layers=2, dropout=0.1)

            def forward(self, values, mask=None):
                if mask is None:
                    mask = torch.ones_like(values, dtype=torch.bool)
                states, _ = self.lstm(self.embed(values))
                last = (mask.sum(1) - 1).clamp(min=0)
                picked = states.gather(1, last[:, None, None].expand(-1, 1, 10)).squeeze(1)
                return Features(picked * mask.any(1, keepdim=True))
        """,
        {"kinds": ("text",)},
    ),
    "transformer": (
        """
        class Frames:
            def __call__(self, sample):
                return sample.astype(np.float16)

        class Encoder(nn.Module):
            feature_dim = 16

            def __init__(self, modality, layout):
                super().__init__()
                self.layout = layout
                self.transform = Frames()
                self.project = nn.Linear(modality.facts["num_features"], 16)
                self.first = nn.Parameter(torch.randn(1, 1, 16) * 0.02)
                layer = nn.TransformerEncoderLayer(16, 4, 32, batch_first=True)
                self.layers = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)

            def forward(self, values, mask=None):
                values = values.float()
                if mask is None:
                    mask = torch.ones(values.shape[:2], dtype=torch.bool, device=values.device)
                values = values.masked_fill(~mask.unsqueeze(-1), 0)
                tokens = torch.cat([self.first.expand(len(values), -1, -1), self.project(values)], 1)
                mask = torch.cat([torch.ones_like(mask[:, :1]), mask], 1)
                tokens = self.layers(tokens, src_key_padding_mask=~mask)
                return Features(tokens, mask) if self.layout == "sequence" else Features(tokens[:, 0])
        """,
        {"layouts": ("vector", "sequence")},
    ),
    "masked-batch-norm-over-time": (
        """
        class Wave:
            def __call__(self, sample):
                return sample.values[: len(sample.values) // 40 * 40].reshape(-1, 40)

        class Encoder(nn.Module):
            feature_dim = 6

            def __init__(self, modality, layout):
                super().__init__()
                self.transform = Wave()
                self.conv = nn.Conv1d(40, 6, 1)
                self.norm = nn.BatchNorm1d(6)

            def forward(self, values, mask=None):
                frames = self.norm(self.conv(values.transpose(1, 2))).transpose(1, 2)
                return Features(frames, mask).to_vector().values
        """,
        {"kinds": ("audio",)},
    ),
}


@pytest.mark.parametrize("name", CORRECT)
def test_a_correct_encoder_on_torchs_own_layers_raises_no_alarm(name: str, tmp_path: Path) -> None:
    code, facts = CORRECT[name]
    package = encoder_package(tmp_path, f"correct-encoder-{name}", textwrap.dedent(code), **facts)

    assert {check: result.found for check, result in failures(package).items()} == {}
