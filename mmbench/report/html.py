"""The report as one self-contained HTML page: nothing is loaded from anywhere, and no name becomes markup."""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

from mmbench.report.page import page_data
from mmbench.report.tables import Report

#: What would end a script element, begin a comment in it, or end a line of JavaScript.
_ESCAPES = str.maketrans({"<": "\\u003c", ">": "\\u003e", "&": "\\u0026", "\u2028": "\\u2028", "\u2029": "\\u2029"})


def render_html(report: Report, folder: Path | None = None) -> str:
    """Return the page.

    Args:
        report: What to show.
        folder: Of the run, for learning curves.
    """
    from jinja2 import Environment, StrictUndefined

    page = page_data(report, folder)
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, keep_trailing_newline=True)
    return environment.from_string(_template("report.html.j2")).render(
        page=page,
        data=script_json(page),
        style=_template("report.css"),
        script=_template("report.js"),
        method=METHOD,
    )


METHOD = (
    "Rows are ranked by their test scores. What the answer names was chosen on val, so that no test score chose it; "
    "its interval allows for the luck of seeds that val and test share. Where predictions were kept, intervals are "
    "over both seeds and test samples (groups of samples where the dataset gives groups), and all pairs of rows were "
    "compared on the same samples: rows of one group cannot be told apart from the group's first at 5 %, after Holm's "
    "correction for all pairs; the variance over seeds is pooled over rows. ‡ marks a row that ranks below a row of a "
    "worse group. Where predictions were not kept, intervals are Student's over seeds, or over the samples of the one "
    "seed."
)


def script_json(data: Mapping[str, Any]) -> str:
    """Return JSON that may stand in a script element whatever its texts hold.

    >>> script_json({"name": "</script><!--"})
    '{"name":"\\\\u003c/script\\\\u003e\\\\u003c!--"}'
    """
    text = json.dumps(data, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return text.translate(_ESCAPES)


def _template(name: str) -> str:
    return files("mmbench.report").joinpath("templates", name).read_text(encoding="utf-8")
