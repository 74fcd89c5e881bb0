"""A run as one long table, a row per number: CSV, JSON, JSON lines, Parquet, or a pandas DataFrame."""

from __future__ import annotations

import csv
import io
import json
import math
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, BinaryIO, TypeAlias

from mmbench.errors import Unavailable, UsageError, did_you_mean
from mmbench.record import Metric, Record
from mmbench.report.outcomes import Outcome, outcomes
from mmbench.store import RunStore

if TYPE_CHECKING:
    import pandas as pd

#: The columns, in order: a contract that others program against.
COLUMNS = (
    "run",
    "cell_id",
    "dataset",
    "encoders",
    "fusion",
    "objective",
    "seed",
    "status",
    "reason",
    "phase",
    "split",
    "condition",
    "task",
    "metric",
    "value",
    "unit",
    "direction",
)
_NUM_CELL_COLUMNS = COLUMNS.index("phase")
_PHASES = {"train": 0, "evaluate": 1, "profile": 2}
_SPLITS = {"train": 0, "val": 1, "test": 2, "": 3}
#: A spreadsheet takes a cell that begins with one of these for a formula (the last four are their wide forms).
_FORMULA_STARTS = frozenset("=+-@\t\r\n＝＋－＠")
#: Control characters, and marks that change the direction of writing: a terminal obeys them.
_CONTROLS = {
    code: "\ufffd"
    for code in (*range(32), *range(127, 160), *range(0x2028, 0x202F), *range(0x2066, 0x206A))
    if chr(code) not in "\t\n"
}
_BATCH_ROWS = 65_536

Rows: TypeAlias = Iterator[tuple[Any, ...]]


def rows(run_name: str, planned: Iterable[Mapping[str, Any]], records: Mapping[str, Record]) -> Rows:
    """Yield the table's rows as plain values: `seed` an int, `value` a float or None, everything else text.

    Cells come in plan order; a cell without numbers comes once, with None from `phase` on. A cell's numbers come in
    the order train, evaluate, profile; train, val, test; clean before other conditions; then as the cell gave them.
    """
    for outcome in outcomes(planned, records):
        head = _head(run_name, outcome)
        metrics = sorted(outcome.metrics, key=_order)
        if not metrics:
            yield (*head, *(None,) * (len(COLUMNS) - _NUM_CELL_COLUMNS))
        for item in metrics:
            yield (*head, *_tail(item))


def export_csv(
    run_name: str, planned: Iterable[Mapping[str, Any]], records: Mapping[str, Record], stream: IO[str]
) -> None:
    r"""Write the table as CSV: RFC 4180 quoting, "\n" line ends, numbers that round trip; equal inputs, equal bytes.

    A number that is null leaves its cell empty and keeps its row. Text that a spreadsheet would execute is given a
    leading apostrophe. The stream must not translate line ends (open files with ``newline=""``).
    """
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(COLUMNS)
    for outcome in outcomes(planned, records):
        run, cell_id, dataset, encoders, fusion, objective, seed, status, reason = _head(run_name, outcome)
        texts = (_cell(text) for text in (run, cell_id, dataset, encoders, fusion, objective))
        head = (*texts, seed, status, _cell(reason))
        metrics = sorted(outcome.metrics, key=_order)
        if not metrics:
            writer.writerow((*head, "", "", "", "", "", "", "", ""))
        for item in metrics:
            phase, split, condition, task, metric, value, unit, direction = _tail(item)
            writer.writerow(
                (
                    *head,
                    _cell(phase),
                    _cell(split),
                    _cell(condition),
                    _cell(task),
                    _cell(metric),
                    "" if value is None else repr(value),
                    _cell(unit),
                    _cell(direction),
                )
            )


def export_jsonl(
    run_name: str, planned: Iterable[Mapping[str, Any]], records: Mapping[str, Record], stream: IO[str]
) -> None:
    """Write the table as JSON lines: an object per row with the same keys, null where the CSV is empty."""
    for row in rows(run_name, planned, records):
        stream.write(_json(row) + "\n")


def export_json(
    run_name: str, planned: Iterable[Mapping[str, Any]], records: Mapping[str, Record], stream: IO[str]
) -> None:
    """Write the table as one JSON list of objects, a row a line."""
    separator = "[\n"
    for row in rows(run_name, planned, records):
        stream.write(separator + _json(row))
        separator = ",\n"
    stream.write("[]\n" if separator == "[\n" else "\n]\n")


def export_parquet(
    run_name: str, planned: Iterable[Mapping[str, Any]], records: Mapping[str, Record], stream: BinaryIO
) -> None:
    """Write the table as Parquet: seed int64, value float64, the rest strings; null where the CSV is empty.

    Raises:
        Unavailable: pyarrow is not installed.
    """
    try:
        import pyarrow as pa  # type: ignore[import-untyped]
        import pyarrow.parquet as pq  # type: ignore[import-untyped]
    except ImportError:
        raise Unavailable(
            "--format parquet needs pyarrow, which is not installed: pip install 'mmbench[parquet]' "
            "(or choose --format csv, json or jsonl)"
        ) from None
    types = {"seed": pa.int64(), "value": pa.float64()}
    schema = pa.schema([(name, types.get(name, pa.string())) for name in COLUMNS])
    with pq.ParquetWriter(stream, schema) as writer:
        batch: list[tuple[Any, ...]] = []
        for row in rows(run_name, planned, records):
            batch.append(row)
            if len(batch) == _BATCH_ROWS:
                writer.write_table(_arrow_table(batch, schema))
                batch.clear()
        writer.write_table(_arrow_table(batch, schema))


_TEXT_FORMATS: Mapping[str, Callable[[str, Iterable[Mapping[str, Any]], Mapping[str, Record], IO[str]], None]] = {
    "csv": export_csv,
    "json": export_json,
    "jsonl": export_jsonl,
}
#: Pages and tables of a report, by format.
_REPORTS = ("html", "md", "tex")
FORMATS = (*_TEXT_FORMATS, "parquet", "xlsx", *_REPORTS, "pytest-benchmark")
#: Other names of formats, and other suffixes of their files.
_OTHER_NAMES: Mapping[str, str] = {"latex": "tex", "markdown": "md", "htm": "html", "excel": "xlsx", "ndjson": "jsonl"}


def export_xlsx(
    run_name: str, planned: Iterable[Mapping[str, Any]], records: Mapping[str, Record], stream: BinaryIO
) -> None:
    """Write the table as the one sheet of an Excel workbook; text that looks like a formula stays text.

    Raises:
        Unavailable: openpyxl is not installed.
    """
    try:
        from openpyxl import Workbook
        from openpyxl.cell import WriteOnlyCell
    except ImportError:
        raise Unavailable(
            "--format xlsx needs openpyxl, which is not installed: pip install openpyxl "
            "(or choose --format csv, which spreadsheets open too)"
        ) from None
    workbook = Workbook(write_only=True)
    sheet = workbook.create_sheet("results")
    sheet.append(COLUMNS)
    for row in rows(run_name, planned, records):
        cells = []
        for value in row:
            cell = WriteOnlyCell(sheet, value)
            if isinstance(value, str):
                cell.data_type = "s"
            cells.append(cell)
        sheet.append(cells)
    buffer = io.BytesIO()
    workbook.save(buffer)
    stream.write(buffer.getvalue())


def format_of(output: Path | None, format_: str | None) -> str:
    """Return the format to write: as asked for, else by the suffix of the file, else CSV.

    Raises:
        UsageError: there is no such format, or the suffix names another one.

    >>> format_of(Path("birds.tex"), None), format_of(None, "latex"), format_of(None, None)
    ('tex', 'tex', 'csv')
    """
    asked = _OTHER_NAMES.get((format_ or "").lower(), (format_ or "").lower())
    if asked and asked not in FORMATS:
        raise UsageError(f"--format {format_}: there is {', '.join(FORMATS)}.{did_you_mean(asked, FORMATS)}")
    suffix = output.suffix.removeprefix(".").lower() if output is not None else ""
    named = _OTHER_NAMES.get(suffix, suffix)
    if named in FORMATS and asked and named != asked and asked != "pytest-benchmark":
        raise UsageError(f"-o {output} names the format {named}, and --format says {asked}; leave --format out")
    if output is not None and not asked and named not in FORMATS:
        there = ", ".join(f".{name}" for name in FORMATS if name != "pytest-benchmark")
        raise UsageError(f"-o {output}: no format has that suffix; there is {there}, or say --format")
    return asked or named or "csv"


def export_run(store: RunStore, format_: str = "csv", output: Path | None = None) -> None:
    """Write a run to a file, or to standard output; always UTF-8, whatever the locale.

    Args:
        store: The run.
        format_: One of `FORMATS`; those of a report hold its leaderboards, all others a row per number.
        output: Replaced only when everything is written.

    Raises:
        UsageError: there is no such format, or the file cannot be written.
        Unavailable: the format needs a package that is not installed.
    """
    format_ = format_of(None, format_)
    report = _report_text(store, format_) if format_ in _REPORTS else ""
    with _destination(output) as stream:
        if format_ in _REPORTS:
            stream.write(report.encode("utf-8"))
            return
        if format_ in ("parquet", "xlsx"):
            write = export_parquet if format_ == "parquet" else export_xlsx
            write(store.name, store.planned(), _records(store), stream)
            return
        if format_ == "pytest-benchmark":
            from mmbench.report.pytest_benchmark import pytest_benchmark_json

            stream.write(json.dumps(pytest_benchmark_json(store), indent=1).encode() + b"\n")
            return
        text = io.TextIOWrapper(stream, encoding="utf-8", newline="")
        try:
            _TEXT_FORMATS[format_](store.name, store.planned(), _records(store), text)
            text.flush()
        finally:
            text.detach()


def _report_text(store: RunStore, format_: str) -> str:
    from mmbench.report import build_report
    from mmbench.report.html import render_html
    from mmbench.report.latex import render_latex
    from mmbench.report.markdown import render_markdown

    report = build_report(store.folder)
    if format_ == "html":
        return render_html(report, store.folder)
    return render_latex(report) if format_ == "tex" else render_markdown(report)


def _records(store: RunStore) -> Mapping[str, Record]:
    """Return the records of a run with the metrics of its subgroups."""
    from mmbench.report.by_subgroup import with_subgroup_metrics

    return with_subgroup_metrics(store.records(), store)


def load_frame(folder: Path | str) -> pd.DataFrame:
    """Load a run as a pandas DataFrame with the columns of the export; `value` is float64, `seed` int64.

    >>> frame = load_frame("results/my-run")  # doctest: +SKIP
    >>> frame.query("split == 'test' and metric == 'accuracy'").groupby("fusion").value.mean()  # doctest: +SKIP

    Raises:
        UsageError: the folder holds no run.
    """
    import pandas as pd

    store = RunStore.open(Path(folder))
    frame = pd.DataFrame.from_records(list(rows(store.name, store.planned(), _records(store))), columns=list(COLUMNS))
    return frame.astype({"seed": "int64", "value": "float64"})


def _head(run_name: str, outcome: Outcome) -> tuple[Any, ...]:
    return (
        _text(run_name),
        outcome.cell_id,
        _text(outcome.dataset),
        _text(outcome.encoders),
        _text(outcome.fusion),
        _text(outcome.objective),
        outcome.seed,
        outcome.status,
        _text(outcome.reason),
    )


def _tail(metric: Metric) -> tuple[Any, ...]:
    value = None if metric.value is None or not math.isfinite(metric.value) else float(metric.value)
    return (
        _text(metric.phase),
        _text(metric.split),
        _text(metric.condition),
        _text(metric.task),
        _text(metric.name),
        value,
        _text(metric.unit),
        metric.direction,
    )


def _order(metric: Metric) -> tuple[Any, ...]:
    return (
        _PHASES.get(metric.phase, len(_PHASES)),
        metric.phase,
        _SPLITS.get(metric.split, len(_SPLITS)),
        metric.split,
        metric.condition != "clean",
        metric.condition,
    )


@lru_cache(maxsize=4096)
def _text(text: str) -> str:
    r"""Text that every reader of UTF-8 takes: one kind of line end, no lone surrogates, no control characters."""
    text = text.replace("\r\n", "\n").replace("\r", "\n").translate(_CONTROLS)
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def spreadsheet_text(text: str) -> str:
    """Text from a plugin or a dataset, as it may stand in a CSV that people open in a spreadsheet."""
    return _cell(_text(text))


@lru_cache(maxsize=4096)
def _cell(text: str) -> str:
    """Text that no spreadsheet takes for a formula; numbers stay as they are."""
    if not text or text[0] not in _FORMULA_STARTS or _is_number(text):
        return text
    return "'" + text


def _is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text)) and text == text.strip()
    except ValueError:
        return False


def _json(row: tuple[Any, ...]) -> str:
    return json.dumps(dict(zip(COLUMNS, row)), ensure_ascii=False, allow_nan=False)


def _arrow_table(batch: list[tuple[Any, ...]], schema: Any) -> Any:
    import pyarrow as pa

    columns = list(zip(*batch)) if batch else [()] * len(COLUMNS)
    return pa.table([pa.array(column, type=field.type) for column, field in zip(columns, schema)], schema=schema)


@contextmanager
def _destination(output: Path | None) -> Iterator[BinaryIO]:
    if output is None:
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
        return
    unfinished = output.with_name(f".{output.name}.{os.getpid()}.tmp")
    try:
        with unfinished.open("wb") as stream:
            yield stream
        unfinished.replace(output)
    except OSError as error:
        raise UsageError(f"{output} cannot be written: {error.strerror}") from None
    finally:
        unfinished.unlink(missing_ok=True)
