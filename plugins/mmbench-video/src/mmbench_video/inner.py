"""The image encoder that `frames` runs over frames: found by its reference, checked, and named for keys; no torch."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from mmbench.errors import UsageError
from mmbench.loading import known_plugin_files
from mmbench.part_code import call_function, check_packages, load_factory
from mmbench.reference import parse_reference
from mmbench.registry import Reference, Registry, load_registry
from mmbench.spec import TUNING_NAMES, AssetSpec, EncoderInfo, EncoderSpec
from mmbench.spec_values import to_json

POOLS = ("mean", "lstm", "attention")


def describe(target: str, *, tuning: str, pool: str, **options: Any) -> EncoderInfo:
    """Say whether the image encoder is at hand, and what identifies it: its version, its options, its weights.

    Raises:
        Unavailable: its weights or a package that it needs are not at hand.
        UsageError: there is no such image encoder, it cannot be trained that way, or nothing would train `pool`.
    """
    check_pool(pool, tuning)
    reference = find(target, tuning)
    spec = encoder_spec(reference)
    identity: dict[str, Any] = {
        "ref": reference.entry.ref,
        "version": reference.entry.version,
        "options": to_json(reference.options),
        "target": reference.target,
    }
    licence = ""
    if spec.describe and tuning != "scratch":
        told = {**_told(reference, tuning), **reference.options}
        info: EncoderInfo = call_function(reference.entry, spec.describe, **told)
        licence = info.licence
        if info.fingerprint:
            identity.update(target="", fingerprint=info.fingerprint)  # the content decides, wherever the files lie
    if tuning == "frozen":
        # Libraries compute features, so their versions are part of what is kept of them.
        identity["packages"] = {package: _version(package) for package in spec.requires}
    fingerprint = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()
    return EncoderInfo(fingerprint=fingerprint, licence=licence)


def prepare(target: str, *, tuning: str, **options: Any) -> tuple[AssetSpec, ...]:
    """Return what to fetch for the image encoder.

    Raises:
        UsageError: there is no such image encoder, it cannot be trained so, or its files belong to its own folder.
        Unavailable: it has no such weights.
    """
    reference = find(target, tuning)
    spec = encoder_spec(reference)
    told: tuple[AssetSpec, ...] = spec.weights
    if spec.prepare:
        options = {**_told(reference, tuning), **reference.options}
        told += tuple(call_function(reference.entry, spec.prepare, **options))
    files = [asset.name for asset in told if not asset.url.startswith("hf:")]
    if files:
        raise UsageError(
            f"{files[0]} belongs to the folder of {reference.entry.ref}; fetch it with "
            f"`mmbench prepare -e {target}` and a dataset that has images"
        )
    return told


def check_pool(pool: str, tuning: str) -> None:
    """Check that `pool` is known, and trained where it has weights of its own.

    Raises:
        UsageError: it is not.
    """
    if pool not in POOLS:
        raise UsageError(f"option 'pool' must be one of {', '.join(POOLS)}; got {pool!r}")
    if tuning == "frozen" and pool != "mean":
        raise UsageError(
            f"frames with tuning=frozen trains nothing, so pool={pool} would keep its random weights; use pool=mean, "
            "or a fusion over sequences, which gets one frozen token per frame, or tuning=finetune"
        )


def find(target: str, tuning: str) -> Reference:
    """Return the image encoder that a target of `frames` means.

    Raises:
        UsageError: there is none of that name, or it cannot be trained that way.
        Unavailable: a package that it needs is not installed.
    """
    _, given = parse_reference(target)
    misplaced = sorted({"tuning", "augment", *TUNING_NAMES} & given.keys())
    if misplaced:
        raise UsageError(
            f"frames and its image encoder are trained as one: {misplaced[0]} belongs to frames, so write "
            f"frames/{target.partition('[')[0]}[…][{misplaced[0]}=…]"
        )
    reference = _registry(known_plugin_files()).resolve("encoder", target, kind="image")
    spec = encoder_spec(reference)
    if tuning not in spec.tunings:
        raise UsageError(
            f"frames/{target} cannot have tuning={tuning}: the image encoder {spec.name!r} has "
            f"{', '.join(spec.tunings)}"
        )
    if "vector" not in spec.layouts and "sequence" not in spec.layouts:
        raise UsageError(f"frames needs one vector per frame, but {spec.name!r} gives {', '.join(spec.layouts)}")
    check_packages(reference.entry)
    return reference


def build(reference: Reference, tuning: str, modality: Any) -> Any:
    """Call the image encoder's factory; return its module, which gives vectors where it can, else sequences."""
    spec = encoder_spec(reference)
    layout = "vector" if "vector" in spec.layouts else "sequence"
    return load_factory(reference.entry)(modality, layout, **_told(reference, tuning), **reference.options)


def encoder_spec(reference: Reference) -> EncoderSpec:
    """Return the descriptor of a reference to an encoder."""
    assert isinstance(reference.entry.spec, EncoderSpec)
    return reference.entry.spec


def _told(reference: Reference, tuning: str) -> Mapping[str, str]:
    """Return what mmbench tells this encoder's functions beside its options."""
    spec = encoder_spec(reference)
    target = {} if spec.target == "none" else {"target": reference.target}
    return {**target, **({"tuning": tuning} if spec.takes_tuning else {})}


@lru_cache(maxsize=4)
def _registry(plugin_files: tuple[str, ...]) -> Registry:
    return load_registry(plugin_files)


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""
