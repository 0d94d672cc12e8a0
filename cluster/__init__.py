"""A real local Kubernetes: control plane, nodes, DNS and registry as processes of this machine.

Every binary is built from a pinned Go module; every node is a network namespace with its own containerd, kubelet and
kube-proxy. It is what tests, continuous integration and the quick start run on. Standard library only: it runs before
any virtual environment exists. Facts that cost days to find are in README.md.
"""
