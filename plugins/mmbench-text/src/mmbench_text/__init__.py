"""Text encoders for mmbench: small ones over hashed characters and n-grams, and any of the transformers library."""

from mmbench import EncoderSpec, hookimpl


@hookimpl
def mmbench_encoders() -> list[EncoderSpec]:
    """Offer `embedding-lstm`, `text-transformer`, `bag-of-embeddings`, `tokens`; pretrained ones by `transformers`."""
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
            layouts=("vector", "sequence", "pyramid"),
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
        EncoderSpec(
            name="tokens",
            kinds=("text",),
            layouts=("vector", "sequence"),
            factory="mmbench_text.characters:Tokens",
            defaults={"token_dim": 32, "num_spans": 16, "vocabulary_size": 2048, "max_length": 256},
            version="1",
            summary="Character embeddings, for fusions at the level of data",
            paper="Kim et al. 2015, arXiv:1508.06615",
            licence="Apache-2.0",
            in_all=False,
        ),
        EncoderSpec(
            name="transformers",
            kinds=("text",),
            layouts=("vector", "sequence", "pyramid"),
            tunings=("frozen", "finetune", "adapter", "scratch"),
            target="required",
            describe="mmbench_text.pretrained_files:WEIGHTS.describe",
            prepare="mmbench_text.pretrained_files:WEIGHTS.prepare",
            factory="mmbench_text.transformer:TransformerText",
            defaults={"pooling": "auto", "max_length": 256, "stages": 3},
            version="1",
            summary="Any text encoder of transformers (BERT, MiniLM, GPT-2, T5, CLIP, …), by name or folder",
            paper="Wolf et al. 2019, arXiv:1910.03771; each model has its own",
            licence="Apache-2.0 (the library); each model's weights have their own",
            requires=("transformers",),
            in_all=False,
        ),
    ]
