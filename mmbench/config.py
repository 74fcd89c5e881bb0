"""What a run is asked to do: flags and run files with the same keys, checked in one place."""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from platformdirs import user_cache_path, user_data_path
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    ValidationError,
    model_serializer,
)

from mmbench.errors import UsageError, did_you_mean

MAX_SEEDS = 100_000
_MOST_KEY_PARTS = 100
BUILTIN_GRIDS = ("quick", "all", "smoke", "race")
Model = TypeVar("Model", bound=BaseModel)


def _listed(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


def _seeds(value: Any) -> Any:
    """Read "3" or 3 as the repeats 0, 1, 2 and "0,4" or [0, 4] as themselves."""
    if isinstance(value, bool):
        raise ValueError("seeds takes a count such as 3 or a list such as 0,1,2")
    if isinstance(value, str):
        try:
            value = [int(part) for part in value.split(",") if part.strip()] if "," in value else int(value)
        except ValueError:
            raise ValueError(f"seeds takes a count such as 3 or a list such as 0,1,2; got {value[:80]!r}") from None
    if isinstance(value, int):
        if value < 1:
            raise ValueError(f"seeds takes a count of at least 1, got {value}")
        if value > MAX_SEEDS:
            raise ValueError(f"seeds takes a count of at most {MAX_SEEDS:,}")
        value = list(range(value))
    return list(dict.fromkeys(value)) if isinstance(value, list) else value


def _failures(value: Any) -> Any:
    """Read "10%" as the share 0.1 and "3" as the count 3."""
    if isinstance(value, str):
        try:
            return float(value[:-1]) / 100 if value.endswith("%") else int(value)
        except ValueError:
            raise ValueError(f"max_failures takes a count such as 3 or a share such as 10%; got {value!r}") from None
    return value


def _device(value: Any) -> Any:
    if isinstance(value, str) and not re.fullmatch(r"auto|cpu|cuda(:\d+)?", value):
        raise ValueError("takes auto, cpu, cuda or cuda:1")
    return value


def parse_seconds(value: Any) -> Any:
    """Read "90", "90s", "15m", "2h" or "30d" as seconds.

    Raises:
        ValueError: the text is no duration.
    """
    if not isinstance(value, str):
        return value
    factor = {"s": 1, "m": 60, "h": 3600, "d": 86400}.get(value[-1:].lower())
    try:
        return float(value) if factor is None else float(value[:-1]) * factor
    except ValueError:
        raise ValueError(f"a duration reads 90, 90s, 15m, 2h or 30d; got {value!r}") from None


def parse_bytes(value: Any) -> Any:
    """Read "10GiB", "500 MB", "1e9" or "none" as bytes; "none" is no limit.

    Raises:
        ValueError: the text is no size.

    >>> parse_bytes("1.5KiB"), parse_bytes("2 GB"), parse_bytes("none")
    (1536, 2000000000, None)
    """
    if not isinstance(value, str):
        return value
    if value.strip().lower() == "none":
        return None
    found = re.fullmatch(r"\s*(\d+(?:\.\d*)?(?:e\d+)?)\s*(?:([kmgt]?)(i?)b?)?\s*", value, re.IGNORECASE)
    if not found:
        raise ValueError(f"a size reads 10GiB, 500MB or none; got {value!r}")
    number, prefix, binary = found.groups()
    return int(float(number) * (1024 if binary else 1000) ** " kmgt".index(prefix.lower() or " "))


Listed = Annotated[tuple[str, ...], BeforeValidator(_listed)]
Seconds = Annotated[float, BeforeValidator(parse_seconds), Field(gt=0)]
Bytes = Annotated[int, Field(ge=0)]
Count = Annotated[int, Field(ge=1)]


#: Settings that came after the first cells were keyed, with their defaults.
_NEWER_SETTINGS: Mapping[str, Any] = {"sampler": "shuffle"}


class TrainConfig(BaseModel):
    """How a cell is trained. Every field is part of the cell's quality key."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    epochs: Annotated[int, Field(ge=1)] = 10
    batch_size: Count = 64
    optimiser: Literal["sgd", "adam", "adamw"] = "adamw"
    lr: Annotated[float, Field(gt=0)] = 2e-3
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    weight_decay: Annotated[float, Field(ge=0)] = 1e-2
    l1: Annotated[float, Field(ge=0)] = 0.0
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    clip_norm: Annotated[float, Field(ge=0)] = 1.0
    schedule: Literal["constant", "cosine"] = "cosine"
    warmup: Annotated[float, Field(ge=0, lt=1)] = 0.1
    patience: Annotated[int, Field(ge=0)] = 3
    class_weights: Literal["none", "balanced"] = "none"
    select: Literal["primary", "loss"] = "primary"
    precision: Literal["fp32", "bf16"] = "fp32"
    limit: Annotated[int, Field(ge=0)] = 0
    sampler: Literal["shuffle", "balanced"] = "shuffle"

    @model_serializer(mode="wrap")
    def _without_new_defaults(self, to_dict: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave out newer settings that have their default: keys of cells trained before they existed stay the same."""
        newer = {name: value for name, value in _NEWER_SETTINGS.items() if getattr(self, name) == value}
        return {name: value for name, value in to_dict(self).items() if name not in newer}

    @classmethod
    def all_defaults(cls) -> dict[str, Any]:
        """Return the default of every setting."""
        return {name: field.default for name, field in cls.model_fields.items()}


#: Tables of a run file whose keys are merged, each with an example.
_TABLES: Mapping[str, str] = {"train": "epochs = 5", "race": "eta = 3", "sweep": 'method = "random"'}
#: What the grid `quick` selects where the command does not say: a comparison that takes a minute on two cores.
QUICK_SELECTION: Mapping[str, Any] = {
    "dataset": ["digits"],
    "encoder": ["image=cnn", "audio=conv1d", "text=bag-of-embeddings"],
    "fusion": ["concat", "gated", "sum"],
    "seeds": 3,
}
#: What the grid `smoke` asks for: every component touched once, in seconds. Its scores mean nothing.
SMOKE_TRAIN: Mapping[str, Any] = {"epochs": 1, "limit": 64}


class RunConfig(BaseModel):
    """Everything a plan and a run need; field names are the keys of a run file and the long flags."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    grid: str = ""
    dataset: Listed = ()
    encoder: Listed = ()
    fusion: Listed = ()
    objective: Listed = ()
    modality: Listed = ()
    exclude: Listed = ()
    metric: Listed = ()
    seeds: Annotated[tuple[int, ...], BeforeValidator(_seeds), Field(min_length=1)] = (0,)
    master_seed: int = 0
    baselines: bool = True
    max_cells: Count | None = None
    plugin: Listed = ()
    train: Mapping[str, Any] = {}
    race: Mapping[str, Any] = {}
    sweep: Mapping[str, Any] = {}

    run: str = ""
    results: str = "results"
    executor: str = "local"
    jobs: Annotated[int, Field(ge=0)] = 0
    threads: Count = 1
    device: Annotated[str, BeforeValidator(_device)] = "auto"
    cuda_graphs: Literal["auto", "never"] = "auto"
    protocol: Literal["none", "quick", "standard", "rigorous"] = "quick"
    diagnostics: Literal["none", "quick", "full"] = "quick"
    feature_cache: bool = True
    keep_train: bool = False
    together: Literal["never", "auto"] = "never"
    timeout: Seconds = 1800.0
    memory: Annotated[float, Field(gt=0)] | None = None
    max_failures: Annotated[int | float | None, BeforeValidator(_failures), Field(ge=0)] = None
    budget: Seconds | None = None
    retry: Listed = ()
    tracker: Listed = ()
    cache: str = ""
    cache_limit: Annotated[Bytes | None, BeforeValidator(parse_bytes)] = 50 * 2**30


def load_config(flags: Mapping[str, Any], *, config_file: Path | None = None, folder: Path | None = None) -> RunConfig:
    """Join defaults, a named grid, a run file and flags; later ones win, and tables such as `train` are merged by key.

    Args:
        flags: Given flags only; None counts as not given.
        config_file: A TOML run file.
        folder: Where `mmbench.toml` with named grids is looked for; the current folder by default.

    Raises:
        UsageError: a file cannot be read, a key is unknown, or a value cannot be used.
    """
    given = {key: value for key, value in flags.items() if value is not None}
    from_file = read_toml(config_file) if config_file is not None else {}
    grids = dict(from_file.pop("grids", {}))
    project_file = (folder or Path.cwd()) / "mmbench.toml"
    if project_file.is_file() and (config_file is None or project_file.resolve() != config_file.resolve()):
        grids = {**read_toml(project_file).get("grids", {}), **grids}
    name = str(given.get("grid", from_file.get("grid", "")))
    layers = [_grid(name, grids), from_file, given]
    merged: dict[str, Any] = {}
    tables: dict[str, dict[str, Any]] = {key: {} for key in _TABLES}
    for layer in layers:
        for key, example in _TABLES.items():
            table = layer.get(key, {})
            if not isinstance(table, Mapping):
                raise UsageError(f"{key} must be a table such as [{key}] with {example}, got {table!r}")
            tables[key].update(table)
        merged.update(layer)
    merged.update(tables, grid=name)
    config = validated(RunConfig, merged, str(config_file) if config_file else "the command line")
    resolve_train(config)
    return config


def resolve_train(config: RunConfig, recommended: Mapping[str, Any] | None = None) -> TrainConfig:
    """Return the training settings for a dataset: defaults, its recommendation, then what the user asked for.

    Raises:
        UsageError: a setting is unknown or out of range.
    """
    smoke = SMOKE_TRAIN if config.grid == "smoke" else {}
    return validated(TrainConfig, {**(recommended or {}), **smoke, **config.train}, "train")


def read_toml(path: Path) -> dict[str, Any]:
    """Read a TOML file.

    Raises:
        UsageError: it is not there, not UTF-8 or not TOML; the message gives line and column.
    """
    try:
        text = path.read_text(encoding="utf-8")
        # The parser takes quadratic time for the parts of a key.
        if any(line.partition("=")[0].count(".") > _MOST_KEY_PARTS for line in text.splitlines()):
            raise UsageError(f"{path} has a key of more than {_MOST_KEY_PARTS} parts, which no run file has")
        return tomllib.loads(text)
    except FileNotFoundError:
        raise UsageError(f"there is no run file {path}") from None
    except UnicodeDecodeError as error:
        raise UsageError(f"{path} is not UTF-8 (byte {error.start}); save it as UTF-8") from None
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"{path} is not TOML: {error}") from None
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError, MemoryError) as error:  # numbers too long, tables too deep
        raise UsageError(f"{path} cannot be read as TOML: {type(error).__name__}: {error}") from None


def cache_dir(config: RunConfig | None = None) -> Path:
    """Where transformed arrays are kept: `--cache`, $MMBENCH_CACHE, or the user's cache folder."""
    chosen = (config.cache if config else "") or os.environ.get("MMBENCH_CACHE", "")
    return Path(chosen).expanduser().resolve() if chosen else user_cache_path("mmbench")


def data_dir() -> Path:
    """Where datasets keep their files: $MMBENCH_DATA, or the user's data folder."""
    chosen = os.environ.get("MMBENCH_DATA", "")
    return Path(chosen).expanduser().resolve() if chosen else user_data_path("mmbench")


def part_root(data: Path, ref: str) -> Path:
    """Return the folder in which a part keeps its files.

    Args:
        data: The folder of all parts' files, as from `data_dir`.
        ref: ``dist/name``.
    """
    return data / ref.replace("/", "--")


def _grid(name: str, grids: Mapping[str, Any]) -> dict[str, Any]:
    if name == "quick":
        return dict(QUICK_SELECTION)
    if not name or name in BUILTIN_GRIDS:
        return {}
    if name in grids:
        if not isinstance(grids[name], Mapping):
            raise UsageError(f"grid {name!r} must be a table [grids.{name}] with keys such as dataset and fusion")
        return dict(grids[name])
    known = [*BUILTIN_GRIDS, *grids]
    raise UsageError(
        f"no grid is named {name!r}; there is {', '.join(known)}.{did_you_mean(name, known)} "
        f"Define it as [grids.{name}] in mmbench.toml or in the run file."
    )


def validated(model: type[Model], values: Mapping[str, Any], where: str) -> Model:
    """Return the values as a model.

    Raises:
        UsageError: a key is unknown or a value cannot be used; the message begins with `where`.
    """
    known = list(model.model_fields)
    for key in values:
        if key not in known:
            raise UsageError(
                f"{where}: there is no key {key!r}; known are {', '.join(known)}.{did_you_mean(key, known)}"
            )
    try:
        return model.model_validate(dict(values))
    except ValidationError as error:
        lines = []
        for problem in error.errors():
            key = ".".join(str(part) for part in problem["loc"][:1])
            message = problem["msg"].removeprefix("Value error, ").replace("Input should be", "must be")
            lines.append(f"{where}: {key} = {problem['input']!r}: {message[0].lower()}{message[1:]}")
        raise UsageError("\n".join(lines)) from None
