#!/usr/bin/env bash
# Downloads into .whl/ what benchmarks/gpu.sh needs and a GPU machine without a network may lack:
# what llamac imports, and the peers it races. That machine has torch 2.11, CUDA 13, Python 3.12
# and transformers; what it has of these wheels besides does no harm.
#
#   bash benchmarks/gpu_wheels.sh [DIRECTORY]
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
to=${1:-.whl} python=${PYTHON:-python3}
wheels=(
  pydantic==2.14.3 pydantic-core==2.50.4 annotated-types==0.8.0 typing-inspection==0.4.5 typing-extensions==4.16.0
  xformers==0.0.35 liger-kernel==0.8.5
  litgpt==0.5.13 jsonargparse==4.41.0 docstring-parser==0.18.0 typeshed-client==2.15.0
  torchtitan==0.2.2 tyro==1.0.17 torchdata==0.11.0 typeguard==4.6.1
)
platforms=()
for n in 28 27 24 17; do platforms+=(--platform "manylinux_2_${n}_x86_64"); done
platforms+=(--platform manylinux2014_x86_64 --platform manylinux1_x86_64)
mkdir -p "$to"
"$python" -m pip download -q --no-deps --only-binary=:all: --python-version 3.12 \
  --implementation cp "${platforms[@]}" -d "$to" "${wheels[@]}"
du -sh "$to"
