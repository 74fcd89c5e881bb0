"""Encoders of feature sequences for mmbench, trained from scratch: a recurrent network and a transformer."""

from mmbench import EncoderSpec, hookimpl


@hookimpl
def mmbench_encoders() -> list[EncoderSpec]:
    """Offer `gru`, `transformer` and `steps`."""
    return [
        EncoderSpec(
            name="gru",
            kinds=("sequence",),
            layouts=("vector", "sequence"),
            factory="mmbench_sequence.gru:SequenceGRU",
            defaults={"feature_dim": 64, "width": 32, "depth": 1, "max_length": 512, "dropout": 0.0},
            version="1",
            summary="Bidirectional GRU; tokens are the steps",
            paper="Cho et al. 2014, arXiv:1406.1078",
            licence="Apache-2.0",
        ),
        EncoderSpec(
            name="transformer",
            kinds=("sequence",),
            layouts=("vector", "sequence", "pyramid"),
            factory="mmbench_sequence.transformer:SequenceTransformer",
            defaults={"feature_dim": 64, "width": 48, "depth": 2, "num_heads": 4, "max_length": 512, "dropout": 0.0},
            version="1",
            summary="Two transformer layers; tokens are the steps",
            paper="Vaswani et al. 2017, arXiv:1706.03762",
            licence="Apache-2.0",
        ),
        EncoderSpec(
            name="steps",
            vectorises=True,
            kinds=("sequence",),
            layouts=("vector", "sequence"),
            factory="mmbench_sequence.embedded:EmbeddedSteps",
            defaults={"token_dim": 32, "num_spans": 16, "max_length": 512},
            version="1",
            summary="Steps through one linear layer, for fusions at the level of data",
            licence="Apache-2.0",
            in_all=False,
        ),
    ]
