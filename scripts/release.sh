#!/usr/bin/env bash
# Builds a release archive of this machine's platform into dist/, with its digest.
# Usage: scripts/release.sh VERSION
set -euo pipefail
cd "$(dirname "$0")/.."
version=${1:?usage: scripts/release.sh VERSION}
[ -z "$(git status --porcelain)" ] || { echo "release.sh: there are uncommitted changes; commit or stash them first" >&2; exit 2; }

name="sealtap_${version}_$(go env GOOS)_$(go env GOARCH)"
rm -rf "dist/$name" && mkdir -p "dist/$name"
make build VERSION="$version"
mv sealtap "dist/$name/"
cp -r LICENSE README.md CHANGELOG.md docs deploy "dist/$name/"
# The same input gives the same archive.
tar --sort=name --owner=0 --group=0 --numeric-owner --mtime="$(git log -1 --format=%cI)" -C dist -czf "dist/$name.tar.gz" "$name"
rm -r "dist/$name"
(cd dist && sha256sum "$name.tar.gz" | tee "$name.tar.gz.sha256")
