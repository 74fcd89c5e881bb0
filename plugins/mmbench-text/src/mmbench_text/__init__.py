"""Text encoders for mmbench, trained from scratch over hashed characters and n-grams: no vocabulary, any script."""

from mmbench import EncoderSpec, hookimpl


@hookimpl
def mmbench_encoders() -> list[EncoderSpec]:
    """Offer `embedding-lstm`, `text-transformer` and `bag-of-embeddings`."""
    return [
        EncoderSpec(
            name="embedding-lstm",
            kinds=("text",),
            layouts=("vector", "sequence"),
            factory="mmbench_text.embedding_lstm:EmbeddingLSTM",
            defaults={
                "feature_dim": 64,
                "width": 32,
                "depth": 1,
                "embedding_dim": 32,
                "vocabulary_size": 2048,
                "max_length": 256,
                "dropout": 0.0,
            },
            version="1",
            summary="Bidirectional LSTM over character embeddings; tokens are the characters",
            paper="Graves & Schmidhuber 2005, doi:10.1016/j.neunet.2005.06.042",
            licence="Apache-2.0",
        ),
        EncoderSpec(
            name="text-transformer",
            kinds=("text",),
            layouts=("vector", "sequence"),
            factory="mmbench_text.text_transformer:TextTransformer",
            defaults={
                "feature_dim": 64,
                "width": 48,
                "depth": 2,
                "num_heads": 4,
                "vocabulary_size": 2048,
                "max_length": 256,
                "dropout": 0.0,
            },
            version="1",
            summary="Two transformer layers over character embeddings; tokens are the characters",
            paper="Vaswani et al. 2017, arXiv:1706.03762",
            licence="Apache-2.0",
        ),
        EncoderSpec(
            name="bag-of-embeddings",
            kinds=("text",),
            layouts=("vector", "sequence"),
            factory="mmbench_text.bag:BagOfEmbeddings",
            defaults={"feature_dim": 64, "vocabulary_size": 8192, "max_ngram": 3, "max_length": 1024, "dropout": 0.0},
            version="1",
            summary="Mean of embeddings of words and character n-grams; tokens are the n-grams",
            paper="Bojanowski et al. 2016, arXiv:1607.04606; Joulin et al. 2016, arXiv:1607.01759",
            licence="Apache-2.0",
        ),
    ]
