"""The registry finds parts by name, and no plugin, however broken, harms another or the process."""

from __future__ import annotations

import logging
import os
import random
import re
import signal
import subprocess
import sys
import textwrap
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mmbench import loading
from mmbench.environment import versions
from mmbench.errors import ContractError, PluginError, Unavailable, UsageError
from mmbench.loading import PluginInfo, load_plugin_file
from mmbench.part_code import install_command, lacking_packages, load_attribute, load_factory, missing_packages
from mmbench.registry import Entry, Reference, Registry, load_registry
from mmbench.spec import DatasetSpec, EncoderSpec, FusionSpec, ObjectiveSpec, TaskSpec, TrackerSpec

GOOD = """
from mmbench import FusionSpec, hookimpl

@hookimpl
def mmbench_fusions():
    return [FusionSpec(name="good", factory="good_plugin.model:Good", version="1")]
"""

#: Not all of mmbench: its networks import torch, which would take seconds in the process of each plugin.
NAMES = (
    "from mmbench import AssetSpec, DatasetSpec, EncoderSpec, FusionSpec, Modality, ObjectiveSpec, TaskSpec, hookimpl"
)

Install = Callable[..., None]
Plugin = Callable[..., PluginInfo]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    """Give a function that puts a distribution with one plugin module on the path, as pip would."""
    site = tmp_path / "site"
    site.mkdir()
    monkeypatch.syspath_prepend(str(site))
    modules = set(sys.modules)

    def put(
        dist: str, source: str, *, module: str = "", points: str | None = None, metadata: str | None = None
    ) -> None:
        module = module or f"{dist.replace('-', '_').lower()}_module"
        (site / f"{module}.py").write_text(textwrap.dedent(source), encoding="utf-8")
        info = site / f"{dist.replace('-', '_')}-2.5.dist-info"
        info.mkdir()
        if metadata is None:
            metadata = f"Metadata-Version: 2.1\nName: {dist}\nVersion: 2.5\n\nVersion: in the text, to be ignored\n"
        info.joinpath("METADATA").write_bytes(metadata.encode("latin-1"))
        text = f"[mmbench]\n{dist} = {module}\n" if points is None else points
        info.joinpath("entry_points.txt").write_text(text, encoding="utf-8")

    yield put
    for name in set(sys.modules) - modules:
        if str(site) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]


@pytest.fixture
def plugin(install: Install) -> Plugin:
    """Give a function that installs one plugin beside a good one and tells what became of it."""

    def load(source: str, **options: Any) -> PluginInfo:
        install("subject", source, **options)
        install("good", GOOD)
        infos = {info.dist: info for info in load_registry().plugins}

        assert infos["good"].status == "loaded", infos["good"].reason
        return infos["subject"]

    return load


@pytest.fixture
def plugin_file(tmp_path: Path) -> Iterator[Callable[..., Path]]:
    """Give a function that writes a local plugin file; what was loaded from it is forgotten afterwards."""
    modules = set(sys.modules)

    def write(source: str, name: str = "my_fusion.py") -> Path:
        path = tmp_path / name
        path.write_text(textwrap.dedent(source), encoding="utf-8")
        return path

    yield write
    for name in set(sys.modules) - modules:
        if str(tmp_path) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]


def a_hook(body: str, hook: str = "mmbench_fusions()") -> str:
    """Return the source of a plugin with one hook."""
    return f"{NAMES}\n\n@hookimpl\ndef {hook}:\n    {body}\n"


# What is installed.


def test_an_installed_plugin_is_listed_with_its_distribution_version_origin_and_counts(plugin: Plugin) -> None:
    info = plugin(
        """
        from mmbench import EncoderSpec, FusionSpec, hookimpl

        @hookimpl
        def mmbench_fusions():
            return [FusionSpec(name=name, factory="subject_module:F", version="1") for name in ("a", "b")]

        @hookimpl
        def mmbench_encoders():
            return (EncoderSpec(name="a", kinds=("image",), factory="subject_module:E", version="1"),)
        """
    )

    assert (info.name, info.dist, info.dist_version) == ("subject", "subject", "2.5")
    assert info.origin.endswith("subject_module.py")
    assert (info.status, info.reason, info.traceback, info.warnings) == ("loaded", "", "", ())
    assert info.counts == {"encoder": 1, "fusion": 2}


def test_an_entry_point_may_name_an_object_with_hooks(plugin: Plugin) -> None:
    info = plugin(
        """
        from mmbench import FusionSpec, hookimpl

        class Plugin:
            @hookimpl
            def mmbench_fusions(self):
                return [FusionSpec(name="a", factory="m:F", version="1")]

        plugin = Plugin()
        """,
        points="[mmbench]\nsubject = subject_module:plugin\n",
    )

    assert info.counts == {"fusion": 1}


def test_a_hook_may_have_another_name_and_say_which_it_is(plugin: Plugin) -> None:
    info = plugin(
        """
        from mmbench import FusionSpec, hookimpl

        @hookimpl(specname="mmbench_fusions")
        def fusions():
            return [FusionSpec(name="a", factory="m:F", version="1")]
        """
    )

    assert info.counts == {"fusion": 1}


def test_a_distribution_is_known_by_its_normalised_name(install: Install) -> None:
    install("My_Fancy.Fusion", GOOD, module="fancy")

    assert load_registry().resolve("fusion", "my-fancy-fusion/good").entry.ref == "my-fancy-fusion/good"
    assert load_registry().resolve("fusion", "My_Fancy.Fusion/good").entry.ref == "my-fancy-fusion/good"


def test_two_distributions_may_use_the_same_entry_point_name(install: Install) -> None:
    for dist in ("first", "second"):
        install(dist, GOOD.replace('"good"', f'"{dist}"'), points=f"[mmbench]\nsame = {dist}_module\n")

    registry = load_registry()

    assert [(info.dist, info.status) for info in registry.plugins if info.name == "same"] == [
        ("first", "loaded"),
        ("second", "loaded"),
    ]
    assert {"first", "second"} <= {entry.spec.name for entry in registry.entries("fusion")}


def test_two_plugins_of_one_distribution_cannot_offer_the_same_name(install: Install) -> None:
    install("twins", GOOD, points="[mmbench]\nalpha = twins_module\nbeta = twins_module\n")

    infos = {info.name: info for info in load_registry().plugins if info.dist == "twins"}

    assert infos["alpha"].status == "loaded"
    assert infos["beta"].reason == (
        "fusion 'twins/good' is already offered by the plugin 'alpha' of the same distribution"
    )


def test_discovery_imports_neither_torch_nor_pandas_nor_numpy() -> None:
    code = (
        "import sys, mmbench.registry as r; r.load_registry(); "
        "print([m for m in ('torch', 'pandas', 'numpy', 'timm', 'transformers') if m in sys.modules])"
    )

    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


# Broken plugins: each is left out with a reason that says what to mend.


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        pytest.param("import no_such_package", "ModuleNotFoundError: No module named 'no_such_package'", id="import"),
        pytest.param("1 / 0", "ZeroDivisionError: division by zero", id="raises"),
        pytest.param("raise SystemExit(3)", "it tried to end the process (SystemExit)", id="exits"),
        pytest.param("class Odd(BaseException): pass\nraise Odd('no')", "subject_module.Odd: no", id="base exception"),
        pytest.param("raise GeneratorExit", "GeneratorExit", id="generator exit"),
        pytest.param(
            "class Odd(Exception):\n    def __str__(self): raise ValueError\nraise Odd",
            "subject_module.Odd: <exception str() failed>",
            id="unprintable",
        ),
        pytest.param("def broken(:", "SyntaxError: invalid syntax (subject_module.py, line 1)", id="syntax"),
        pytest.param("def f(): return f()\nf()", "RecursionError: maximum recursion depth exceeded", id="recursion"),
        pytest.param(
            a_hook("return []", "mmbench_fusoins()"),
            "no hook is named 'mmbench_fusoins'. Did you mean 'mmbench_fusions'?",
            id="misspelt hook",
        ),
        pytest.param(
            "def mmbench_fusoins():\n    return []",
            "no hook is named 'mmbench_fusoins'. Did you mean 'mmbench_fusions'?",
            id="misspelt hook without mark",
        ),
        pytest.param(
            "def mmbench_helper():\n    return []",
            "no hook is named 'mmbench_helper'. Hooks are mmbench_datasets, mmbench_encoders, mmbench_executors, "
            "mmbench_fusions, mmbench_objectives, mmbench_skip, mmbench_trackers; other functions must not start with 'mmbench_'.",
            id="unknown hook",
        ),
        pytest.param(
            "from mmbench import hookimpl\n\n@hookimpl(specname='mmbench_fusion')\ndef fusions():\n    return []",
            "no hook is named 'mmbench_fusion'. Did you mean 'mmbench_fusions'?",
            id="misspelt specname",
        ),
        pytest.param(
            "def mmbench_fusions():\n    return []",
            "mmbench_fusions lacks @hookimpl; `from mmbench import hookimpl` and put it above the function",
            id="no mark",
        ),
        pytest.param(
            a_hook("return []", "mmbench_fusions(config)"),
            "mmbench_fusions takes 'config', which hook 'mmbench_fusions' does not give; it is called with ()",
            id="argument",
        ),
        pytest.param(
            a_hook("return None", "mmbench_skip(cell)"),
            "mmbench_skip takes 'cell', which hook 'mmbench_skip' does not give; it is called with (combo)",
            id="wrong argument",
        ),
        pytest.param(
            a_hook("return None", "mmbench_skip(*args)"),
            "mmbench_skip takes *args, which hooks may not; it is called with (combo)",
            id="star argument",
        ),
        pytest.param(
            "from mmbench import hookimpl\n\n@hookimpl(wrapper=True)\ndef mmbench_fusions():\n    return (yield)",
            "mmbench_fusions is a hook wrapper, but each plugin's hooks are called apart; remove `wrapper`",
            id="wrapper",
        ),
        pytest.param(
            a_hook("return []")
            + a_hook("return []", "other()").replace("@hookimpl", "@hookimpl(specname='mmbench_fusions')"),
            "hook 'mmbench_fusions' is implemented twice",
            id="twice",
        ),
        pytest.param(a_hook("1 / 0"), "ZeroDivisionError: division by zero", id="hook raises"),
        pytest.param(a_hook("pass"), "mmbench_fusions must return a list of FusionSpec, got NoneType", id="none"),
        pytest.param(
            a_hook("yield FusionSpec(name='a', factory='m:F', version='1')"),
            "mmbench_fusions must return a list of FusionSpec, got generator",
            id="generator",
        ),
        pytest.param(
            a_hook("return FusionSpec(name='a', factory='m:F', version='1')"),
            "mmbench_fusions must return a list of FusionSpec, got FusionSpec; wrap it in a list",
            id="bare spec",
        ),
        pytest.param(
            a_hook("return ['gated']"),
            "mmbench_fusions must return a list of FusionSpec, but one item is 'gated'",
            id="wrong type",
        ),
        pytest.param(
            a_hook("return [FusionSpec(name='a', factory='m:F', version='1')]", "mmbench_encoders()"),
            "mmbench_encoders must return a list of EncoderSpec, but one item is FusionSpec 'a'",
            id="wrong role",
        ),
        pytest.param(
            a_hook("return [FusionSpec(name='a', factory='m:F', version='1')] * 2"),
            "mmbench_fusions returns two fusions named 'a'",
            id="name twice",
        ),
        pytest.param(
            a_hook("return [FusionSpec(name='Gated Fusion', factory='m:F', version='1')]"),
            "'Gated Fusion' cannot name fusion: use 1 to 64 of a-z, 0-9, '.', '_', '-', starting with a letter or digit",
            id="bad spec",
        ),
        pytest.param(
            a_hook("return [FusionSpec(name='a', factory='m:F', version='1', colour='red')]"),
            "TypeError: FusionSpec.__init__() got an unexpected keyword argument 'colour'",
            id="unknown field",
        ),
        pytest.param(
            "MMBENCH_API = 99",
            "it needs plugin API 99, but this mmbench offers 1: upgrade mmbench, or install an older version of the plugin",
            id="newer API",
        ),
        pytest.param("MMBENCH_API = '1'", "MMBENCH_API must be a whole number of at least 1, got '1'", id="API text"),
        pytest.param("MMBENCH_API = True", "MMBENCH_API must be a whole number of at least 1, got True", id="API bool"),
        pytest.param("MMBENCH_API = 0", "MMBENCH_API must be a whole number of at least 1, got 0", id="API zero"),
        pytest.param("def __dir__():\n    raise OSError('no directory')", "OSError: no directory", id="dir raises"),
    ],
)
def test_a_broken_plugin_is_left_out_with_its_reason_and_stops_nobody_else(
    plugin: Plugin, source: str, reason: str
) -> None:
    info = plugin(source)

    assert info.status == "failed"
    assert info.reason == reason
    assert info.counts == {}
    assert "Traceback" in info.traceback or "SyntaxError" in info.traceback


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ("no_such_module", "ModuleNotFoundError: No module named 'no_such_module'"),
        ("subject_module:absent", "AttributeError: module 'subject_module' has no attribute 'absent'"),
        ("subject_module:Plugin", "the entry point names the class Plugin; it must name a module or an instance"),
        ("not a module!", "its entry point reads 'not a module!'; it must name a module, as in subject = 'my_module'"),
    ],
)
def test_an_entry_point_that_names_nothing_loadable_is_a_failed_plugin(plugin: Plugin, value: str, reason: str) -> None:
    info = plugin("class Plugin: pass", points=f"[mmbench]\nsubject = {value}\n")

    assert (info.status, info.reason) == ("failed", reason)


def test_a_malformed_entry_points_file_hides_its_own_distribution_only(install: Install) -> None:
    install("malformed", "", points="[mmbench]\nthis line has no equals sign\n")
    install("good", GOOD)

    registry = load_registry()

    assert registry.resolve("fusion", "good/good").entry.dist_version == "2.5"
    assert "malformed" not in {info.dist for info in registry.plugins}
    assert versions()["good"] == "2.5"


@pytest.mark.parametrize(
    ("metadata", "expected"),
    [("", ("unknown", "unknown")), ("Name: caf\xe9\n", ("unknown", "unknown")), ("name: Odd\n", ("odd", "unknown"))],
)
def test_broken_metadata_leave_a_plugin_usable(install: Install, metadata: str, expected: tuple[str, str]) -> None:
    install("odd", GOOD, metadata=metadata)

    entry = next(entry for entry in load_registry().entries("fusion") if entry.plugin == "odd")

    assert (entry.dist, entry.dist_version) == expected


def test_an_interrupt_that_a_plugin_raises_is_its_own_failure(plugin: Plugin) -> None:
    assert plugin("raise KeyboardInterrupt").reason == "KeyboardInterrupt"


def test_ctrl_c_passes_through_while_a_plugin_is_imported(install: Install) -> None:
    install("subject", "import time\ntime.sleep(600)")
    threading.Timer(0.5, lambda: os.kill(os.getpid(), signal.SIGINT)).start()

    with pytest.raises(KeyboardInterrupt):
        load_registry()


def test_a_plugin_that_hangs_at_import_is_interrupted(plugin: Plugin, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loading, "IMPORT_LIMIT_S", 0.2)
    started = time.monotonic()

    info = plugin("import time\ntry:\n    time.sleep(600)\nexcept Exception:\n    pass")

    assert info.reason == "it took more than 1.2 s to import"
    assert time.monotonic() - started < 60


def test_a_plugin_that_hangs_in_a_hook_is_interrupted(plugin: Plugin, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loading, "IMPORT_LIMIT_S", 0.2)

    info = plugin(a_hook("while True: pass"))

    assert info.reason == "it took more than 0.2 s of processor time to import"


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_plugin_whose_first_interrupt_is_lost_in_a_finaliser_is_interrupted_again(
    plugin: Plugin, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loading, "IMPORT_LIMIT_S", 0.2)

    info = plugin(
        "import time\nclass Slow:\n    def __del__(self):\n        time.sleep(60)\n"
        "slow = Slow()\ndel slow\nwhile True:\n    pass"
    )

    assert re.fullmatch(r"it took more than (1\.2 s|0\.2 s of processor time) to import", info.reason)


def test_somebody_elses_alarm_and_handler_go_on_after_discovery(install: Install) -> None:
    install("subject", "import signal, time\nsignal.setitimer(signal.ITIMER_REAL, 0)\ntime.sleep(0.05)")
    fired = []
    handler = signal.signal(signal.SIGALRM, lambda *_: fired.append(time.monotonic()))
    delay, interval = signal.setitimer(signal.ITIMER_REAL, 0.5)
    try:
        started = time.monotonic()
        load_registry()
        while not fired and time.monotonic() - started < 60:
            time.sleep(0.01)
    finally:
        signal.signal(signal.SIGALRM, handler)
        signal.setitimer(signal.ITIMER_REAL, delay, interval)

    assert fired[0] - started > 0.4


def test_discovery_works_in_a_thread_where_no_alarm_can_be_set(install: Install) -> None:
    install("good", GOOD)
    found: list[Registry] = []

    thread = threading.Thread(target=lambda: found.append(load_registry()))
    thread.start()
    thread.join()

    assert found[0].resolve("fusion", "good/good").entry.spec.name == "good"


# What a plugin does to the process at import is undone and told.


@pytest.mark.parametrize(
    ("source", "warning"),
    [
        ("import os; os.chdir('/')", "changed the working directory at import; that was put back"),
        (
            "import os; os.environ['MMBENCH_T'] = '1'; os.environ['HOME'] = '/'; os.environ.pop('PATH')",
            "changed environment variables at import; that was put back",
        ),
        ("import sys; sys.path.insert(0, '/nowhere')", "changed sys.path at import; that was put back"),
        ("import random; random.seed(0)", "changed the random module's state at import; that was put back"),
        ("import numpy; numpy.random.seed(0)", "changed numpy's random state at import; that was put back"),
        (
            "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN)",
            "changed signal handlers at import; that was put back",
        ),
        ("import logging; logging.getLogger().setLevel(5)", "changed the root logger at import; that was put back"),
        (
            "import warnings; warnings.simplefilter('error')",
            "changed the warnings filters at import; they were put back",
        ),
        ("print('hello\\nworld')", "printed at import: hello world"),
        ("import sys; sys.stderr.write('a sigh')", "printed at import: a sigh"),
        ("import sys; sys.stdout.buffer.write(b'bytes'); sys.stdout.close()", "printed at import: bytes"),
        ("import sys; print('x' * 10**6); sys.stdout = None", f"printed at import: {'x' * 199}…"),
    ],
)
@pytest.mark.parametrize("ending", ["", "\n1 / 0"], ids=["loads", "then fails"])
def test_what_a_plugin_changes_or_prints_at_import_is_undone_and_told(
    plugin: Plugin, capfd: pytest.CaptureFixture[str], source: str, warning: str, ending: str
) -> None:
    before = _process_state()

    info = plugin(source + ending)

    assert warning in info.warnings
    assert info.status == ("failed" if ending else "loaded")
    assert _process_state() == before
    assert capfd.readouterr() == ("", "")


def _process_state() -> list[Any]:
    return [
        Path.cwd(),
        dict(os.environ),
        list(sys.path),
        random.getstate(),
        np.random.get_state()[1].tobytes(),
        signal.getsignal(signal.SIGINT),
        signal.getsignal(signal.SIGALRM),
        list(logging.root.handlers),
        logging.root.level,
        list(warnings.filters),
        sys.stdout,
        sys.stderr,
    ]


def test_a_plugin_that_imports_torch_when_listed_is_told_not_to(install: Install) -> None:
    install("heavy", "import sys, types\nsys.modules.setdefault('timm', types.ModuleType('timm'))\nimport timm")
    known = sys.modules.pop("timm", None)
    try:
        info = next(info for info in load_registry().plugins if info.dist == "heavy")
    finally:
        sys.modules.pop("timm", None)
        if known is not None:
            sys.modules["timm"] = known

    assert info.warnings[0] == "imports timm when it is listed: import it in the factories' modules only"


def test_a_local_file_that_imports_torch_is_not_blamed_for_what_torch_changes(tmp_path: Path) -> None:
    path = tmp_path / "with_torch.py"
    path.write_text("import torch\n" + GOOD, encoding="utf-8")
    code = f"import mmbench.registry as r; print(r.load_registry([{str(path)!r}]).plugins[-1].warnings)"

    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "()\n"


def test_a_plugin_without_hooks_is_told_that_it_offers_nothing(plugin: Plugin) -> None:
    info = plugin("x = 1")

    assert info.status == "loaded"
    assert info.warnings == ("offers nothing: none of its functions carries @hookimpl",)


# Names, clashes, targets, options.


def an_entry(spec: Any, dist: str = "mmbench-x", version: str = "0.1") -> Entry:
    return Entry(spec=spec, dist=dist, dist_version=version, plugin=dist)


def encoder(name: str, *kinds: Any, dist: str = "mmbench-x", **facts: Any) -> Entry:
    return an_entry(EncoderSpec(name=name, kinds=kinds, factory="m:E", version="1", **facts), dist)


def fusion(name: str, dist: str = "mmbench-x", **facts: Any) -> Entry:
    return an_entry(FusionSpec(name=name, factory="m:F", version="1", **facts), dist)


def dataset(name: str, **facts: Any) -> Entry:
    return an_entry(DatasetSpec(name=name, factory="m:D", version="1", describe="m:d", **facts))


@pytest.fixture
def registry() -> Registry:
    return Registry(
        entries=[
            encoder(
                "resnet18", "image", "video", defaults={"width": 16, "norm": "batch"}, tunings=("scratch", "frozen")
            ),
            encoder("mlp", "image", dist="mmbench-vision"),
            encoder("mlp", "tabular", dist="mmbench-tabular"),
            encoder("gru", "sequence", dist="mmbench-a"),
            encoder("gru", "sequence", "audio", dist="mmbench-b"),
            encoder("timm", "image", target="required", dist="mmbench-timm"),
            encoder("hf", "text", target="optional"),
            fusion("gated", "mmbench-fusion"),
            fusion("gated", "file"),
            fusion("concat", "mmbench-fusion"),
            dataset("digits", defaults={"difficulty": "normal"}),
            dataset("manifest", target="required", open_options=True, defaults={"label": ""}),
            an_entry(ObjectiveSpec(name="supervised", factory="m:O", version="1")),
        ]
    )


def found(reference: Reference) -> tuple[str, str]:
    return reference.entry.ref, reference.target


@pytest.mark.parametrize(
    ("role", "text", "kind", "expected"),
    [
        ("encoder", "resnet18", None, ("mmbench-x/resnet18", "")),
        ("encoder", "mmbench-x/resnet18", "image", ("mmbench-x/resnet18", "")),
        ("encoder", "mlp", "image", ("mmbench-vision/mlp", "")),
        ("encoder", "mlp", "tabular", ("mmbench-tabular/mlp", "")),
        ("encoder", "gru", "audio", ("mmbench-b/gru", "")),
        ("encoder", "timm/resnet18", "image", ("mmbench-timm/timm", "resnet18")),
        ("encoder", "timm:resnet18", None, ("mmbench-timm/timm", "resnet18")),
        ("encoder", "timm/local-dir:/a/b", None, ("mmbench-timm/timm", "local-dir:/a/b")),
        ("encoder", "timm:hf_hub:owner/name", None, ("mmbench-timm/timm", "hf_hub:owner/name")),
        ("encoder", "mmbench-timm/timm/resnet18", None, ("mmbench-timm/timm", "resnet18")),
        ("encoder", "mmbench-timm/timm:resnet18", None, ("mmbench-timm/timm", "resnet18")),
        ("encoder", "hf", None, ("mmbench-x/hf", "")),
        ("encoder", "hf/owner/name", None, ("mmbench-x/hf", "owner/name")),
        ("fusion", "file/gated", None, ("file/gated", "")),
        ("dataset", "manifest:DIR/manifest.csv", None, ("mmbench-x/manifest", "DIR/manifest.csv")),
        ("dataset", "manifest:/data/[a]/m.csv[label=y]", None, ("mmbench-x/manifest", "/data/[a]/m.csv")),
        ("dataset", "mmbench-x/manifest:/m.csv", None, ("mmbench-x/manifest", "/m.csv")),
        ("objective", "supervised", None, ("mmbench-x/supervised", "")),
    ],
)
def test_a_reference_finds_its_entry_and_target(
    registry: Registry, role: Any, text: str, kind: Any, expected: tuple[str, str]
) -> None:
    assert found(registry.resolve(role, text, kind)) == expected
    assert [found(reference) for reference in registry.match(role, text, kind)] == [expected]


@pytest.mark.parametrize(
    ("role", "text", "kind", "message"),
    [
        (
            "encoder",
            "resnet19",
            None,
            "no encoder is named 'resnet19'. Did you mean 'resnet18'? See `mmbench list encoders`.",
        ),
        ("encoder", "zzz", None, "no encoder is named 'zzz'. See `mmbench list encoders`."),
        ("fusion", "resnet18", None, "no fusion is named 'resnet18'. It is an encoder. See `mmbench list fusions`."),
        (
            "encoder",
            "mmbench-x/resnet19",
            None,
            "no encoder is named 'mmbench-x/resnet19'. Did you mean 'mmbench-x/resnet18'? See `mmbench list encoders`.",
        ),
        (
            "encoder",
            "resnet18/a",
            None,
            "no encoder is named 'resnet18/a'. Did you mean 'resnet18'? See `mmbench list encoders`.",
        ),
        (
            "encoder",
            "tinm/resnet18",
            None,
            "no encoder is named 'tinm/resnet18'. Did you mean 'timm'? See `mmbench list encoders`.",
        ),
        (
            "encoder",
            "resnet18",
            "text",
            "encoder 'resnet18' takes image, video, not text. Encoders of text: hf.",
        ),
        ("encoder", "mlp", "audio", "encoder 'mlp' takes image, tabular, not audio. Encoders of audio: gru."),
        (
            "encoder",
            "gru",
            "sequence",
            "2 packages offer an encoder named 'gru'; write 'mmbench-a/gru' or 'mmbench-b/gru'",
        ),
        (
            "fusion",
            "gated",
            None,
            "2 packages offer a fusion named 'gated'; write 'file/gated' or 'mmbench-fusion/gated'",
        ),
        ("encoder", "timm", None, "encoder 'timm' needs a target: write timm:TARGET. See `mmbench show timm`."),
        (
            "dataset",
            "manifest:",
            None,
            "dataset 'manifest' needs a target: write manifest:TARGET. See `mmbench show manifest`.",
        ),
        ("dataset", "digits:big", None, "dataset 'digits' takes nothing after its name, got 'big'"),
        (
            "encoder",
            "resnet18[widht=3]",
            None,
            "encoder 'resnet18' has no option 'widht'; it has norm, width. Did you mean 'width'?",
        ),
        ("fusion", "concat[x=3]", None, "fusion 'concat' has no option 'x'; it has no options."),
        (
            "encoder",
            "resnet18[width=wide]",
            None,
            "encoder 'resnet18': option 'width' takes a whole number such as 16, got 'wide'",
        ),
        (
            "encoder",
            "resnet18[tuning=frosen]",
            None,
            "encoder 'resnet18' has no tuning 'frosen'; it has scratch, frozen. Did you mean 'frozen'?",
        ),
        (
            "encoder",
            "resnet18[tuning=adapter]",
            None,
            "encoder 'resnet18' has no tuning 'adapter'; it has scratch, frozen.",
        ),
        (
            "dataset",
            "manifest:m.csv[target=y]",
            None,
            "dataset 'manifest' cannot have an option 'target': mmbench itself gives that",
        ),
    ],
)
def test_a_reference_that_cannot_be_used_says_why_and_what_to_do(
    registry: Registry, role: Any, text: str, kind: Any, message: str
) -> None:
    with pytest.raises(UsageError) as caught:
        registry.resolve(role, text, kind)
    with pytest.raises(UsageError) as also_caught:
        registry.match(role, text, kind)

    assert str(caught.value) == message
    assert str(also_caught.value) == message


def test_a_name_shared_by_encoders_of_different_kinds_is_ambiguous_only_without_a_kind(registry: Registry) -> None:
    with pytest.raises(UsageError) as caught:
        registry.resolve("encoder", "mlp")

    assert str(caught.value) == (
        "2 packages offer an encoder named 'mlp'; write 'mmbench-tabular/mlp' or 'mmbench-vision/mlp'"
    )
    assert [found(item)[0] for item in registry.match("encoder", "mlp")] == [
        "mmbench-tabular/mlp",
        "mmbench-vision/mlp",
    ]


def test_short_names_are_unique_unless_a_rival_accepts_the_same_kind(registry: Registry) -> None:
    unique = {
        entry.ref for role in ("encoder", "fusion") for entry in registry.entries(role) if registry.is_unique(entry)
    }

    assert unique == {
        "mmbench-x/resnet18",
        "mmbench-vision/mlp",
        "mmbench-tabular/mlp",
        "mmbench-timm/timm",
        "mmbench-x/hf",
        "mmbench-fusion/concat",
    }


def test_options_are_merged_into_the_defaults_and_tuning_is_split_off(registry: Registry) -> None:
    reference = registry.resolve("encoder", "resnet18[width=32,tuning=frozen]")

    assert dict(reference.options) == {"width": 32, "norm": "batch"}
    assert reference.tuning == "frozen"


def test_an_encoder_is_tuned_as_its_descriptor_says_first_and_other_roles_have_no_tuning(registry: Registry) -> None:
    assert registry.resolve("encoder", "resnet18").tuning == "scratch"
    assert registry.resolve("fusion", "concat").tuning == ""


def test_a_dataset_with_open_options_takes_any(registry: Registry) -> None:
    reference = registry.resolve("dataset", "manifest:m.csv[image=photo,text=caption,label=y]")

    assert dict(reference.options) == {"label": "y", "image": "photo", "text": "caption"}


@pytest.mark.parametrize(
    ("role", "pattern", "kind", "expected"),
    [
        ("fusion", "*", None, ["mmbench-fusion/concat", "file/gated", "mmbench-fusion/gated"]),
        ("fusion", "mmbench-fusion/*", None, ["mmbench-fusion/concat", "mmbench-fusion/gated"]),
        ("encoder", "[gm]*", "image", ["mmbench-vision/mlp"]),
        ("encoder", "resnet[0-9]?", None, ["mmbench-x/resnet18"]),
        ("encoder", "resnet1[0-9]", None, ["mmbench-x/resnet18"]),
        ("encoder", "res*[width=8]", None, ["mmbench-x/resnet18"]),
        ("encoder", "*", "image", ["mmbench-vision/mlp", "mmbench-x/resnet18"]),
        ("dataset", "*", None, ["mmbench-x/digits"]),
    ],
)
def test_a_glob_matches_short_and_full_names(
    registry: Registry, role: Any, pattern: str, kind: Any, expected: list[str]
) -> None:
    assert [reference.entry.ref for reference in registry.match(role, pattern, kind)] == expected


def test_options_after_a_glob_apply_to_every_match(registry: Registry) -> None:
    assert [dict(ref.options) for ref in registry.match("encoder", "res*[width=8]")] == [{"width": 8, "norm": "batch"}]
    with pytest.raises(UsageError, match=r"fusion 'concat' has no option 'width'; it has no options\."):
        registry.match("fusion", "*[width=8]")


def test_stars_may_stand_in_a_target(registry: Registry) -> None:
    assert [found(item) for item in registry.match("dataset", "manifest:data/*.csv")] == [
        ("mmbench-x/manifest", "data/*.csv")
    ]


def test_a_glob_that_matches_nothing_is_an_error(registry: Registry) -> None:
    with pytest.raises(UsageError) as caught:
        registry.match("encoder", "vgg*")

    assert str(caught.value) == "no encoder matches 'vgg*'. See `mmbench list encoders`."


def test_entries_are_sorted_by_name_then_by_distribution(registry: Registry) -> None:
    assert [entry.ref for entry in registry.entries("fusion")] == [
        "mmbench-fusion/concat",
        "file/gated",
        "mmbench-fusion/gated",
    ]


def test_an_unknown_name_points_at_the_plugin_that_failed(install: Install) -> None:
    install("mmbench-broken", "1 / 0")
    registry = load_registry()

    with pytest.raises(UsageError) as caught:
        registry.resolve("fusion", "mmbench-broken/zzz")
    with pytest.raises(UsageError) as also_caught:
        registry.resolve("fusion", "zzz")

    assert str(caught.value).endswith(
        "The plugin 'mmbench-broken' of mmbench-broken failed to load: ZeroDivisionError: division by zero"
    )
    assert str(also_caught.value).endswith(" failed to load: see `mmbench plugins`.")


# Skipping.


def test_every_plugin_is_asked_whether_to_skip_and_a_failing_answer_is_a_reason() -> None:
    def mutate(combo: Any) -> None:
        combo.clear()

    def refuse(combo: Any) -> str | None:
        return "no audio here" if combo["fusion"]["ref"] == "a/b" else None

    def fail(combo: Any) -> str:
        raise SystemExit(1)

    registry = Registry(
        skips=[("m", mutate), ("r", refuse), ("f", fail), ("t", lambda combo: 3), ("n", lambda combo: None)]
    )

    assert registry.has_skip
    assert registry.skip_reasons({"fusion": {"ref": "a/b", "options": {}}}) == [
        "no audio here",
        "mmbench_skip of plugin 'f' failed: it tried to end the process (SystemExit)",
        "mmbench_skip of plugin 't' must return text or None, got 3",
    ]


def test_an_installed_plugin_may_skip_combos_quietly(install: Install, capfd: pytest.CaptureFixture[str]) -> None:
    install(
        "picky",
        """
        from mmbench import hookimpl

        @hookimpl
        def mmbench_skip(combo):
            print("thinking")
            return "too large" if combo["dataset"] == "big" else None
        """,
    )
    registry = load_registry()

    assert registry.skip_reasons({"dataset": "big"}) == ["too large"]
    assert registry.skip_reasons({"dataset": "small"}) == []
    assert capfd.readouterr() == ("", "")


# Local files.


LOCAL = """
from mmbench import FusionSpec, hookimpl

class Mean:
    pass

@hookimpl
def mmbench_fusions():
    return [FusionSpec(name="mean", factory="my_fusion:Mean", version="1")]
"""


def test_a_local_file_is_a_plugin_whose_factory_resolves_and_whose_version_follows_its_content(
    plugin_file: Callable[..., Path],
) -> None:
    path = plugin_file(LOCAL)

    registry = load_registry([path, path])
    reference = registry.resolve("fusion", "file/mean")

    assert reference.entry.dist_version == __import__("hashlib").sha256(path.read_bytes()).hexdigest()[:12]
    assert reference.entry.version == f"1+{reference.entry.dist_version}"
    assert registry.plugin_files == (path.resolve(),)
    assert "my_fusion" not in sys.modules
    assert load_factory(reference.entry).__name__ == "Mean"
    assert registry.plugins[-1].name == "my_fusion"
    assert not (path.parent / "__pycache__").exists()


def test_an_installed_entry_is_identified_by_its_spec_version_only() -> None:
    assert fusion("concat").version == "1"


def test_loading_the_same_file_again_gives_the_same_module_and_a_changed_file_a_new_one(
    plugin_file: Callable[..., Path],
) -> None:
    path = plugin_file(LOCAL)
    first = load_plugin_file(path)

    assert load_plugin_file(path) is first
    plugin_file(LOCAL + "changed = True\n")
    assert load_plugin_file(path).changed is True


@pytest.mark.parametrize(
    ("name", "source", "error", "message"),
    [
        (
            "my_fusion.py",
            "x = 1\ndef broken(:\n",
            PluginError,
            "plugin file {path}, line 2: SyntaxError: invalid syntax",
        ),
        (
            "my_fusion.py",
            "x = 1\n\nprint(y)\n",
            PluginError,
            "plugin file {path}, line 3: NameError: name 'y' is not defined",
        ),
        (
            "my_fusion.py",
            "raise SystemExit\n",
            PluginError,
            "plugin file {path}, line 1: it tried to end the process (SystemExit)",
        ),
        (
            "my_fusion.py",
            a_hook("return 3"),
            PluginError,
            "plugin file {path}: mmbench_fusions must return a list of FusionSpec, got int",
        ),
        (
            "my-fusion.py",
            LOCAL,
            UsageError,
            "{path} cannot be a plugin: 'my-fusion' is no Python name; rename it, say to my_fusion.py",
        ),
        (
            "class.py",
            LOCAL,
            UsageError,
            "{path} cannot be a plugin: 'class' is no Python name; rename it, say to my_fusion.py",
        ),
        (
            "my_fusion.txt",
            LOCAL,
            UsageError,
            "{path} cannot be a plugin: --plugin takes a Python file that ends with .py",
        ),
    ],
)
def test_a_local_file_that_cannot_be_loaded_says_where_and_why(
    plugin_file: Callable[..., Path], name: str, source: str, error: type[Exception], message: str
) -> None:
    path = plugin_file(source, name)

    with pytest.raises(error) as caught:
        load_registry([path])

    assert str(caught.value) == message.format(path=path)


def test_a_missing_file_is_named_with_one_like_it(plugin_file: Callable[..., Path]) -> None:
    path = plugin_file(LOCAL)

    with pytest.raises(UsageError) as caught:
        load_registry([path.with_name("my_fusoin.py")])

    assert (
        str(caught.value) == f"there is no plugin file {path.with_name('my_fusoin.py')}. Did you mean 'my_fusion.py'?"
    )


def test_a_folder_cannot_be_a_plugin_file(tmp_path: Path) -> None:
    folder = tmp_path / "folder.py"
    folder.mkdir()

    with pytest.raises(UsageError) as caught:
        load_registry([folder])

    assert str(caught.value) == f"plugin file {folder} cannot be read: Is a directory"


def test_a_local_file_must_not_hide_an_importable_module(plugin_file: Callable[..., Path]) -> None:
    path = plugin_file(LOCAL, "json.py")

    with pytest.raises(UsageError) as caught:
        load_registry([path])

    import json

    assert str(caught.value) == f"plugin file {path} would hide the module 'json' ({json.__file__}); rename it"


def test_two_local_files_of_one_stem_cannot_both_be_loaded(plugin_file: Callable[..., Path], tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    first, second = plugin_file(LOCAL), plugin_file(LOCAL.replace('"mean"', '"other"'), "other/my_fusion.py")

    with pytest.raises(UsageError, match=r"would hide the module 'my_fusion' \(.*my_fusion\.py\); rename it"):
        load_registry([first, second])


def test_a_local_file_that_prints_is_captured(
    plugin_file: Callable[..., Path], capfd: pytest.CaptureFixture[str]
) -> None:
    registry = load_registry([plugin_file("print('hello')\n" + LOCAL)])

    assert registry.plugins[-1].warnings == ("printed at import: hello",)
    assert capfd.readouterr() == ("", "")


# Code behind descriptors.


def test_load_attribute_imports_and_walks_dotted_attributes() -> None:
    assert load_attribute("collections.abc:Mapping.get").__name__ == "get"


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        (
            "mmbench.regisry:Registry",
            "'mmbench.regisry:Registry': there is no module 'mmbench.regisry'. Did you mean 'mmbench.registry'?",
        ),
        ("no_such_pkg.model:F", "'no_such_pkg.model:F': there is no module 'no_such_pkg'."),
        (
            "mmbench.registry:Registri",
            "'mmbench.registry:Registri': 'mmbench.registry' has no 'Registri'. Did you mean 'Registry' or 'load_registry'?",
        ),
    ],
)
def test_load_attribute_says_which_part_of_a_reference_is_wrong(reference: str, message: str) -> None:
    with pytest.raises(ContractError) as caught:
        load_attribute(reference)

    assert str(caught.value).startswith(message)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (
            "import no_such_third_party",
            "'late_model:F' needs the package 'no_such_third_party': pip install no_such_third_party",
        ),
        (
            "raise ModuleNotFoundError(\"No module named 'sklearn.svm'\", name='sklearn.svm')",
            "'late_model:F' needs the package 'sklearn': pip install scikit-learn",
        ),
        (
            "from json import no_such_name",
            "'late_model:F' cannot be imported: cannot import name 'no_such_name' from 'json'",
        ),
        (
            "raise OSError('libcudart.so.13: cannot open')",
            "'late_model:F' cannot be imported: libcudart.so.13: cannot open",
        ),
    ],
)
def test_code_that_needs_what_is_not_here_is_unavailable(install: Install, source: str, message: str) -> None:
    install("late", source, module="late_model", points="")

    with pytest.raises(Unavailable) as caught:
        load_attribute("late_model:F")

    assert str(caught.value).startswith(message)


def test_a_bug_in_a_factorys_module_is_not_hidden(install: Install) -> None:
    install("late", "1 / 0", module="late_model", points="")

    with pytest.raises(ZeroDivisionError):
        load_attribute("late_model:F")


def test_missing_packages_are_named_without_importing_any(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "wave", raising=False)
    spec = fusion("f", requires=("wave", "no_such_pkg", "no_such_pkg.sub", "sys")).spec

    assert missing_packages(spec) == ["no_such_pkg", "no_such_pkg.sub"]
    assert "wave" not in sys.modules


def test_what_to_install_is_named_as_the_index_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("PIL", "sklearn", "sklearn.svm"):
        monkeypatch.setitem(sys.modules, module, None)  # as if it were not installed
    picky = fusion("f", requires=("PIL", "sklearn.svm", "no_such_pkg", "no_such_pkg.sub"))

    assert lacking_packages(picky) == (
        "mmbench-x/f needs PIL, sklearn.svm, no_such_pkg, no_such_pkg.sub: pip install pillow scikit-learn no_such_pkg"
    )
    assert install_command(an_entry(TrackerSpec(name="t", factory="m:T", version="1", requires=("PIL",)))) == (
        "pip install 'mmbench-x[t]'"
    )
    assert lacking_packages(fusion("f", requires=("sys",))) == ""


def test_a_task_is_no_descriptor() -> None:
    with pytest.raises(PluginError, match="TaskSpec is not a descriptor of mmbench"):
        Registry(entries=[an_entry(TaskSpec(name="t", kind="regression", num_outputs=1))])
