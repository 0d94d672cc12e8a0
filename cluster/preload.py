"""Images on nodes without waiting: a seed that holds them unpacked, cloned to each node with hard links.

Five gigabytes pulled by each of four nodes would take minutes and 20 GB. A layer is never written to after it is
unpacked, so hard links are safe; only the metadata databases are copied for real.
"""

import pathlib
import shutil
import tempfile

from images import build, catalogue

from cluster import containerd, processes, registry, settings, shell

PAUSE_SOURCE = (
    "#include <unistd.h>\n#include <signal.h>\n#include <stdlib.h>\n#include <sys/wait.h>\n"
    """
static void end(int number) { exit(0); }
static void reap(int number) { while (waitpid(-1, NULL, WNOHANG) > 0); }
int main(void) {
    signal(SIGTERM, end);
    signal(SIGINT, end);
    signal(SIGCHLD, reap);
    for (;;) pause();
}
"""
)
PAUSE_RECIPE = 'FROM scratch\nCOPY pause /pause\nUSER 65535:65535\nENTRYPOINT ["/pause"]\n'


def essentials() -> str:
    """Have the pause image and the base in the registry; returns the base's reference."""
    if not registry.has(settings.PAUSE):
        with shell.step("building the pause image"):
            pause()
    base = f"{settings.REGISTRY}/anneal/base:{catalogue.base_key(None)}"
    if not registry.has(base):
        with shell.step("building the base image"):
            build.push_as(build.local_base(), base)
    return base


def pause() -> None:
    """What holds a pod's namespaces open: twelve lines of C without a library."""
    with tempfile.TemporaryDirectory() as folder:
        context = pathlib.Path(folder)
        (context / "pause.c").write_text(PAUSE_SOURCE)
        (context / "Containerfile").write_text(PAUSE_RECIPE)
        shell.run("gcc", "-Os", "-static", "-o", context / "pause", context / "pause.c")
        build.bud("localhost/anneal/pause:1", context / "Containerfile", context)
    build.push_as("localhost/anneal/pause:1", settings.PAUSE)


def wanted() -> list[str]:
    """What a node should hold: of each image the current one, else at least its heavy layer of dependencies."""
    found = [settings.PAUSE, f"{settings.REGISTRY}/anneal/base:{catalogue.base_key(None)}"]
    for image in catalogue.IMAGES:
        names = (catalogue.local_reference(image), catalogue.local_deps_reference(image))
        found += [name for name in names if registry.has(name)][:1]
    return found


def seed() -> None:
    """Bring the seed up to date; a second when it is."""
    stamp = settings.SEED / ".images"
    references = wanted()
    if stamp.exists() and stamp.read_text().split() == references:
        return
    run = settings.RUN / "seed"
    with shell.step(
        f"unpacking images for the nodes: {', '.join(name.rpartition('/')[2] for name in references)}"
    ):
        stamp.unlink(missing_ok=True)
        containerd.start("seed", settings.SEED, run, run / "cni")
        containerd.pull(run / "containerd.sock", references)
        containerd.prune(run / "containerd.sock", references)
        processes.stop("seed")
    stamp.write_text("\n".join(references))


def clone(node: settings.Node) -> None:
    """Give a node that has no images yet the seed's."""
    if node.containerd.exists():
        return
    node.containerd.parent.mkdir(parents=True, exist_ok=True)
    try:
        shell.run("cp", "-al", settings.SEED, node.containerd)
    except shell.CommandError:  # the cache is on another disk
        shutil.rmtree(node.containerd, ignore_errors=True)
        shell.run("cp", "-a", settings.SEED, node.containerd)
    for database in settings.SEED.rglob("*.db"):
        copy = node.containerd / database.relative_to(settings.SEED)
        copy.unlink()
        shutil.copy2(database, copy)


def load(nodes: list[settings.Node]) -> None:
    """Bring running nodes up to date: after a change of code this is one small layer each."""
    references = wanted()
    for node in nodes:
        with shell.step(f"{node.name}: images"):
            containerd.pull(node.socket, references)
