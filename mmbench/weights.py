"""Finding pretrained weights on this machine: folders, and the Hugging Face hub's cache; no network, no torch.

What `describe` functions of encoders are made of: they must say within a second whether the weights are at hand, and
what identifies them. Only `hub_asset`, which serves `mmbench prepare`, may use the network.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import struct
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from mmbench.encoding import parse_json
from mmbench.errors import Unavailable
from mmbench.spec import AssetSpec, EncoderInfo, Kind

#: Which files make up a tensor checkpoint, best first: a single file, or the index of several.
_SAFETENSORS = ("model.safetensors", "model.safetensors.index.json")
_PICKLED = ("pytorch_model.bin", "pytorch_model.bin.index.json")
_REPOSITORY = re.compile(r"[\w][\w.-]*(/[\w][\w.-]*)?")
_COMMIT = re.compile(r"[0-9a-f]{40}")
#: Settings of a config, and of the options in it that timm gets, that replace the weights or the code of the folder.
_LOADS_FILES = frozenset({"checkpoint_path", "pretrained_cfg_overlay"})
_TIMM_OPTIONS = ("model_args", "backbone_kwargs")
_TIMM_LOADS_FILES = _LOADS_FILES | {"pretrained", "pretrained_cfg"}
_ATTENTION = frozenset({"attn_implementation", "_attn_implementation", "_attn_implementation_internal"})
_HASHES_FILE = "weight-hashes.json"
_LARGEST_TEXT = 64 << 20  # bytes of a config or an index; more is not one


@dataclass(frozen=True, kw_only=True)
class WeightFolder:
    """A folder that holds a config and weights.

    Attributes:
        path: Where it is.
        commit: Of the hub's repository that it is a snapshot of; "" for a folder of the user's own.
    """

    path: Path
    commit: str = ""

    def config(self) -> dict[str, Any]:
        """Return its config.json.

        Raises:
            Unavailable: it has none, it cannot be read, or it wants code of its own to be run.
        """
        config = self.read_json("config.json")
        if config is None:
            raise Unavailable(f"{self.path} has no config.json that can be read, so it does not say what it holds")
        if config.get("auto_map") or config.get("custom_pipelines"):
            raise Unavailable(
                f"{self.path / 'config.json'} asks for code of its own to be run (auto_map), which mmbench never does; "
                "use a model whose architecture the library itself has"
            )
        if (self.path / "adapter_config.json").exists():
            raise Unavailable(
                f"{self.path} holds an adapter (adapter_config.json) beside the weights, which would change them "
                "unseen; merge the adapter into the weights first (peft: merge_and_unload, then save_pretrained)"
            )
        _check_settings(self.path / "config.json", config)
        return config

    def read_json(self, name: str) -> dict[str, Any] | None:
        """Return a JSON object of this folder, or None where there is none that can be read."""
        file = self.path / name
        try:
            if file.stat().st_size > _LARGEST_TEXT:
                return None
            value = parse_json(file.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError):
            return None
        return value if isinstance(value, dict) else None

    def weights(self) -> tuple[Path, ...]:
        """Return its weight files, checked for being whole: safetensors where there are any, else PyTorch's.

        Raises:
            Unavailable: there are none, or one is cut short.
        """
        for name in (*_SAFETENSORS, *_PICKLED):
            file = self.path / name
            if not file.is_file():
                continue
            files = self._parts(file) if name.endswith(".index.json") else (file,)
            for part in files:
                _check_whole(part)
            return files
        raise Unavailable(f"{self.path} holds no weights: neither {_SAFETENSORS[0]} nor {_PICKLED[0]} is there")

    def fingerprint(self, also: Iterable[str] = ()) -> str:
        """Return what identifies its content: the commit of a snapshot, else a hash over config and weights.

        Args:
            also: Glob patterns of other files that count, relative to the folder.
        """
        if self.commit:
            return self.commit
        return content_hash(self.path, [self.path / "config.json", *self.weights(), *self.matching(also)])

    def matching(self, patterns: Iterable[str]) -> list[Path]:
        """Return its files that any of the glob patterns means, sorted."""
        return sorted({file for pattern in patterns for file in self.path.glob(pattern) if file.is_file()})

    def licence(self) -> str:
        """Return what its config or its model card says of the licence, or ""."""
        config = self.read_json("config.json") or {}
        pretrained = config.get("pretrained_cfg")
        said = pretrained.get("license", "") if isinstance(pretrained, dict) else ""
        if not said:
            with suppress(OSError, UnicodeDecodeError):  # a folder need not have a model card
                card = (self.path / "README.md").read_text(encoding="utf-8")[:4096]
                front = card.split("---")[1] if card.startswith("---") else ""
                found = re.search(r"^license:\s*(\S.*?)\s*$", front, re.MULTILINE)
                said = found.group(1) if found else ""
        return said if isinstance(said, str) else ""

    def _parts(self, index: Path) -> tuple[Path, ...]:
        listed = (self.read_json(index.name) or {}).get("weight_map")
        names = sorted(set(listed.values())) if isinstance(listed, dict) else []
        if not names or not all(isinstance(name, str) and Path(name).name == name for name in names):
            raise Unavailable(f"{index} does not list the weight files beside it")
        return tuple(self.path / name for name in names)


@dataclass(frozen=True, kw_only=True)
class HubWeights:
    """What an encoder whose target is a folder, or a name on the hub, tells planning and `mmbench prepare`.

    Its methods are what a descriptor names: ``describe="package.module:WEIGHTS.describe"``.

    Attributes:
        reference: The reference up to the target, for messages.
        kind: Kind of modality, for messages.
        files: Glob patterns of what counts beside config and weights: a tokenizer, an image processor.
    """

    reference: str = "transformers/"
    kind: Kind
    files: tuple[str, ...]

    def find(self, target: str) -> WeightFolder:
        """Return the folder that a target means.

        Raises:
            Unavailable: nothing is there.
        """
        return find_folder(target, reference=self.reference, modality=self.kind)

    def describe(self, target: str, *, tuning: str, **options: Any) -> EncoderInfo:
        """Say whether config and weights are at hand, and what identifies them and the other files.

        Raises:
            Unavailable: they are not, or cannot be used.
        """
        folder = self.find(target)
        folder.config()
        folder.weights()
        return EncoderInfo(fingerprint=folder.fingerprint(self.files), licence=folder.licence())

    def prepare(self, target: str, *, tuning: str, **options: Any) -> tuple[AssetSpec, ...]:
        """Return what to fetch for a target: nothing for a folder.

        Raises:
            Unavailable: the target is a path, and no folder is there.
        """
        return hub_assets(target, ("config.json", "README.md", *self.files), tuning=tuning)


def find_folder(target: str, *, reference: str, modality: str) -> WeightFolder:
    """Find the folder that a path or a name on the hub means: a folder on this machine, else a snapshot in the cache.

    Args:
        target: Path of a folder, or ``NAME``, ``ORGANISATION/NAME``, either with ``@REVISION``.
        reference: The reference up to the target, for messages: "transformers/".
        modality: Kind of modality, for messages.

    Raises:
        Unavailable: nothing is there; the message says how to get it.
    """
    path = Path(target).expanduser()
    if path.is_dir():
        return WeightFolder(path=path.resolve())
    found = None if _looks_like_path(target) else hub_snapshot(target)
    if found is not None:
        return found
    if _looks_like_path(target):
        raise Unavailable(f"there is no folder {target!r}; give one that holds config.json and model.safetensors")
    raise not_at_hand(f"{reference}{target}", modality, f"{reference}PATH")


def hub_assets(target: str, files: Sequence[str], *, tuning: str = "") -> tuple[AssetSpec, ...]:
    """Return what `mmbench prepare` fetches for a path or a name on the hub: nothing for a folder that is there.

    Args:
        target: The path or the name.
        files: Glob patterns of the files wanted beside the weights.
        tuning: "scratch" leaves out the weights.

    Raises:
        Unavailable: the target is a path, and no folder is there.
    """
    if Path(target).expanduser().is_dir():
        return ()
    if _looks_like_path(target):
        raise Unavailable(f"there is no folder {target!r}, and nobody to fetch it from")
    if tuning == "scratch":
        return (AssetSpec(name=target.partition("@")[0], url=f"hf:{target}", files=tuple(files)),)
    return (hub_asset(target, files),)


def not_at_hand(reference: str, modality: str, with_path: str) -> Unavailable:
    """Return the error for weights that nobody has fetched yet."""
    return Unavailable(
        f"the weights of {reference} are not at hand: run `mmbench prepare -e {modality}={reference}`, "
        f"or give a local folder as {with_path}"
    )


def hub_cache() -> Path:
    """Return where the Hugging Face hub's library keeps its cache on this machine."""
    for variable, below in (("HF_HUB_CACHE", ""), ("HUGGINGFACE_HUB_CACHE", ""), ("HF_HOME", "hub")):
        if os.environ.get(variable):
            return Path(os.environ[variable]).expanduser() / below
    home = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(home).expanduser() / "huggingface" / "hub"


def hub_snapshot(repository: str) -> WeightFolder | None:
    """Return the snapshot of a repository in the hub's cache, or None.

    Args:
        repository: ``NAME`` or ``ORGANISATION/NAME``, with ``@REVISION`` (branch, tag or commit) or its main branch.
    """
    name, _, revision = repository.partition("@")
    if not _REPOSITORY.fullmatch(name) or ".." in repository or revision.startswith("/"):
        return None
    folder = hub_cache() / f"models--{name.replace('/', '--')}"
    revision = revision or "main"
    commit = revision if _COMMIT.fullmatch(revision) else ""
    if not commit:
        with suppress(OSError, UnicodeDecodeError):  # never fetched
            commit = (folder / "refs" / revision).read_text(encoding="utf-8").strip()
    snapshot = folder / "snapshots" / commit
    return WeightFolder(path=snapshot, commit=commit) if _COMMIT.fullmatch(commit) and snapshot.is_dir() else None


def hub_repositories(pattern: str) -> list[str]:
    """Return the names of all cached repositories that a glob pattern means, as "timm/resnet18.a1_in1k", sorted."""
    try:
        folders = [entry.name for entry in hub_cache().iterdir()]
    except OSError:
        return []
    names = [name.removeprefix("models--").replace("--", "/", 1) for name in folders if name.startswith("models--")]
    return sorted(name for name in names if fnmatchcase(name, pattern))


def hub_asset(repository: str, files: Sequence[str], *, timeout_s: float = 10.0) -> AssetSpec:
    """Return what `mmbench prepare` fetches of a repository of the hub; asks the hub for size and licence if it can.

    Args:
        repository: ``NAME`` or ``ORGANISATION/NAME``, with ``@REVISION`` or without.
        files: Glob patterns of the files wanted beside the weights.
        timeout_s: How long to wait for the hub's answer.
    """
    name, _, revision = repository.partition("@")
    wanted = (*files, "model*.safetensors", "model.safetensors.index.json")
    cached = hub_snapshot(repository)
    with suppress(Unavailable):  # half fetched: the hub is asked again
        if cached is not None and cached.weights()[0].suffix == ".safetensors":
            return AssetSpec(name=name, url=f"hf:{repository}", files=wanted, licence=cached.licence())
    try:
        import huggingface_hub

        info = huggingface_hub.HfApi().model_info(
            name, revision=revision or None, files_metadata=True, timeout=timeout_s
        )
        sizes = {item.rfilename: item.size or 0 for item in info.siblings or []}
        licence = str(getattr(info.card_data, "license", "") or "")
    except Exception:  # whatever stands between here and the hub, `prepare` will meet it again and say so
        return AssetSpec(name=name, url=f"hf:{repository}", files=wanted)
    if not any(file in sizes for file in _SAFETENSORS):
        wanted = (*files, "pytorch_model*.bin", "pytorch_model.bin.index.json")
    size = sum(size for file, size in sizes.items() if any(fnmatchcase(file, pattern) for pattern in wanted))
    return AssetSpec(name=name, url=f"hf:{repository}", files=wanted, licence=licence, size_bytes=size)


def content_hash(root: Path, files: Iterable[Path]) -> str:
    """Return a hash over the names and the content of files, each read once and then known by size and time.

    Args:
        root: Names are relative to this folder, so that a moved folder keeps its hash.
        files: Files in it.
    """
    known = _KnownHashes()
    hashes = {file.relative_to(root).as_posix(): known.of(file) for file in files}
    known.save()
    return hashlib.sha256(json.dumps(hashes, sort_keys=True).encode()).hexdigest()


class _KnownHashes:
    """Hashes of files by path, size and time of change, kept in the user's cache folder; a lost one is made again."""

    def __init__(self) -> None:
        from mmbench.config import cache_dir  # brings pydantic, which listing plugins does not need

        self._file = cache_dir() / _HASHES_FILE
        self._new: dict[str, list[Any]] = {}
        self._known = self._read()

    def of(self, file: Path) -> str:
        """Return the sha256 of a file, in hex.

        Raises:
            Unavailable: it cannot be read.
        """
        try:
            path = file.resolve(strict=True)
            state = path.stat()
            stamp = [state.st_size, state.st_mtime_ns, state.st_ctime_ns]
            entry = self._known.get(str(path))
            if isinstance(entry, list) and entry[:-1] == stamp and isinstance(entry[-1], str):
                return entry[-1]
            with path.open("rb") as stream:
                digest = hashlib.file_digest(stream, "sha256").hexdigest()
        except OSError as error:
            raise Unavailable(f"{file} cannot be read: {error.strerror or error}") from None
        self._new[str(path)] = [*stamp, digest]
        return digest

    def save(self) -> None:
        """Write down what was hashed; a folder that cannot be written costs time and nothing else."""
        if not self._new:
            return
        with suppress(OSError):
            self._file.parent.mkdir(parents=True, exist_ok=True)
            handle, name = tempfile.mkstemp(prefix=".weight-hashes-", dir=self._file.parent)
            with os.fdopen(handle, "w", encoding="utf-8") as stream:
                json.dump({**self._read(), **self._new}, stream)
            Path(name).replace(self._file)

    def _read(self) -> Mapping[str, Any]:
        try:
            known = parse_json(self._file.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError):
            return {}
        return known if isinstance(known, dict) else {}


def _looks_like_path(target: str) -> bool:
    return target.startswith(("/", ".", "~")) or target.endswith("/") or not _REPOSITORY.fullmatch(target.split("@")[0])


def _check_settings(file: Path, config: dict[str, Any]) -> None:
    """Check that no setting of a config, at whatever depth, has a library load other files or code.

    Raises:
        Unavailable: one does.
    """
    left: list[Any] = [config]
    while left:
        value = left.pop()
        if isinstance(value, list):
            left += value
        if not isinstance(value, dict):
            continue
        left += value.values()
        found = [name for name in sorted(_LOADS_FILES & value.keys()) if value[name]]
        for options in (value.get(key) for key in _TIMM_OPTIONS):
            if isinstance(options, dict):
                found += [name for name in sorted(_TIMM_LOADS_FILES & options.keys()) if options[name]]
        if found:
            raise Unavailable(f"{file} sets {found[0]}, which loads weights that are not in this folder; remove it")
        for name in value.keys() & _ATTENTION:
            if "/" in str(value[name]):
                raise Unavailable(f"{file} sets {name} to {value[name]!r}, code from the hub; remove that setting")


def _check_whole(file: Path) -> None:
    """Check that a weight file is there and not cut short.

    Raises:
        Unavailable: it is not.
    """
    try:
        size = file.stat().st_size
        if file.suffix == ".safetensors":
            promised = _promised_size(file)
            if size != promised:
                raise Unavailable(f"{file} is cut short or damaged: {size} bytes, where its header promises {promised}")
        elif size == 0:
            raise Unavailable(f"{file} is empty")
    except (OSError, ValueError, TypeError, KeyError, AttributeError, struct.error, RecursionError) as error:
        raise Unavailable(f"{file} cannot be read as weights: {error}") from None


def _promised_size(file: Path) -> int:
    """Return the size that the header of a safetensors file promises, in bytes."""
    with file.open("rb") as stream:
        (header_size,) = struct.unpack("<Q", stream.read(8))
        if header_size > 100_000_000:  # the format's own limit
            raise ValueError(f"its header would have {header_size} bytes")
        header = parse_json(stream.read(header_size))
    ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
    return int(8 + header_size + max(ends, default=0))
