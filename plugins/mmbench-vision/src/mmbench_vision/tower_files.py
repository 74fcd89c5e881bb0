"""Where the weights of the transformers library's image models are, for planning and for `mmbench prepare`."""

from mmbench.weights import HubWeights

PROCESSOR = "preprocessor_config.json"
WEIGHTS = HubWeights(kind="image", files=(PROCESSOR,))
