"""Bridge, cables and routes: what a switch and cables are between machines.

Each node's network namespace hangs on one bridge by a veth pair. Pod ranges are routed to the node that owns them, so
cutting the cable (the link's root end set down) is a true partition: the node runs on, and nobody reaches it.
"""

import contextlib
import pathlib

from cluster import settings, shell

NAMESPACES = pathlib.Path("/run/netns")
FORWARDING = pathlib.Path("/proc/sys/net/ipv4/ip_forward")
FORWARDING_BEFORE = settings.RUN / "ip_forward.before"
COMMENT = ("-m", "comment", "--comment", "anneal-cluster")
RULES = (
    ("filter", "FORWARD", "-i", settings.BRIDGE, *COMMENT, "-j", "ACCEPT"),
    ("filter", "FORWARD", "-o", settings.BRIDGE, *COMMENT, "-j", "ACCEPT"),
    (
        "nat",
        "POSTROUTING",
        "-s",
        settings.POD_NETWORK,
        "!",
        "-o",
        settings.BRIDGE,
        *COMMENT,
        "-j",
        "MASQUERADE",
    ),
    (
        "nat",
        "POSTROUTING",
        "-s",
        settings.NODE_NETWORK,
        "!",
        "-o",
        settings.BRIDGE,
        *COMMENT,
        "-j",
        "MASQUERADE",
    ),
)


def switch() -> None:
    """The bridge, forwarding, and the firewall's leave."""
    if not shell.succeeds("ip", "link", "show", settings.BRIDGE):
        shell.run("ip", "link", "add", settings.BRIDGE, "type", "bridge")
        shell.run("ip", "address", "add", f"{settings.ADDRESS}/24", "dev", settings.BRIDGE)
    shell.run("ip", "link", "set", settings.BRIDGE, "up")
    settings.RUN.mkdir(parents=True, exist_ok=True)
    if not FORWARDING_BEFORE.exists():
        FORWARDING_BEFORE.write_text(FORWARDING.read_text())
    FORWARDING.write_text("1")
    for table, chain, *rule in RULES:
        if not shell.succeeds("iptables", "-w", "-t", table, "-C", chain, *rule):
            shell.run("iptables", "-w", "-t", table, "-I", chain, *rule)


def connect(node: settings.Node) -> None:
    """The node's namespace with its cable plugged in."""
    inside = ("ip", "-n", node.namespace)
    if not pathlib.Path(f"/run/netns/{node.namespace}").exists():
        shell.run("ip", "netns", "add", node.namespace)
        shell.run(
            "ip", "link", "add", node.link, "type", "veth", "peer", "name", "eth0", "netns", node.namespace
        )
        shell.run("ip", "link", "set", node.link, "master", settings.BRIDGE)
        shell.run(*inside, "address", "add", f"{node.address}/24", "dev", "eth0")
        shell.run(*inside, "link", "set", "lo", "up")
        shell.run(*inside, "link", "set", "eth0", "up")
        shell.run(*inside, "route", "add", "default", "via", settings.ADDRESS)
        sysctl = ("sysctl", "-q", "-w", "net.ipv4.ip_forward=1", "net.ipv4.conf.all.rp_filter=0")
        shell.run("nsenter", f"--net=/run/netns/{node.namespace}", *sysctl)
    heal(node)


def heal(node: settings.Node) -> None:
    """Plug the cable in. The route vanishes with the link and is set again."""
    shell.run("ip", "link", "set", node.link, "up")
    shell.run("ip", "route", "replace", node.pod_network, "via", node.address, "dev", settings.BRIDGE)


def partition(node: settings.Node) -> None:
    """Pull the cable out."""
    shell.run("ip", "link", "set", node.link, "down")


def remove() -> None:
    """Take away namespaces, cables, bridge, rules, and set forwarding back."""
    for namespace in shell.run("ip", "netns", "list").split():
        if namespace.startswith("anneal-"):
            shell.run("ip", "netns", "delete", namespace)
    if NAMESPACES.is_dir() and not any(NAMESPACES.iterdir()):
        shell.succeeds("umount", NAMESPACES)  # `ip netns` mounts the folder on itself
    for link in pathlib.Path("/sys/class/net").iterdir():
        if link.name == settings.BRIDGE or link.name.startswith("ann-"):
            shell.succeeds("ip", "link", "delete", link.name)
    for table, chain, *rule in RULES:
        while shell.succeeds("iptables", "-w", "-t", table, "-D", chain, *rule):
            pass
    with contextlib.suppress(FileNotFoundError):
        FORWARDING.write_text(FORWARDING_BEFORE.read_text())
        FORWARDING_BEFORE.unlink()
