"""Where the weights of pretrained audio encoders are, for planning and for `mmbench prepare`; imports no torch."""

from mmbench.weights import HubWeights

WEIGHTS = HubWeights(kind="audio", files=("preprocessor_config.json",))
