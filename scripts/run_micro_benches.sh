#!/bin/bash
# scripts/run_micro_benches.sh BUILD_DIR [arguments of Google Benchmark]: every *_bench program of a build folder.
# Whole-engine figures are bench/tunnel_bench.py's.
set -euo pipefail
cd "$(dirname "$0")/.."

build=${1:?usage: scripts/run_micro_benches.sh BUILD_DIR [arguments of Google Benchmark]}
shift
mapfile -t programs < <(find "$build/bench" "$build/tests" -type f -name '*_bench' -perm -u+x 2>/dev/null | sort)
if [[ ${#programs[@]} -eq 0 ]]; then
  echo "run_micro_benches: $build has no program named *_bench: build it first (make bench)" >&2
  exit 2
fi
for program in "${programs[@]}"; do
  echo "=== ${program#"$build"/}"
  "$program" "$@"
done
