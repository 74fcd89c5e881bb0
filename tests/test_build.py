"""Plugins' code is called so that the parts built after it do not feel what it did."""

from __future__ import annotations

import os
from pathlib import Path

import torch

from mmbench.build import guarded_globals


def test_what_a_plugin_changes_for_everybody_is_put_back_and_told():
    warnings: list[str] = []
    with guarded_globals(warnings):
        torch.set_default_dtype(torch.float64)
        torch.backends.cudnn.benchmark = not torch.backends.cudnn.benchmark

    assert torch.get_default_dtype() == torch.float32
    assert "a plugin changed torch's default dtype from torch.float32 to torch.float64; it was put back" in warnings
    assert len(warnings) == 2


def test_torch_can_still_be_asked_for_a_precision_that_was_put_back():
    with guarded_globals([]):
        torch.set_float32_matmul_precision("high")

    assert torch.get_float32_matmul_precision() == "highest"


def test_a_plugin_may_even_leave_the_process_in_a_folder_that_is_gone(tmp_path):
    gone = tmp_path / "gone"
    gone.mkdir()
    before = Path.cwd()
    warnings: list[str] = []
    with guarded_globals(warnings):
        os.chdir(gone)
        gone.rmdir()

    assert Path.cwd() == before
    assert warnings == [f"a plugin changed the working directory from {before} to None; it was put back"]
