#!/usr/bin/env bash
# Ask pip-audit whether a version in requirements.lock has a known vulnerability. `make audit` calls it.
#
# The versions for every Python and every extra count, so the markers are dropped. A package that is locked in several
# versions needs as many files. --strict, because an index without advisories would otherwise count as good news.
set -euo pipefail
cd "$(dirname "$0")/../.."
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

awk -v work="$work" '/^[a-z0-9]/ { split($1, part, "=="); print $1 >(work "/" ++seen[part[1]] ".txt") }' requirements.lock
files=()
for file in "$work"/*.txt; do files+=(--requirement "$file"); done
for service in pypi osv; do
    if timeout 300 uv tool run --quiet pip-audit --strict --no-deps --disable-pip --progress-spinner off \
        --vulnerability-service "$service" "${files[@]}" >"$work/found" 2>"$work/log"; then
        echo "$service knows no vulnerability of the $(cat "$work"/*.txt | wc -l) locked versions."
        exit
    elif [ -s "$work/found" ]; then
        cat "$work/found" "$work/log"
        echo "Add to the table in SECURITY.md what each means for the course, or lock a corrected version."
        exit 1
    fi
    echo "No answer from $service: $(tail -n 1 "$work/log")" >&2
done
echo "The audit failed because no database of vulnerabilities answered. Run make audit on a machine that reaches PyPI or OSV." >&2
exit 2
