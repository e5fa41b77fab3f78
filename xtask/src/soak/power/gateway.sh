# A gateway in the guest, on /disk.
set -euo pipefail
ip addr add 127.0.0.1/32 dev lo # our own loopback: initiator and target are both here
fail() { echo "FAIL: $*" >&2; exit 1; }
SEED=5
URL=iscsi://127.0.0.1:3260/iqn.2026-11.org.tidegate:power.disk/0
tell() { /share/tidegate --data-dir /disk/gateway "$@"; }
cat >/tmp/tidegate.toml <<'EOF'
name = "power"
data = "/disk/gateway"
memory = "64 MiB"
[[disk]]
name = "cache"
path = "/disk/cache"
journal = "256 MiB"
cache = "64 MiB"
local_segments = "256 MiB"
[iscsi]
listen = ["127.0.0.1:3260"]
EOF
serve() {
  setpriv --pdeathsig KILL /share/tidegate serve --config /tmp/tidegate.toml >"$1" 2>&1 &
  GATEWAY=$!
  for _ in $(seq 600); do
    if tell status >/dev/null 2>&1; then return; fi
    kill -0 $GATEWAY 2>/dev/null || { tail -n 20 "$1"; fail "the gateway ended"; }
    sleep 0.1
  done
  fail "the gateway does not answer"
}
