#!/usr/bin/env bash
# What the first process of a test's host does, in namespaces of its own: see hosts.py. The host
# keeps its files in $STATE, on the disk of the machine that runs the test.
set -eu
mount --make-rprivate /
ip link set lo up
hostname "$NAME"
# What lies under /tmp and must be seen on the host: the checkout, perhaps, or the images.
for path in $VISIBLE; do
    mkdir -p "$STATE/tmp/${path#/tmp/}"
    mount --rbind "$path" "$STATE/tmp/${path#/tmp/}"
done
mount -t tmpfs -o size=1m,mode=755 none /mnt
mkdir /mnt/home /mnt/shared
mount --bind "$STATE/home" /mnt/home
if [ -n "$SHARED" ]; then mount --bind "$SHARED" /mnt/shared; fi
mount -t tmpfs -o "size=$SHM" none /dev/shm
mount --bind "$STATE/etc/passwd" /etc/passwd
mount --bind "$STATE/etc/hosts" /etc/hosts
mount --bind "$STATE/run" /run
mount --rbind "$STATE/tmp" /tmp
chmod 1777 /tmp /dev/shm
mkdir /run/sshd
for _ in $(seq 200); do ip link show eth0 >/dev/null 2>&1 && break; sleep 0.05; done
ip addr add "$ADDRESS/24" dev eth0
ip link set eth0 up
if [ "$SSHD" = 1 ]; then
    cp /mnt/home/.ssh/host_key /run/host_key
    $(command -v sshd) -D -e -f /mnt/home/.ssh/sshd_config </dev/null >/run/sshd.log 2>&1 &
    for _ in $(seq 200); do [ -e /run/sshd.pid ] && break; sleep 0.05; done
fi
touch /run/ready
# Process 1 adopts and reaps what others leave, until the pipe that we hold is closed.
read -r _ || true
