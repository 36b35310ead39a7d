#!/usr/bin/env bash
# Puts etcd, kube-apiserver and kube-controller-manager into .tools/, or those that are named, and prints their directory as the last line
# of standard output.
# Go builds them from source, of the versions in tests/cluster/go.mod. KUBEBUILDER_ASSETS=/path/to/directory, as for envtest, uses the
# binaries there and builds nothing.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
module="$root/tests/cluster"
version=$(awk '$1 == "k8s.io/kubernetes" { sub(/^v/, "", $2); print $2 }' "$module/go.mod")
target="$root/.tools/kube-$version"

say() { printf 'kube.sh: %s\n' "$*"; }
fail() { printf 'kube.sh: %s\n' "$*" >&2; exit 1; }

# A build of minutes that says nothing looks as if it hung. Of what `go build -v` prints, package paths are counted and all else is passed on.
progress() {
  awk '/^[^ :#]+$/ { if (++packages % 250 == 0) { printf "kube.sh: … %d packages\n", packages; fflush() } next }
       { print > "/dev/stderr" }'
}

build() { # NAME PACKAGE
  local name=$1 package=$2 flags="-s -w"
  if [ "$name" != etcd ]; then
    local stamp=k8s.io/component-base/version minor=${version#*.}
    flags+=" -X $stamp.gitVersion=v$version -X $stamp.gitMajor=${version%%.*} -X $stamp.gitMinor=${minor%%.*}"
  fi
  say "building $name"
  (cd "$module" && go build -v -trimpath -ldflags "$flags" -o "$work/$name" "$package" 2>&1) | progress ||
    fail "Go could not build $name: see above, or set KUBEBUILDER_ASSETS"
  "$work/$name" --version >/dev/null || fail "the $name that was built does not run here: set KUBEBUILDER_ASSETS"
  mkdir -p "$target"
  mv -f "$work/$name" "$target/$name"
}

if [ -n "${KUBEBUILDER_ASSETS:-}" ]; then
  for name in etcd kube-apiserver; do
    [ -x "$KUBEBUILDER_ASSETS/$name" ] || fail "KUBEBUILDER_ASSETS: \`$KUBEBUILDER_ASSETS/$name\` is not an executable file"
  done
  [ -x "$KUBEBUILDER_ASSETS/kube-controller-manager" ] ||
    [ $# -gt 0 ] || say "KUBEBUILDER_ASSETS has no kube-controller-manager, as envtest ships none: ClusterRoles are not aggregated"
  say "using KUBEBUILDER_ASSETS"
  (cd "$KUBEBUILDER_ASSETS" && pwd)
  exit 0
fi
names=("$@")
[ $# -gt 0 ] || names=(etcd kube-apiserver kube-controller-manager)
missing=()
for name in "${names[@]}"; do [ -x "$target/$name" ] || missing+=("$name"); done
if [ ${#missing[@]} -eq 0 ]; then
  say "Kubernetes $version is there"
  echo "$target"
  exit 0
fi

command -v go >/dev/null || fail "go is needed to build Kubernetes $version: install Go 1.25 or later, or set KUBEBUILDER_ASSETS"
mkdir -p "$root/.tools"
# Beside the target, so that the last step is a rename: whoever looks sees no binary or a whole one, also when two run at once.
work=$(mktemp -d "$root/.tools/install.XXXXXX")
trap 'rm -rf "$work"' EXIT
# Static binaries of exactly what go.sum names; nothing of the surroundings' settings or workspace.
export CGO_ENABLED=0 GOFLAGS="-mod=readonly -buildvcs=false" GOWORK=off

say "Kubernetes $version: the first time about 1 GB of modules, 3 GB of build cache and 5 to 15 minutes on two cores"
for name in "${missing[@]}"; do
  case "$name" in
    etcd) build "$name" go.etcd.io/etcd/server/v3 ;;
    *) build "$name" "k8s.io/kubernetes/cmd/$name" ;;
  esac
done
say "built Kubernetes $version"
echo "$target"
