"""Checks of a factory as it is imported: importing it changes nothing, and it takes the options that are declared."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from mmbench.errors import Unavailable
from mmbench.part_code import load_attribute, missing_packages
from mmbench.spec import DatasetSpec, Role
from mmbench.testing.checks import Fault, NotChecked, Remark, check
from mmbench.testing.state import changes, read_state

_ALL: tuple[Role, ...] = ("encoder", "fusion", "objective", "dataset")
_POSITIONAL: dict[Role, tuple[str, ...]] = {
    "encoder": ("modality", "layout"),
    "fusion": ("dims", "tasks"),
    "objective": ("dims", "tasks"),
    "dataset": ("root",),
}


@check(
    "factory-imports-cleanly",
    *_ALL,
    promise="Importing the factory's module works, and changes no seed, dtype, flag, folder or filter.",
    mend="Remove the call from module level; raise mmbench.Unavailable inside the factory for what may be absent.",
    needs=("factory-is-there",),
)
def factory_imports_cleanly(subject: Any) -> None:
    spec = subject.part.spec
    before = read_state()
    before.pop("sys.path")
    before.pop("signal handlers")
    before.pop("running threads")
    try:
        load_attribute(spec.factory)
    except Unavailable as error:
        lacking = missing_packages(spec)
        if lacking:
            raise NotChecked(f"unavailable here: {error}") from None
        raise Fault(str(error), expected="`requires` names every package that the code imports") from None
    changed = [what for what in changes(before, read_state()) if not _done_by_libraries(what)]
    if changed:
        raise Fault(f"importing {spec.factory.partition(':')[0]} changed {'; '.join(changed)}")


@check(
    "options-fit-the-factory",
    *_ALL,
    promise="The factory takes every option in `defaults` by keyword, and needs no other.",
    mend="Name the options alike in `defaults` and in the factory's signature, without repeating their defaults there.",
    needs=("factory-imports-cleanly",),
)
def options_fit_the_factory(subject: Any) -> None:
    part = subject.part
    spec = part.spec
    try:
        factory: Callable[..., Any] = load_attribute(spec.factory)
        signature = inspect.signature(factory)
    except Unavailable as error:
        raise NotChecked(f"unavailable here: {error}") from None
    except (TypeError, ValueError):
        raise NotChecked("its signature cannot be read") from None
    given = {**spec.defaults, **part.told}
    try:
        signature.bind(*_POSITIONAL[part.role], **given)
    except TypeError as error:
        raise Fault(
            f"{spec.factory}{signature}: {error}", expected=f"({', '.join((*_POSITIONAL[part.role], *given))})"
        ) from None
    if isinstance(spec, DatasetSpec) and spec.open_options:
        return
    extra = [
        name
        for name, parameter in list(signature.parameters.items())[len(_POSITIONAL[part.role]) :]
        if parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY) and name not in given
    ]
    if extra:
        raise Remark(f"{', '.join(extra)} can never be set: `defaults` does not name it")


def _done_by_libraries(change: str) -> bool:
    """Whether libraries such as transformers do this themselves when they are imported."""
    return change.startswith(("environment variables", "warnings filters"))
