#!/usr/bin/env bash
# All of he-v2's marker training: recipes/he/markers.sh DATA RUN WEIGHTS [DEVICE]
#
# DATA holds orion-crc01, orion-c01-tiles, brca-m2c, consep and nuinsseg. What is done already is
# kept, so that an interrupted run goes on. Three networks for the far scale: one that ships, two
# that hold other columns out and tell the head how far to trust it. On two CPU cores that takes
# hours (the card says how many); on one data-centre GPU slide, crops and augmentation stay on it.
set -euo pipefail
data=$1 run=$2 weights=$3 device=${4:-cpu}
slide=$data/orion-crc01
far() { # NAME, what it holds out, further options
  local name=$1 columns=$2
  shift 2
  test -e "$run/$name/far.safetensors" || python -m recipes.he.far --slide "$slide" \
    --data "$data" --out "$run/$name" --hold-out "$columns" --device "$device" "$@"
}
far far-a1 4,8,16 --steps 3600
far far-a 4,8,16 --steps 900 --initial "$run/far-a1" --rate 6e-4 --plain 0.5 --seed 1
far far-b 0,1,2,9,10 --steps 2000 --crops 8 --other-part 0 --seed 2
far far-c 5,6,7,11,14,15 --steps 2000 --crops 8 --other-part 1 --seed 3
python -m recipes.he.near --data "$data" --out "$run/near" --device "$device"
python -m recipes.he.far_logits --slide "$slide" --data "$data" --near "$run/near" \
  --far "$run/far-a" "$run/far-b" "$run/far-c" --out "$run/head" --device "$device"
python -m recipes.he.head --near "$run/near" --out "$run/head"
python -m recipes.he.bundle --slide "$slide" --data "$data" --near "$run/near" \
  --far "$run/far-a" --out "$run/head" --weights "$weights"
