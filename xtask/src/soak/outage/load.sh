# 20 MB/s of writes, each read back and checked soon after; none may take ten seconds.
discover
login
D=$(disk)
touch /share/begun
fio --name=load --eta=never --filename="$D" --rw=write --bs=64k --iodepth=8 --ioengine=libaio --direct=1 --size=1536m --rate=20m,20m \
  --time_based --runtime="$SECONDS_OF_LOAD" --verify=crc32c --verify_backlog=512 --verify_fatal=1 --max_latency=10s \
  || fail "fio is not content"
logout
quiet
