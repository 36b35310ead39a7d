#!/usr/bin/env bash
# Runs the fuzz targets under libFuzzer. What it finds is in fuzz/artifacts/; new inputs stay out of the committed corpora.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

VERSION=0.13.2
SECONDS_EACH=${SECONDS_EACH:-60}
tools=$PWD/.tools/cargo-fuzz-$VERSION

if ! cargo +nightly --version > /dev/null 2>&1; then
  echo "fuzzing needs nightly Rust: rustup toolchain install nightly --profile minimal" >&2
  exit 1
fi
if [ ! -x "$tools/bin/cargo-fuzz" ]; then
  cargo install cargo-fuzz --locked --version "$VERSION" --root "$tools"
fi
export PATH="$tools/bin:$PATH" CARGO_TARGET_DIR="$PWD/fuzz/target"

failed=()
for target in ${TARGETS:-$(cargo +nightly fuzz list)}; do
  printf '\n=== fuzz: %s, %s s\n' "$target" "$SECONDS_EACH"
  # The first folder receives what is found; the others are only read.
  found=fuzz/target/corpus/$target
  mkdir -p "$found"
  cargo +nightly fuzz run "$target" "$found" "fuzz/corpus/$target" -- \
    -max_total_time="$SECONDS_EACH" -max_len=16384 -timeout=30 -verbosity=0 -print_final_stats=1 || failed+=("$target")
done
if [ ${#failed[@]} -gt 0 ]; then
  printf '\nfound something in: %s\n' "${failed[*]}"
  exit 1
fi
