"""Where the weights of timm's models are, for planning and for `mmbench prepare`; imports neither timm nor torch."""

from __future__ import annotations

from typing import Any

from mmbench.errors import Unavailable, UsageError
from mmbench.spec import AssetSpec, EncoderInfo
from mmbench.weights import WeightFolder, find_folder, hub_asset, hub_repositories, hub_snapshot, not_at_hand

LOCAL = "local-dir:"
HUB = ("hf-hub:", "hf_hub:")
_FILES = ("config.json", "README.md")


def find(target: str) -> WeightFolder:
    """Return the folder of a target: ``NAME``, ``NAME.TAG``, ``local-dir:PATH`` or ``hf-hub:ORGANISATION/NAME``.

    Raises:
        Unavailable: nothing is there.
        UsageError: the cache holds several sets of weights for a name without a tag.
    """
    if target.startswith(LOCAL):
        path = target.removeprefix(LOCAL)
        path = path if path.startswith(("/", ".", "~")) else f"./{path}"
        return find_folder(path, reference="timm/", modality="image")
    missing = not_at_hand(f"timm/{target}", "image", f"timm/{LOCAL}PATH")
    if target.startswith(HUB):
        repository = target.partition(":")[2]
    elif "." in target:
        repository = f"timm/{target}"
    else:
        # Which tag timm itself would take stands in timm only, which is slow to import.
        cached = [*hub_repositories(f"timm/{target}"), *hub_repositories(f"timm/{target}.*")]
        if len(cached) > 1:
            known = ", ".join(name.removeprefix("timm/") for name in cached)
            raise UsageError(f"several weights of {target} are at hand: {known}. Write timm/ and one of these")
        repository = cached[0] if cached else f"timm/{target}"
    found = hub_snapshot(repository)
    if found is None:
        raise missing
    return found


def describe(target: str, *, tuning: str, **options: Any) -> EncoderInfo:
    """Say whether config and weights are at hand, and what identifies them.

    Raises:
        Unavailable: they are not, or cannot be used.
    """
    folder = find(target)
    architecture(folder)
    folder.weights()
    return EncoderInfo(fingerprint=folder.fingerprint(), licence=folder.licence())


def prepare(target: str, *, tuning: str, **options: Any) -> tuple[AssetSpec, ...]:
    """Return what to fetch for a target: nothing for a folder.

    Raises:
        Unavailable: there is no such folder.
        UsageError: timm has no model or no weights of that name.
    """
    if target.startswith(LOCAL):
        find(target)
        return ()
    if target.startswith(HUB):
        return (hub_asset(target.partition(":")[2], _FILES),)
    import timm

    if not timm.is_model(target.partition(".")[0]):
        raise UsageError(f"timm {timm.__version__} has no model named {target!r}; see timm.list_models()")
    if tuning == "scratch":
        return ()
    config = timm.get_pretrained_cfg(target)
    if config is None or not config.hf_hub_id:
        raise UsageError(f"timm {timm.__version__} names no weights on the hub for {target!r}")
    repository = config.hf_hub_id if "/" in config.hf_hub_id.removeprefix("timm/") else ""
    tagged = f"timm/{config.architecture}.{config.tag}" if config.tag else f"timm/{config.architecture}"
    return (hub_asset(repository or tagged, _FILES),)


def architecture(folder: WeightFolder) -> str:
    """Return the architecture that a folder's config names.

    Raises:
        Unavailable: it names none, so it is not timm's.
    """
    name = folder.config().get("architecture")
    if not isinstance(name, str) or not name:
        raise Unavailable(f"{folder.path / 'config.json'} names no architecture, so it is not a config of timm")
    return name
