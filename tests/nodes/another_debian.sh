#!/usr/bin/env bash
# Gets another Debian release than the machine's into a folder, with its RabbitMQ and Erlang, and prints the setting for tests.
#   another_debian.sh SUITE FOLDER [PACKAGE,...]      SUITE: trixie has RabbitMQ 4.0, testing a later one
# Nothing is installed on the machine but debootstrap. FOLDER/inside runs a program in a chroot with the machine's /tmp, /proc
# and /dev, which it mounts for itself alone: removing the folder is enough.
set -euo pipefail
if [ $# -lt 2 ]; then sed -n '3s/^# *//p' "$0" >&2; exit 2; fi
[ "$(id -u)" -eq 0 ] || { echo "a chroot needs root" >&2; exit 1; }
mkdir -p "$2/release/sbin"
folder=$(cd "$2" && pwd)
tree=$folder/tree
packages=rabbitmq-server${3:+,$3}
if ! command -v debootstrap >/dev/null 2>&1; then
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends debootstrap >/dev/null
fi
if [ "$(cat "$folder/complete" 2>/dev/null)" != "$packages" ]; then
    rm -rf --one-file-system "$tree"
    debootstrap --variant=minbase --include="$packages" "$1" "$tree" >"$folder/log" 2>&1 || { tail -5 "$folder/log" >&2; exit 1; }
    for each in hosts pip.conf ssl/certs/ca-certificates.crt; do
        if [ -e "/etc/$each" ]; then install -D -m 644 "/etc/$each" "$tree/etc/$each"; fi
    done
    echo "$packages" >"$folder/complete"
fi
cat >"$folder/inside" <<END
#!/bin/sh
exec unshare --mount sh -c '
    for each in tmp proc dev dev/pts dev/shm; do mount --bind "/\$each" "\$0/\$each" || exit 1; done
    exec chroot "\$0" "\$@"
' '$tree' "\$@"
END
chmod 755 "$folder/inside"
for program in "$tree"/usr/lib/rabbitmq/lib/rabbitmq_server-*/sbin/*; do
    wrapper=$folder/release/sbin/${program##*/}
    printf "#!/bin/sh\nexec '%s' '%s' \"\$@\"\n" "$folder/inside" "${program#"$tree"}" >"$wrapper"
    chmod 755 "$wrapper"
done
echo "ROCKBOT_TEST_RABBITMQ=$folder/release"
