# Writes and syncs files until told that it is enough, while the gateway is killed and started again. What was synced
# before and after must be there in the end. KILLS is how often that happens.
discover
# The initiator holds commands back while it has no session, for as long as the gateway may take to recover.
setting "$TARGET" node.session.timeo.replacement_timeout 120
login
D=$(disk)
mkfs.ext4 -q -F "$D"
mkdir -p /mnt/d
mount "$D" /mnt/d
fio --name=load --eta=never --directory=/mnt/d --rw=randwrite --bs=4k --iodepth=16 --ioengine=libaio --direct=1 --size=64m \
  --time_based --runtime=3600 --verify=crc32c --verify_backlog=256 --verify_fatal=1 --output=/tmp/fio &
LOAD=$!
n=0
while [ ! -e /share/enough ] || [ $n -lt 12 ]; do
  n=$((n + 1))
  dd if=/dev/urandom of=/mnt/d/file-$n bs=256k count=8 conv=fsync status=none
  (cd /mnt/d && md5sum file-$n) >>/tmp/sums
  echo $n >>/share/synced
  kill -0 $LOAD || { cat /tmp/fio; fail "fio ended"; }
  [ $n -lt 400 ] || fail "nobody said that it is enough"
done
# fio told to end has a status of its own for that; whether a block was wrong it says in its report.
kill -INT $LOAD
wait $LOAD || true
if ! grep -q 'err= 0' /tmp/fio || grep -qi 'verify:\|bad header' /tmp/fio; then
  cat /tmp/fio
  fail "fio is not content"
fi
umount /mnt/d
logout
login
D=$(disk)
e2fsck -f -n "$D" || fail "the file system is damaged"
mount -o ro "$D" /mnt/d
(cd /mnt/d && md5sum --quiet -c /tmp/sums) || fail "a synced file is not what it was"
umount /mnt/d
logout
quiet "$KILLS"
