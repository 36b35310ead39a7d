#!/usr/bin/env bash
# Puts the libfaketime that tests/it/clock.rs uses into .tools/ and prints its path as the last line of standard output.
# TIERGATE_FAKETIME=/path/to/libfaketime.so.1 uses that one and installs nothing.
set -euo pipefail

version=3.0.1
# The digest of the wheel, the same for every machine: what is built is what was tried, whichever index it comes from.
digest=5eed7c17f3d4ba0f6f828de4975f69a622b06b1e792674e6c1b069c0689fab79
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
target="$root/.tools/libfaketime-$version/libfaketime.so.1"

say() { printf 'faketime.sh: %s\n' "$*"; }
fail() { printf 'faketime.sh: %s\n' "$*" >&2; exit 1; }

. "$root/scripts/pip.sh"

unpack() { # WHEEL DIGEST DIRECTORY
  python3 - "$@" <<'PYTHON'
import hashlib, pathlib, sys, zipfile

wheel, expected, directory = sys.argv[1:]
actual = hashlib.sha256(pathlib.Path(wheel).read_bytes()).hexdigest()
if actual != expected:
    sys.exit(f"faketime.sh: {pathlib.Path(wheel).name} has sha256 {actual}, expected {expected}")
with zipfile.ZipFile(wheel) as archive:
    for name in archive.namelist():
        file = pathlib.PurePosixPath(name)
        if file.parent.as_posix().endswith("vendor/libfaketime/src") and file.suffix in {".c", ".h", ".map"}:
            (pathlib.Path(directory) / file.name).write_bytes(archive.read(name))
PYTHON
}

if [ -n "${TIERGATE_FAKETIME:-}" ]; then
  [ -r "$TIERGATE_FAKETIME" ] || fail "TIERGATE_FAKETIME: \`$TIERGATE_FAKETIME\` is not a readable file"
  say "using TIERGATE_FAKETIME"
  echo "$TIERGATE_FAKETIME"
  exit 0
fi
if [ -r "$target" ]; then
  say "libfaketime $version is there"
  echo "$target"
  exit 0
fi

[ "$(uname -s)" = Linux ] || fail "libfaketime is built for Linux only: install one and set TIERGATE_FAKETIME"
command -v python3 >/dev/null || fail "python3 is needed to download libfaketime: install it, or set TIERGATE_FAKETIME"
command -v "${CC:-cc}" >/dev/null || fail "a C compiler is needed to build libfaketime: install one, or set TIERGATE_FAKETIME"
mkdir -p "$(dirname "$target")"
# Beside the target, so that the last step is a rename: whoever looks sees no library or a whole one, also when two run at once.
work=$(mktemp -d "$root/.tools/install.XXXXXX")
trap 'rm -rf "$work"' EXIT

find_pip TIERGATE_FAKETIME
say "downloading libfaketime $version (about 90 kB)"
"${pip[@]}" download --disable-pip-version-check --no-cache-dir --no-deps --only-binary :all: \
  --dest "$work/wheel" "libfaketime==$version" ||
  fail "pip could not download libfaketime==$version: see above, or set TIERGATE_FAKETIME"
say "verifying and building"
unpack "$work"/wheel/*.whl "$digest" "$work"
# From its sources, which the wheel carries beside a library for one kind of machine, and without what fakes sleeps, timers and
# waits too (its Makefile's FAKE_SLEEP, FAKE_TIMERS, FAKE_PTHREAD): a clock that is set changes none of those, and faking them
# breaks waits on the monotonic clock. With the lock that threads need. Its warnings are not ours.
(cd "$work" && "${CC:-cc}" -o libfaketime.so.1 -shared -fPIC -O2 -std=gnu99 -w -DPTHREAD_SINGLETHREADED_TIME \
  -DPREFIX='""' -DLIBDIRNAME='""' -Wl,-soname,libfaketime.so.1 -Wl,--version-script=libfaketime.map \
  libfaketime.c -lpthread -ldl -lm -lrt) || fail "libfaketime does not build here: see above, or set TIERGATE_FAKETIME"
# Built is not yet working: a clock of the past has to be seen, by a process that is there everywhere.
seen=$(LD_PRELOAD="$work/libfaketime.so.1" FAKETIME="2001-02-03 04:05:06" date +%Y) || true
[ "$seen" = 2001 ] || fail "the library that was built fakes no time here: install one and set TIERGATE_FAKETIME"
mv -f "$work/libfaketime.so.1" "$target"
say "installed libfaketime $version"
echo "$target"
