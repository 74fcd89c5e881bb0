"""Pretrained audio encoders give what their own library gives, padded or alone, and use no network."""

from __future__ import annotations

import dataclasses
import json
import socket
from pathlib import Path

import numpy as np
import pytest
import torch
from mmbench_audio import pretrained_files, torchaudio_files
from mmbench_audio.mfcc_lstm import Mfcc
from mmbench_audio.pcm import Pcm, to_float
from mmbench_audio.speech_convolutions import SpeechConvolutions

from mmbench import Modality, Waveform
from mmbench.errors import Unavailable, UsageError
from mmbench.testing import check
from mmbench.tuning import apply_tuning

transformers = pytest.importorskip("transformers", reason="transformers is not installed")

from mmbench_audio.torchaudio_model import TorchaudioSpeech  # noqa: E402
from mmbench_audio.transformer import TransformerAudio  # noqa: E402  (imports what may be absent)

SHARED = Path(__file__).parents[4] / "shared" / "weights"
SPEECH = {
    "hidden_size": 32,
    "num_hidden_layers": 4,
    "num_attention_heads": 2,
    "intermediate_size": 48,
    "conv_dim": [16, 16, 16],
    "conv_kernel": [10, 3, 3],
    "conv_stride": [5, 2, 2],
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 2,
}
CLASSES = {"wav2vec2": "Wav2Vec2", "hubert": "Hubert", "wavlm": "WavLM", "unispeech-sat": "UniSpeechSat"}


@pytest.fixture(autouse=True)
def quiet_and_own(tmp_path, monkeypatch):
    torch.set_num_threads(1)
    torch.manual_seed(0)
    transformers.logging.set_verbosity_error()
    for variable, folder in (("MMBENCH_CACHE", "cache"), ("HF_HUB_CACHE", "hub"), ("TORCH_HOME", "torch")):
        monkeypatch.setenv(variable, str(tmp_path / folder))
    monkeypatch.setenv("MMBENCH_DATA", str(tmp_path / "data"))
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)


@pytest.fixture
def no_network(monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("the network was asked")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


def speech(family, norm):
    config = getattr(transformers, f"{CLASSES[family]}Config")(
        **SPEECH, feat_extract_norm=norm, do_stable_layer_norm=norm == "layer"
    )
    processor = transformers.Wav2Vec2FeatureExtractor(do_normalize=not (family == "wavlm" and norm == "group"))
    return getattr(transformers, f"{CLASSES[family]}Model")(config), processor


def ast():
    sizes = {"hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 2, "intermediate_size": 48}
    spectrogram = {"max_length": 64, "num_mel_bins": 32}
    processor = transformers.ASTFeatureExtractor(**spectrogram)
    return transformers.ASTModel(transformers.ASTConfig(**sizes, **spectrogram)), processor


def whisper():
    config = transformers.WhisperConfig(
        d_model=32, encoder_layers=4, decoder_layers=1, encoder_attention_heads=2, decoder_attention_heads=2,
        encoder_ffn_dim=48, decoder_ffn_dim=48, max_source_positions=50, vocab_size=100, pad_token_id=1,
        bos_token_id=1, eos_token_id=1, decoder_start_token_id=1,
    )  # fmt: skip
    processor = transformers.WhisperFeatureExtractor(chunk_length=1)
    return transformers.WhisperForConditionalGeneration(config), processor


FAMILIES = {f"{family}-{norm}": (family, norm) for family in CLASSES for norm in ("group", "layer")}
ALL = [*FAMILIES, "ast", "whisper"]


def save(tmp_path, name):
    torch.manual_seed(0)
    model, processor = {"ast": ast, "whisper": whisper}[name]() if name not in FAMILIES else speech(*FAMILIES[name])
    folder = tmp_path / name
    model.eval().save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder, model, processor


def build(target, layout="vector", *, tuning="frozen", max_seconds=30.0, stages=2, make=TransformerAudio):
    modality = Modality(name="voice", kind="audio", facts={"rate": 8000})
    return make(modality, layout, target=str(target), tuning=tuning, max_seconds=max_seconds, stages=stages).eval()


def wave(length, rate=16_000, seed=0):
    """Noise of 16 bits."""
    noise = np.random.default_rng(seed).normal(0, 0.1, length)
    return Waveform((np.round(noise * 32_768).clip(-32_768, 32_767) / 32_768).astype(np.float32), rate)


WAVES = (
    wave(5000),
    wave(9000, seed=1),
    wave(700, seed=2),
    wave(1, seed=3),
    Waveform(np.zeros(3000, np.float32), 16_000),
)


def batch(encoder, waves):
    rows = [encoder.transform(one) for one in waves]
    values = np.zeros((len(rows), max(map(len, rows)), *rows[0].shape[1:]), dtype=rows[0].dtype)
    mask = np.zeros(values.shape[:2], dtype=bool)
    for place, row in enumerate(rows):
        values[place, : len(row)], mask[place, : len(row)] = row, True
    return torch.from_numpy(values), torch.from_numpy(mask)


def alone(encoder, one):
    return encoder(torch.from_numpy(encoder.transform(one)).unsqueeze(0))


def check_padding(encoder, layout):
    together = encoder(*batch(encoder, WAVES))
    for row, one in enumerate(WAVES):
        single = alone(encoder, one)
        many = layout == "pyramid"
        values, masks = (together.values, together.mask) if many else ((together.values,), (together.mask,))
        for value, mask, expected in zip(values, masks, single.values if many else (single.values,)):
            got = value[row] if layout == "vector" else value[row][mask[row]]
            torch.testing.assert_close(got, expected[0], atol=1e-5, rtol=0)


@torch.no_grad()
@pytest.mark.parametrize("layout", ["vector", "sequence", "pyramid"])
@pytest.mark.parametrize("name", ALL)
def test_a_sound_in_a_padded_batch_gives_what_it_gives_alone(tmp_path, name, layout):
    """Silence, one sample, and group normalisation over time are among them."""
    folder, _, _ = save(tmp_path, name)

    check_padding(build(folder, layout), layout)


@torch.no_grad()
@pytest.mark.parametrize("name", FAMILIES)
def test_speech_models_give_their_librarys_hidden_states(tmp_path, name):
    folder, model, processor = save(tmp_path, name)
    given = processor(WAVES[0].values, sampling_rate=16_000, return_tensors="pt").input_values

    expected = model(given, output_hidden_states=True)

    torch.testing.assert_close(
        alone(build(folder, "sequence"), WAVES[0]).values, expected.last_hidden_state, atol=1e-5, rtol=0
    )
    early, last = alone(build(folder, "pyramid"), WAVES[0]).values
    torch.testing.assert_close(early, expected.hidden_states[2], atol=1e-5, rtol=0)
    torch.testing.assert_close(last, expected.last_hidden_state, atol=1e-5, rtol=0)


@torch.no_grad()
@pytest.mark.parametrize("length", [1, 400, 5000, 15_900, 16_000, 20_000])
def test_whisper_gives_its_librarys_hidden_states_of_the_real_frames(tmp_path, length):
    folder, model, processor = save(tmp_path, "whisper")
    sound = wave(length)
    given = processor(sound.values, sampling_rate=16_000, return_tensors="pt").input_features

    tokens = alone(build(folder, "sequence"), sound).values

    expected = model.model.encoder(given).last_hidden_state
    num_tokens = min(-(-length // 320), 50)
    assert tokens.shape == (1, num_tokens, 32)
    torch.testing.assert_close(tokens, expected[:, :num_tokens], atol=1e-5, rtol=0)


@torch.no_grad()
@pytest.mark.parametrize("length", [400, 5000, 20_000])
def test_ast_gives_its_librarys_pooled_vector_and_patches(tmp_path, length):
    folder, model, processor = save(tmp_path, "ast")
    sound = wave(length)
    given = processor(sound.values, sampling_rate=16_000, return_tensors="pt").input_values

    expected = model(given)

    torch.testing.assert_close(alone(build(folder), sound).values, expected.pooler_output, atol=1e-5, rtol=0)
    num_frames = min(max((length - 400) // 160 + 1, 1), 64)
    steps = min(-(-num_frames // 10), 5)  # 64 frames make five patches of 16, ten apart; two of 32 bands
    patches = expected.last_hidden_state[:, 2:].unflatten(1, (2, 5))[:, :, :steps].flatten(1, 2)
    torch.testing.assert_close(alone(build(folder, "sequence"), sound).values, patches, atol=1e-5, rtol=0)


@torch.no_grad()
@pytest.mark.parametrize("name", ALL)
def test_half_precision_stays_near_full_precision(tmp_path, name):
    folder, _, _ = save(tmp_path, name)
    encoder = build(folder)
    values, mask = batch(encoder, WAVES)
    full = encoder(values, mask).values

    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = encoder(values, mask).values

    assert (half - full).norm() < 0.03 * full.norm()


def test_group_normalisation_over_time_reads_real_frames_only():
    layer = torch.nn.Module()
    layer.conv = torch.nn.Conv1d(1, 2, kernel_size=2, stride=2, bias=False)
    layer.layer_norm = torch.nn.GroupNorm(2, 2)
    layer.activation = torch.nn.Identity()
    torch.nn.init.ones_(layer.conv.weight)
    convolutions = SpeechConvolutions([layer], normalise=False, eps=0.0)
    samples = torch.tensor([[1, 1, 3, 3, 5, 5, 9, 9], [7, 7, 5, 5, 0, 0, 0, 0]], dtype=torch.int16) * 4096
    mask = torch.tensor([[True] * 8, [True] * 4 + [False] * 4])

    frames, real = convolutions(samples, mask)

    # Sums of pairs of the second sample are 14 and 10 (in units of 1/8): mean 12, deviation 2.
    assert real.tolist() == [[True] * 4, [True, True, False, False]]
    torch.testing.assert_close(frames[1, :2], torch.tensor([[1.0, 1.0], [-1.0, -1.0]]), atol=1e-4, rtol=0)


def test_samples_of_16_bits_are_kept_exactly_and_louder_ones_scaled():
    exact = Pcm(rate=16_000, max_seconds=1.0)(wave(1000))
    loud = Pcm(rate=16_000, max_seconds=1.0)(Waveform(np.array([4.0, -2.0, 1.0], np.float32), 16_000))

    np.testing.assert_array_equal(to_float(torch.from_numpy(exact), None).numpy(), wave(1000).values)
    assert loud.tolist() == [32_767, -16_384, 8192]


def test_sounds_are_resampled_cut_and_lengthened():
    pcm = Pcm(rate=16_000, max_seconds=0.5, min_samples=400)

    assert pcm(wave(8000, rate=8000)).shape == (8000,)
    assert pcm(wave(1)).shape == (400,)
    tone = np.sin(2 * np.pi * 440 * np.arange(44_100) / 44_100).astype(np.float32)
    spectrum = np.abs(np.fft.rfft(pcm(Waveform(tone, 44_100)).astype(np.float64)))
    assert np.fft.rfftfreq(8000, 1 / 16_000)[spectrum.argmax()] == 440.0


@torch.no_grad()
def test_fresh_weights_need_no_weight_file(tmp_path):
    for name in ("wav2vec2-group", "ast", "whisper"):
        folder, _, _ = save(tmp_path, name)
        (folder / "model.safetensors").unlink()

        assert alone(build(folder, tuning="scratch"), WAVES[0]).values.isfinite().all()
        with pytest.raises(Unavailable, match="holds no weights"):
            build(folder)


def test_what_cannot_be_used_says_why(tmp_path):
    folder, _, _ = save(tmp_path, "wav2vec2-layer")
    (folder / "preprocessor_config.json").unlink()
    with pytest.raises(Unavailable, match=r"has no preprocessor_config\.json, which says the rate"):
        build(folder)
    (folder / "config.json").write_text(json.dumps({"model_type": "bert"}))
    with pytest.raises(Unavailable, match="'bert', which is none of: whisper, audio-spectrogram-transformer, wav2vec2"):
        build(folder)
    (folder / "config.json").write_text(json.dumps({"model_type": "model-of-next-year"}))
    with pytest.raises(Unavailable, match="does not know; a newer transformers may"):
        build(folder)


def test_neither_planning_nor_building_asks_the_network(no_network):
    asked = {"transformers/openai/whisper-tiny": pretrained_files.WEIGHTS, "torchaudio/WAV2VEC2_BASE": torchaudio_files}
    for reference, files in asked.items():
        name, _, target = reference.partition("/")
        make = TorchaudioSpeech if name == "torchaudio" else TransformerAudio
        for ask in (files.describe, lambda target, make=make, **_: build(target, make=make)):
            with pytest.raises(
                Unavailable, match=f"{reference} are not at hand: run `mmbench prepare -e audio={reference}`"
            ):
                ask(target, tuning="frozen")


def test_the_checkpoints_are_those_that_torchaudio_loads():
    import torchaudio.pipelines

    known = {name: getattr(torchaudio.pipelines, name)._path for name in torchaudio_files.CHECKPOINTS}

    assert dict(torchaudio_files.CHECKPOINTS) == known
    with pytest.raises(UsageError, match="Did you mean 'WAV2VEC2_BASE'"):
        torchaudio_files.describe("WAV2VEC_BASE", tuning="frozen")


@pytest.fixture
def tiny_pipeline(tmp_path, monkeypatch):
    """Make a pipeline of torchaudio small, and put a checkpoint for it into torch hub's cache."""
    import torchaudio

    def make(name):
        bundle = getattr(torchaudio.pipelines, name)
        sizes = {
            "encoder_embed_dim": 32, "encoder_num_layers": 4, "encoder_num_heads": 2, "encoder_ff_interm_features": 48,
            "encoder_pos_conv_kernel": 16, "encoder_pos_conv_groups": 2,
            "extractor_conv_layer_config": [(16, 10, 5), (16, 3, 2), (16, 2, 2)],
        }  # fmt: skip
        small = dataclasses.replace(bundle, _params={**bundle._params, **sizes})
        monkeypatch.setattr(torchaudio.pipelines, name, small)
        folder = tmp_path / "torch" / "hub" / "checkpoints"
        folder.mkdir(parents=True, exist_ok=True)
        torch.save(torchaudio.models.wav2vec2_model(**small._params).state_dict(), folder / bundle._path)
        return small

    return make


@torch.no_grad()
@pytest.mark.parametrize("name", ["WAV2VEC2_BASE", "WAV2VEC2_LARGE_LV60K", "HUBERT_BASE"])
def test_torchaudios_models_give_their_librarys_features_padded_or_alone(tiny_pipeline, no_network, name):
    model = tiny_pipeline(name).get_model()
    samples = torch.from_numpy(WAVES[0].values).unsqueeze(0)

    layers, _ = model.extract_features(samples)
    last, _ = model(samples)

    pyramid = alone(build(name, "pyramid", make=TorchaudioSpeech), WAVES[0]).values
    torch.testing.assert_close(pyramid[0], layers[1], atol=1e-5, rtol=0)
    torch.testing.assert_close(pyramid[1], last, atol=1e-5, rtol=0)
    for layout in ("vector", "sequence", "pyramid"):
        check_padding(build(name, layout, make=TorchaudioSpeech), layout)


def test_a_damaged_checkpoint_of_torchaudio_is_refused(tiny_pipeline, tmp_path):
    tiny_pipeline("HUBERT_BASE")
    file = tmp_path / "torch" / "hub" / "checkpoints" / "hubert_fairseq_base_ls960.pth"
    file.write_bytes(file.read_bytes()[:1000])

    with pytest.raises(Unavailable, match="cannot be read as the checkpoint of HUBERT_BASE"):
        build("HUBERT_BASE", make=TorchaudioSpeech)


def test_mfcc_is_the_cosine_transform_of_log_mel_bands_and_their_slopes():
    """Against the definition, with scipy's cosine transform and a least-squares slope."""
    import torchaudio
    from scipy.fft import dct

    sound = wave(8000)
    mel = torchaudio.transforms.MelSpectrogram(
        16_000, n_fft=512, win_length=512, hop_length=320, n_mels=40, pad_mode="constant"
    )
    decibels = 10 * np.log10(np.maximum(mel(torch.from_numpy(sound.values)).numpy(), 1e-10))
    decibels = np.maximum(decibels, decibels.max() - 80)
    expected = dct(decibels, type=2, axis=0, norm="ortho")[:20]
    padded = np.pad(expected, ((0, 0), (4, 4)), mode="edge")
    steps = np.arange(-4, 5)
    slopes = np.stack([padded[:, t : t + 9] @ steps / (steps @ steps) for t in range(expected.shape[1])], axis=1)

    made = Mfcc(rate=16_000, num_coefficients=20, num_mels=40, window_ms=32.0, hop_ms=20.0, max_seconds=4.0)(sound)

    assert made.shape == (26, 40)
    np.testing.assert_allclose(made[:, :20], expected.T, atol=0.3, rtol=2e-3)  # float16 of values up to some hundreds
    np.testing.assert_allclose(made[:, 20:], slopes.T, atol=0.05, rtol=2e-3)


@pytest.mark.skipif(
    not (SHARED / "whisper_tiny_en_encoder").is_dir(), reason="whisper_tiny_en_encoder is not in shared/weights"
)
@torch.no_grad()
def test_real_weights_of_whisper_give_their_librarys_hidden_states(no_network):
    folder = SHARED / "whisper_tiny_en_encoder"
    encoder = build(folder, "sequence")
    processor = transformers.WhisperFeatureExtractor.from_pretrained(folder, local_files_only=True)
    whole = transformers.WhisperModel.from_pretrained(folder, local_files_only=True, dtype=torch.float32).eval()
    given = processor(WAVES[0].values, sampling_rate=16_000, return_tensors="pt").input_features

    tokens = alone(encoder, WAVES[0]).values

    assert tokens.shape == (1, 16, 384)
    expected = whole.encoder(given).last_hidden_state[:, :16]
    torch.testing.assert_close(tokens, expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("name", ALL)
def test_an_adapter_changes_what_the_encoder_gives(tmp_path, name):
    pytest.importorskip("peft", reason="peft, which adds adapters, is not installed")
    folder, _, _ = save(tmp_path, name)
    encoder = build(folder)
    options = {"lr_factor": 1.0, "lora_rank": 4, "lora_alpha": 16.0}

    apply_tuning(encoder, {"ref": "audio/transformers", "tuning": "adapter", "tuning_options": options})
    encoder(*batch(encoder, WAVES)).values.square().sum().backward()

    trained = {name: item for name, item in encoder.named_parameters() if item.requires_grad}
    assert trained and all("lora_" in name and item.grad is not None for name, item in trained.items())


@pytest.mark.slow
@pytest.mark.parametrize("name", ["hubert-layer", "ast"])
def test_it_conforms_as_mmbench_check_says(tmp_path, name):
    folder, _, _ = save(tmp_path, name)

    results = list(check(f"encoder:mmbench-audio/transformers:{folder}", level="smoke"))

    assert len(results) > 20
    assert [(result.check, result.found) for result in results if result.status == "fail"] == []
