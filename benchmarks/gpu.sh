#!/usr/bin/env bash
# All that is to be measured on one NVIDIA GPU, in at most 8 minutes, part by part:
#
#   check    every attention kernel, dtype and mask against float64 (train_gpu.py --check)
#   graphs   the same bits with and without CUDA graphs, and the time of each (gpu/graphs.py)
#   profile  kernels, gaps and exposed communication of a step (gpu/step_profile.py)
#   race     llamac against peers, at several sizes (train_gpu.py)
#   plan     llamac plan --calibrate, and its predictions against steps (plan_measured.py)
#   train    125m for three minutes, killed and resumed in the middle (gpu/kill_and_resume.py)
#
#   bash benchmarks/gpu.sh [--rehearse] [--again PART…] [PART…]
#
# Each part has a time limit and writes RESULTS/PART.json as it goes. RESULTS is $OUT, or
# benchmarks/results/gpu where that is unset. A part that is complete is not run again unless
# --again names it; one that was cut off goes on. --rehearse runs the same on the CPU with toys, in
# about two minutes, into $OUT or a temporary directory. Packages that the machine lacks are taken
# from .whl/, which benchmarks/gpu_wheels.sh fills. Exits 0 if every part ran and passed.
#
# On a lent device machine, after `bash benchmarks/gpu_wheels.sh`, this one call:
#
#   run {"command": "bash benchmarks/gpu.sh", "carry": [".whl"], "timeout_s": 540}
#
# then copy the files it returns into benchmarks/results/gpu/, so that the next call goes on there.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

PARTS=(check graphs profile race plan train)
declare -A LIMIT=([check]=70 [graphs]=45 [profile]=50 [race]=115 [plan]=60 [train]=135)  # seconds
kept=benchmarks/results/gpu rehearse=() again=() wanted=()
while [ $# -gt 0 ]; do
  case $1 in
    --rehearse) rehearse=(--rehearse) ;;
    --again) shift; again+=("${1:?--again needs the name of a part}") ;;
    *) wanted+=("$1") ;;
  esac
  shift
done
for part in "${wanted[@]}" "${again[@]}"; do
  case " ${PARTS[*]} " in
    *" $part "*) ;;
    *) echo "unknown part $part; known: ${PARTS[*]}" >&2; exit 2 ;;
  esac
done
[ ${#wanted[@]} -gt 0 ] || wanted=("${PARTS[@]}")

if [ ${#rehearse[@]} -gt 0 ]; then
  results=${OUT:-$(mktemp -d)}
  export CUDA_VISIBLE_DEVICES=""
else
  results=${OUT:-$kept}
fi
mkdir -p "$results" || exit 1
if [ ${#rehearse[@]} -eq 0 ] && [ "$results" != "$kept" ] && [ -d "$kept" ]; then
  cp -n "$kept"/*.json "$kept"/*.toml "$results"/ 2>/dev/null  # what earlier calls have measured
fi

python=${PYTHON:-python3}
if [ ${#rehearse[@]} -eq 0 ] && compgen -G ".whl/*.whl" >/dev/null; then
  site=$(mktemp -d)
  "$python" -m pip install -q --no-index --no-deps --no-compile --no-cache-dir --upgrade \
    --target "$site" .whl/*.whl || exit 1
  export PYTHONPATH="$site:${PYTHONPATH:-}"
fi
export PYTHONPATH="$PWD:${PYTHONPATH:-}" PYTHONUNBUFFERED=1 KINETO_LOG_LEVEL=5

complete() { grep -q '"complete": true' "$results/$1.json" 2>/dev/null; }

measure() {  # PART SECONDS: the commands of a part
  local out=$results/$1.json
  case $1 in
    check) "$python" benchmarks/train_gpu.py --check "${rehearse[@]}" --seconds "$2" --out "$out" ;;
    graphs) "$python" benchmarks/gpu/graphs.py "${rehearse[@]}" --seconds "$2" --out "$out" ;;
    profile) "$python" benchmarks/gpu/step_profile.py "${rehearse[@]}" --out "$out" ;;
    race)
      if [ ${#rehearse[@]} -gt 0 ]; then
        set -- "$@" --rounds 2 --only llamac llamac-trainer hf-compiled hf-liger
      fi
      "$python" benchmarks/train_gpu.py "${rehearse[@]}" --seconds "$2" --out "$out" "${@:3}" ;;
    plan)
      "$python" -c 'import sys; from llamac.cli import main; sys.exit(main())' \
        plan --calibrate --overwrite -o "$results/machine.toml" || return
      if [ ${#rehearse[@]} -gt 0 ]; then set -- "$@" --only toy --steps 2; fi
      "$python" benchmarks/plan_measured.py --device "$results/machine.toml" \
        --seconds "$(($2 / 2))" --out "$out" "${@:3}" ;;
    train)
      "$python" benchmarks/gpu/kill_and_resume.py "${rehearse[@]}" --seconds "$2" --out "$out" ;;
  esac
}

export -f measure
export results python
failed=()
for part in "${wanted[@]}"; do
  case " ${again[*]:-} " in *" $part "*) rm -f "$results/$part.json" ;; esac
  if complete "$part"; then
    echo "== $part: complete, in $results/$part.json"
    continue
  fi
  echo "== $part, at most ${LIMIT[$part]} s"
  began=$SECONDS limit=${LIMIT[$part]} hard=$((${LIMIT[$part]} + 15))
  if [ ${#rehearse[@]} -gt 0 ]; then hard=400; fi  # a CI machine may be slow
  timeout --kill-after=10 "$hard" bash -c "rehearse=(${rehearse[*]:-}); measure $part $limit" 2>&1 | tee -a "$results/log.txt"
  code=${PIPESTATUS[0]}
  echo "== $part: exit code $code after $((SECONDS - began)) s"
  [ "$code" -eq 0 ] || failed+=("$part: $code")
done
echo "results in $results${failed[*]:+; failed: ${failed[*]}}"
[ ${#failed[@]} -eq 0 ]
