"""Run in a process of its own: import one module, or call one `describe`, and tell as JSON what that did."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import Any

TIME_LIMIT_S = 60.0


def probe(
    module: str,
    *,
    path: Sequence[str] = (),
    first: Sequence[str] = (),
    call: str = "",
    arguments: Sequence[str] = (),
    options: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Import `module` in a fresh interpreter; return {"heavy": […], "changed": […], "error": "…", "answer": "…"}.

    Args:
        module: Its dotted name.
        path: Folders to look in first.
        first: Packages to import before, whose own doings are not the module's.
        call: ``"package.module:function"`` to call afterwards with `arguments` and `options`.
    """
    request = json.dumps(
        {
            "module": module,
            "path": list(path),
            "first": list(first),
            "call": call,
            "arguments": list(arguments),
            "options": dict(options or {}),
        }
    )
    try:
        done = subprocess.run(
            [sys.executable, "-m", "mmbench.testing.probe", request],
            capture_output=True,
            text=True,
            timeout=TIME_LIMIT_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return {"heavy": [], "changed": [], "error": f"it took more than {TIME_LIMIT_S:g} s", "answer": ""}
    lines = done.stdout.strip().splitlines()
    try:
        answer: dict[str, Any] = json.loads(lines[-1])
    except (IndexError, ValueError):
        said = done.stderr.strip().splitlines()
        return {
            "heavy": [],
            "changed": [],
            "error": f"it ended the process: {said[-1] if said else 'silently'}",
            "answer": "",
        }
    return answer


def _main(request: Mapping[str, Any]) -> dict[str, Any]:
    import mmbench  # noqa: F401  (its own imports are not the plugin's doing)
    from mmbench.testing.state import changes, heavy_modules, read_state

    sys.path[:0] = request["path"]
    for name in request["first"]:
        importlib.import_module(name)
    before, heavy_before = read_state(), set(heavy_modules())
    error = answer = ""
    try:
        importlib.import_module(request["module"])
        if request["call"]:
            owner, _, name = request["call"].partition(":")
            answer = repr(getattr(importlib.import_module(owner), name)(*request["arguments"], **request["options"]))
    except BaseException as raised:  # sys.exit() of the module's too
        error = f"{type(raised).__name__}: {raised}"
    return {
        "heavy": [name for name in heavy_modules() if name not in heavy_before],
        "changed": changes(before, read_state()),
        "error": error,
        "answer": answer,
    }


if __name__ == "__main__":
    sys.stdout.write(f"\n{json.dumps(_main(json.loads(sys.argv[1])))}\n")
