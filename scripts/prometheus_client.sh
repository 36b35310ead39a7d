#!/usr/bin/env bash
# Puts PyPI's prometheus_client, whose parsers tests/it/metrics.rs uses, into .tools/ and prints its folder, for PYTHONPATH, as
# the last line of standard output. TIERGATE_PROMETHEUS_CLIENT=/path uses that one and installs nothing.
set -euo pipefail

version=0.26.0
# The digest of the wheel, the same for every machine: what is run is what was tried, whichever index it comes from.
digest=fa93d06737aa02bacd05794768508bb97d2fbee28cb3bca04eaae92f0ca953d6
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
target="$root/.tools/prometheus-client-$version"

say() { printf 'prometheus_client.sh: %s\n' "$*"; }
fail() { printf 'prometheus_client.sh: %s\n' "$*" >&2; exit 1; }

. "$root/scripts/pip.sh"

unpack() { # WHEEL DIGEST DIRECTORY
  python3 - "$@" <<'PYTHON'
import hashlib, pathlib, sys, zipfile

wheel, expected, directory = sys.argv[1:]
actual = hashlib.sha256(pathlib.Path(wheel).read_bytes()).hexdigest()
if actual != expected:
    sys.exit(f"prometheus_client.sh: {pathlib.Path(wheel).name} has sha256 {actual}, expected {expected}")
with zipfile.ZipFile(wheel) as archive:
    archive.extractall(directory)
PYTHON
}

if [ -n "${TIERGATE_PROMETHEUS_CLIENT:-}" ]; then
  [ -d "$TIERGATE_PROMETHEUS_CLIENT/prometheus_client" ] ||
    fail "TIERGATE_PROMETHEUS_CLIENT: there is no prometheus_client in \`$TIERGATE_PROMETHEUS_CLIENT\`"
  say "using TIERGATE_PROMETHEUS_CLIENT"
  echo "$TIERGATE_PROMETHEUS_CLIENT"
  exit 0
fi
if [ -d "$target" ]; then
  say "prometheus_client $version is there"
  echo "$target"
  exit 0
fi

command -v python3 >/dev/null || fail "python3 is needed: install it"
mkdir -p "$(dirname "$target")"
# Beside the target, so that the last step is a rename: whoever looks sees no package or a whole one, also when two run at once.
work=$(mktemp -d "$root/.tools/install.XXXXXX")
trap 'rm -rf "$work"' EXIT

find_pip TIERGATE_PROMETHEUS_CLIENT
say "downloading prometheus_client $version (about 65 kB)"
"${pip[@]}" download --disable-pip-version-check --no-cache-dir --no-deps --only-binary :all: \
  --dest "$work/wheel" "prometheus-client==$version" ||
  fail "pip could not download prometheus-client==$version: see above, or set TIERGATE_PROMETHEUS_CLIENT"
say "verifying and unpacking"
unpack "$work"/wheel/*.whl "$digest" "$work/package"
PYTHONPATH="$work/package" python3 -c 'import prometheus_client.openmetrics.parser' ||
  fail "prometheus_client $version does not run with this Python: see above, or set TIERGATE_PROMETHEUS_CLIENT"
# Another one may have been there first, which is as good.
mv -T "$work/package" "$target" 2>/dev/null || [ -d "$target" ] || fail "cannot write \`$target\`"
say "installed prometheus_client $version"
echo "$target"
