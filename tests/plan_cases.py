"""Parts that exist on paper alone, plans of them, and planners driven by made-up scores."""

from __future__ import annotations

from mmbench.config import load_config
from mmbench.plan import make_plan
from mmbench.registry import Entry, Registry
from mmbench.spec import DatasetSpec, EncoderSpec, FusionSpec, Modality, ObjectiveSpec, TaskSpec

TASK = TaskSpec(name="label", kind="multiclass", num_outputs=2)


def encoder(name, kind, layouts=("vector", "sequence"), **options):
    return EncoderSpec(name=name, kinds=(kind,), layouts=layouts, factory="a:b", version="1", **options)


def fusion(name, **options):
    return FusionSpec(name=name, factory="a:b", **{"version": "1", "missing": True, **options})


def dataset(name, modalities=("image", "audio"), **options):
    return DatasetSpec(
        name=name,
        factory="a:b",
        version="1",
        modalities=tuple(Modality(name=item, kind=item) for item in modalities),
        tasks=(TASK,),
        **options,
    )


SINGLE = fusion("single", min_modalities=1, max_modalities=1)
SUPERVISED = ObjectiveSpec(name="supervised", factory="a:b", version="1")
PARTS = (
    encoder("cnn", "image", defaults={"width": 8}),
    encoder("mlp", "image", layouts=("vector",)),
    encoder("logmel", "audio"),
    SINGLE,
    fusion("concat"),
    fusion("cross", accepts="sequence"),
    SUPERVISED,
    dataset("pairs"),
)


def registry(*specs, dist="toy"):
    entries = [Entry(spec=spec, dist=dist, dist_version="1", plugin="toy") for spec in (specs or PARTS)]
    return Registry(entries=entries)


def plan(parts=PARTS, **flags):
    return make_plan(load_config(flags), registry(*parts))


def walk(planner, score):
    """Tell a planner what every cell that can run came to, by `score(cell)`; return the cells of each stage."""
    stages, results, seen = planner.stages(), None, []
    while True:
        try:
            stage = stages.send(results)
        except StopIteration:
            return seen
        cells = list(stage.cells())
        seen.append(cells)
        results = {**(results or {}), **{cell.cell_id: score(cell) for cell in cells if cell.status == "run"}}
