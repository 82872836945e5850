#!/bin/bash
# tests/e2e/systemd_boot.sh ROOM CHECKOUT: process 1 of new namespaces makes itself a host, and becomes its systemd.
#
# ROOM is an empty folder: what the host changes of this machine's files is kept there, in memory. The host sees the
# folder CHECKOUT as /mnt. Exit code 77: this machine does not allow it; what was refused stands on standard error.
set -euo pipefail
trap 'echo "refused: $BASH_COMMAND" >&2; exit 77' ERR

umask 022  # the host's users are others than the caller
room=$1
checkout=$2
mount -t tmpfs -o size=512m tmpfs "$room"
mkdir "$room"/{upper,work,root}
mount -t overlay -o "lowerdir=/,upperdir=$room/upper,workdir=$room/work" overlay "$room/root"
cd "$room/root"

# Settings of the kernel belong to this machine: nothing may change them from inside.
mount -t proc proc proc
mount --bind proc/sys proc/sys
mount -o remount,bind,ro proc/sys
mount -t sysfs -o ro sysfs sys
mount -t cgroup2 cgroup2 sys/fs/cgroup
mount -t tmpfs tmpfs run
mount -t tmpfs tmpfs tmp
mount -t tmpfs -o mode=755 tmpfs dev
for device in null zero full random urandom tty; do
  touch "dev/$device"
  mount --bind "/dev/$device" "dev/$device"
done
mkdir dev/pts dev/shm
mount -t devpts -o newinstance,ptmxmode=666 devpts dev/pts
ln -s pts/ptmx dev/ptmx
ln -s /proc/self/fd dev/fd
mount --bind "$checkout" mnt

# What a distribution starts at boot looks after a machine; this host has a journal, and nothing else.
rm -rf etc/systemd etc/fstab var/log/journal lib/systemd/system-generators lib/systemd/system/*.wants
# And nothing of an edge or an agent that this machine may have.
rm -rf etc/natrp usr/local/bin/natrp* {etc,lib,usr/local/lib}/systemd/system/natrp* var/lib/{,private/}natrp-engine
mkdir -p etc/systemd/system
printf '[Unit]\nWants=systemd-journald.service\nAfter=systemd-journald.service\n' >etc/systemd/system/default.target
# The agent's example names this edge.
echo '127.0.0.1 localhost edge.example.org' >etc/hosts
ip link set lo up

mkdir old
pivot_root . old
umount -l /old
rmdir /old
# From here on, who enters these namespaces is not on this machine any more.
touch /run/natrp-e2e
# As on every host with systemd: without it the credentials of a unit are mounted where it does not see them.
mount --make-rshared /
exec env -i container=natrp PATH=/usr/sbin:/usr/bin:/sbin:/bin \
  setpriv --bounding-set -sys_module,-sys_rawio,-sys_time /lib/systemd/systemd --system --show-status=false
