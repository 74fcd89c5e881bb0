"""Video encoders for mmbench: two trained from scratch, and any image encoder over frames."""

from mmbench import EncoderSpec, hookimpl


@hookimpl
def mmbench_encoders() -> list[EncoderSpec]:
    """Offer `cnn3d`, `convlstm` and `frames`."""
    return [
        EncoderSpec(
            name="cnn3d",
            kinds=("video",),
            layouts=("vector", "sequence"),
            factory="mmbench_video.cnn3d:VideoCNN",
            defaults={"feature_dim": 64, "width": 16, "num_frames": 16, "dropout": 0.0, "max_side": 32},
            version="1",
            summary="Three blocks of 3-D convolution; tokens are places in space and time",
            paper="Tran et al. 2014, arXiv:1412.0767; group normalisation: Wu & He 2018, arXiv:1803.08494",
            licence="Apache-2.0",
        ),
        EncoderSpec(
            name="convlstm",
            kinds=("video",),
            layouts=("vector", "sequence"),
            factory="mmbench_video.convlstm:VideoConvLSTM",
            defaults={"feature_dim": 64, "width": 16, "num_frames": 16, "dropout": 0.0, "max_side": 32},
            version="1",
            summary="Convolutional LSTM over small feature maps; tokens are frames",
            paper="Shi et al. 2015, arXiv:1506.04214",
            licence="Apache-2.0",
        ),
        EncoderSpec(
            name="frames",
            kinds=("video",),
            layouts=("vector", "sequence"),
            tunings=("scratch", "frozen", "finetune", "adapter"),
            target="required",
            wraps=True,
            describe="mmbench_video.inner:describe",
            prepare="mmbench_video.inner:prepare",
            factory="mmbench_video.frames:VideoFrames",
            defaults={"pool": "mean", "num_frames": 16, "width": 64, "depth": 1, "num_heads": 4, "dropout": 0.0},
            version="1",
            summary="Any image encoder over frames, then mean, LSTM or attention over time; tokens are frames",
            paper="Ng et al. 2015, arXiv:1503.08909; the image encoder has its own",
            licence="Apache-2.0; the image encoder and its weights have their own",
            in_all=False,
        ),
    ]
