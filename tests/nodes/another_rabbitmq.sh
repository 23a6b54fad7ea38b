#!/usr/bin/env bash
# Gets a RabbitMQ of another Debian release than the machine's, with its Erlang, into a folder, and prints what to set.
#   another_rabbitmq.sh SUITE FOLDER      SUITE: trixie has 4.0, testing a later one
# Nothing is installed on the machine but debootstrap. The nodes run in a chroot with the machine's /tmp, /proc and /dev, which
# each of them mounts for itself: removing the folder is enough.
set -euo pipefail
if [ $# -ne 2 ]; then sed -n '3s/^# *//p' "$0" >&2; exit 2; fi
[ "$(id -u)" -eq 0 ] || { echo "a chroot needs root" >&2; exit 1; }
mkdir -p "$2/release/sbin"
folder=$(cd "$2" && pwd)
tree=$folder/tree
if ! command -v debootstrap >/dev/null 2>&1; then
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends debootstrap >/dev/null
fi
if [ ! -e "$folder/complete" ]; then
    rm -rf "$tree"
    debootstrap --variant=minbase --include=rabbitmq-server "$1" "$tree" >"$folder/log" 2>&1 || { tail -5 "$folder/log" >&2; exit 1; }
    cp /etc/hosts "$tree/etc/hosts"
    touch "$folder/complete"
fi
for program in "$tree"/usr/lib/rabbitmq/lib/rabbitmq_server-*/sbin/*; do
    wrapper=$folder/release/sbin/${program##*/}
    cat >"$wrapper" <<END
#!/bin/sh
exec unshare --mount sh -c 'for each in tmp proc dev; do mount --bind /\$each "\$0/\$each" || exit 1; done; exec chroot "\$0" "\$@"' \\
    '$tree' '${program#"$tree"}' "\$@"
END
    chmod 755 "$wrapper"
done
echo "ROCKBOT_TEST_RABBITMQ=$folder/release"
