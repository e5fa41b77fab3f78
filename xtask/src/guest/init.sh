#!/bin/bash
# Process 1 of the guest. The variables tidegate_* come from the kernel's command line. Called by the kernel it puts a
# throw-away overlay over the root, which it only reads, and calls itself again in there.
export PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root TERM=dumb LANG=C.UTF-8
if [ "${1-}" != overlaid ]; then
  mount -t proc proc /proc
  modprobe -q overlay
  mount -t tmpfs -o mode=755 tmpfs /mnt
  mkdir /mnt/upper /mnt/work /mnt/root
  mount -t overlay -o lowerdir=/,upperdir=/mnt/upper,workdir=/mnt/work overlay /mnt/root
  cd /mnt/root || exit 1
  mount --move /proc proc
  mount -t devtmpfs devtmpfs dev
  pivot_root . mnt
  exec chroot . /init overlaid
fi
umount -l /mnt
mount -t tmpfs -o mode=755 tmpfs /run
mkdir -p /run/host /run/lock
mount -t hostfs -o "$tidegate_dir" hostfs /run/host

# Off, as in a power cut: a sync of everything could wait for a dead target for ever.
finish() {
  echo "$1" >/run/host/status
  sync -f /run/host /share
  busybox poweroff -n -f
}
trap 'finish 125' EXIT

mount -t sysfs sysfs /sys
mkdir -p /dev/pts /dev/shm
mount -t devpts devpts /dev/pts
mount -t tmpfs tmpfs /dev/shm
mount -t tmpfs tmpfs /tmp
mount -t hostfs -o "$tidegate_dir/share" hostfs /share
ln -sf /proc/mounts /etc/mtab
ln -sfn /proc/self/fd /dev/fd
hostname guest

# No loopback address of our own: all of 127.0.0.0/8 goes out to the machine we run on.
ip link set lo up
ip addr flush dev lo
echo 1 >/proc/sys/net/ipv4/conf/vec0/route_localnet
ip addr add "$tidegate_ip/30" dev vec0
ip link set vec0 up
ip route add 127.0.0.0/8 via "$tidegate_gateway" src "$tidegate_ip"

/lib/systemd/systemd-udevd --daemon 2>/dev/null
modprobe -qa sd_mod sg iscsi_tcp dm_multipath dm_service_time 2>/dev/null

# The first two consoles are the caller's streams, bytes as they are.
stty -F /dev/tty1 raw -echo
stty -F /dev/tty2 raw -echo
cd /share || exit 1
bash /run/host/command </dev/null >/dev/tty1 2>/dev/tty2
status=$?
trap - EXIT
finish $status
