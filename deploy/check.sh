#!/bin/sh
# Checks everything that deploys and monitors EchoGen: images, compose files, rules, dashboards, the chart, this
# repository's dependencies and workflows. With `--update`, writes the generated files first.
#
# Needs Python 3.11 and, on Debian, nothing else: tools are installed from PyPI into a virtual environment below target/; Prometheus
# and Alertmanager with their tools, and Redis' exporter, come from Debian's packages, which are unpacked there and not installed.
# Elsewhere, set PROMTOOL, PROMETHEUS, AMTOOL, ALERTMANAGER and REDIS_EXPORTER to the paths of the five programs. Two tests are
# skipped where RabbitMQ or Redis are not installed, which deploy/setup-debian.sh does.
set -eu
cd "$(dirname "$0")/.."
# shellcheck source=deploy/tools.sh
. deploy/tools.sh
environment venv deploy/requirements.txt
find_programs
find_program REDIS_EXPORTER prometheus-redis-exporter prometheus-redis-exporter

export PYTHONDONTWRITEBYTECODE=1
if [ "${1:-}" = --update ]; then
    "$tools/venv/bin/python" deploy/generate.py
    shift
fi
cd deploy
exec "$tools/venv/bin/python" -m pytest --quiet "$@"
