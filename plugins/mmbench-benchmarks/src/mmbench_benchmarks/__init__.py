"""Published multimodal datasets, read from the files as their authors lay them out: descriptors only."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from mmbench import DatasetSpec, hookimpl


def _published(
    name: str,
    module: str,
    summary: str,
    *,
    paper: str,
    licence: str,
    defaults: Mapping[str, object] = MappingProxyType({}),
    requires: tuple[str, ...] = ("PIL", "soundfile"),
    version: str = "1",
) -> DatasetSpec:
    function = name.replace("-", "_")
    return DatasetSpec(
        name=name,
        factory=f"mmbench_benchmarks.{module}:open_{function}",
        describe=f"mmbench_benchmarks.{module}:describe_{function}",
        version=version,
        defaults=defaults,
        summary=summary,
        paper=paper,
        licence=licence,
        requires=requires,
        target="optional",
        # Their files are nobody's by default.
        in_all=False,
    )


@hookimpl
def mmbench_datasets() -> list[DatasetSpec]:
    """Return the datasets of this package."""
    return [
        _published(
            "mosi",
            "affect",
            "Sentiment of a spoken sentence from features of face, voice and words (MultiBench's or MMSA's file)",
            paper="Zadeh et al. 2016, arXiv:1606.06259",
            licence="research only, see the CMU MultimodalSDK",
            defaults={"task": "sentiment", "raw_text": False},
        ),
        _published(
            "mosei",
            "affect",
            "Sentiment of a spoken sentence from features of face, voice and words, 23,000 of them",
            paper="Zadeh et al. 2018, ACL P18-1208",
            licence="research only, see the CMU MultimodalSDK",
            defaults={"task": "sentiment", "raw_text": False},
        ),
        _published(
            "ur-funny",
            "affect",
            "Whether a talk's punchline was laughed at, from features of face, voice and words",
            paper="Hasan et al. 2019, arXiv:1904.06618",
            licence="see github.com/ROC-HCI/UR-FUNNY",
            defaults={"raw_text": False},
        ),
        _published(
            "mustard",
            "affect",
            "Whether a line of a sitcom is sarcastic, from features of face, voice and words",
            paper="Castro et al. 2019, arXiv:1906.01815",
            licence="MIT (annotations); the clips are their studios'",
            defaults={"raw_text": False},
        ),
    ]
