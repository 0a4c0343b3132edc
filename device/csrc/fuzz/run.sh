#!/usr/bin/env bash
# Fuzz the model loader and runner: device/csrc/fuzz/run.sh MINUTES [address,undefined | memory]. Needs clang, cmake, ninja.
# New inputs go to build/fuzz/corpus; findings to build/fuzz/findings, from where they belong into
# device/csrc/fuzz/regressions (which ctest replays).
set -euo pipefail
minutes=${1:?usage: run.sh MINUTES [address,undefined | memory]}
sanitizers=${2:-address,undefined}
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../../.." && pwd)
build=$root/build/fuzz
clang=$(command -v clang || compgen -c clang- | grep -E '^clang-[0-9]+$' | sort -V | tail -1) || {
  echo "no clang: apt-get install clang-14"
  exit 1
}
mkdir -p "$build/corpus" "$build/findings"
export PATH=$root/.venv/bin:$PATH
cmake -S "$root" -B "$build/$sanitizers" -G Ninja -DCMAKE_C_COMPILER="$clang" -DDN_FUZZ="$sanitizers" >/dev/null
cmake --build "$build/$sanitizers" --target fuzz_model
cd "$build"
exec "./$sanitizers/device/csrc/fuzz_model" -max_total_time=$((minutes * 60)) -max_len=65536 -timeout=120 \
  -rss_limit_mb=2048 -use_value_profile=1 -print_final_stats=1 -artifact_prefix=findings/ corpus "$here/corpus" "$here/regressions"
