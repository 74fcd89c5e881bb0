"""Recording a CUDA graph, with torch.cuda written down: when there is room, and what a broken capture leaves."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from mmbench.recorder import CudaRecorder


def test_a_gpu_has_room_where_twice_the_peak_fits_into_what_is_free(monkeypatch):
    recorder = object.__new__(CudaRecorder)
    recorder.device = torch.device("cuda", 0)
    held = {"memory_reserved": 6, "memory_allocated": 4, "max_memory_allocated": 5}
    for name, value in held.items():
        monkeypatch.setattr(torch.cuda, name, lambda device, value=value: value)

    found = []
    for free in (7, 8):
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device, free=free: (free, 80))
        found.append(recorder.has_room())
    assert found == [False, True]


class FakeCuda:
    """What `CudaRecorder` asks of torch.cuda, written down; a broken graph cannot be ended."""

    def __init__(self, monkeypatch, *, breaks_at=""):
        self.calls = calls = []

        class Graph:
            def capture_begin(self, **options):
                calls.append(f"begin {options['capture_error_mode']}")

            def capture_end(self):
                calls.append("end")
                if breaks_at:
                    raise RuntimeError("operation failed due to a previous error during capture")

            def replay(self):
                calls.append("replay")

        class Generator:
            def __init__(self, device):
                calls.append(f"generator {device}")

            def set_state(self, state):
                calls.append(f"state {state}")

        default = SimpleNamespace(graphsafe_set_state=lambda fresh: calls.append("mended"))
        for name, value in {
            "CUDAGraph": Graph,
            "synchronize": lambda device: None,
            "empty_cache": lambda: None,
            "get_rng_state": lambda device: "as before",
            "default_generators": [default],
        }.items():
            monkeypatch.setattr(torch.cuda, name, value)
        monkeypatch.setattr(torch, "Generator", Generator)
        self.recorder = object.__new__(CudaRecorder)
        self.recorder.device = torch.device("cuda", 0)


def test_a_capture_is_replayed_and_gives_a_copy_of_its_result(monkeypatch):
    fake = FakeCuda(monkeypatch)
    result = torch.tensor(1.0)
    replay = fake.recorder.record(lambda: result)
    first = replay()
    result.fill_(2.0)

    assert (float(first), float(replay())) == (1.0, 2.0)
    assert fake.calls == ["begin thread_local", "end", "replay", "replay"]


@pytest.mark.parametrize("breaks_at", ["work", "end"])
def test_after_a_broken_capture_the_generator_of_dropout_knows_nothing_of_it(breaks_at, monkeypatch):
    fake = FakeCuda(monkeypatch, breaks_at=breaks_at)

    def work():
        if breaks_at == "work":
            raise ValueError("a plugin's own")
        return torch.tensor(1.0)

    error = {"work": "a plugin's own", "end": "previous error during capture"}[breaks_at]
    with pytest.raises((ValueError, RuntimeError), match=error):
        fake.recorder.record(work)
    assert fake.calls == ["begin thread_local", "end", "generator cuda:0", "state as before", "mended"]
