#!/usr/bin/env bash
# Installs the servers that the tests start as private nodes. Does nothing when they are there; never starts a system service.
set -euo pipefail
missing=()
[ -x /usr/lib/rabbitmq/bin/rabbitmq-server ] || command -v rabbitmq-server >/dev/null 2>&1 || missing+=(rabbitmq-server)
[ -n "${ROCKBOT_TEST_AMQP_URL:-}" ] && missing=()
[ -n "${ROCKBOT_TEST_REDIS:-}" ] || command -v redis-server >/dev/null 2>&1 || command -v valkey-server >/dev/null 2>&1 || missing+=(redis-server)
compgen -G '/usr/lib/postgresql/*/bin/initdb' >/dev/null || command -v initdb >/dev/null 2>&1 || missing+=(postgresql)
[ ${#missing[@]} -eq 0 ] && exit 0
if ! command -v apt-get >/dev/null 2>&1 || [ "$(id -u)" -ne 0 ]; then
    echo "the tests need ${missing[*]}: install it (Debian: apt-get install ${missing[*]}), or set ROCKBOT_TEST_AMQP_URL instead of having RabbitMQ here" >&2
    exit 1
fi
echo "installing ${missing[*]} for the tests" >&2
# A policy that forbids starting services keeps the distribution's own node from being started by the installation.
policy=/usr/sbin/policy-rc.d
made=0
if [ ! -e "$policy" ]; then printf '#!/bin/sh\nexit 101\n' >"$policy"; chmod 755 "$policy"; made=1; fi
trap '[ "$made" = 1 ] && rm -f "$policy"' EXIT
apt-get update -qq
DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
