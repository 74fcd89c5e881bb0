"""What is on the disk stays, whatever happens while it is written; what is damaged is counted, never believed."""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmbench.errors import UsageError
from mmbench.journal import CellState, Follower, Journal
from mmbench.record import Metric, Record
from mmbench.store import RunStore, check_run_name, list_runs

A, B = "a" * 16, "b" * 16


@pytest.fixture
def _no_fsync(monkeypatch: pytest.MonkeyPatch) -> None:
    """For tests that write a thousand times: what they ask does not depend on the disk."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


def record(cell_id: str = A, status: str = "ok", attempt: int = 1, value: float = 0.5, reason: str = "") -> Record:
    metric = Metric(phase="evaluate", split="test", name="accuracy", value=value)
    return Record(cell_id=cell_id, status=status, reason=reason, attempt=attempt, metrics=(metric,))  # type: ignore[arg-type]


def write(path: Path, *records: Record) -> bytes:
    journal = Journal(path)
    for item in records:
        journal.append(item)
    journal.close()
    return path.read_bytes()


def test_a_record_comes_back_as_it_was(tmp_path: Path) -> None:
    before = Record(
        cell_id=A,
        status="failed",
        reason='Zürich 数字 \N{PILE OF POO} "quoted" back\\slash',
        attempt=2,
        started_at="2026-11-21T03:00:00.000+00:00",
        duration_s=1.25,
        metrics=(Metric(phase="profile", name="latency_s", value=None, unit="s", note="no GPU"),),
        info={"curve": [1, 2.5, None], "nested": {"a": True}},
    )

    write(tmp_path / "journal.jsonl", before)

    assert list(Journal(tmp_path / "journal.jsonl")) == [before]


def test_a_journal_is_one_line_of_json_for_each_record(tmp_path: Path) -> None:
    text = write(tmp_path / "journal.jsonl", record(A), record(B, "failed", reason="line\nbreak\u2028"))

    lines = text.decode().split("\n")
    assert [json.loads(line)["cell_id"] for line in lines[:2]] == [A, B]
    assert lines[2:] == [""]


def test_a_record_is_on_the_disk_when_append_returns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "journal.jsonl"
    sizes: list[int] = []
    monkeypatch.setattr(os, "fsync", lambda descriptor: sizes.append(os.fstat(descriptor).st_size))

    whole = write(path, record(A), record(B))

    assert sizes == [whole.index(b"\n") + 1, len(whole)]


_RECORDS = st.lists(
    st.builds(
        record,
        cell_id=st.sampled_from([A, B, "0123456789abcdef"]),
        status=st.sampled_from(["ok", "failed", "killed", "interrupted"]),
        attempt=st.integers(1, 5),
        value=st.floats(allow_nan=False, allow_infinity=False),
        reason=st.text(max_size=20),
    ),
    min_size=1,
    max_size=4,
)


@pytest.mark.usefixtures("_no_fsync")
@settings(max_examples=settings.default.max_examples // 2)
@given(before=_RECORDS, after=_RECORDS)
def test_a_journal_torn_at_any_byte_loses_only_the_record_it_was_torn_in(
    tmp_path_factory: pytest.TempPathFactory, before: list[Record], after: list[Record]
) -> None:
    path = tmp_path_factory.mktemp("torn") / "journal.jsonl"
    whole = write(path, *before)
    ends = [position + 1 for position, byte in enumerate(whole) if byte == ord("\n")]
    step = max(1, len(whole) // 50)
    for cut in sorted({*range(0, len(whole) + 1, step), *ends, *(end - 1 for end in ends), *(end - 2 for end in ends)}):
        path.write_bytes(whole[:cut])
        num_whole = sum(end - 1 <= cut for end in ends)  # a record is whole without its newline

        journal = Journal(path)
        assert list(journal) == before[:num_whole]
        assert journal.num_damaged == 0

        num_torn = int(cut > 0 and cut not in ends and cut + 1 not in ends)
        write(path, *after)
        assert list(journal) == before[:num_whole] + after
        assert journal.num_damaged == num_torn


@pytest.mark.usefixtures("_no_fsync")
def test_a_journal_torn_at_every_byte_still_loads(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    before = [record(A, "failed", reason="ü"), record(B)]
    whole = write(path, *before)
    first = whole.index(b"\n")

    for cut in range(len(whole) + 1):
        path.write_bytes(whole[:cut])
        expected = before[: (cut >= first) + (cut >= len(whole) - 1)]
        assert list(Journal(path)) == expected, cut
        write(path, record(A, attempt=2))
        assert list(Journal(path)) == [*expected, record(A, attempt=2)], cut


@pytest.mark.usefixtures("_no_fsync")
@given(noise=st.lists(st.binary(max_size=40), max_size=5))
def test_noise_between_records_is_counted_and_crosses_nothing_else(
    tmp_path_factory: pytest.TempPathFactory, noise: list[bytes]
) -> None:
    path = tmp_path_factory.mktemp("noise") / "journal.jsonl"
    line = write(path, record())
    path.write_bytes(line + b"".join(piece + b"\n" + line for piece in noise))

    journal = Journal(path)

    assert list(journal) == [record()] * (1 + len(noise))
    assert journal.num_damaged == sum(bool(part.strip()) for piece in noise for part in piece.split(b"\n"))
    assert journal.states() == {A: CellState("ok", num_attempts=1 + len(noise))}


def pack(path: Path) -> bytes:
    packed = gzip.compress(path.read_bytes())
    path.unlink()
    path.with_name(f"{path.name}.gz").write_bytes(packed)
    return packed


def test_a_packed_journal_is_read_before_what_was_appended_since(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    write(path, record(A), record(B))
    pack(path)
    write(path, record(A, attempt=2))

    journal = Journal(path)

    assert list(journal) == [record(A), record(B), record(A, attempt=2)]
    assert journal.num_damaged == 0


@pytest.mark.usefixtures("_no_fsync")
def test_a_packed_journal_that_is_cut_loses_what_follows_and_counts_it(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    records = [record(f"{number:016x}", value=number / 7) for number in range(200)]
    write(path, *records)
    whole = pack(path)

    for damaged in (whole[:-20], whole[: len(whole) // 2], b"no gzip", whole[:40] + b"\0" * 40 + whole[80:]):
        (tmp_path / "journal.jsonl.gz").write_bytes(damaged)
        journal = Journal(path)
        read = list(journal)

        assert read == records[: len(read)]
        assert journal.num_damaged >= 1


@pytest.mark.parametrize(
    "line",
    [
        "null",
        "[]",
        "{}",
        '"text"',
        "[" * 100_000,
        "1" * 5_000,
        "\0" * 50,
        '{"schema":1,"cell_id":"../../../../etc","status":"ok"}',
        '{"schema":1,"cell_id":"aaaaaaaaaaaaaaaa","status":"splendid"}',
        '{"schema":1,"cell_id":["aaaaaaaaaaaaaaaa"],"status":"ok"}',
    ],
)
def test_a_line_that_is_no_record_is_counted(tmp_path: Path, line: str) -> None:
    path = tmp_path / "journal.jsonl"
    good = write(path, record())
    path.write_bytes(good + line.encode() + b"\n" + good)

    journal = Journal(path)

    assert list(journal) == [record()] * 2
    assert journal.num_damaged == 1
    assert journal.states() == {A: CellState("ok", num_attempts=2)}
    assert journal.num_damaged == 1


@pytest.mark.parametrize(
    "fields",
    ['"schema":99', '"schema":1,"attempt":Infinity', '"schema":1,"metrics":[1]', '"schema":1,"metrics":[{"name":"x"}]'],
)
def test_a_record_of_another_shape_is_counted_when_records_are_read(tmp_path: Path, fields: str) -> None:
    path = tmp_path / "journal.jsonl"
    path.write_text(f'{{"cell_id":"{A}","status":"ok",{fields}}}\n')

    journal = Journal(path)

    assert list(journal) == []
    assert journal.num_damaged == 1


def test_an_append_that_finds_the_disk_full_says_so_and_takes_its_part_of_a_line_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = Journal(tmp_path / "journal.jsonl")
    journal.append(record(A))
    stream = journal._file._stream
    assert stream is not None

    class Full:
        def write(self, line: bytes) -> int:
            return stream.write(line[:20])

        def fileno(self) -> int:
            return stream.fileno()

    monkeypatch.setattr(journal._file, "_stream", Full())
    with pytest.raises(OSError, match=r"only 20 of \d+ bytes could be written; is the disk full\?: .*journal\.jsonl"):
        journal.append(record(B))
    assert (tmp_path / "journal.jsonl").read_bytes().count(b"\n") == 1
    assert (tmp_path / "journal.jsonl").read_bytes().endswith(b"\n")
    monkeypatch.setattr(journal._file, "_stream", stream)
    journal.append(record(B, attempt=2))
    journal.close()

    assert list(journal) == [record(A), record(B, attempt=2)]


def test_a_journal_that_was_removed_takes_no_more_records(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal.jsonl")
    journal.append(record(A))
    (tmp_path / "journal.jsonl").unlink()

    with pytest.raises(OSError, match="it was removed while it was written"):
        journal.append(record(B))


def followed(follower: Follower) -> list[str]:
    return [line["cell_id"] for line in follower.new_records()]


def test_a_follower_reads_each_line_once_and_only_when_it_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    follower = Follower(path)
    assert followed(follower) == []

    whole = write(path, record(A), record(B))
    cut = len(whole) - 10
    path.write_bytes(whole[:cut])
    assert (followed(follower), followed(follower)) == ([A], [])
    path.write_bytes(whole + b"noise\n")
    assert followed(follower) == [B]
    assert not follower.was_replaced()


def test_a_follower_reads_what_was_packed_first(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    write(path, record(A))
    pack(path)
    follower = Follower(path)
    assert (followed(follower), followed(follower)) == ([A], [])

    write(path, record(B))
    assert followed(follower) == [B]


@pytest.mark.parametrize("change", ["removed", "cut", "replaced"])
def test_a_follower_notices_another_journal(tmp_path: Path, change: str) -> None:
    path = tmp_path / "journal.jsonl"
    whole = write(path, record(A))
    follower = Follower(path)
    assert followed(follower) == [A]

    if change == "removed":
        path.unlink()
    elif change == "cut":
        path.write_bytes(whole[:20])
    else:
        (tmp_path / "new").write_bytes(whole + whole)
        (tmp_path / "new").replace(path)

    assert follower.was_replaced()


def test_the_decisive_attempt_is_the_one_that_is_ok_else_the_latest(tmp_path: Path) -> None:
    with RunStore.create(tmp_path / "run") as store:
        for item in (
            record(A, "killed", 1),
            record(A, "ok", 2),
            record(A, "failed", 3),
            record(B, "killed", 1),
            record(B, "killed", 2),
            record(B, "failed", 3),
        ):
            store.journal.append(item)

        assert {cell_id: found.attempt for cell_id, found in store.records().items()} == {A: 2, B: 3}
        assert store.states() == {A: CellState("ok", 3, 1), B: CellState("failed", 3, 2)}


def test_a_plan_comes_back_row_by_row_and_is_plain_json_too(tmp_path: Path) -> None:
    rows = [
        {"cell_id": A, "status": "run", "reason": ""},
        {"cell_id": B, "status": "incompatible", "reason": "é\n]\udcff"},
    ]
    with RunStore.create(tmp_path / "run") as store:
        assert store.write_plan(iter(rows)) == 2

    reader = RunStore.open(tmp_path / "run")
    assert list(reader.planned()) == rows
    text = (tmp_path / "run" / "plan.json").read_text()
    assert json.loads(text)["cells"] == rows
    assert json.loads(text)["num_cells"] == 2
    assert len(text.splitlines()) == 4


def test_a_run_has_its_name_where_its_folder_is_a_dot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with RunStore.create(tmp_path / "night") as store:
        store.write_run({})
    monkeypatch.chdir(tmp_path / "night")

    assert RunStore.open(Path()).name == "night"


def test_an_empty_plan_is_json(tmp_path: Path) -> None:
    with RunStore.create(tmp_path / "run") as store:
        store.write_plan([])

        assert list(store.planned()) == []
    assert json.loads((tmp_path / "run" / "plan.json").read_text())["cells"] == []


@pytest.mark.parametrize(
    "text", ["", "{", "null\n", '{"schema":1,"cells":[\n{"cell_id":', '{"schema":1,"cells":[\n{}\n']
)
def test_a_damaged_plan_says_what_to_do(tmp_path: Path, text: str) -> None:
    with RunStore.create(tmp_path / "run") as store:
        (tmp_path / "run" / "plan.json").write_text(text)

        with pytest.raises(UsageError, match=r"plan\.json is damaged .* type the run's command again"):
            list(store.planned())


def test_a_plan_that_cannot_be_finished_leaves_the_one_that_was_there(tmp_path: Path) -> None:
    def breaks() -> object:
        yield {"cell_id": B}
        raise KeyboardInterrupt

    with RunStore.create(tmp_path / "run") as store:
        store.write_plan([{"cell_id": A}])
        with pytest.raises(KeyboardInterrupt):
            store.write_plan(breaks())  # type: ignore[arg-type]

        assert list(store.planned()) == [{"cell_id": A}]
    with RunStore.create(tmp_path / "run"):
        assert sorted(path.name for path in (tmp_path / "run").iterdir() if "writing" in path.name) == []


def test_finishing_moves_the_files_and_writes_the_record_beside_them(tmp_path: Path) -> None:
    with RunStore.create(tmp_path / "run") as store:
        folder = store.begin(A, 1)
        (folder / "deep").mkdir()
        (folder / "deep" / "predictions.npy").write_bytes(b"123")
        store.finish(record(A), folder)

        place = store.cell_folder(A)
        assert place == tmp_path / "run" / "cells" / A
        assert (place / "deep" / "predictions.npy").read_bytes() == b"123"
        assert Record.from_json(json.loads((place / "record.json").read_text())) == record(A)
        assert sorted(path.name for path in (tmp_path / "run" / "cells").iterdir()) == [A]
        assert store.records() == {A: record(A)}


def test_a_second_attempt_takes_the_place_of_the_first(tmp_path: Path) -> None:
    with RunStore.create(tmp_path / "run") as store:
        for attempt in (1, 2):
            folder = store.begin(A, attempt)
            (folder / f"{attempt}.txt").touch()
            store.finish(record(A, "killed", attempt), folder)

        assert sorted(path.name for path in store.cell_folder(A).iterdir()) == ["2.txt", "record.json"]
        assert [path.name for path in (tmp_path / "run" / "cells").iterdir()] == [A]


def test_what_a_dead_run_left_half_done_is_removed_at_the_next_start(tmp_path: Path) -> None:
    with RunStore.create(tmp_path / "run") as store:
        (store.begin(A, 1) / "half.txt").touch()
        folder = store.begin(B, 1)
        store.finish(record(B), folder)
    with RunStore.create(tmp_path / "run"):
        assert [path.name for path in (tmp_path / "run" / "cells").iterdir()] == [B]


def test_two_attempts_never_share_a_folder(tmp_path: Path) -> None:
    with RunStore.create(tmp_path / "run") as store:
        assert store.begin(A, 1) != store.begin(A, 1)


def test_a_link_in_a_cell_is_neither_followed_nor_overwritten_through(tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "thesis.tex").write_text("years of work")
    with RunStore.create(tmp_path / "run") as store:
        folder = store.begin(A, 1)
        (folder / "record.json").symlink_to(precious / "thesis.tex")
        (folder / "link").symlink_to(precious)
        store.finish(record(A, "killed"), folder)
        store.finish(record(A, "killed", 2), store.begin(A, 2))

        linked = store.begin(B, 1)
        linked.rmdir()
        linked.symlink_to(precious)
        store.finish(record(B, "killed"), linked)

        assert set(store.records()) == {A, B}
        assert not store.cell_folder(B).is_symlink()
    with RunStore.create(tmp_path / "run"):
        pass
    assert (precious / "thesis.tex").read_text() == "years of work"
    assert [path.name for path in precious.iterdir()] == ["thesis.tex"]


@pytest.mark.parametrize("name", ["record.json", ".record.json.writing"])
def test_a_folder_where_the_record_should_be_is_no_obstacle(tmp_path: Path, name: str) -> None:
    with RunStore.create(tmp_path / "run") as store:
        folder = store.begin(A, 1)
        (folder / name / "deep").mkdir(parents=True)
        store.finish(record(A), folder)

        assert json.loads((store.cell_folder(A) / "record.json").read_text())["status"] == "ok"


def test_a_cell_that_removed_its_own_folder_still_gets_its_record(tmp_path: Path) -> None:
    with RunStore.create(tmp_path / "run") as store:
        folder = store.begin(A, 1)
        folder.rmdir()
        store.finish(record(A, "failed"), folder)

        assert store.records() == {A: record(A, "failed")}


@pytest.mark.parametrize("cell_id", ["", "..", "../../etc", "A" * 16, "a" * 15, "a" * 17, "a" * 16 + "\n"])
def test_what_is_no_cell_id_has_no_folder(tmp_path: Path, cell_id: str) -> None:
    with pytest.raises(ValueError, match="a cell's id has 16 hex digits"):
        RunStore(tmp_path).cell_folder(cell_id)


@pytest.mark.parametrize("name", ["", ".", "..", ".hidden", "a/b", "a b", "ü", "-x", "a\n", "a" * 101])
def test_a_name_that_cannot_name_a_run_is_refused(name: str) -> None:
    with pytest.raises(UsageError, match="cannot name a run: use 1 to 100 letters, digits"):
        check_run_name(name)


@pytest.mark.parametrize("name", ["a", "2026-11-21", "all", "A.b_c-d", "_x"])
def test_ordinary_names_are_taken(name: str) -> None:
    check_run_name(name)


def test_a_second_writer_is_told_who_the_first_is(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from mmbench.store import RunStore\n"
        "store = RunStore.create(Path(sys.argv[1])); print('locked', flush=True); sys.stdin.read()"
    )
    writer = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path / "run")], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert writer.stdout is not None
        assert writer.stdout.readline() == "locked\n"
        with pytest.raises(UsageError, match=rf"run 'run' is being written by process {writer.pid} on \S+ since 20"):
            RunStore.create(tmp_path / "run")
    finally:
        writer.kill()
        writer.communicate()

    with RunStore.create(tmp_path / "run") as store:  # the lock died with its owner
        assert store.name == "run"
    with RunStore.create(tmp_path / "run"):  # and is given back
        pass


def test_an_unknown_run_names_those_that_exist(tmp_path: Path) -> None:
    for name in ("digits", "avmnist"):
        with RunStore.create(tmp_path / name) as store:
            store.write_run({})
    (tmp_path / "not-a-run").mkdir()

    assert list_runs(tmp_path) == ["avmnist", "digits"]
    with pytest.raises(UsageError) as caught:
        RunStore.open(tmp_path / "digit")
    assert str(caught.value) == (
        f"no run is named 'digit'; {tmp_path} has avmnist, digits. Did you mean 'digits'? `mmbench run --run NAME` makes one"
    )
    with pytest.raises(UsageError, match=r"not-a-run is no run of mmbench: it has no run\.json and no plan\.json"):
        RunStore.open(tmp_path / "not-a-run")
    with pytest.raises(UsageError, match=r"It contains runs: avmnist, digits; name one of them"):
        RunStore.open(tmp_path)
    with pytest.raises(UsageError, match=r"nowhere has no runs"):
        RunStore.open(tmp_path / "nowhere" / "x")


def test_a_folder_of_somebody_else_is_not_made_a_run(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.jpg").touch()
    (tmp_path / "file").touch()
    (tmp_path / "empty").mkdir()

    for name in ("photos", "file"):
        with pytest.raises(UsageError, match=r"exists and is no run of mmbench .* choose another name with --run"):
            RunStore.create(tmp_path / name)
    with RunStore.create(tmp_path / "empty"):
        pass
    with RunStore.create(tmp_path / "empty"):  # begun, and killed before it wrote anything
        pass
    assert [path.name for path in (tmp_path / "photos").iterdir()] == ["cat.jpg"]


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may write everywhere")
def test_a_place_that_cannot_be_written_says_so(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(UsageError, match="cannot be written"):
        RunStore.create(tmp_path / "run")


def test_facts_of_a_run_come_back_and_damage_is_no_error(tmp_path: Path) -> None:
    with RunStore.create(tmp_path / "run") as store:
        assert store.read_run() == {}
        store.write_run({"argv": ["mmbench", "run"], "results": Path("x")})
        assert store.read_run() == {"argv": ["mmbench", "run"], "results": "x"}
        (tmp_path / "run" / "run.json").write_text("{")
        assert store.read_run() == {}
