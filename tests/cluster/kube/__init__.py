"""A real Kubernetes on one Linux machine, without Docker: for tests and benches.

The control plane and one node run as ordinary processes inside namespaces of their own (network, mounts, process
ids), so that any number of clusters fit on a machine, none touches the machine's firewall, addresses or mounts, and
ending one process ends all of a cluster. `README.md` one folder up tells how to use it.

Nothing here knows of the operator: what a test installs is the test's own business.
"""
