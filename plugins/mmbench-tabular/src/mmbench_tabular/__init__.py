"""Tabular encoder for mmbench, trained from scratch: a perceptron that knows which values are missing."""

from mmbench import EncoderSpec, hookimpl


@hookimpl
def mmbench_encoders() -> list[EncoderSpec]:
    """Offer `mlp` and `columns`."""
    return [
        EncoderSpec(
            name="mlp",
            vectorises=True,
            kinds=("tabular",),
            layouts=("vector",),
            factory="mmbench_tabular.mlp:TabularMLP",
            defaults={"feature_dim": 64, "width": 128, "depth": 2, "dropout": 0.0},
            version="1",
            summary="Perceptron over standardised columns and one flag per column for a missing value",
            paper="Gorishniy et al. 2021, arXiv:2106.11959",
            licence="Apache-2.0",
        ),
        EncoderSpec(
            name="columns",
            vectorises=True,
            kinds=("tabular",),
            layouts=("vector", "sequence"),
            factory="mmbench_tabular.columns:ColumnTokens",
            defaults={"token_dim": 32},
            version="1",
            summary="One token per column, for fusions at the level of data",
            paper="Gorishniy et al. 2021, arXiv:2106.11959",
            licence="Apache-2.0",
            in_all=False,
        ),
    ]
