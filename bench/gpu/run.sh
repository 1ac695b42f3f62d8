#!/usr/bin/env bash
# Exactness, speed and the slowest kernels of training on one GPU, in under eight minutes and without a network.
#
#   bench/gpu/run.sh                  results in $OUT (default bench/out/gpu): gpu.json and gpu.md
#   bench/gpu/run.sh --small          tiny models on a CPU, in under a minute
#   bench/gpu/run.sh --missing        the distributions that this Python lacks, one a line
#   WHEELS=wheels bench/gpu/run.sh    first unpacks a folder of wheels; nothing of the Python is changed
#
# bench/README.md says how to make the folder of wheels.
set -eu
cd "$(dirname "$0")/../.."
python="${PYTHON:-python3}"
export OUT="${OUT:-bench/out/gpu}" HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false PYTHONPATH="src${PYTHONPATH:+:$PYTHONPATH}"
if [ -n "${WHEELS:-}" ]; then
    packages="$(mktemp -d)"
    "$python" -m pip install --quiet --no-index --no-deps --target "$packages" "$WHEELS"/*.whl
    export PYTHONPATH="src:$packages"
fi
exec "$python" -m bench.gpu.measure --out "$OUT" "$@"
