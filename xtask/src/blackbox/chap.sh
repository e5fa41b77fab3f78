# TARGET is what the names of both volumes begin with.
ONE=$TARGET.one-way BOTH=$TARGET.mutual
use() { # TARGET SECRET [SECRET-OF-THE-TARGET]
  setting "$1" node.session.auth.authmethod CHAP
  setting "$1" node.session.auth.username initiator
  setting "$1" node.session.auth.password "$2"
  if [ $# -gt 2 ]; then
    setting "$1" node.session.auth.username_in target
    setting "$1" node.session.auth.password_in "$3"
  fi
}
refused() { if login "$1" >/tmp/out 2>&1; then cat /tmp/out; fail "$1 let us in: $2"; fi; }
add() { iscsiadm -m node -o new -T "$1" -p "$PORTAL" >/dev/null; }
add "$ONE"
add "$BOTH"
sed -i 's/^node.session.initial_login_retry_max.*/node.session.initial_login_retry_max = 1/' /etc/iscsi/iscsid.conf
for t in "$ONE" "$BOTH"; do setting "$t" node.session.initial_login_retry_max 1; done

refused "$ONE" "without a secret"
use "$ONE" not-the-secret
refused "$ONE" "with a wrong secret"
use "$ONE" initiator-secret
login "$ONE"
D=$(disk "$ONE")
dd if=/dev/urandom of="$D" bs=1M count=4 oflag=direct status=none
logout "$ONE"

use "$BOTH" initiator-secret target-is-another
refused "$BOTH" "though the target could not prove itself"
use "$BOTH" initiator-secret target-own-secret
login "$BOTH"
sg_inq "$(disk "$BOTH")" | grep -q TIDEGATE
logout "$BOTH"

# Discovery shows only what one may log in to, or asks for the secret itself.
if discover >/tmp/open 2>&1 && grep -qE '[.](one-way|mutual)' /tmp/open; then
  echo "note: names are shown without CHAP"
fi
{
  echo 'discovery.sendtargets.auth.authmethod = CHAP'
  echo 'discovery.sendtargets.auth.username = initiator'
  echo 'discovery.sendtargets.auth.password = initiator-secret'
} >>/etc/iscsi/iscsid.conf
discover | grep -F "$ONE" || fail "discovery with CHAP does not show $ONE"
quiet
