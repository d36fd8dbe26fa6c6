#!/bin/sh
# From CRC01's tiles to a bundle in the paper's form, its card, Table 1 and the figures:
#   recipes/orion_crc01/run.sh SLIDE OUT [BUNDLE] [DEVICE] [SECONDS]
# SLIDE has he/X_Y.jpg, the IF's folders and cells.parquet. On a GPU the defaults are a run of nine
# minutes; what is on the CPU (metrics, figures) takes some minutes more. PYTHON names the interpreter,
# TABLE1_OPTIONS has further options of recipes.orion_crc01.table1_gpu.
set -eu
test $# -ge 2 || { sed -n 2,6p "$0"; exit 2; }
slide=$1 out=$2 bundle=${3:-$2/crc01-paper} device=${4:-cuda} seconds=${5:-520}
python=${PYTHON:-python}
here=$(cd "$(dirname "$0")/../.." && pwd)
export PYTHONPATH="$here${PYTHONPATH:+:$PYTHONPATH}"
mkdir -p "$out"
"$python" -m recipes.orion_crc01.table1_gpu --slide "$slide" --out "$out" --device "$device" \
    --seconds "$seconds" ${TABLE1_OPTIONS:-}
"$python" -m recipes.orion_crc01.table1 measure --slide "$slide" --run "$out/table1.npz" \
    --out "$out/table1.json"
"$python" -m recipes.orion_crc01.bundle --slide "$slide" --run "$out" --out "$bundle"
if [ -d "$slide/CD45" ] && [ -z "${NO_FIGURES:-}" ]; then
    "$python" -m recipes.orion_crc01.figures --slide "$slide" --run "$out" --out "$out/figures"
fi
"$python" -m lymphinfer weights info "$bundle"
