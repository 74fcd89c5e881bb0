#!/usr/bin/env bash
# Four fusions where chance and certainty stand side by side, 5 seeds:  results/scripts/few_seeds.sh [mmbench options]
set -euo pipefail
mmbench run --run few-seeds -d xor -d redundant -f concat -f sum -f max -f gated --seeds 5 --protocol none \
  --diagnostics none "$@"
