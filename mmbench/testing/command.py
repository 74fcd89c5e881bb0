"""What `mmbench check` prints, and how it ends."""

from __future__ import annotations

import os
import sys
import time
from collections import Counter
from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.text import Text

from mmbench.encoding import json_text
from mmbench.testing.checks import STATUSES, CheckResult, Level
from mmbench.testing.suite import Suite

EXIT_FAILED = 4
_STYLE = {"pass": "", "fail": "bold red", "warn": "magenta", "skip": "dim"}
_MARK = {"pass": "ok  ", "fail": "FAIL", "warn": "warn", "skip": "skip"}


def run_check(
    target: str | os.PathLike[str],
    level: Level = "smoke",
    device: str = "cpu",
    *,
    as_json: bool = False,
    verbose: bool = False,
) -> int:
    """Check a target, print what was found, and return the exit code: 4 when a check failed, else 0.

    Args:
        verbose: Whether to print the checks that passed or were skipped, too.

    Raises:
        UsageError: the target or the level is unknown.
    """
    began = time.perf_counter()
    suite = Suite(target, level, device)
    if as_json:
        results = list(suite.run())
        answer = results_json(os.fspath(target), level, device, results)
        sys.stdout.write(f"{json_text(answer)}\n")
    else:
        console = Console(highlight=False, emoji=False, markup=False)
        if not console.is_terminal:
            console.width = 240
        results = []
        for result in suite.run():
            if not results or results[-1].subject != result.subject:
                _print_summary(console, [one for one in results if results and one.subject == results[-1].subject])
            results.append(result)
            if verbose or result.status in ("fail", "warn"):
                print_result(console, result)
        _print_summary(console, [one for one in results if results and one.subject == results[-1].subject])
        console.print()
        console.print(_total(results, time.perf_counter() - began))
    return EXIT_FAILED if any(result.status == "fail" for result in results) else 0


def results_json(target: str, level: Level, device: str, results: Sequence[CheckResult]) -> dict[str, Any]:
    """Return results as plain JSON: counts by status, and every result."""
    return {
        "target": target,
        "level": level,
        "device": device,
        "conforms": all(result.status != "fail" for result in results),
        "counts": {status: sum(result.status == status for result in results) for status in STATUSES},
        "results": [result.to_json() for result in results],
    }


def print_result(console: Console, result: CheckResult) -> None:
    """Print one check: a line, and below it what was expected and found and how to mend it."""
    line = Text.assemble(
        (_MARK[result.status], _STYLE[result.status]), "  ", result.check, ("  " + result.subject, "dim")
    )
    if result.status == "skip":
        line.append(f"  {result.found}", style="dim")
    console.print(line)
    if result.status in ("fail", "warn"):
        for name in ("expected", "found", "mend"):
            if getattr(result, name):
                console.print(Text(f"      {name:<9}", style="dim") + Text(getattr(result, name)))


def _print_summary(console: Console, results: Sequence[CheckResult]) -> None:
    if results:
        failed = any(result.status == "fail" for result in results)
        console.print(Text.assemble((results[0].subject, "bold red" if failed else "bold"), f": {_counts(results)}"))


def _total(results: Sequence[CheckResult], time_s: float) -> Text:
    failed = sum(result.status == "fail" for result in results)
    words = f"{failed} checks failed" if failed > 1 else "1 check failed" if failed else "conforms"
    if not results:
        words = "nothing to check"
    return Text.assemble((words, "bold red" if failed else "bold"), f": {_counts(results)} in {time_s:.1f} s")


def _counts(results: Sequence[CheckResult]) -> str:
    counts = Counter(result.status for result in results)
    words = {"pass": "passed", "fail": "failed", "warn": "to note", "skip": "not applicable"}
    return ", ".join(f"{counts[status]} {words[status]}" for status in STATUSES if counts[status])
