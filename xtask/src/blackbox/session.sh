# The initiator's side of a session, for the scripts that follow.
fail() { echo "FAIL: $*" >&2; exit 1; }
discover() { iscsiadm -m discovery -t sendtargets -p "$PORTAL"; }
# Each counts: the kernel is told of a power-on (unit attention 29h) once in every session.
LOGINS=0
login() {
  iscsiadm -m node -T "${1:-$TARGET}" -p "$PORTAL" --login || return
  LOGINS=$((LOGINS + 1))
  udevadm settle
}
# When a disk that was written to is closed, udev reads it: a disk that goes away under that is an error in the kernel's log.
logout() {
  sleep 0.5
  udevadm settle
  iscsiadm -m node -T "${1:-$TARGET}" -p "$PORTAL" --logout
}
setting() { iscsiadm -m node -T "$1" -p "$PORTAL" -o update -n "$2" -v "$3"; }
disk() {
  for _ in $(seq 100); do
    local path
    for path in /dev/disk/by-path/ip-"$PORTAL"-iscsi-"${1:-$TARGET}"-lun-*; do
      if [ -b "$path" ]; then readlink -f "$path"; return; fi
    done
    sleep 0.1
  done
  fail "no disk of ${1:-$TARGET}: $(ls /dev/disk/by-path 2>&1)"
}
# Neither an abort nor a reset nor an error may have come up to the kernel's SCSI layers. Every new session begins by telling
# of a power-on (unit attention 29h), which the kernel logs as "Power-on or device reset occurred": that is no reset of its
# own, but there must be exactly one for each login, the kernel's own after a lost connection (RECOVERIES) included.
quiet() {
  local told
  if dmesg | grep -v 'Power-on or device reset occurred' | grep -iE 'abort|reset|I/O error|Medium Error|rejecting I/O|offlined|critical target'; then
    fail "the kernel complains, see above"
  fi
  told=$(dmesg | grep -c 'Power-on or device reset occurred' || true)
  [ "$told" = $((LOGINS + ${1:-0})) ] || {
    dmesg | grep -iE 'iscsi|scsi|sd[a-z]|connection' | tail -n 25 || true
    fail "$told power-ons told in $LOGINS logins and ${1:-0} recoveries"
  }
}
