#!/usr/bin/env bash
# A virtual environment with this package in it:
#   tools/environment.sh PYTHON FOLDER WHAT...      WHAT as pip takes it: . or --editable '.[dev]'
#
# uv does it where it is there or pip can fetch it, in a fraction of pip's time; pip otherwise. On
# Linux uv first tries the build of torch that this machine can use, which without an NVIDIA driver is
# a fraction of PyPI's CUDA build; it comes from PyTorch's own index, and where that cannot be reached
# PyPI's build is taken. UV_TORCH_BACKEND=cu128, cpu and so on chooses one; empty, it means PyPI's.
#
# All modules are compiled at once: commands are started often, and an environment may say that what
# Python compiles on the way is not kept (PYTHONDONTWRITEBYTECODE), which costs each one ten seconds.
set -euo pipefail
python=$1 folder=$2
shift 2
own=$folder/bin/python

by_uv() {
    env -u VIRTUAL_ENV "$@" "$uv" pip install --quiet --compile-bytecode --python "$own" \
        "${what[@]}"
}

install() {
    uv=$(command -v uv) || uv=$folder/bin/uv
    if [ -x "$uv" ] || "$own" -m pip install --quiet --no-compile uv; then
        if [ -z "${UV_TORCH_BACKEND+set}" ] && [ "$(uname -s)" = Linux ]; then
            by_uv UV_TORCH_BACKEND=auto UV_HTTP_RETRIES=1 2>/dev/null && return
        fi
        if [ -z "${UV_TORCH_BACKEND:-}" ]; then
            by_uv -u UV_TORCH_BACKEND && return
        else
            by_uv && return
        fi
        echo "uv could not do it; pip tries"
    fi
    "$own" -m pip install --quiet --compile "${what[@]}"
}

what=("$@")
echo "Installing ${what[*]} into $folder"
"$python" -m venv --clear "$folder"
install
