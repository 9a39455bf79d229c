#!/bin/sh
# Installs the Debian packages that a test cluster needs; does nothing when they are there. Needs root.
set -eu

packages="containerd runc containernetworking-plugins iptables iproute2 conntrack socat ethtool util-linux"
missing=""
for package in $packages; do
    dpkg-query --show --showformat='${Status}' "$package" 2>/dev/null | grep -q "ok installed" ||
        missing="$missing $package"
done
[ -z "$missing" ] && exit 0

if [ "$(id -u)" -ne 0 ]; then
    echo "tests/cluster/setup.sh: root is needed to install:$missing" >&2
    exit 1
fi

export DEBIAN_FRONTEND=noninteractive
# Installing containerd must not start it: the cluster starts its own. A policy that is there stays.
policy=/usr/sbin/policy-rc.d
if [ ! -e "$policy" ]; then
    printf '#!/bin/sh\nexit 101\n' >"$policy"
    chmod 755 "$policy"
    trap 'rm -f "$policy"' EXIT
fi
apt-get update -qq
# shellcheck disable=SC2086  # a list of words on purpose
apt-get install -qq --yes --no-install-recommends $missing
