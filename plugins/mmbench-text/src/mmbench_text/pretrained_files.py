"""Where the weights of `transformers` text encoders are, for planning and for `mmbench prepare`; no torch here."""

from mmbench.weights import HubWeights

#: What a tokenizer may be made of.
TOKENIZER_FILES = (
    "tokenizer*.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab*",
    "merges.txt",
    "*.model",
    "*.bpe",
    "*.codes",
)
#: What says how a sentence encoder pools its tokens, and how many it reads.
POOLING_FILES = ("modules.json", "1_Pooling/config.json", "sentence_bert_config.json")

WEIGHTS = HubWeights(kind="text", files=(*TOKENIZER_FILES, *POOLING_FILES))
