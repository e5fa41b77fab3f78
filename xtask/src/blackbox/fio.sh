discover
login
D=$(disk)
run() { fio --name=t --filename="$D" --direct=1 --ioengine=libaio --verify=crc32c --verify_fatal=1 --randseed=7 "$@"; }
run --rw=randwrite --bs=4k --iodepth=32 --size=48m --verify_backlog=1024
run --rw=randwrite --bsrange=4k-256k --blockalign=4k --iodepth=8 --offset=256m --size=96m
run --rw=write --bs=1m --iodepth=4 --offset=512m --size=128m
# The same once more, read only, in another session: what the target kept, not what the kernel had.
logout
login
D=$(disk)
run --rw=write --bs=1m --iodepth=4 --offset=512m --size=128m --verify_only=1
logout
quiet
