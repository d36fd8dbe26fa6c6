#!/usr/bin/env bash
# What the README promises of an installation without extras: tools/test_base.sh FOLDER_OF_PROGRAMS
set -euo pipefail
lymphinfer=$1/lymphinfer python=$1/python
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"

if [ "$(uname -s)" = Linux ] && "$python" -c "import torch" 2>/dev/null; then
    echo "torch came along: what is tried below would not show that it is not needed"
    exit 1
fi

echo "$ lymphinfer doctor"
"$lymphinfer" doctor

"$lymphinfer" simulate --help >/dev/null
"$lymphinfer" train-detector --help >/dev/null

"$python" - <<'END'
from pathlib import Path

from lymphinfer.simulate.slide import write_demo_slide

write_demo_slide(Path("slide.svs"), size_px=(1024, 768))
END
for bundle in he-v2 he-v1-fast he-v1 crc01-paper-v1 sim-orion-v1; do
    echo "$ lymphinfer predict slide.svs --bundle $bundle"
    file=$("$lymphinfer" predict slide.svs --bundle "$bundle" --out "$bundle" 2>"$bundle.log") ||
        { cat "$bundle.log"; exit 1; }
    test -s "$file"
done

if said=$("$lymphinfer" predict slide.svs --runtime torch --out by-torch 2>&1); then
    [ "$(uname -s)" != Linux ] || { echo "predict ran by a torch that is not there"; exit 1; }
fi
case $said in
    *"lymphinfer[torch]"*) echo "predict --runtime torch names the extra torch" ;;
esac

# Without its extra, a command says so before any work.
mkdir images
if said=$("$lymphinfer" train-detector images --out made 2>&1); then
    echo "train-detector ran without the extra train"
    exit 1
fi
case $said in
    *"lymphinfer[train]"*) echo "train-detector names the extra train" ;;
    *) echo "$said"; exit 1 ;;
esac
