"""What people type by mistake or by guess: one sentence names the fault and the way, or the guess works."""

from __future__ import annotations

import shlex
import sys
from functools import lru_cache
from pathlib import Path

import pytest
from comparison_cases import make_run

from mmbench import registry
from mmbench.cli import main


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("home")
    make_run(folder / "results" / "first", ("concat", "sum"))
    (folder / "photos.csv").write_text("caption,weight,label\n" + "a word,1,x\nmore words,2,y\n" * 20)
    return folder


@pytest.fixture(autouse=True)
def one_registry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "load_registry", _REGISTRY)


_REGISTRY = lru_cache(registry.load_registry)


def typed(
    line: str, home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> tuple[int, str, str]:
    """Return exit code, stdout and stderr of what somebody types after `mmbench`."""
    monkeypatch.chdir(home)
    monkeypatch.setattr(sys, "argv", ["mmbench", *shlex.split(line)])
    code = 0
    try:
        main()
    except SystemExit as end:
        code = int(end.code or 0)
    printed = capsys.readouterr()
    return code, printed.out, printed.err


MISTAKES = [
    # commands
    ("runn", 2, "no command 'runn'", "'run'"),
    ("raport first", 2, "no command 'raport'", "'report'"),
    ("train digits", 2, "no command 'train'", "`mmbench run`"),
    ("fit", 2, "no command 'fit'", "`mmbench run`"),
    ("benchmark", 2, "no command 'benchmark'", "`mmbench run`"),
    ("evaluate", 2, "no command 'evaluate'", "`mmbench run`"),
    ("predict first", 2, "no command 'predict'", "`mmbench ensemble RUN`"),
    ("leaderboard", 2, "no command 'leaderboard'", "`mmbench report RUN`"),
    ("results", 2, "no command 'results'", "`mmbench runs`"),
    ("ls", 2, "no command 'ls'", "`mmbench list`"),
    ("datasets", 2, "no command 'datasets'", "`mmbench list datasets`"),
    ("models", 2, "no command 'models'", "`mmbench list encoders`"),
    ("info digits", 2, "no command 'info'", "`mmbench show NAME`"),
    ("rm first", 2, "no command 'rm'", "`mmbench clean --runs NAME`"),
    ("open first", 2, "no command 'open'", "`mmbench view RUN`"),
    ("serve", 2, "no command 'serve'", "--port"),
    ("download", 2, "no command 'download'", "`mmbench prepare`"),
    ("init", 2, "no command 'init'", "`mmbench new"),
    ("resume first", 2, "no command 'resume'", "`mmbench run --run NAME`"),
    ("tune", 2, "no command 'tune'", "[sweep]"),
    ("doctor", 2, "no command 'doctor'", "`mmbench plugins doctor`"),
    ("version", 2, "no command 'version'", "`mmbench --version`"),
    ("help plann", 2, "no command 'plann'", "'plan'"),
    # options
    ("run -d xor --seed 3", 2, "no option --seed", "`--seeds 3`"),
    ("run -d xor --epoch 3", 2, "no option --epoch", "'--epochs'"),
    ("run -d xor --folds 5", 2, "no option --folds", "[split=70/15/15]"),
    ("run -d photos.csv --label label", 2, "no option --label", "[label=species]"),
    ("run -d xor --resume", 2, "no option --resume", "same --run"),
    ("run -d xor --overwrite", 2, "no option --overwrite", "--retry ok"),
    ("run -d xor --gpus 1", 2, "no option --gpus", "--device cuda"),
    ("run -d xor --pretrained", 2, "no option --pretrained", "timm/resnet18"),
    ("run -d xor --frozen", 2, "no option --frozen", "tuning=frozen"),
    ("run --all", 2, "no option --all", "--grid all"),
    ("run --quick", 2, "no option --quick", "--grid quick"),
    ("run -d xor --pdb", 2, "no option --pdb", "--isolate none"),
    ("run -d xor --verbose", 2, "no option --verbose", "log.txt"),
    ("run -d xor --output-dir out", 2, "no option --output-dir", "--results DIR"),
    ("run -d xor --model cnn", 2, "no option --model", "-e"),
    ("list --jsn", 2, "no option --jsn", "'--json'"),
    ("run -d xor --epochs", 2, "--epochs needs a value", "--help"),
    # values
    ("run -d xor --epochs two", 2, "--epochs two", "takes a whole number"),
    ("run -d xor --lr fast", 2, "--lr fast", "takes a number"),
    ("run -d xor --epochs 0", 2, "epochs = 0", "greater than or equal to 1"),
    ("run -d xor --lr 0", 2, "lr = 0.0", "greater than 0"),
    ("run -d xor --seeds none", 2, "'none'", "a count such as 3"),
    ("run -d xor --seeds 0", 2, "got 0", "at least 1"),
    ("run -d xor --device tpu", 2, "device = 'tpu'", "auto, cpu, cuda or cuda:1"),
    ("run -d xor --budget two", 2, "budget = 'two'", "15m, 2h"),
    ("run -d xor --precision fp8", 2, "precision = 'fp8'", "'fp32' or 'bf16'"),
    ("run -d xor --protocol careful", 2, "protocol = 'careful'", "'quick'"),
    ("run -d xor --isolate yes", 2, "--isolate", "process or none"),
    ("run -d xor --set learning_rate=1", 2, "no key 'learning_rate'", "lr"),
    ("run -d xor --set epochs", 2, "--set epochs", "KEY=VALUE"),
    ("run -d xor --optimizer lion", 2, "'lion'", "'adamw'"),
    ("run -d xor --metric f11", 2, "f11", "f1"),
    ("run -d xor --run ../up", 2, "'../up' cannot name a run", "letters, digits"),
    ("check mlp --level deep", 2, "--level deep", "api, smoke or full"),
    ("export first --format exel", 2, "--format exel", "xlsx"),
    ("export first -o birds.doc", 2, "birds.doc", ".xlsx"),
    ("export first -o birds.md --format csv", 2, "birds.md", "leave --format out"),
    ("view first --port 99999", 2, "--port 99999", "65535"),
    # names
    ("run", 2, "nothing is selected", "-d DATASET"),
    ("run -d digit", 2, "'digit'", "'digits'"),
    ("run -d DIGIT", 2, "'DIGIT'", "'digits'"),
    ("run -d xor -f concatenate", 2, "'concatenate'", "`mmbench list fusions`"),
    ("run -d xor -f Cross_Attention", 2, "'Cross_Attention'", "'cross-attention'"),
    ("run -d xor -e resnet", 2, "'resnet'", "resnet18"),
    ("run -d xor -e a=MPL", 2, "'MPL'", "'mlp'"),
    ("run -d xor -e a=cnn", 2, "takes image, not tabular", "Encoders of tabular"),
    ("run -d xor -e smell=mlp", 3, "'smell'", "modality"),
    ("run -d xor -e 'a=mlp[widht=3]'", 2, "'widht'", "width"),
    ("run -d xor -e 'a=mlp[width=3'", 2, "width=3", "bracket is never closed"),
    ("run --grid small", 2, "no grid is named 'small'", "smoke"),
    ("run -c none.toml", 2, "none.toml", "there is no run file"),
    ("run -d xor --exclude xor", 3, "matches no dataset", "`mmbench list datasets`"),
    ("show resnet", 2, "'resnet'", "resnet18"),
    ("list metrics", 2, "no list of 'metrics'", "`mmbench show DATASET`"),
    ("list models", 2, "no list of 'models'", "`mmbench list encoders`"),
    ("list foo", 2, "no list of 'foo'", "encoders, fusions"),
    ("report nosuch", 2, "'nosuch'", "first"),
    ("report", 2, "name a run", "mmbench report RUN"),
    ("status --watch", 2, "--watch needs the name of a run", "`mmbench runs`"),
    ("export", 2, "`mmbench export` needs the name of a run", "`mmbench runs`"),
    ("export first second", 2, "no further argument", "--help"),
    ("compare first", 2, "name one other run", "mmbench compare RUN_A RUN_B"),
    ("compare first nosuch", 2, "'nosuch'", "first"),
    ("view nosuch", 2, "'nosuch'", "first"),
    ("clean", 2, "say what to remove", "--runs NAME"),
    ("clean --runs nosuch", 2, "'nosuch'", "first"),
    ("clean --cache --older-than long", 2, "'long'", "30d"),
]


@pytest.mark.parametrize(("line", "code", "fault", "way"), MISTAKES, ids=[line for line, *_ in MISTAKES])
def test_a_mistake_gets_one_sentence_with_the_fault_and_the_way(line, code, fault, way, home, monkeypatch, capsys):
    found, _, err = typed(line, home, monkeypatch, capsys)

    assert found == code, err
    assert err.startswith("error: ")
    assert fault in err
    assert way in err
    assert err.count("\n") == 1 or "^" in err
    assert len(err) < 600


GUESSES = [
    ("--version", "mmbench 0."),
    ("-V", "mmbench 0."),
    ("help plan", "mmbench plan"),
    ("list encoder", "33 encoders"),
    ("list Fusions", "fusions"),
    ("plan xor -f concat", "xor"),
    ("plan -d xor -f concat,sum", "sum"),
    ("plan -d xor,redundant -f concat", "redundant"),
    ("plan -d xor -f concat --optimizer sgd", "xor"),
    ("plan -d xor -f concat --learning-rate 0.1 --batch 8", "xor"),
    ("plan -d xor -e a=mlp:width=32 -f concat", "a:mlp[width=32]"),
    ("plan -d photos.csv:label=label -f concat", "photos"),
    ("runs", "first"),
    ("status", "first"),
    ("export first -o table.md", ""),
    ("clean --runs first --dry-run", "would remove 1 run (first)"),
]


@pytest.mark.parametrize(("line", "shown"), GUESSES, ids=[line for line, _ in GUESSES])
def test_a_natural_guess_works(line, shown, home, monkeypatch, capsys):
    code, out, err = typed(line, home, monkeypatch, capsys)

    assert code == 0, err
    assert shown in out


def test_at_least_a_hundred_mistakes_and_guesses_are_tried():
    assert len(MISTAKES) + len(GUESSES) >= 100
