"""Weights are found, identified and refused without the network."""

from __future__ import annotations

import hashlib
import json
import socket
import struct
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from mmbench import weights
from mmbench.errors import Unavailable
from mmbench.weights import WeightFolder, find_folder, hub_repositories, hub_snapshot

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture(autouse=True)
def own_caches(tmp_path, monkeypatch):
    monkeypatch.setenv("MMBENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))


@pytest.fixture
def no_network(monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("the network was asked")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


def make_folder(path: Path, value: float = 0.0, config: dict | None = None) -> Path:
    path.mkdir(parents=True)
    save_file({"weight": torch.full((4, 4), value)}, path / "model.safetensors")
    (path / "config.json").write_text(json.dumps(config or {"model_type": "bert"}))
    return path


def make_snapshot(root: Path, name: str) -> Path:
    repository = root / f"models--{name.replace('/', '--')}"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(COMMIT)
    return make_folder(repository / "snapshots" / COMMIT)


def find(target: str) -> WeightFolder:
    return find_folder(target, reference="transformers/", modality="text")


def test_a_folder_is_found_by_its_path(tmp_path):
    folder = make_folder(tmp_path / "bert")

    assert find(str(folder)) == WeightFolder(path=folder)


def test_a_name_is_found_in_the_hubs_cache_with_its_commit(tmp_path, no_network):
    snapshot = make_snapshot(tmp_path / "hub", "org/bert")

    for target in ("org/bert", "org/bert@main", f"org/bert@{COMMIT}"):
        assert find(target) == WeightFolder(path=snapshot, commit=COMMIT)
    assert find("org/bert").fingerprint() == COMMIT


@pytest.mark.parametrize(
    "variables",
    [
        {},
        {"XDG_CACHE_HOME": "/x"},
        {"XDG_CACHE_HOME": "/x", "HF_HOME": "/h"},
        {"HF_HOME": "~/h", "HF_HUB_CACHE": "/c"},
    ],
)
def test_the_hubs_cache_is_where_its_library_looks(monkeypatch, variables):
    for name in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    code = "from huggingface_hub import constants; print(constants.HF_HUB_CACHE)"

    library = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()

    assert str(weights.hub_cache()) == library


def test_what_nobody_has_fetched_is_unavailable_without_asking_and_says_what_to_do(no_network):
    with pytest.raises(Unavailable) as caught:
        find("org/bert")

    assert str(caught.value) == (
        "the weights of transformers/org/bert are not at hand: run `mmbench prepare -e text=transformers/org/bert`, "
        "or give a local folder as transformers/PATH"
    )


@pytest.mark.parametrize("target", ["/no/such/folder", "./nowhere", "~/nowhere-at-all", "a/b/c"])
def test_a_path_to_nothing_is_said_to_be_one(target):
    with pytest.raises(Unavailable, match="there is no folder"):
        find(target)


@pytest.mark.parametrize("target", ["../org/bert", "org/..", "org/bert@../../x", "org/bert@/etc"])
def test_no_name_leads_out_of_the_hubs_cache(tmp_path, target):
    make_snapshot(tmp_path / "hub", "org/bert")

    assert hub_snapshot(target) is None


def test_repositories_are_listed_by_pattern(tmp_path):
    for name in ("timm/resnet18.a1_in1k", "timm/resnet18.fb_swsl", "timm/resnet18d.ra2_in1k"):
        make_snapshot(tmp_path / "hub", name)

    assert hub_repositories("timm/resnet18.*") == ["timm/resnet18.a1_in1k", "timm/resnet18.fb_swsl"]


def test_a_fingerprint_follows_the_content_and_not_the_place(tmp_path):
    one, same, other = (
        WeightFolder(path=make_folder(tmp_path / name, value)) for name, value in (("a", 0.0), ("b", 0.0), ("c", 1.0))
    )

    assert one.fingerprint() == same.fingerprint() != other.fingerprint()
    (one.path / "vocab.txt").write_text("a")
    assert one.fingerprint(["vocab*"]) != one.fingerprint()


def test_a_file_is_read_once_and_then_known_by_size_and_time(tmp_path, monkeypatch):
    folder = WeightFolder(path=make_folder(tmp_path / "a"))
    first = folder.fingerprint()

    monkeypatch.setattr(hashlib, "file_digest", lambda *_: pytest.fail("a file was read again"))
    assert folder.fingerprint() == first


def test_a_changed_file_of_the_same_size_changes_the_fingerprint(tmp_path):
    folder = WeightFolder(path=make_folder(tmp_path / "a"))
    first = folder.fingerprint()

    file = folder.path / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1] + b"\x01")
    assert folder.fingerprint() != first


def test_a_damaged_note_of_hashes_is_made_again(tmp_path):
    folder = WeightFolder(path=make_folder(tmp_path / "a"))
    first = folder.fingerprint()
    (tmp_path / "cache" / "weight-hashes.json").write_text('{"a": [1')

    assert folder.fingerprint() == first


@pytest.mark.parametrize("cut", [0, 5, 20, -1])
def test_a_weight_file_that_is_cut_short_is_refused(tmp_path, cut):
    folder = WeightFolder(path=make_folder(tmp_path / "a"))
    file = folder.path / "model.safetensors"
    file.write_bytes(file.read_bytes()[:cut])

    with pytest.raises(Unavailable, match=r"cut short|cannot be read as weights"):
        folder.weights()


def test_a_header_that_promises_the_world_is_refused_unread(tmp_path):
    folder = WeightFolder(path=make_folder(tmp_path / "a"))
    (folder.path / "model.safetensors").write_bytes(struct.pack("<Q", 1 << 60))

    with pytest.raises(Unavailable, match="cannot be read as weights"):
        folder.weights()


def test_an_index_may_not_name_files_elsewhere(tmp_path):
    folder = WeightFolder(path=make_folder(tmp_path / "a"))
    (folder.path / "model.safetensors").unlink()
    (folder.path / "model.safetensors.index.json").write_text('{"weight_map": {"weight": "../b/model.safetensors"}}')

    with pytest.raises(Unavailable, match="does not list the weight files beside it"):
        folder.weights()


def test_all_parts_of_split_weights_must_be_there(tmp_path):
    folder = WeightFolder(path=make_folder(tmp_path / "a"))
    (folder.path / "model.safetensors").rename(folder.path / "model-1.safetensors")
    index = {"weight_map": {"weight": "model-1.safetensors", "bias": "model-2.safetensors"}}
    (folder.path / "model.safetensors.index.json").write_text(json.dumps(index))

    with pytest.raises(Unavailable, match="model-2"):
        folder.weights()


def test_a_config_that_asks_for_code_of_its_own_is_refused(tmp_path):
    folder = make_folder(tmp_path / "a", config={"model_type": "x", "auto_map": {"AutoModel": "modeling.Evil"}})

    with pytest.raises(Unavailable, match="asks for code of its own to be run"):
        WeightFolder(path=folder).config()


@pytest.mark.parametrize("text", ["", "[1]", "{", "[" * 100_000])
def test_a_config_that_cannot_be_read_is_unavailable(tmp_path, text):
    folder = make_folder(tmp_path / "a")
    (folder / "config.json").write_text(text)

    with pytest.raises(Unavailable, match=r"has no config\.json that can be read"):
        WeightFolder(path=folder).config()


def test_the_licence_is_read_off_config_or_model_card(tmp_path):
    card = make_folder(tmp_path / "a")
    (card / "README.md").write_text("---\nlanguage: en\nlicense: apache-2.0\n---\n# Model\nlicense: none")
    config = make_folder(tmp_path / "b", config={"pretrained_cfg": {"license": "mit"}})
    neither = make_folder(tmp_path / "c")

    assert [WeightFolder(path=path).licence() for path in (card, config, neither)] == ["apache-2.0", "mit", ""]


def test_what_to_fetch_needs_no_network_for_a_folder_or_a_cached_repository(tmp_path, no_network):
    folder = make_folder(tmp_path / "a")
    make_snapshot(tmp_path / "hub", "org/bert")

    assert weights.hub_assets(str(folder), ("config.json",)) == ()
    (asset,) = weights.hub_assets("org/bert", ("config.json",))
    assert asset.url == "hf:org/bert"
    assert asset.files == ("config.json", "model*.safetensors", "model.safetensors.index.json")


def test_what_to_fetch_is_known_without_an_answer_of_the_hub(monkeypatch):
    import huggingface_hub

    def unreachable(*args, **kwargs):
        raise OSError("no route to host")

    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", unreachable)

    (asset,) = weights.hub_assets("org/bert@v2", ("config.json",))

    assert (asset.name, asset.url) == ("org/bert", "hf:org/bert@v2")


def test_what_to_fetch_is_pytorchs_own_format_only_where_there_is_no_other(monkeypatch):
    import huggingface_hub
    from huggingface_hub.hf_api import ModelInfo

    siblings = [{"rfilename": "pytorch_model.bin", "size": 90}, {"rfilename": "config.json", "size": 10}]
    info = ModelInfo(id="org/bert", siblings=siblings, cardData={"license": "mit"})
    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", lambda *_, **__: info)

    (asset,) = weights.hub_assets("org/bert", ("config.json",))

    assert asset.files == ("config.json", "pytorch_model*.bin", "pytorch_model.bin.index.json")
    assert (asset.size_bytes, asset.licence) == (100, "mit")


@pytest.mark.parametrize("file", ["adapter_config.json"])
def test_an_adapter_beside_the_weights_is_refused(tmp_path, file):
    folder = make_folder(tmp_path / "bert")
    (folder / file).write_text("{}")

    with pytest.raises(Unavailable, match="merge the adapter into the weights first"):
        find(str(folder)).config()


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"checkpoint_path": "evil.pth"}, "checkpoint_path"),
        ({"model_args": {"checkpoint_path": "evil.pth"}}, "checkpoint_path"),
        ({"model_args": {"pretrained_cfg": {"file": "evil.pth"}}}, "pretrained_cfg"),
        ({"model_args": {"pretrained_cfg_overlay": {"file": "evil.pth"}}}, "pretrained_cfg_overlay"),
        ({"backbone_config": {"backbone_kwargs": {"pretrained": True}}}, "pretrained"),
        ({"attn_implementation": "evil/kernel"}, "attn_implementation"),
        ({"text_config": {"_attn_implementation": "evil/kernel"}}, "_attn_implementation"),
        ({"parts": [[{"attn_implementation": {"text": "evil/kernel"}}]]}, "attn_implementation"),
    ],
)
def test_settings_that_load_other_weights_or_code_are_refused(tmp_path, settings, named):
    folder = make_folder(tmp_path / "bert", config={"model_type": "bert", **settings})

    with pytest.raises(Unavailable, match=rf"sets {named}\b"):
        find(str(folder)).config()


def test_a_deeply_nested_config_is_checked_without_recursion(tmp_path):
    deep: dict = {"checkpoint_path": "evil.pth"}
    for _ in range(400):
        deep = {"inner": deep}
    folder = make_folder(tmp_path / "bert", config={"model_type": "bert", **deep})

    with pytest.raises(Unavailable, match="sets checkpoint_path"):
        find(str(folder)).config()
