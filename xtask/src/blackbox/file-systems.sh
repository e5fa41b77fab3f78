discover
login
D=$(disk)
mkdir -p /mnt/d
for fs in ext4 xfs; do
  if [ $fs = ext4 ]; then mkfs.ext4 -q -F "$D"; else mkfs.xfs -q -f "$D"; fi
  mount -o discard "$D" /mnt/d
  dd if=/dev/urandom of=/mnt/d/large bs=1M count=48 conv=fsync status=none
  mkdir /mnt/d/many
  for i in $(seq 200); do head -c $((i * 37)) /dev/urandom >"/mnt/d/many/$i"; done
  sync
  (cd /mnt/d && find . -type f -print0 | sort -z | xargs -0 md5sum) >/tmp/sums
  umount /mnt/d
  logout
  login
  D=$(disk)
  if [ $fs = ext4 ]; then e2fsck -f -n "$D"; else xfs_repair -n "$D"; fi
  mount "$D" /mnt/d
  (cd /mnt/d && md5sum --quiet -c /tmp/sums) || fail "$fs: a file is not what it was"
  umount /mnt/d
done
logout
quiet
