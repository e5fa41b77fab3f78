# Writes until an error comes, which must say that there is no space; reads it all back; writes on when there is room again.
discover
login
D=$(disk)
# What takes ten seconds the kernel aborts: quiet would see it.
echo 10 >"/sys/block/${D#/dev/}/device/timeout"
n=0
write() {
  head -c 1048576 /dev/urandom >/tmp/block
  dd if=/tmp/block of="$D" bs=1M seek=$n oflag=direct conv=notrunc status=none 2>/tmp/error || return
  md5sum </tmp/block >>/share/sums
  n=$((n + 1))
}
check() { # everything that was acknowledged
  for i in $(seq 0 $((n - 1))); do dd if="$D" bs=1M skip="$i" count=1 iflag=direct status=none | md5sum; done >/tmp/sums
  cmp /tmp/sums /share/sums || fail "what was acknowledged is not there"
}
for _ in 1 2 3 4; do write; done
touch /share/begun
while [ ! -e /share/away ]; do sleep 0.1; done
while write; do [ $n -lt 900 ] || fail "there is room for everything"; done
grep -q 'No space left on device' /tmp/error || { cat /tmp/error; fail "the error is another"; }
dmesg | grep -i 'space allocation' || fail "the kernel's log does not say why"
check
cp /tmp/error /share/refused
while [ ! -e /share/fair ]; do sleep 0.1; done
tries=0
until write; do
  tries=$((tries + 1))
  [ $tries -lt 30 ] || fail "no room though the bucket is back"
done
touch /share/again
for _ in $(seq 40); do write || { cat /tmp/error; fail "refused again"; }; done
check
logout
quiet
