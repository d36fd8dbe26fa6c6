#!/bin/sh
# LymphInfer in a virtual environment of its own, for the Dockerfile and the Apptainer definition:
#   install.sh SOURCE FOLDER EXTRAS TORCH
# TORCH is the build of torch as uv names it: cpu, cu128, …, or `index` for the one that the package
# index itself offers, which on Linux is a CUDA build; `none` leaves it out, and predicts on the CPU.
set -eu
source=$1 folder=$2 extras=$3 torch=$4

python3 -m venv "$folder"
"$folder/bin/python" -m pip install --quiet --no-cache-dir uv
case $torch in
    none) ;;
    index) extras="$extras,torch" ;;
    *) extras="$extras,torch" UV_TORCH_BACKEND="$torch"; export UV_TORCH_BACKEND ;;
esac
"$folder/bin/uv" pip install --no-cache --compile-bytecode --python "$folder/bin/python" \
    "lymphinfer[$extras] @ file://$source"
"$folder/bin/python" -m pip uninstall --quiet --yes uv
"$folder/bin/lymphinfer" --version
"$folder/bin/lymphinfer" weights verify
