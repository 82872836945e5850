#!/bin/bash
# scripts/build.sh BUILD_DIR [meson options]: configures the directory when it is new or an option is, then compiles.
#
# An option that was given once stays until another value is given: a `make build` after a `make bench` compiles the
# benches, too. JOBS limits how many compilers run at once (default: one per CPU).
set -euo pipefail
cd "$(dirname "$0")/.."

build=${1:?usage: scripts/build.sh BUILD_DIR [meson options]}
shift
applied=$build/applied-options
if [[ ! -f $build/build.ninja ]]; then
  # What an interrupted configuration left behind would be taken for a configured directory.
  rm -rf "$build/meson-private" "$build/meson-info" "$applied"
  meson setup "$build" "$@"
  printf '%s\n' "$@" >"$applied"
else
  # `meson configure` makes ninja configure everything again, so it is only for what is new.
  for option in "$@"; do
    grep -qxF -e "$option" "$applied" 2>/dev/null && continue
    meson configure "$build" "$option"
    { grep -v -e "^${option%%=*}=" "$applied" 2>/dev/null || true; echo "$option"; } >"$applied.new"
    mv "$applied.new" "$applied"
  done
fi
exec ninja -C "$build" -j "${JOBS:-$(nproc)}"
