#!/bin/sh
# Everything that is to be known of a GPU, in one command of at most eight minutes:
#   benchmarks/gpu.sh SOURCE [FOLDER] [arguments of gpu.py]
# SOURCE is a slide, or a folder of H&E images at 0.25 µm/px; gpu.json and gpu.log go to FOLDER.
# Rehearsal: benchmarks/gpu.sh SOURCE FOLDER --device cpu --seconds 60
set -eu
source=$1
folder=${2:-.}
[ $# -gt 1 ] && shift 2 || shift 1
mkdir -p "$folder"
here=$(cd "$(dirname "$0")" && pwd)
PYTHONPATH=$here/..${PYTHONPATH:+:$PYTHONPATH}
export PYTHONPATH
if [ -d "$source" ]; then set -- --source-mpp 0.25 "$@"; fi
"${PYTHON:-python3}" "$here/gpu.py" --source "$source" --seconds 450 --json "$folder/gpu.json" "$@" 2>&1 |
    tee "$folder/gpu.log"
