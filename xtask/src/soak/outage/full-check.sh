# What another gateway has from the bucket alone.
discover
login
D=$(disk)
n=$(wc -l </share/sums)
for i in $(seq 0 $((n - 1))); do dd if="$D" bs=1M skip="$i" count=1 iflag=direct status=none | md5sum; done >/tmp/sums
cmp /tmp/sums /share/sums || fail "what was acknowledged is not in the bucket"
logout
quiet
