modprobe dm_log_writes || fail "this kernel has no dm-log-writes"
dmsetup create recorded --table "0 $(blockdev --getsz /dev/ubda) log-writes /dev/ubda /dev/ubdb"
mkfs.ext4 -q -F /dev/mapper/recorded
mount /dev/mapper/recorded /disk
mkdir /disk/bucket /tmp/writer
serve /share/record.log
tell bucket add store dir:///disk/bucket
tell volume create disk --size 128MiB
cp /dev/null /share/state-0
truncate -s 262152 /share/state-0 # nothing is acknowledged yet
dmsetup message recorded 0 mark round-0
for round in $(seq "$ROUNDS"); do
  /share/writer write "$URL" /tmp/writer $SEED 0.5
  cp /tmp/writer/state "/share/state-$round"
  dmsetup message recorded 0 mark "round-$round"
done
cp /tmp/writer/history /tmp/writer/state /share/
kill -9 $GATEWAY
wait $GATEWAY || true
umount /disk
dmsetup remove recorded
sync /dev/ubdb
