#!/bin/sh
# Checks everything that deploys and monitors EchoGen: images, compose files, rules, dashboards, the chart, this
# repository's dependencies and workflows. With `--update`, writes the generated files first.
#
# Needs Python 3.11 and, on Debian, nothing else: tools are installed from PyPI into a virtual environment below target/;
# Prometheus and Alertmanager with their tools come from Debian's packages, which are unpacked there and not installed.
# Elsewhere, set PROMTOOL, PROMETHEUS, AMTOOL and ALERTMANAGER to the paths of the four programs. Two tests are skipped where
# RabbitMQ, or Redis with its exporter (REDIS_EXPORTER, of Debian's prometheus-redis-exporter), are not installed.
set -eu
cd "$(dirname "$0")/.."
# shellcheck source=deploy/tools.sh
. deploy/tools.sh
environment venv deploy/requirements.txt
find_programs

export PYTHONDONTWRITEBYTECODE=1
if [ "${1:-}" = --update ]; then
    "$tools/venv/bin/python" deploy/generate.py
    shift
fi
cd deploy
exec "$tools/venv/bin/python" -m pytest --quiet "$@"
