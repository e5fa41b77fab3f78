# Each of CUTS is the round acknowledged when the power of disk /dev/ubd<letter> was cut.
mkdir /tmp/writer
cp /share/history /share/state /tmp/writer/
LETTERS=(a b c d e f g h)
for n in "${!CUTS[@]}"; do
  D=/dev/ubd${LETTERS[$n]}
  mount "$D" /disk
  serve "/share/recover-$GUEST-$n.log"
  for _ in $(seq 300); do
    if iscsi-inq "$URL" >/dev/null 2>&1; then break; fi
    sleep 0.1
  done
  /share/writer prefix "$URL" /tmp/writer $SEED "/share/state-${CUTS[$n]}" || {
    tail -n 20 "/share/recover-$GUEST-$n.log"
    fail "cut $n, after round ${CUTS[$n]}"
  }
  kill -9 $GATEWAY
  wait $GATEWAY || true
  umount /disk
done
