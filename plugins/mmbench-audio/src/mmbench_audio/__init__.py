"""Audio encoders for mmbench: small ones trained from scratch, and pretrained ones of the transformers library."""

from mmbench import EncoderSpec, hookimpl

_SPECTROGRAM = {
    "rate": 16_000,
    "num_mels": 40,
    "level": False,
    "window_ms": 32.0,
    "hop_ms": 20.0,
    "max_seconds": 4.0,
}


@hookimpl
def mmbench_encoders() -> list[EncoderSpec]:
    """Offer `logmel-cnn`, `logmel-lstm`, `conv1d`, and `transformers` for pretrained ones."""
    return [
        EncoderSpec(
            name="logmel-cnn",
            kinds=("audio",),
            layouts=("vector", "sequence"),
            factory="mmbench_audio.logmel_cnn:LogMelCNN",
            defaults={"feature_dim": 64, "width": 16, "dropout": 0.0, **_SPECTROGRAM},
            version="1",
            summary="Three convolution blocks over a log-mel spectrogram; tokens are 80 ms apart",
            paper="Hershey et al. 2016, arXiv:1609.09430",
            licence="Apache-2.0",
            requires=("torchaudio",),
        ),
        EncoderSpec(
            name="logmel-lstm",
            kinds=("audio",),
            layouts=("vector", "sequence"),
            factory="mmbench_audio.logmel_lstm:LogMelLSTM",
            defaults={"feature_dim": 64, "width": 32, "depth": 1, "dropout": 0.0, **_SPECTROGRAM},
            version="1",
            summary="Bidirectional LSTM over the frames of a log-mel spectrogram; tokens are the frames",
            paper="Graves & Schmidhuber 2005, doi:10.1016/j.neunet.2005.06.042",
            licence="Apache-2.0",
            requires=("torchaudio",),
        ),
        EncoderSpec(
            name="conv1d",
            kinds=("audio",),
            layouts=("vector", "sequence"),
            factory="mmbench_audio.conv1d:WaveformCNN",
            defaults={
                "feature_dim": 64,
                "width": 24,
                "depth": 3,
                "num_filters": 24,
                "dropout": 0.0,
                "rate": 8_000,
                "level": False,
                "window_ms": 20.0,
                "hop_ms": 12.5,
                "max_seconds": 4.0,
            },
            version="1",
            summary="A learned filterbank over the raw waveform, then strided convolutions; tokens are 100 ms apart",
            paper="Zeghidour et al. 2021, arXiv:2101.08596; Dai et al. 2016, arXiv:1610.00087",
            licence="Apache-2.0",
            requires=("torchaudio",),
        ),
        EncoderSpec(
            name="transformers",
            kinds=("audio",),
            layouts=("vector", "sequence", "pyramid"),
            tunings=("frozen", "finetune", "adapter", "scratch"),
            target="required",
            describe="mmbench_audio.pretrained_files:describe",
            prepare="mmbench_audio.pretrained_files:prepare",
            factory="mmbench_audio.transformer:TransformerAudio",
            defaults={"max_seconds": 30.0, "stages": 3},
            version="1",
            summary="Audio encoders of the transformers library (Whisper), by name or folder",
            paper="Wolf et al. 2019, arXiv:1910.03771; each model has its own",
            licence="Apache-2.0 (the library); each model's weights have their own",
            requires=("transformers", "torchaudio"),
            in_all=False,
        ),
    ]
