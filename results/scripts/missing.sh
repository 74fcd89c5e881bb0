#!/usr/bin/env bash
# Every policy for missing modalities under every subset of modalities, 5 seeds:  results/scripts/missing.sh [mmbench options]
set -euo pipefail
fusions=()
for policy in mask drop zero mean interpolate impute learned-token; do fusions+=(-f "concat[missing=$policy]"); done
mmbench run --run missing -d redundant-3 -d redundant-missing -d digits -e image=cnn -e audio=logmel-cnn \
  -e text=bag-of-embeddings "${fusions[@]}" --seeds 5 --protocol none \
  --diagnostics quick "$@"
