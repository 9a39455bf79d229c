"""How a worker waits for its head: a script in bash, because it waits beside the start of nothing else.

Asking DNS is what costs others: names that end in no dot are tried with each domain of /etc/resolv.conf behind them,
for IPv4 and IPv6, and a thousand workers ask at once. So the name is made absolute, by the domain of the pod's
namespace that stands there (the cluster's own domain is known in no other way), and while it has no address the
pauses grow. The head has one as soon as it has a network, seconds before its Ray runs; from then on its port is
tried, which asks nobody else.

Asked for by its short name every 0.3 s, the head costs each worker 25 queries a second; so it costs 0.6 while it has no
address, and 2 in all when it has one.
"""

from __future__ import annotations

RESOLV_CONF = "/etc/resolv.conf"
# From one question for the address to the next: it grows by half each time, and varies by a quarter.
FIRST_PAUSE_MS = 300
LONGEST_PAUSE_MS = 5_000
# From one try of the port to the next; after so many the address is asked for again, in case that it changed.
TRY_PAUSE_S = 0.3
TRIES = 20


def wait_for_head(
    service: str, namespace: str, port: int, *, resolv_conf: str = RESOLV_CONF, tries: int = TRIES
) -> str:
    """A script that ends when the port takes connections, the head's name then being in `$head`, or with SIGTERM.

    As process 1 a shell ignores SIGTERM unless told otherwise, hence the trap.
    """
    lines = [
        "trap 'exit 143' TERM",
        f"head={service}.{namespace}.svc",
        # Where the pod has a DNS configuration of its user's, the domain may be missing, and the name stays as it is.
        f"for domain in $(grep ^search {resolv_conf}); do "
        f"case $domain in {namespace}.svc.*) head={service}.${{domain%.}}.;; esac; done",
        f"ms={FIRST_PAUSE_MS}",
        "while true; do "
        # An image without getent has bash look the name up at each try.
        'address=$(getent ahosts "$head" 2>/dev/null) || [ $? != 127 ] || address=$head',
        "address=${address%%[[:space:]]*}",
        'if [ -n "$address" ]; then '
        f"for ((i = 0; i < {tries}; i++)); do "
        f'(exec 3<>"/dev/tcp/$address/{port}") 2>/dev/null && break 2; sleep {TRY_PAUSE_S} & wait $!; done; '
        "else "
        "pause=$((ms * (75 + RANDOM % 51) / 100))",
        'sleep "$((pause / 1000)).$(printf %03d $((pause % 1000)))" & wait $!',
        f"ms=$((ms * 3 / 2 < {LONGEST_PAUSE_MS} ? ms * 3 / 2 : {LONGEST_PAUSE_MS}))",
        "fi",
        "done",
        "trap - TERM",
    ]
    return "; ".join(lines)
