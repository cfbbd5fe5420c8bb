#!/bin/sh
# Builds the documentation site into target/site and checks it: every link, anchor and picture exists, and every page is in the
# navigation. Needs Python 3.11; the tools are installed from PyPI into a virtual environment below target/.
set -eu
cd "$(dirname "$0")/.."
tools="${CARGO_TARGET_DIR:-target}/docs"
mkdir -p "$tools"
python="${PYTHON:-python3}"
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or later is needed" >&2; exit 2; }
if ! cmp -s docs/requirements.txt "$tools/installed.txt"; then
    rm -rf "$tools/venv" "$tools/installed.txt"
    "$python" -m venv "$tools/venv"
    "$tools/venv/bin/pip" install --quiet --disable-pip-version-check --requirement docs/requirements.txt
    cp docs/requirements.txt "$tools/installed.txt"
fi
"$tools/venv/bin/python" docs/site.py "$tools/pages"
cp docs/mkdocs.yml "$tools/mkdocs.yml"
# Its log is kept, not silenced: what is silenced is no warning, and would pass.
log="$tools/mkdocs.log"
NO_MKDOCS_2_WARNING=1 "$tools/venv/bin/python" -m mkdocs build --strict --config-file "$tools/mkdocs.yml" \
    --site-dir "$(realpath "$tools")/../site" >"$log" 2>&1 || { cat "$log" >&2; exit 1; }
echo "${CARGO_TARGET_DIR:-target}/site/index.html"
