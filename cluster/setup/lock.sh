#!/usr/bin/env bash
# Write requirements.lock from pyproject.toml, and keep the versions that still fit. `make lock` calls it.
#
# One lock serves every set-up. Packages that only the extra `horovod`, `gpu` or `book` needs carry that extra in their marker, so
# pip and uv pass over them. setup.sh takes the words out for the extras that it installs.
set -euo pipefail
cd "$(dirname "$0")/../.."
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

compile() {
    uv pip compile pyproject.toml --quiet --universal --python-version 3.10 --generate-hashes --no-emit-index-url \
        --no-emit-find-links --no-header "$@"
}

cp requirements.lock "$work/all"
compile --all-extras --output-file "$work/all"
compile --extra build --extra test --constraints "$work/all" --output-file "$work/base"
compile --extra build --extra test --extra horovod --constraints "$work/all" --output-file "$work/ranks"
compile --extra build --extra test --extra book --constraints "$work/all" --output-file "$work/book"

names() { sed -nE 's/^([a-z0-9][a-z0-9._-]*)==.*/\1/p' "$1" | sort -u; }
awk -v base=" $(names "$work/base" | tr '\n' ' ')" -v ranks=" $(names "$work/ranks" | tr '\n' ' ')" \
    -v book=" $(names "$work/book" | tr '\n' ' ')" '
    /^[a-z0-9]/ {
        split($1, part, "=="); name = " " part[1] " "
        if (!index(base, name)) {
            extra = index(ranks, name) ? "horovod" : index(book, name) ? "book" : "gpu"
            sub(/ ; .* \\$/, " ; extra == '\''" extra "'\'' and (" substr($0, index($0, " ; ") + 3)); sub(/ \\$/, ") \\")
        }
    }
    { print }' "$work/all" >"$work/lock"
mv "$work/lock" requirements.lock
