#!/usr/bin/env bash
# Frozen pretrained encoders on Tux Paint's stamps, 5 seeds:  results/scripts/tuxstamps.sh image-text|frozen [mmbench options]
#
# Looked for in this folder: tuxstamps/manifest.csv, tf_efficientnet_lite0/, minilm/ (all-MiniLM-L6-v2) and, for `frozen`,
# which reads the speech as well, whisper_tiny_en_encoder/.
set -euo pipefail
run_name=$1
shift
columns=image=image,text=text
encoders=(-e 'image=timm/local-dir:tf_efficientnet_lite0[tuning=frozen]' -e 'text=transformers/./minilm[tuning=frozen]')
if [ "$run_name" = frozen ]; then
  columns+=,audio=audio
  encoders+=(-e 'audio=transformers/./whisper_tiny_en_encoder[tuning=frozen]')
fi
mmbench run --run "tuxstamps-$run_name" -d "manifest:tuxstamps/manifest.csv[$columns]" "${encoders[@]}" --seeds 5 -j 1 "$@"
