"""Running checks: which ones a target gets, what a failure of one means for another, and the results."""

from __future__ import annotations

import os
import random
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from mmbench.errors import Unavailable, UsageError, did_you_mean
from mmbench.spec import Role
from mmbench.testing import api
from mmbench.testing.checks import CHECKS, LEVELS, Check, CheckResult, Finding, Level, Status, covers, first_line
from mmbench.testing.target import Part, PluginTarget, Target, find_target

_SEED = 20_260_101


@dataclass(frozen=True)
class Item:
    """One check of one plugin or part."""

    check: Check
    subject: PluginTarget | Part

    @property
    def name(self) -> str:
        """The subject's name, as reports show it."""
        return self.subject.ref if isinstance(self.subject, Part) else self.subject.name

    def __str__(self) -> str:
        return f"{self.name}:{self.check.name}"


class Suite:
    """All checks of a target at a level; each runs once, when its result is first asked for.

    Args:
        target: See `find_target`.
        level: "api" imports no torch; "smoke" takes seconds; "full" adds variants, learning and torch.compile.
        device: Where modules are checked.
        only: Roles to look at; all by default.

    Raises:
        UsageError: the target or the level is unknown.
    """

    def __init__(
        self,
        target: str | os.PathLike[str] | Target,
        level: Level = "smoke",
        device: str = "cpu",
        only: tuple[Role, ...] = (),
    ) -> None:
        if level not in LEVELS:
            raise UsageError(
                f"there is no level {level!r}; levels are {', '.join(LEVELS)}.{did_you_mean(level, LEVELS)}"
            )
        self.target = target if isinstance(target, Target) else find_target(target)
        self.level, self.device = level, device
        if covers(level, "smoke"):
            _check_device(device)
            _enter_checks_that_need_torch()
        self._subjects: dict[int, Any] = {}
        self._results: dict[tuple[int, str], CheckResult] = {}
        parts = [part for part in self.target.parts if not only or part.role in only]
        owners: list[tuple[str, PluginTarget | Part]] = [("plugin", plugin) for plugin in self.target.plugins]
        owners += [(part.role, part) for part in parts]
        self.items = tuple(
            Item(one, subject)
            for owner, subject in owners
            for one in CHECKS
            if one.owner == owner and covers(level, one.level)
        )

    def run(self) -> Iterator[CheckResult]:
        """Yield every result, in order."""
        for item in self.items:
            yield self.result(item)

    def result(self, item: Item) -> CheckResult:
        """Run one check, and before it those that it needs."""
        key = (id(item.subject), item.check.slug)
        if key not in self._results:
            cause = self._cause(item)
            self._results[key] = self._blocked(item, cause) if cause else self._run(item)
        return self._results[key]

    def _cause(self, item: Item) -> str:
        """Return the name of a failed check that would explain this one's failure, or ""."""
        for slug in item.check.needs:
            for other in self.items:
                if other.subject is item.subject and other.check.slug == slug:
                    if self.result(other).status == "fail":
                        return other.check.name
                    deeper = self._cause(other)
                    if deeper:
                        return deeper
        return ""

    def _blocked(self, item: Item, cause: str) -> CheckResult:
        found = f"not run: first mend {cause}"
        return CheckResult(
            check=item.check.name, subject=item.name, status="skip", promise=item.check.promise, found=found
        )

    def _run(self, item: Item) -> CheckResult:
        check = item.check
        began = time.perf_counter()
        status: Status = "pass"
        expected = found = mend = ""
        try:
            with _guarded(torch_too=covers(self.level, "smoke")):
                check.run(self._subject(item))
        except Finding as finding:
            status, found = finding.status, finding.found
            expected, mend = finding.expected, finding.mend
        except Unavailable as error:
            status, found = "skip", f"unavailable here: {error}"
        except Exception as error:  # what a plugin raises is the finding
            status, found = "fail", _crash(error)
        if status == "fail":
            expected, mend = expected or check.promise, mend or check.mend
        elif status == "warn":
            mend = mend or check.mend
        return CheckResult(
            check=check.name,
            subject=item.name,
            status=status,
            promise=check.promise,
            expected=expected,
            found=found,
            mend=mend,
            time_s=round(time.perf_counter() - began, 4),
        )

    def _subject(self, item: Item) -> Any:
        part = item.subject
        if isinstance(part, PluginTarget) or item.check.run.__module__ == api.__name__:
            return part
        if id(part) not in self._subjects:
            self._subjects[id(part)] = _subject_maker(part.role)(part, self.level, self.device)
        return self._subjects[id(part)]


def _check_device(device: str) -> None:
    import torch

    if device.startswith("cuda") and not torch.cuda.is_available():
        raise UsageError(f"{device!r} was asked for, but torch {torch.__version__} sees no CUDA device here")


def _enter_checks_that_need_torch() -> None:
    """Import the other families; the order here is the order of the report."""
    from mmbench.testing import factories, registered, shapes, semantics, vectorised  # noqa: F401, I001
    from mmbench.testing import conduct, learns, datasets, objectives  # noqa: F401


def _subject_maker(role: Role) -> Callable[..., Any]:
    from mmbench.testing.dataset_subject import DatasetSubject
    from mmbench.testing.objectives import ObjectiveSubject
    from mmbench.testing.subjects import ModuleSubject

    return {"dataset": DatasetSubject, "objective": ObjectiveSubject}.get(role, ModuleSubject)


@contextmanager
def _guarded(*, torch_too: bool) -> Iterator[None]:
    """Give each check the same seeds, and put back what it or the plugin changed."""
    folder, environment, python = os.getcwd(), dict(os.environ), random.getstate()  # noqa: PTH109
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if not torch_too:
                yield
                return
            import torch

            from mmbench.build import guarded_globals

            with torch.random.fork_rng(), guarded_globals([]):
                torch.manual_seed(_SEED)
                torch.set_num_threads(1)  # the modules are small: threads only wait for one another
                yield
    finally:
        random.setstate(python)
        os.chdir(folder)
        for name in os.environ.keys() - environment.keys():
            del os.environ[name]
        os.environ.update(environment)


def _crash(error: BaseException) -> str:
    """Say what was raised and the last line of the plugin's own code that it went through."""
    own = os.path.dirname(os.path.dirname(__file__))  # noqa: PTH120
    torch = getattr(sys.modules.get("torch"), "__file__", None)
    foreign = (own, os.path.dirname(torch)) if torch else (own,)  # noqa: PTH120
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if not frame.filename.startswith(foreign)]
    where = f" ({os.path.basename(frames[-1].filename)}, line {frames[-1].lineno})" if frames else ""  # noqa: PTH119
    return f"{type(error).__name__}: {first_line(error)}{where}"
