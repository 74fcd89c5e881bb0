"""What a user may ask of Ray, and what the executor decides without one."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from mmbench_executors.ray import RayExecutor

from mmbench.errors import Unavailable, UsageError

BAD_OPTIONS = [
    ({"address": "ray://head:10001"}, r"Ray client server.*HOST:PORT"),
    ({"address": "head"}, r"address must be local, auto or HOST:PORT of the cluster's head, got 'head'"),
    ({"address": "head:123456"}, r"address must be local, auto or HOST:PORT"),
    ({"gpus": 1.5}, r"gpus must be a fraction of one GPU or a whole number, got 1\.5"),
    ({"cpus": -1}, r"cpus must be a number of at least 0, got -1"),
    ({"cpus": "two"}, r"cpus must be a number of at least 0, got 'two'"),
    ({"cpus": 0}, r"cpus and gpus are both 0"),
]


@pytest.mark.parametrize(("options", "words"), BAD_OPTIONS)
def test_an_option_that_makes_no_sense_is_refused(tmp_path: Path, options: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        RayExecutor(tmp_path, **options)


#: Resources of a node, what each cell asks for, how many cells fit.
FITTING = [
    ({"CPU": 4.0}, 1, 0, 4),
    ({"CPU": 4.0}, 1.5, 0, 2),
    ({"CPU": 4.0}, 8, 0, 0),
    ({"CPU": 4.0}, 1, 0.25, 0),
    ({"CPU": 64.0, "GPU": 2.0}, 1, 0.25, 8),
    ({"CPU": 64.0, "GPU": 2.0}, 1, 0.1, 20),
    ({"CPU": 64.0, "GPU": 2.0}, 1, 0.4, 4),  # 0.8 of each GPU, for none is split between two cells' shares
    ({"CPU": 64.0, "GPU": 3.0}, 0, 2, 1),
    ({"CPU": 3.0, "GPU": 2.0}, 1, 0.25, 3),
    ({"memory": 1.0}, 1, 0, 0),
]


@pytest.mark.parametrize(("resources", "cpus", "gpus", "fitting"), FITTING)
def test_a_node_takes_as_many_cells_as_its_cpus_and_gpus_allow(
    resources: dict[str, float], cpus: float, gpus: float, fitting: int
) -> None:
    pytest.importorskip("ray", reason="Ray is not installed")
    from mmbench_executors.ray_driver import num_fitting

    assert num_fitting(resources, cpus=cpus, gpus=gpus) == fitting


def test_a_file_that_a_node_names_stays_in_the_folder(tmp_path: Path) -> None:
    pytest.importorskip("ray", reason="Ray is not installed")
    from mmbench_executors.ray_driver import inside

    assert inside(tmp_path, "deep/er/file.txt") == tmp_path / "deep" / "er" / "file.txt"
    for name in ("../file.txt", "deep/../../file.txt", "/etc/file.txt"):
        with pytest.raises(OSError, match="outside of the cell's folder"):
            inside(tmp_path, name)


def test_this_process_does_not_import_ray_or_torch() -> None:
    code = "import sys, mmbench_executors.ray; print(sorted({'ray', 'torch', 'pandas'} & set(sys.modules)))"

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout == "[]\n"


def test_a_ray_that_cannot_be_imported_is_told_in_its_own_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "ray.py").write_text("raise RuntimeError('this Ray is broken')\n")
    monkeypatch.syspath_prepend(tmp_path / "code")

    with RayExecutor(tmp_path) as executor, pytest.raises(Unavailable) as error:
        executor.capacity  # noqa: B018  (asking for it starts Ray)

    assert str(error.value) == (
        "Ray cannot be used at address 'local': exit code 1; its last words: RuntimeError: this Ray is broken"
    )


def test_a_ray_that_takes_too_long_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "ray.py").write_text("import time\ntime.sleep(60)\n")
    monkeypatch.syspath_prepend(tmp_path / "code")
    monkeypatch.setattr("mmbench_executors.ray.START_S", 1.0)

    with RayExecutor(tmp_path) as executor, pytest.raises(Unavailable) as error:
        executor.capacity  # noqa: B018  (asking for it starts Ray)

    assert str(error.value) == (
        f"Ray cannot be used at address 'local': it took longer than 1 s; see {tmp_path / 'driver.log'}"
    )
