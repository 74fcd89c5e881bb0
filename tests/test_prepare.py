"""`mmbench prepare` says what a selection needs, asks, and brings it here: checked, and only where it belongs."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
import zipfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from prepare_cases import CONTENT, HASH, Server, command, file_of, names, prepare, registry_of, sha256, spec, zip_of

from mmbench.config import RunConfig
from mmbench.errors import Unavailable, UsageError
from mmbench.prepare import find_needs, selected
from mmbench.registry import load_registry
from mmbench.spec import AssetSpec, DatasetSpec, EncoderSpec, Modality, TaskSpec
from mmbench.unpack import marker_of


def test_what_is_lacking_is_fetched_once_and_then_known(
    server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    registry = registry_of(spec(files=(file_of(server, size_bytes=2**20, licence="CC-BY-4.0"),)))

    assert prepare(registry, tmp_path, check=True) == 1
    assert server.seen == []
    assert prepare(registry, tmp_path, dry_run=True) == 0
    assert server.seen == []
    assert prepare(registry, tmp_path) == 0

    said = capsys.readouterr().out
    assert "1 file, 1 MiB, into" in said
    assert "CC-BY-4.0" in said
    assert said.endswith("1 file fetched, all there\n")
    assert (tmp_path / "tests--needy" / "data.bin").read_bytes() == CONTENT
    assert prepare(registry, tmp_path, check=True) == prepare(registry, tmp_path) == 0
    assert len(server.seen) == 1


def test_check_finds_a_changed_byte_and_prepare_mends_it(server: Server, tmp_path: Path) -> None:
    registry = registry_of(spec(files=(file_of(server),)))
    prepare(registry, tmp_path)
    file = tmp_path / "tests--needy" / "data.bin"
    file.write_bytes(CONTENT[:-1] + b"?")

    assert prepare(registry, tmp_path, check=True) == 1
    assert prepare(registry, tmp_path) == 0
    assert file.read_bytes() == CONTENT


def test_json_says_how_it_stands_with_every_file(
    server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = (file_of(server, licence="MIT"), file_of(server, name="no/such.bin", url=f"{server.address}/no", sha256=""))

    assert prepare(registry_of(spec(files=files)), tmp_path, as_json=True) == 1

    told = json.loads(capsys.readouterr().out)
    assert told["data_dir"] == str(tmp_path)
    assert told["files"][0] == {
        "part": "dataset needy",
        "status": "fetched",
        "reason": "",
        "name": "data.bin",
        "url": f"{server.address}/data.bin",
        "licence": "MIT",
        "size_bytes": None,
        "checked_by": "sha256",
        "path": str(tmp_path / "tests--needy" / "data.bin"),
    }
    assert (told["files"][1]["status"], told["files"][1]["reason"]) == (
        "failed",
        f"{server.address}/no: the server answers 404 Not Found",
    )


def test_an_archive_is_unpacked_once_and_may_then_be_removed(server: Server, tmp_path: Path) -> None:
    packed = zip_of(tmp_path / "made.zip", images__1=b"one").read_bytes()
    server.files["/a.zip"] = packed
    asset = file_of(server, name="raw/a.zip", url=f"{server.address}/a.zip", sha256=sha256(packed), unpack=True)
    registry = registry_of(spec(files=(asset,)))
    folder = tmp_path / "tests--needy" / "raw"

    assert prepare(registry, tmp_path) == 0
    assert (folder / "images" / "1").read_bytes() == b"one"
    when = (folder / "images" / "1").stat().st_mtime_ns
    assert prepare(registry, tmp_path) == 0
    assert (folder / "images" / "1").stat().st_mtime_ns == when

    (folder / "images" / "1").unlink()
    assert prepare(registry, tmp_path, check=True) == 1
    assert prepare(registry, tmp_path) == 0
    assert len(server.seen) == 1

    (folder / "a.zip").unlink()
    assert prepare(registry, tmp_path, check=True) == 0
    (folder / "images" / "1").unlink()
    assert prepare(registry, tmp_path) == 0
    assert len(server.seen) == 2


def test_an_archive_that_leads_out_fails_and_the_other_files_still_come(
    server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with zipfile.ZipFile(tmp_path / "made.zip", "w") as archive:
        archive.writestr("../../evil", b"1")
    server.files["/a.zip"] = (tmp_path / "made.zip").read_bytes()
    evil = AssetSpec(name="a.zip", url=f"{server.address}/a.zip", unpack=True)

    assert prepare(registry_of(spec(files=(evil, file_of(server)))), tmp_path) == 1

    assert "failed: dataset needy (a.zip): " in capsys.readouterr().out
    assert not (tmp_path / "evil").exists()
    assert (tmp_path / "tests--needy" / "data.bin").read_bytes() == CONTENT


@pytest.mark.parametrize("name", ["../x", "/etc/x", "a/../../x", "a//x", "a\\x", ".hidden", "a/./x"])
def test_a_file_that_a_plugin_wants_elsewhere_is_refused(
    server: Server, tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert prepare(registry_of(spec(files=(file_of(server, name=name),))), tmp_path / "data") == 1

    assert "does not name a file under the folder of tests/needy" in capsys.readouterr().out
    assert names(tmp_path) == []


@pytest.mark.parametrize(
    "path", ["/mirror/tests--needy/sub/data.bin", "/mirror/publisher.example.org/v1/d.bin", "/mirror/data.bin"]
)
def test_a_mirror_may_be_laid_out_in_three_ways(server: Server, tmp_path: Path, path: str) -> None:
    server.files = {path: CONTENT}
    asset = AssetSpec(name="sub/data.bin", url="https://publisher.example.org/v1/d.bin?token=1", sha256=HASH)

    assert prepare(registry_of(spec(files=(asset,))), tmp_path, mirror=f"{server.address}/mirror/") == 0

    assert (tmp_path / "tests--needy" / "sub" / "data.bin").read_bytes() == CONTENT


def test_a_mirror_that_lacks_a_file_is_not_gone_past(
    server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asset = AssetSpec(name="other.bin", url=f"{server.address}/data.bin")

    assert prepare(registry_of(spec(files=(asset,))), tmp_path, mirror=f"{server.address}/mirror") == 1

    assert "the mirror has no other.bin; tried" in capsys.readouterr().out
    assert "/data.bin" not in [path for path, _, _ in server.seen]


@pytest.mark.parametrize("path", ["tests--needy/sub/data.bin", "sub/data.bin", "data.bin", "deep/under/any-name"])
def test_a_local_folder_stands_in_for_the_network(server: Server, tmp_path: Path, path: str) -> None:
    source = tmp_path / "usb"
    (source / path).parent.mkdir(parents=True)
    (source / path).write_bytes(CONTENT)
    registry = registry_of(spec(files=(file_of(server, name="sub/data.bin"),)))

    assert prepare(registry, tmp_path / "data", source=source) == 0

    assert (tmp_path / "data" / "tests--needy" / "sub" / "data.bin").read_bytes() == CONTENT
    assert server.seen == []


def test_a_wrong_file_in_a_local_folder_is_named(
    server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "usb").mkdir()
    (tmp_path / "usb" / "data.bin").write_bytes(b"other")

    assert prepare(registry_of(spec(files=(file_of(server),))), tmp_path / "data", source=tmp_path / "usb") == 1

    said = " ".join(capsys.readouterr().out.split())
    assert "neither by name nor by hash" in said
    assert "is not it: its sha256 is not the one that was promised" in said


def test_what_only_a_person_can_get_is_said_with_its_place(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    registry = registry_of(spec(files=(AssetSpec(name="mosi.pkl", licence="CMU, on request"),)))
    assert prepare(registry, tmp_path) == 1
    said = capsys.readouterr().out
    place = tmp_path / "tests--needy" / "mosi.pkl"
    assert f"nobody may hand out mosi.pkl (CMU, on request): get it from its publisher and put it at {place}" in said

    assert "Fetch" not in said  # there is nothing to agree to

    place.parent.mkdir(exist_ok=True)
    place.write_bytes(b"x")

    assert prepare(registry, tmp_path) == 0


def test_two_prepares_at_once_fetch_a_file_once(server: Server, tmp_path: Path) -> None:
    registry = registry_of(spec(files=(file_of(server),)))
    codes: list[int] = []
    threads = [threading.Thread(target=lambda: codes.append(prepare(registry, tmp_path))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert codes == [0, 0, 0, 0]
    assert len(server.seen) == 1


def test_nothing_needed_is_a_success(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert prepare(registry_of(spec()), tmp_path) == 0

    assert capsys.readouterr().out == "nothing to prepare: the selection needs no files\n"


def describe_absent() -> None:
    raise Unavailable("the films are not here; get them from their authors")


def test_a_dataset_that_one_must_get_oneself_says_where(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "needy_data", SimpleNamespace(describe=describe_absent))
    needy = DatasetSpec(name="needy", factory="needy_data:open", version="1", describe="needy_data:describe")

    assert prepare(registry_of(needy), tmp_path) == 1

    assert "dataset needy: the films are not here; get them from their authors" in capsys.readouterr().out


def test_a_dataset_that_cannot_be_described_yet_is_prepared(server: Server, tmp_path: Path) -> None:
    needy = DatasetSpec(
        name="needy",
        factory="needy_data:open",
        version="1",
        describe="no_such_module:describe",
        files=(file_of(server),),
    )
    encoder = EncoderSpec(
        name="pretrained",
        factory="x:y",
        version="1",
        kinds=("image",),
        tunings=("frozen", "scratch"),
        weights=(file_of(server, name="weights.bin"),),
    )
    registry = registry_of(needy, encoder)

    assert prepare(registry, tmp_path, config={"encoder": ["picture=pretrained"]}) == 0

    assert names(tmp_path / "tests--needy")[-1] == "data.bin"
    assert names(tmp_path / "tests--pretrained")[-1] == "weights.bin"


def prepare_part(*target: str, **facts: Any) -> tuple[AssetSpec, ...]:
    return (AssetSpec(name="-".join((*target, *(f"{key}={facts[key]}" for key in sorted(facts))))),)


def test_a_parts_own_prepare_is_asked_with_target_tuning_and_options(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "needy_data", SimpleNamespace(prepare_part=prepare_part))
    function = "needy_data:prepare_part"
    needy = spec(prepare=function, target="required", defaults={"fold": 1})
    facts = {"factory": "x:y", "version": "1", "kinds": ("image",), "tunings": ("frozen", "scratch")}
    encoder = EncoderSpec(name="lib", target="required", prepare=function, defaults={"size": 224}, **facts)
    config = RunConfig(dataset=["needy:v2[fold=3]"], encoder=["lib/resnet18", "lib/vgg11[tuning=scratch]"])

    needs, troubles = find_needs(config, registry_of(needy, encoder), tmp_path)

    assert troubles == []
    assert [need.asset.name for need in needs] == ["v2-fold=3", "resnet18-size=224-tuning=frozen"]


def test_a_plugin_that_cannot_say_what_it_needs_costs_its_own_line_only(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fails(**options: Any) -> None:
        raise ZeroDivisionError("oh")

    monkeypatch.setitem(sys.modules, "needy_data", SimpleNamespace(fails=fails, nonsense=lambda **options: 7))
    facts = {"factory": "x:y", "version": "1", "kinds": ("image",), "tunings": ("frozen",)}
    encoders = [
        EncoderSpec(name="raises", prepare="needy_data:fails", **facts),
        EncoderSpec(name="lies", prepare="needy_data:nonsense", **facts),
        EncoderSpec(name="lacks", prepare="needy_data:fails", requires=("no_such_package",), **facts),
    ]

    assert prepare(registry_of(spec(files=(file_of(server),)), *encoders), tmp_path) == 1

    said = capsys.readouterr().out
    assert "failed: encoder raises: needy_data:fails failed: ZeroDivisionError: oh" in said
    assert "failed: encoder lies: needy_data:nonsense must return a tuple of AssetSpec, got 7" in said
    assert "failed: encoder lacks: tests/lacks needs no_such_package: pip install no_such_package" in said
    assert (tmp_path / "tests--needy" / "data.bin").exists()


def test_exclude_and_modality_narrow_what_is_prepared() -> None:
    facts = {"factory": "x:y", "version": "1", "tunings": ("frozen",)}
    two = DatasetSpec(
        name="needy",
        factory="x:y",
        version="1",
        modalities=(Modality(name="photo", kind="image"), Modality(name="caption", kind="text")),
        tasks=(TaskSpec(name="label", kind="multiclass", num_outputs=2),),
    )
    encoders = [EncoderSpec(name=f"e-{kind}", kinds=(kind,), **facts) for kind in ("image", "text", "audio")]
    registry = registry_of(two, *encoders)

    def chosen(**config: Any) -> list[str]:
        return [item.entry.spec.name for item in selected(RunConfig(dataset=["needy"], **config), registry)]

    assert chosen() == ["needy", "e-image", "e-text"]
    assert chosen(modality=["caption"]) == ["needy", "e-text"]
    assert chosen(exclude=["photo=e-image"]) == ["needy", "e-text"]
    assert chosen(encoder=["e-audio"]) == ["needy", "e-image", "e-text"]  # as in a plan: no modality is audio
    with pytest.raises(UsageError, match="no encoder is named 'e-vidio'"):
        chosen(encoder=["e-vidio"])


# The command line

PLUGIN = '''
"""A dataset that needs a file."""
from mmbench import AssetSpec, DatasetSpec, hookimpl
from mmbench.errors import Unavailable


def describe():
    raise Unavailable("data.bin is not here; run `mmbench prepare -d needy`")


@hookimpl
def mmbench_datasets():
    file = AssetSpec(name="data.bin", url="{url}", sha256="{sha256}", size_bytes=1048576, licence="CC0-1.0")
    return [DatasetSpec(name="needy", factory="needy:open", version="1", describe="needy:describe", files=(file,))]
'''


def test_the_command_says_licence_and_size_asks_and_fetches(server: Server, tmp_path: Path) -> None:
    (tmp_path / "needy.py").write_text(PLUGIN.format(url=f"{server.address}/data.bin", sha256=HASH))
    file = tmp_path / "data" / "file--needy" / "data.bin"

    refused = command(tmp_path, "-d", "needy", answer="n\n")
    assert refused.returncode == 1
    assert "CC0-1.0" in refused.stdout
    assert "Fetch 1 file, 1 MiB? [y/N]:" in refused.stdout
    assert server.seen == []

    agreed = command(tmp_path, "-d", "needy", answer="y\n")
    assert (agreed.returncode, agreed.stderr) == (0, "")
    assert "1 file fetched, all there" in agreed.stdout
    assert file.read_bytes() == CONTENT

    assert command(tmp_path, "-d", "needy", "--check").returncode == 0
    file.unlink()
    lacking = command(tmp_path, "-d", "needy", "--check", "--json")
    assert lacking.returncode == 1
    assert [item["status"] for item in json.loads(lacking.stdout)["files"]] == ["lacking"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "nothing is selected: say what you want to run"),
        (["-d", "needi"], "no dataset is named 'needi'. Did you mean 'needy'?"),
        (["-d", "needy", "--from", "nowhere"], "--from nowhere: there is no such folder"),
        (["-d", "needy", "--mirror", "example.org"], "--mirror example.org: write an address such as https://"),
        (["-d", "needy", "--json"], "prepare --json cannot ask; say --yes, --check or --dry-run"),
        (["-d", "needy", "--patience", "long"], "--patience: a duration reads 90, 90s, 15m, 2h or 30d; got 'long'"),
    ],
)
def test_a_mistake_is_one_sentence_and_exit_code_2(tmp_path: Path, arguments: list[str], message: str) -> None:
    (tmp_path / "needy.py").write_text(PLUGIN.format(url="https://example.org/data.bin", sha256=HASH))

    done = command(tmp_path, *arguments)

    assert done.returncode == 2
    assert done.stderr.startswith(f"error: {message}")


def test_an_interrupted_prepare_says_that_it_can_go_on(server: Server, tmp_path: Path) -> None:
    (tmp_path / "needy.py").write_text(PLUGIN.format(url=f"{server.address}/data.bin", sha256=HASH))
    server.hangs = True
    process = subprocess.Popen(
        [sys.executable, "-m", "mmbench.cli", "prepare", "--plugin", "needy.py", "-d", "needy", "--yes"],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "MMBENCH_DATA": str(tmp_path / "data")},
    )
    while not server.seen and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)

    said = process.communicate(timeout=60)[0]
    assert process.returncode == 130
    assert said.endswith("interrupted; the same command goes on where this one stopped\n")


ASKER = '''
"""Says in its summary whether libraries are told to stay off the network."""
import os
from mmbench import FusionSpec, hookimpl


@hookimpl
def mmbench_fusions():
    told = [os.environ.get(f"{name}_OFFLINE", "-") for name in ("HF_HUB", "TRANSFORMERS", "HF_DATASETS")]
    return [FusionSpec(name="asker", factory="asker:Asker", version="1", summary=" ".join(told))]
'''


def test_every_command_but_prepare_stays_off_the_network(tmp_path: Path) -> None:
    (tmp_path / "asker.py").write_text(ASKER)
    arguments = [sys.executable, "-m", "mmbench.cli", "show", "asker", "--plugin", "asker.py", "--json"]

    done = subprocess.run(arguments, cwd=tmp_path, capture_output=True, text=True, check=True)

    assert json.loads(done.stdout)[0]["summary"] == "1 1 1"


def test_the_default_grid_needs_nothing(tmp_path: Path) -> None:
    config = RunConfig(grid="smoke", dataset=["digits", "xor"])

    assert find_needs(config, load_registry(), tmp_path) == ([], [])
    assert marker_of(tmp_path / "a.zip").name == ".a.zip.unpacked.json"


@pytest.mark.parametrize("as_json", [False, True])
def test_what_a_server_answers_tells_the_terminal_nothing(
    server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str], as_json: bool
) -> None:
    server.errors, server.reason = [403], "\x1b]8;;https://evil.example\x07click\x1b]8;;\x07 \x1b[2J\x9b31m"

    assert prepare(registry_of(spec(files=(file_of(server),))), tmp_path, as_json=as_json) == 1

    shown = capsys.readouterr()
    text = shown.out + shown.err
    assert "the server answers 403" in text
    assert not [character for character in text if not (character.isprintable() or character == "\n")]
    assert "evil.example" not in shown.err
    assert as_json or "evil.example" not in shown.out
