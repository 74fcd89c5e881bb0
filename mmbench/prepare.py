"""`mmbench prepare`: which files of weights and data a selection needs, and how they get here; the one verb online."""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

import typer
from filelock import FileLock
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

from mmbench import hub
from mmbench.config import RunConfig, part_root
from mmbench.download import NotThereError, Patience, check_room, fetch, sha256_of
from mmbench.errors import DataError, DownloadError, EmptySelection, MmbenchError, Unavailable, UsageError
from mmbench.part_code import check_packages
from mmbench.parts import call_plugin, label_of, make_dataset_part
from mmbench.registry import Reference, Registry
from mmbench.report.text import counted
from mmbench.selection import dataset_references, encoder_references, is_excluded, nothing_selected, split_selector
from mmbench.spec import KINDS, AssetSpec, DatasetSpec, EncoderSpec, Modality
from mmbench.terminal_table import Column, TerminalTable
from mmbench.unpack import unpack, unpacked
from mmbench.views import console, size_text

#: Folder, among the parts' own, for notes on the hub's repositories; no part's folder can have its name.
HUB_NOTES = "hub"
Status = Literal["complete", "lacking", "damaged", "fetched", "failed"]


@dataclass(frozen=True, kw_only=True)
class Need:
    """One file or repository that a selection needs.

    Attributes:
        part: Whose, as "dataset esc50"; the first of several.
        folder: Of that part, below the folder of all data.
        asset: What.
        place: Path of the file; for a repository, of the notes on it.
        repository: Of the hub, or None for a file.
    """

    part: str
    folder: str
    asset: AssetSpec
    place: Path
    repository: hub.Repository | None = None


@dataclass(frozen=True, kw_only=True)
class Found:
    """How it stands with one need; without one, a part cannot say what it needs."""

    part: str
    status: Status
    reason: str = ""
    need: Need | None = None

    def to_json(self) -> dict[str, Any]:
        """Return a row for programs."""
        row: dict[str, Any] = {"part": self.part, "status": self.status, "reason": self.reason}
        if self.need is not None:
            asset = self.need.asset
            row.update(name=asset.name, url=asset.url, licence=asset.licence, size_bytes=asset.size_bytes)
            row["checked_by"] = _checked_by(self.need)
            row["path"] = "" if self.need.repository else str(self.need.place)
        return row


@dataclass(frozen=True, kw_only=True)
class Sources:
    """Where files come from instead of their publishers.

    Attributes:
        mirror: Address of a server that has them, or "".
        folder: A local folder that has them, or None.
        patience: With servers.
    """

    mirror: str = ""
    folder: Path | None = None
    patience: Patience = field(default_factory=Patience)


def run_prepare(
    config: RunConfig,
    registry: Registry,
    data: Path,
    *,
    sources: Sources,
    check: bool = False,
    dry_run: bool = False,
    yes: bool = False,
    as_json: bool = False,
) -> int:
    """Say what a selection needs, ask, fetch it, and return the exit code.

    Args:
        config: The selection.
        registry: What is installed.
        data: Folder of all parts' files.
        sources: Where to look instead of the publishers' servers.
        check: Only say what is lacking or damaged; no network.
        dry_run: Only say what would be fetched.
        yes: Do not ask.
        as_json: Print JSON for programs.

    Raises:
        EmptySelection, UsageError: the selection matches nothing, or cannot be used as written.
    """
    if as_json and not (yes or check or dry_run):
        raise UsageError("prepare --json cannot ask; say --yes, --check or --dry-run")
    out = console(stderr=as_json)
    needs, troubles = find_needs(config, registry, data)
    found = [*troubles, *(look(need) for need in needs)]
    todo = [item for item in found if item.status in ("lacking", "damaged") and item.need is not None]
    try:
        if todo:
            _print(out, found, todo, data)
        if todo and not check and not dry_run:
            fetchable = [item for item in todo if item.need and (item.need.asset.url or sources.folder)]
            if fetchable and not yes:
                typer.confirm(f"Fetch {_amount(fetchable)}?", abort=True)
            done = dict(_fetch_all(out, todo, sources))
            found = [done.get(id(item), item) for item in found]
    except KeyboardInterrupt:
        out.print("interrupted; the same command goes on where this one stopped")
        return 130
    _print_end(out, found, check=check, dry_run=dry_run)
    if as_json:
        text = json.dumps({"data_dir": str(data), "files": [item.to_json() for item in found]}, indent=2)
        sys.stdout.write(text + "\n")
    good = ("complete", "fetched", *(("lacking", "damaged") if dry_run and not check else ()))
    return 0 if all(item.status in good for item in found) else 1


def find_needs(config: RunConfig, registry: Registry, data: Path) -> tuple[list[Need], list[Found]]:
    """Return what the selected datasets and pretrained encoders need, and the parts that cannot say, or cannot be had.

    Raises:
        EmptySelection, UsageError: the selection matches nothing, or cannot be used as written.
    """
    needs: dict[Path, Need] = {}
    troubles: list[Found] = []
    for reference in selected(config, registry):
        spec = reference.entry.spec
        part = f"{'dataset' if isinstance(spec, DatasetSpec) else 'encoder'} {label_of(registry, reference)}"
        try:
            assets = tuple(_assets(reference))
            if not assets and isinstance(spec, DatasetSpec) and spec.describe:
                call_plugin(spec.describe, reference)  # it says where a set is to be had that one must get oneself
            for asset in assets:
                need = _need(part, reference, asset, data)
                needs.setdefault(need.place, need)
        except MmbenchError as error:
            troubles.append(Found(part=part, status="failed", reason=str(error)))
    return list(needs.values()), troubles


def selected(config: RunConfig, registry: Registry) -> list[Reference]:
    """Return the datasets of a selection, and the encoders that start from weights.

    A dataset whose files are lacking may not be able to describe itself yet: then encoders of all kinds that the
    selection names are taken to be meant for it.
    """
    if not (config.grid or config.dataset or config.encoder or config.fusion or config.objective):
        raise UsageError(
            "nothing is selected: say what you want to run, such as -d DATASET -e ENCODER, or --grid all "
            "(see `mmbench list datasets`)"
        )
    named = dataset_references(config, registry)
    datasets = [reference for _, reference in named if not _left_out(config, registry, reference)]
    if not datasets:
        raise EmptySelection(nothing_selected(registry, "dataset"))
    for selector in config.encoder:
        registry.match("encoder", split_selector(selector)[1])
    encoders = [
        reference
        for dataset in datasets
        for name, reference in _encoders(config, registry, dataset)
        if reference.tuning != "scratch" and not _left_out(config, registry, reference, name)
    ]
    by_label = {(type(item.entry.spec).__name__, label_of(registry, item)): item for item in (*datasets, *encoders)}
    return list(by_label.values())


def look(need: Need) -> Found:
    """Say how it stands with a need; every byte that has a hash is read."""
    if need.repository is not None:
        reason = hub.missing(need.repository, need.place.parent)
        status: Status = "damaged" if reason.endswith("damaged") else "lacking" if reason else "complete"
        return Found(part=need.part, status=status, reason=reason, need=need)
    asset, place = need.asset, need.place
    problem = _damage(asset, place)
    if asset.unpack:
        packed = unpacked(place, asset.sha256)
        # The archive itself may have been removed since.
        problem = packed if packed or not place.exists() else problem
    if not problem:
        return Found(part=need.part, status="complete", need=need)
    if not place.exists():
        problem = "it is not here"
    return Found(part=need.part, status="damaged" if place.exists() else "lacking", reason=problem, need=need)


def get(need: Need, sources: Sources, on_progress: Callable[[int, int | None], None]) -> None:
    """Bring one file or repository here, whole and checked, unless another process has done so meanwhile.

    Raises:
        MmbenchError: it could not be had; the message says why and what to do.
    """
    if need.repository is not None:
        hub.fetch(need.repository, need.place.parent, source=sources.folder)
        reason = hub.missing(need.repository, need.place.parent)
        if reason:
            raise DownloadError(f"{need.asset.url} was fetched, and yet {reason}")
        return
    asset, place = need.asset, need.place
    place.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(place.parent / f".{place.name}.lock"):
        if look(need).status == "complete":
            return
        if _damage(asset, place):
            _get_file(need, sources, on_progress)
        if asset.unpack:
            unpack(place, asset.sha256 or sha256_of(place))


def _encoders(config: RunConfig, registry: Registry, dataset: Reference) -> Iterator[tuple[str, Reference]]:
    """Yield (modality, encoder) of everything that a plan of this dataset would use."""
    spec = dataset.entry.spec
    assert isinstance(spec, DatasetSpec)
    try:
        modalities = make_dataset_part(config, registry, dataset).info.modalities
    except MmbenchError:
        modalities = spec.modalities
    if modalities:
        names = {modality.name for modality in modalities}
        for modality in modalities:
            if not config.modality or modality.name in config.modality:
                for reference in encoder_references(config, registry, modality, names):
                    yield modality.name, reference
        return
    for selector in config.encoder:
        name, pattern = split_selector(selector)
        for reference in registry.match("encoder", pattern, next((kind for kind in KINDS if kind == name), None)):
            yield name, reference
    if not config.encoder:
        for kind in KINDS:
            for reference in encoder_references(config, registry, Modality(name=kind, kind=kind), ()):
                yield kind, reference


def _left_out(config: RunConfig, registry: Registry, reference: Reference, modality: str = "") -> bool:
    return is_excluded(label_of(registry, reference), config.exclude, modality)


def _assets(reference: Reference) -> Iterable[AssetSpec]:
    spec = reference.entry.spec
    assert isinstance(spec, DatasetSpec | EncoderSpec)
    fixed = spec.files if isinstance(spec, DatasetSpec) else spec.weights
    if not spec.prepare:
        return fixed
    check_packages(reference.entry)
    facts = {"tuning": reference.tuning} if isinstance(spec, EncoderSpec) else {}
    with redirect_stdout(sys.stderr):  # what a plugin prints must not stand among JSON
        told = call_plugin(spec.prepare, reference, **facts)
    if not isinstance(told, list | tuple) or not all(isinstance(asset, AssetSpec) for asset in told):
        raise Unavailable(f"{spec.prepare} must return a tuple of AssetSpec, got {told!r}")
    return (*fixed, *told)


def _need(part: str, reference: Reference, asset: AssetSpec, data: Path) -> Need:
    folder = part_root(data, reference.entry.ref)
    if asset.url.startswith("hf:"):
        kind: Literal["model", "dataset"] = "dataset" if isinstance(reference.entry.spec, DatasetSpec) else "model"
        repository = hub.parse(asset.url, kind, asset.files)
        files = hashlib.sha256(json.dumps(sorted(asset.files)).encode()).hexdigest()[:8]
        place = data / HUB_NOTES / f"{repository.folder_name}@{repository.revision}-{files}"
        return Need(part=part, folder=folder.name, asset=asset, place=place, repository=repository)
    if asset.url and urlsplit(asset.url).scheme not in ("https", "http"):
        raise DataError(f"{asset.name} would come from {asset.url}; mmbench fetches https: and hf: only")
    parts = asset.name.split("/")
    if any(word in ("", ".", "..") or word.startswith(".") or "\\" in word or "\0" in word for word in parts):
        raise DataError(f"{asset.name!r} does not name a file under the folder of {reference.entry.ref}")
    return Need(part=part, folder=folder.name, asset=asset, place=folder.joinpath(*parts))


def _damage(asset: AssetSpec, place: Path) -> str:
    """Return what is wrong with a file, or ""."""
    try:
        size = place.stat().st_size
        if asset.size_bytes is not None and size != asset.size_bytes:
            return f"it has {size} bytes, where {asset.size_bytes} were promised"
        if asset.sha256 and sha256_of(place) != asset.sha256:
            return "its sha256 is not the one that was promised"
    except FileNotFoundError:
        return "it is not here"
    except OSError as error:
        return f"it cannot be read: {error.strerror}"
    return ""


def _get_file(need: Need, sources: Sources, on_progress: Callable[[int, int | None], None]) -> None:
    asset, place = need.asset, need.place
    if sources.folder is not None:
        _copy(need, sources.folder)
        return
    if not asset.url:
        licence = f" ({asset.licence})" if asset.licence else ""
        raise DownloadError(
            f"nobody may hand out {asset.name}{licence}: get it from its publisher and put it at {place}, or into a "
            "folder that you name with --from"
        )
    hosts = [urlsplit(sources.mirror).hostname or ""] if sources.mirror else []
    urls = _mirrored(need, sources.mirror) if sources.mirror else [asset.url]
    for url in urls:
        try:
            fetch(
                url,
                place,
                sha256=asset.sha256,
                size_bytes=asset.size_bytes,
                http_hosts=hosts,
                patience=sources.patience,
                on_progress=on_progress,
            )
            return
        except NotThereError:
            if len(urls) == 1:
                raise
    raise DownloadError(f"the mirror has no {asset.name}; tried {', '.join(urls)}")


def _mirrored(need: Need, mirror: str) -> list[str]:
    """Return where a mirror may have a file: laid out as our data folder, as the publisher's server, or flat."""
    parts = urlsplit(need.asset.url)
    base = mirror.rstrip("/")
    urls = [f"{base}/{need.folder}/{need.asset.name}"]
    if parts.hostname:
        urls.append(f"{base}/{parts.hostname}{parts.path}")
    if need.asset.sha256:  # only the hash tells that a file of this name is this file
        urls.append(f"{base}/{need.place.name}")
    return urls


def _copy(need: Need, source: Path) -> None:
    """Take a file from a local folder, by its name there or, where its hash is known, under any name."""
    asset, place = need.asset, need.place
    candidates = [source / need.folder / asset.name, source / asset.name, source / place.name]
    wrong = ""
    for file in dict.fromkeys(candidates):
        if file.is_file():
            problem = _damage(asset, file)
            if not problem:
                break
            wrong = f"; {file} is not it: {problem}"
    else:
        alike = (item for item in sorted(source.rglob("*")) if asset.sha256 and item.is_file())
        same_size = (item for item in alike if asset.size_bytes in (None, item.stat().st_size))
        match = next((item for item in same_size if not _damage(asset, item)), None)
        if match is None:
            raise DownloadError(f"{source} has no {asset.name}, neither by name nor by hash{wrong}")
        file = match
    check_room(place.parent, file.stat().st_size)
    part = place.with_name(f"{place.name}.part")
    shutil.copyfile(file, part)
    problem = _damage(asset, part)
    if problem:
        part.unlink()
        raise DownloadError(f"{file} changed while it was copied: {problem}")
    part.replace(place)
    place.with_name(f"{place.name}.part.json").unlink(missing_ok=True)


def _fetch_all(out: Any, todo: list[Found], sources: Sources) -> Iterator[tuple[int, Found]]:
    with _progress(out) as begin:
        for item in todo:
            assert item.need is not None
            try:
                get(item.need, sources, begin(item.need))
                yield id(item), Found(part=item.part, status="fetched", need=item.need)
            except MmbenchError as error:
                yield id(item), Found(part=item.part, status="failed", reason=str(error), need=item.need)
            except OSError as error:
                reason = f"{error.filename or item.need.place} cannot be written: {error.strerror or error}"
                yield id(item), Found(part=item.part, status="failed", reason=reason, need=item.need)


@contextmanager
def _progress(out: Any) -> Iterator[Callable[[Need], Callable[[int, int | None], None]]]:
    """Give a function that begins a bar for a need, and itself gives the function that moves it."""
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(binary_units=True))
    bars = Progress(*columns, TransferSpeedColumn(), TimeRemainingColumn(), console=out, disable=not out.is_terminal)

    def begin(need: Need) -> Callable[[int, int | None], None]:
        if need.repository is not None:
            bars.stop()  # the hub's library has bars of its own
            out.print(f"fetching {need.asset.url}")
            return lambda done, total: None
        if not out.is_terminal:
            out.print(f"fetching {need.asset.name}")
            return lambda done, total: None
        bars.start()
        task = bars.add_task(need.asset.name, total=need.asset.size_bytes)
        return lambda done, total: bars.update(task, completed=done, total=total or need.asset.size_bytes)

    try:
        yield begin
    finally:
        bars.stop()


def _print(out: Any, found: list[Found], todo: list[Found], data: Path) -> None:
    made = TerminalTable(
        [
            Column(heading="needed by", kind="name"),
            Column(heading="what", kind="name"),
            Column(heading="size"),
            Column(heading="licence", kind="text"),
            Column(heading="checked by", kind="text", priority=2),
            Column(heading="from", kind="text", priority=1),
            Column(heading="state", kind="text"),
        ],
        title=f"{_amount(todo)}, into {data}",
    )
    for item in todo:
        assert item.need is not None
        asset = item.need.asset
        size = "unknown" if asset.size_bytes is None else size_text(asset.size_bytes)
        licence, source = asset.licence or "not stated", asset.url or "by hand"
        made.add_row(item.part, asset.name, size, licence, _checked_by(item.need), source, item.reason)
    made.print(out)
    there = sum(item.status == "complete" for item in found)
    if there:
        out.print(f"{counted(there, 'file')} already there")


def _checked_by(need: Need) -> str:
    """Say what tells that a file is the right one."""
    if need.repository is not None:
        return "the hub's hashes"
    return "sha256" if need.asset.sha256 else "its size" if need.asset.size_bytes is not None else "nothing"


def _amount(todo: list[Found]) -> str:
    sizes = [item.need.asset.size_bytes for item in todo if item.need is not None]
    known = sum(size for size in sizes if size is not None)
    unknown = sizes.count(None)
    if unknown == len(sizes):
        return f"{counted(len(sizes), 'file')} of unknown size"
    return f"{counted(len(sizes), 'file')}, {size_text(known)}" + (f" and {unknown} of unknown size" if unknown else "")


def _print_end(out: Any, found: list[Found], *, check: bool, dry_run: bool) -> None:
    for item in found:
        if item.status == "failed":
            what = f" ({item.need.asset.name})" if item.need is not None else ""
            out.print(f"failed: {item.part}{what}: {item.reason}")
    if not found:
        out.print("nothing to prepare: the selection needs no files")
        return
    there = sum(item.status in ("complete", "fetched") for item in found)
    if there == len(found):
        fetched = sum(item.status == "fetched" for item in found)
        out.print(
            f"{counted(fetched, 'file')} fetched, all there" if fetched else f"all there: {counted(there, 'file')}"
        )
    elif check or not dry_run:
        out.print(f"{there} of {counted(len(found), 'file')} there")
