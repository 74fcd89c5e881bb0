#!/usr/bin/env bash
# Every fusion and every objective on one set, 5 seeds, with its single modalities:  results/scripts/methods.sh SET [mmbench options]
#
#   digits                the embedded set
#   avt_digits_degraded   made by degrade_avt_digits.py, looked for in this folder
#   tuxstamps             looked for in this folder, with tf_efficientnet_lite0/ and minilm/ beside it
set -euo pipefail
set_name=$1
shift
case $set_name in
  digits) data=(-d digits) ;;
  *) data=(-d "manifest:$set_name/manifest.csv[image=image,text=text$([ "$set_name" = tuxstamps ] || echo ,audio=audio)]") ;;
esac
encoders=(-e image=cnn -e audio=logmel-cnn -e text=bag-of-embeddings)
layers=(-m image -m audio)
raw=(-e image=patches -e text=tokens)
if [ "$set_name" = tuxstamps ]; then
  encoders=(-e 'image=timm/local-dir:tf_efficientnet_lite0[tuning=frozen]' -e 'text=transformers/./minilm[tuning=frozen]')
  layers=()
else
  raw+=(-e audio=frames)
fi
run() { mmbench run --run "methods-$set_name" "${data[@]}" --seeds 5 --protocol none --diagnostics none "$@"; }

run "${encoders[@]}" -f '*' "$@"
run "${encoders[@]}" -f concat -o '*' --exclude distillation "$@"
run "${encoders[@]}" -f decision-average -f stacking -o independent -o stacked "$@"
# A teacher that keeps what it says of the training samples, and what learns from it.
mmbench run --run "methods-$set_name-teacher" "${data[@]}" --protocol none --diagnostics none --no-baselines --keep-train \
  "${encoders[@]}" -f concat "$@"
run "${encoders[@]}" -f concat -o "distillation[teacher=$(echo results/methods-"$set_name"-teacher/cells/*)]" "$@"
# Two fusions join layer by layer, which words without a pretrained model do not have.
if [ ${#layers[@]} -gt 0 ]; then run "${encoders[@]}" "${layers[@]}" -f mmtm -f pyramid -f concat "$@"; fi
run "${raw[@]}" -f early-concat -f early-transformer "$@"
