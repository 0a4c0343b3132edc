#!/usr/bin/env bash
# Fuzz the model loader and runner: device/csrc/fuzz/run.sh MINUTES [seeds…]. Needs clang. New inputs go to build/fuzz/corpus;
# findings to build/fuzz/findings, from where they belong into device/csrc/fuzz/regressions (which ctest replays).
set -euo pipefail
minutes=${1:?usage: run.sh MINUTES [seed files]}
shift
here=$(cd "$(dirname "$0")" && pwd)
core=$(dirname "$here")
build=$core/../../build/fuzz
mkdir -p "$build/corpus" "$build/findings"
flags=(-std=c11 -g -O1 -fsanitize=fuzzer-no-link,address,undefined -fno-sanitize-recover=all -ffp-contract=off -I"$core/include" -I"$core")
objects=()
for source in "$core"/{dispatch,flatbuf,model,op_*,plan,prepare,reader,requant,team,kernels_*}.c; do
  name=$(basename "$source" .c)
  isa=()
  case $name in
    kernels_avx2) isa=(-mavx2) ;;
    kernels_avx512vnni) isa=(-mavx512f -mavx512bw -mavx512vl -mavx512dq -mavx512vnni -mavx512vbmi) ;;
    kernels_neon*) [[ $(uname -m) == aarch64 ]] || continue; [[ $name == kernels_neondot ]] && isa=(-march=armv8.2-a+dotprod) ;;
  esac
  clang "${flags[@]}" "${isa[@]}" -c "$source" -o "$build/$name.o"
  objects+=("$build/$name.o")
done
clang "${flags[@]}" -c "$here/fuzz_model.c" -o "$build/fuzz_model.o"
clang -fsanitize=fuzzer,address,undefined "$build/fuzz_model.o" "${objects[@]}" -o "$build/fuzz_model" -lm -lpthread
for seed in "$@"; do cp "$seed" "$build/corpus/"; done
cd "$build"
exec ./fuzz_model -max_total_time=$((minutes * 60)) -max_len=65536 -timeout=120 -rss_limit_mb=2048 -use_value_profile=1 \
  -print_final_stats=1 -artifact_prefix=findings/ corpus "$here/corpus" "$here/regressions"
