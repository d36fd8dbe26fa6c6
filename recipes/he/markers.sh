#!/usr/bin/env bash
# All of he-v2's marker training: recipes/he/markers.sh DATA RUN WEIGHTS [DEVICE] [folds]
#
# DATA holds orion-crc01, orion-c01-tiles, brca-m2c, consep and nuinsseg. What is done already is
# kept, so that an interrupted run goes on. On two CPU cores that takes four hours (Zen 4,
# bf16); on a GPU slide, crops and augmentation stay on it. With "folds" two more far networks hold
# other columns out, so that the head learns from far logits of networks that have not seen a tile.
set -euo pipefail
data=$1 run=$2 weights=$3 device=${4:-cpu} folds=${5:-}
slide=$data/orion-crc01
far() { # NAME, what it holds out, further options
  local name=$1 columns=$2
  shift 2
  test -e "$run/$name/far.safetensors" || python -m recipes.he.far --slide "$slide" \
    --data "$data" --out "$run/$name" --hold-out "$columns" --device "$device" "$@"
}
far far-1 4,8,16 --steps 3600
far far-2 4,8,16 --steps 3000 --initial "$run/far-1" --rate 2e-3 --plain 0.6 --seed 1
far far-3 4,8,16 --steps 3000 --initial "$run/far-2" --rate 1.5e-3 --plain 0.6 --seed 7
far far-4 4,8,16 --steps 430 --initial "$run/far-3" --rate 2e-3 --plain 0.6 --seed 13 --crops 48 \
  --others 12 --side 224 --decay 0.03
runs=("$run/far-4")
if test "$folds" = folds; then
  far far-b 0,1,2,9,10 --steps 1500 --crops 8 --other-part 0 --seed 2 --plain 0.4
  far far-c 5,6,7,11,14,15 --steps 1500 --crops 8 --other-part 1 --seed 3 --plain 0.4
  runs+=("$run/far-b" "$run/far-c")
fi
python -m recipes.he.near --data "$data" --out "$run/near" --device "$device"
python -m recipes.he.far_logits --slide "$slide" --data "$data" --near "$run/near" \
  --far "${runs[@]}" --out "$run/head" --device "$device"
python -m recipes.he.head --near "$run/near" --out "$run/head"
python -m recipes.he.bundle --slide "$slide" --data "$data" --near "$run/near" \
  --far "${runs[0]}" --out "$run/head" --weights "$weights"
