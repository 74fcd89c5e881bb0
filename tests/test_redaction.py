"""Secrets of a command or a configuration are in no file of a run and in no report."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mmbench.record import Record
from mmbench.redaction import redacted, redacted_text, short_paths
from mmbench.report import build_report, write_report
from mmbench.report.reproduce import reproduce
from mmbench.store import RunStore

SECRET = "S3CRETsecretT0KEN1234"
COMMANDS = [
    ["run", "--tracker", f"webhook[url=http://user:{SECRET}@127.0.0.1:18999/services/x]"],
    ["run", "--tracker", f"webhook[url=http://127.0.0.1:18999/services/{SECRET}]"],
    ["run", f"--tracker=webhook[url=https://example.org/{SECRET}?a=1]"],
    ["run", "--tracker", f'webhook[url="https://example.org/?t={SECRET}"]'],
    ["run", "--tracker", f"wandb[api_key={SECRET}]"],
    ["run", "--tracker", f"wandb[key={SECRET},project=x]"],
    ["run", "--executor", f"ray[address=ray://me:{SECRET}@head:10001]"],
    ["run", "--executor", f"slurm[token={SECRET}]"],
    ["run", "--mirror", f"https://me:{SECRET}@mirror.example.org/simple"],
    ["run", "--hf-token", SECRET],
    ["run", f"--api-key={SECRET}"],
    ["run", "-d", f"hf:someone/data[token={SECRET}]"],
    ["run", "-d", f"manifest:x.csv[password='{SECRET} with spaces']"],
    ["run", "--set", f"client_secret={SECRET}"],
    ["run", f"https://hooks.slack.com/services/T0/B0/{SECRET}"],
    ["run", f"https://discord.com/api/webhooks/1/{SECRET}"],
    ["run", f"hf_{SECRET}"],
    ["run", f"ghp_{SECRET}{SECRET}"],
    ["run", f"sk-{SECRET}"],
    ["run", f"ssh://git:{SECRET}@example.org/x.git"],
]


@pytest.mark.parametrize("argv", COMMANDS, ids=lambda argv: argv[-1][:24])
def test_a_secret_of_the_command_is_in_no_file_and_no_report(tmp_path: Path, argv: list[str]) -> None:
    with RunStore.create(tmp_path / "run") as store:
        store.write_run({"argv": argv, "config": {"executor": "local"}, "merged": [{"argv": argv}]})

    text = (tmp_path / "run" / "run.json").read_text()
    assert SECRET not in text
    assert SECRET not in reproduce({"argv": argv})  # of a run that an earlier version wrote
    assert len(json.loads(text)["argv"]) == len(argv)


@pytest.mark.parametrize(
    "config",
    [
        {"tracker": [f"webhook[url=http://h/{SECRET}]"]},
        {"executor": f"ray[address=http://h/{SECRET}]"},
        {"hub": {"token": SECRET, "deep": [{"api_key": SECRET}]}},
    ],
)
def test_a_secret_of_the_configuration_is_left_out(config: dict[str, object]) -> None:
    assert SECRET not in json.dumps(redacted(config))


@pytest.mark.parametrize(
    "text",
    [
        "concat[fused_dim=32,impute=token]",
        "transformer[num_tokens=8,max_tokens=4]",
        "manifest:data.csv[image=image,label=label,group=patient,key=id]",
        "hf:PATH[text=text,label=label]",
        "https://example.org/simple",
        "transformers/distilbert-base-uncased[tuning=frozen]",
        "author=me",
    ],
)
def test_what_is_no_secret_stays(text: str) -> None:
    assert redacted_text(text) == text
    assert redacted({"argv": ["run", "-d", text], "seeds": 3}) == {"argv": ["run", "-d", text], "seeds": 3}


def test_the_command_of_a_report_has_no_folders_of_the_machine() -> None:
    command = reproduce(
        {"argv": ["run", "-d", "manifest:/home/me/private/study/data.csv[label=y]", "--plugin", "/a/b/c/d.py"]}
    )

    assert command == "mmbench run -d 'manifest:…/study/data.csv[label=y]' --plugin '…/c/d.py'"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("text=transformers//home/me/w/bert[tuning=frozen]", "text=transformers/…/w/bert[tuning=frozen]"),
        ("file:///home/me/a/b.csv", "file://…/a/b.csv"),
        (r"C:\Users\me\study\x.csv", "…/study/x.csv"),
        ("see '/srv/a/my data/x.csv'; /home/me", "see '…/a/my data/x.csv'; …"),
        ("image=~/weights/lite0", "image=…/weights/lite0"),
        (
            "https://example.org/a/b/c and results/a/b/c and 1/2/3",
            "https://example.org/a/b/c and results/a/b/c and 1/2/3",
        ),
    ],
)
def test_paths_are_cut_wherever_they_stand(text: str, expected: str) -> None:
    assert short_paths(text) == expected


def test_no_file_of_a_report_has_folders_of_the_machine(tmp_path: Path) -> None:
    """In references of data, names of weights, reasons, warnings, plugin files and the command."""
    secret = "/home/me/private/study"
    source = RunStore.open(Path(__file__).parents[1] / "results" / "ceilings-long")
    rows = list(source.planned())[:8]
    records = [record for record in source.journal if record.cell_id in {row["cell_id"] for row in rows}]
    reference = f"manifest:{secret}/data.csv[label=y]"
    with RunStore.create(tmp_path / "run") as store:
        store.write_run({"argv": ["run", "-d", reference], "config": {"plugin": [f"{secret}/plugin.py"]}})
        changed = [
            {**row, "encoders": row["encoders"].replace("=", f"=transformers/{secret}/weights+", 1)} for row in rows
        ]
        names = {row["dataset"] for row in rows}
        store.write_plan(changed, {name: {**source.datasets()[name], "reference": reference} for name in names})
        for number, record in enumerate(records):
            data = {**record.to_json(), "info": {**record.info, "warnings": [f"read {secret}/cache/x"]}}
            if number == 0:
                data |= {"status": "failed", "reason": f"cannot open {secret}/a.bin; see {secret}/log.txt"}
            store.journal.append(Record.from_json(data))

    write_report(tmp_path / "run", build_report(tmp_path / "run"))

    files = {path.name: path.read_bytes() for path in (tmp_path / "run" / "report").iterdir()}
    assert {"report.html", "report.md", "leaderboard.csv", "leaderboard.tex"} <= set(files)
    assert [name for name, content in files.items() if b"home/me" in content or b"private" in content] == []
    assert b"manifest:\xe2\x80\xa6/study/data.csv" in files["report.html"]
