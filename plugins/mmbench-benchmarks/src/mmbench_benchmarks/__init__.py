"""Published multimodal datasets, read from the files as their authors lay them out: descriptors only."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from mmbench import DatasetSpec, Modality, TaskSpec, hookimpl
from mmbench.spec import Kind, Target

_FEATURES: Mapping[str, Kind] = MappingProxyType({"vision": "sequence", "audio": "sequence", "text": "sequence"})
_PICTURE_AND_TEXT: Mapping[str, Kind] = MappingProxyType({"image": "image", "text": "text"})
_SOUND: Mapping[str, Kind] = MappingProxyType({"audio": "audio"})
_SENTIMENT = (TaskSpec(name="sentiment", kind="regression", num_outputs=1, primary="mae"),)


def _classes(name: str, count: int) -> tuple[TaskSpec, ...]:
    return (TaskSpec(name=name, kind="multiclass", num_outputs=count),)


def _published(
    name: str,
    module: str,
    summary: str,
    *,
    paper: str,
    licence: str,
    modalities: Mapping[str, Kind] = MappingProxyType({}),
    tasks: tuple[TaskSpec, ...] = (),
    defaults: Mapping[str, object] = MappingProxyType({}),
    requires: tuple[str, ...] = ("PIL", "soundfile"),
    target: Target = "optional",
    open_options: bool = False,
    accepts: str = "",
    version: str = "1",
    subgroups: str = "",
) -> DatasetSpec:
    function = name.replace("-", "_")
    return DatasetSpec(
        name=name,
        factory=f"mmbench_benchmarks.{module}:open_{function}",
        describe=f"mmbench_benchmarks.{module}:describe_{function}",
        version=version,
        defaults=defaults,
        # What `mmbench list` shows; `describe` has the last word.
        modalities=tuple(Modality(name=each, kind=kind) for each, kind in modalities.items()),
        tasks=tasks,
        summary=summary,
        paper=paper,
        licence=licence,
        requires=requires,
        target=target,
        open_options=open_options,
        accepts=accepts,
        subgroups=subgroups,
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
            modalities=_FEATURES,
            tasks=_SENTIMENT,
            paper="Zadeh et al. 2016, arXiv:1606.06259",
            licence="research only, see the CMU MultimodalSDK",
            version="2",
            defaults={"task": "sentiment", "raw_text": False},
        ),
        _published(
            "mosei",
            "affect",
            "Sentiment of a spoken sentence from features of face, voice and words, 23,000 of them",
            modalities=_FEATURES,
            tasks=_SENTIMENT,
            paper="Zadeh et al. 2018, ACL P18-1208",
            licence="research only, see the CMU MultimodalSDK",
            version="2",
            defaults={"task": "sentiment", "raw_text": False},
        ),
        _published(
            "ur-funny",
            "affect",
            "Whether a talk's punchline was laughed at, from features of face, voice and words",
            modalities=_FEATURES,
            tasks=_classes("humour", 2),
            paper="Hasan et al. 2019, arXiv:1904.06618",
            licence="see github.com/ROC-HCI/UR-FUNNY",
            defaults={"raw_text": False},
        ),
        _published(
            "mustard",
            "affect",
            "Whether a line of a sitcom is sarcastic, from features of face, voice and words",
            modalities=_FEATURES,
            tasks=_classes("sarcasm", 2),
            paper="Castro et al. 2019, arXiv:1906.01815",
            licence="MIT (annotations); the clips are their studios'",
            defaults={"raw_text": False},
        ),
        _published(
            "av-mnist",
            "avmnist",
            "Handwritten digits with little of their energy left and noisy spectrograms of spoken ones",
            modalities={"image": "image", "audio": "image"},
            tasks=_classes("digit", 10),
            paper="Vielzeuf et al. 2018, arXiv:1808.07275; files of Liang et al. 2021, arXiv:2107.07502",
            licence="MNIST CC-BY-SA-3.0; Free Spoken Digit Dataset CC-BY-SA-4.0",
        ),
        _published(
            "crema-d",
            "sounds",
            "Emotion of a spoken sentence by 91 actors; whoever is in test was never heard in training",
            modalities=_SOUND,
            tasks=_classes("emotion", 6),
            paper="Cao et al. 2014, IEEE Trans. Affective Computing 5(4)",
            licence="ODbL-1.0",
            version="2",
            defaults={"seed": 0, "video": "auto", "max_seconds": 30.0, "max_frames": 64},
        ),
        _published(
            "speech-commands",
            "sounds",
            "Single spoken words, one second each",
            modalities=_SOUND,
            tasks=_classes("word", 35),
            paper="Warden 2018, arXiv:1804.03209",
            licence="CC-BY-4.0",
            defaults={"words": "all", "max_seconds": 30.0},
        ),
        _published(
            "esc-50",
            "sounds",
            "Everyday sounds of 50 classes, five seconds each",
            modalities=_SOUND,
            tasks=_classes("sound", 50),
            paper="Piczak 2015, ACM Multimedia",
            licence="CC-BY-NC-3.0",
            defaults={"test_fold": 5, "esc10": False, "max_seconds": 30.0},
        ),
        _published(
            "mm-imdb",
            "pictures",
            "Genres of a film from its poster and plot",
            modalities=_PICTURE_AND_TEXT,
            tasks=(TaskSpec(name="genres", kind="multilabel", num_outputs=23),),
            paper="Arevalo et al. 2017, arXiv:1702.01992",
            licence="research only",
        ),
        _published(
            "hateful-memes",
            "pictures",
            "Whether a meme is hateful, from its picture and words; made so that neither alone tells",
            modalities=_PICTURE_AND_TEXT,
            tasks=_classes("hateful", 2),
            paper="Kiela et al. 2020, arXiv:2005.04790",
            licence="the challenge's own",
            defaults={"phase": "seen"},
        ),
        _published(
            "food-101",
            "pictures",
            "Which of 101 dishes, from a picture and the title of its web page",
            modalities=_PICTURE_AND_TEXT,
            tasks=_classes("dish", 101),
            paper="Wang et al. 2015, ICME Workshops, Recipe recognition with large multimodal food dataset",
            licence="research only",
            defaults={"val_share": 0.1},
        ),
        _published(
            "flickr8k",
            "pictures",
            "The picture of a caption and the captions of a picture, to be found among 1,000",
            modalities=_PICTURE_AND_TEXT,
            tasks=(TaskSpec(name="match", kind="retrieval", num_outputs=256),),
            paper="Hodosh et al. 2013, JAIR 47",
            licence="research only",
            version="2",
            defaults={"task": "retrieval", "captions": 5},
        ),
        _published(
            "vqa",
            "pictures",
            "Questions about pictures, with the commonest answers as classes",
            modalities=_PICTURE_AND_TEXT,
            tasks=_classes("answer", 1000),
            paper="Goyal et al. 2017, arXiv:1612.00837",
            licence="CC-BY-4.0 (questions, answers); COCO's terms (pictures)",
            version="2",
            defaults={"answers": 1000, "val_share": 0.1},
        ),
        _published(
            "tuxpaint",
            "tuxpaint",
            "Tux Paint's stamps: picture, description, the same read aloud, and a sound for a few",
            modalities={"image": "image", "text": "text", "speech": "audio", "sound": "audio"},
            tasks=_classes("category", 12),
            paper="Kendrick et al. 2002-2022, tuxpaint.org",
            licence="GPL-2.0",
            version="2",
            defaults={
                "language": "en",
                "speech": "any",
                "sound": True,
                "svg": False,
                "svg_size": 256,
                "seed": 0,
            },
        ),
        _published(
            "hf",
            "hf",
            "Any dataset that Hugging Face's library saved to disk or keeps in its cache, read offline",
            paper="Lhoest et al. 2021, arXiv:2109.02846",
            licence="the dataset's own",
            target="required",
            open_options=True,
            accepts="mmbench_benchmarks.hf_files:accepts",
            subgroups="mmbench_benchmarks.hf:read_hf_subgroups",
        ),
    ]
