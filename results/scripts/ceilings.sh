#!/usr/bin/env bash
# Every fusion on every set whose best possible score is known, 5 seeds, and their table results/ceilings/table.md:
#   results/scripts/ceilings.sh [mmbench options]
# Fusions of sequences meet tables as columns, early fusions meet raw patches, frames, words and steps. What `synergy` asks
# of a sequence is found by a recurrent network from every start, by a Transformer from some.
set -euo pipefail
SETS=(-d xor -d quarters -d redundant -d redundant-3 -d redundant-missing -d synergy -d synergy-3 -d tasks -d unique -d unique-3)
WHOLE=(-e image=cnn -e audio=logmel-cnn -e text=bag-of-embeddings -e sequence=transformer)
run() { mmbench run --run ceilings --seeds 5 --protocol none --diagnostics none "$@"; }

run "${SETS[@]}" "${WHOLE[@]}" -e tabular=mlp -f '*' "$@"
run -d xor -d redundant -d synergy-3 -d tasks -d unique-3 "${WHOLE[@]}" -e tabular=columns -f attention-lstm -f bilstm \
  -f bottleneck -f cross-attention -f mult -f nl-gate -f perceiver -f similarity-attention "$@"
run -d synergy -e sequence=gru -e text=text-transformer -f '*' "$@"
run "${SETS[@]}" -e image=patches -e audio=frames -e text=tokens -e sequence=steps -e tabular=columns \
  -f early-concat -f early-transformer "$@"
# What finds the way on `synergy` from some starts only in the set's 20 epochs gets three times as many.
mmbench run --run ceilings-long --seeds 5 --protocol none --diagnostics none --no-baselines -d synergy -e sequence=gru \
  -e text=text-transformer --epochs 60 --set patience=0 -f attention-lstm -f bottleneck -f deep-sets -f late-transformer \
  -f mult -f perceiver -f product-of-experts "$@"
python "$(dirname "$0")/ceilings_table.py" results/ceilings results/ceilings-long > results/ceilings/table.md
