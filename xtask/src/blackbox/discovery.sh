discover | grep -qF "$TARGET" || fail "SendTargets does not name $TARGET"
login
D=$(disk)
lsscsi -g | grep -q TIDEGATE || fail "lsscsi does not show the disk"
sg_inq "$D" | grep -q TIDEGATE
sg_readcap --16 "$D"
[ "$(blockdev --getsize64 "$D")" = $((2 << 30)) ] || fail "the size is wrong"
# A stable, unique name (VPD 83), and UNMAP as thin provisioning has it (VPD B2).
sg_vpd -p di "$D" | grep -qi naa || fail "no NAA identifier"
sg_vpd -p lbpv "$D"
[ "$(cat /sys/block/"${D#/dev/}"/queue/discard_max_bytes)" -gt 0 ] || fail "no discard"
head -c 65536 /dev/urandom >/tmp/data
dd if=/tmp/data of="$D" bs=64k oflag=direct status=none
blkdiscard -o 1048576 -l 1048576 "$D"
dd if="$D" bs=64k count=1 iflag=direct status=none | cmp - /tmp/data
dd if="$D" bs=1M skip=1 count=1 iflag=direct status=none | cmp - <(head -c 1048576 /dev/zero)
logout
login
D=$(disk)
dd if="$D" bs=64k count=1 iflag=direct status=none | cmp - /tmp/data
logout
quiet
