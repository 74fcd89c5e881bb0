"""Discovery of a hundred plugins costs little beside importing them without any guard.

Each measurement is the best of several fresh processes, so that nothing is imported yet and a busy machine counts little.
"""

from __future__ import annotations

import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

NUM_PLUGINS = 100
NUM_PROCESSES = 3

PLUGIN = """
from mmbench import EncoderSpec, FusionSpec, hookimpl

@hookimpl
def mmbench_fusions():
    return [FusionSpec(name="f{i}", factory="m:F", version="1", defaults={{"width": 32}})]

@hookimpl
def mmbench_encoders():
    return [EncoderSpec(name="e{i}", kinds=("image",), factory="m:E", version="1", defaults={{"width": 32}})]
"""

BARE = """
for point in entry_points(group="mmbench"):
    plugin = point.load()
    for hook in ("mmbench_fusions", "mmbench_encoders", "mmbench_objectives", "mmbench_datasets"):
        if hasattr(plugin, hook):
            getattr(plugin, hook)()
"""

MEASURE = """
import sys, time
sys.path.insert(0, sys.argv[1])
from importlib.metadata import entry_points
from mmbench.registry import load_registry
started = time.perf_counter()
{body}
print(time.perf_counter() - started)
"""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a hundred distributions, each with one plugin."""
    folder = tmp_path_factory.mktemp("site")
    for i in range(NUM_PLUGINS):
        (folder / f"bench_plugin_{i}.py").write_text(PLUGIN.format(i=i))
        info = folder / f"bench_{i}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: bench-{i}\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(f"[mmbench]\nbench_{i} = bench_plugin_{i}\n")
    _measure_s(folder, BARE)  # write the bytecode once
    return folder


def _measure_s(site: Path, body: str) -> float:
    command = [sys.executable, "-c", MEASURE.format(body=body), str(site)]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


@pytest.mark.slow
def test_guarded_discovery_takes_at_most_five_times_as_long_as_bare_imports(benchmark: Any, site: Path) -> None:
    # The two take turns, so that both see the same machine.
    times = [(_measure_s(site, BARE), _measure_s(site, "load_registry()")) for _ in range(NUM_PROCESSES)]
    bare_s, guarded_s = (min(column) for column in zip(*times, strict=True))

    benchmark.pedantic(_measure_s, args=(site, "load_registry()"), rounds=1)
    benchmark.extra_info.update(bare_s=round(bare_s, 4), guarded_s=round(guarded_s, 4), ratio=guarded_s / bare_s)
    print(f"{NUM_PLUGINS} plugins: bare {bare_s * 1e3:.1f} ms, guarded {guarded_s * 1e3:.1f} ms")  # noqa: T201
    assert not benchmark.enabled or guarded_s / bare_s < 5.0


@pytest.mark.slow
def test_the_cost_of_discovery_grows_no_faster_than_the_number_of_plugins(
    benchmark: Any, site: Path, tmp_path: Path
) -> None:
    few = tmp_path / "few"
    few.mkdir()
    for path in site.iterdir():
        if path.name.startswith(("bench_1", "bench_plugin_1")):  # 1 and 10 to 19
            (few / path.name).symlink_to(path)
    times = [(_measure_s(few, "load_registry()"), _measure_s(site, "load_registry()")) for _ in range(NUM_PROCESSES)]
    few_s, all_s = (min(column) for column in zip(*times, strict=True))

    benchmark.pedantic(_measure_s, args=(few, "load_registry()"), rounds=1)
    benchmark.extra_info.update(few_s=round(few_s, 4), all_s=round(all_s, 4), ratio=all_s / few_s)
    assert not benchmark.enabled or all_s / few_s < NUM_PLUGINS / 11


def _processor_s(command: list[str]) -> float:
    """Return the processor time of a process from its start to its end."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, capture_output=True, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


@pytest.mark.slow
def test_list_takes_at_most_two_and_a_half_times_the_import_of_typer_and_rich(benchmark: Any) -> None:
    libraries = [sys.executable, "-c", "import typer, rich.console, rich.table, rich.text"]
    listing = [sys.executable, "-m", "mmbench.cli", "list"]
    _processor_s(listing)  # write the bytecode once
    # The two take turns, so that both see the same machine.
    times = [(_processor_s(libraries), _processor_s(listing)) for _ in range(2 * NUM_PROCESSES)]
    libraries_s, listing_s = (min(column) for column in zip(*times, strict=True))

    benchmark.pedantic(_processor_s, args=(listing,), rounds=1)
    ratio = listing_s / libraries_s
    benchmark.extra_info.update(libraries_s=round(libraries_s, 4), listing_s=round(listing_s, 4), ratio=ratio)
    print(f"typer and rich {libraries_s * 1e3:.0f} ms, mmbench list {listing_s * 1e3:.0f} ms, ratio {ratio:.2f}")  # noqa: T201
    assert not benchmark.enabled or ratio < 2.5
