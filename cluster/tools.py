"""The Go binaries: built once from pinned modules, kept in the cache by the hash of their lock file."""

import hashlib
import json
import os
import pathlib
import shutil

from cluster import settings, shell

MODULES = settings.ROOT / "cluster" / "tools"
KUBERNETES_VERSION = "1.34.4"
# Which module a binary comes from. etcd's package is called server, so its binary is renamed.
BINARIES = {
    "kube-apiserver": "kubernetes",
    "kube-controller-manager": "kubernetes",
    "kube-scheduler": "kubernetes",
    "kube-proxy": "kubernetes",
    "kubelet": "kubernetes",
    "kubectl": "kubernetes",
    "etcd": "kubernetes",
    "registry": "registry",
    "coredns": "coredns",
    "local-path-provisioner": "local-path-provisioner",
    "helm": "helm",
    "versitygw": "versitygw",
    "trainer-controller-manager": "trainer",
    "jobset": "trainer",
}
# What the cluster needs; in this order: what takes longest first. `trainer` is a benchmark's peer, `versitygw` a test's S3 server.
ORDER = ("kubernetes", "coredns", "helm", "registry", "local-path-provisioner")


def folder(module: str) -> pathlib.Path:
    """Where a module's binaries are kept."""
    source = MODULES / module
    key = hashlib.sha256((source / "go.mod").read_bytes() + (source / "go.sum").read_bytes()).hexdigest()[:12]
    return settings.CACHE / "tools" / f"{module}-{key}"


def binary(name: str) -> pathlib.Path:
    """The path of a built binary."""
    return folder(BINARIES[name]) / name


def linker_flags(module: str) -> str:
    """Strip; and tell Kubernetes its version, without which it says v0.0.0-master and Helm refuses charts."""
    if module != "kubernetes":
        return "-s -w"
    major, minor, _ = KUBERNETES_VERSION.split(".")
    prefix = "-X k8s.io/component-base/version."
    return f"-s -w {prefix}gitVersion=v{KUBERNETES_VERSION} {prefix}gitMajor={major} {prefix}gitMinor={minor}"


def build(module: str) -> None:
    """Build one module's tools, atomically: a killed build leaves nothing that looks finished."""
    if not shutil.which("go"):
        raise SystemExit("the local cluster's tools are built with Go 1.24 or later: please install it")
    target, partial = folder(module), folder(module).with_suffix(f".{os.getpid()}")
    env = {
        **os.environ,
        "CGO_ENABLED": "0",
        "GOFLAGS": "-buildvcs=false -mod=readonly",
        "GOBIN": str(partial),
    }
    with shell.step(f"building {module} (the first time this takes minutes)"):
        command = (
            "go",
            "-C",
            MODULES / module,
            "install",
            "-trimpath",
            "-ldflags",
            linker_flags(module),
            "tool",
        )
        shell.run(*command, env=env)
    if (partial / "server").exists():
        (partial / "server").rename(partial / "etcd")
    shutil.rmtree(target, ignore_errors=True)
    partial.rename(target)


def need(*modules: str) -> None:
    """Build those of the modules that are missing."""
    for module in modules:
        if not folder(module).is_dir():
            build(module)


def source(module: str, dependency: str) -> pathlib.Path:
    """Return the folder of a dependency's source, of the pinned version, fetched if need be: manifests lie beside the code."""
    told = shell.run("go", "-C", MODULES / module, "mod", "download", "-json", dependency)
    return pathlib.Path(json.loads(told)["Dir"])


def ensure() -> None:
    """Build what is missing and link everything into one folder for people's PATH."""
    need(*ORDER)
    links = settings.CACHE / "bin"
    links.mkdir(parents=True, exist_ok=True)
    for name in (name for name, module in BINARIES.items() if module in ORDER):
        (links / f".{name}").unlink(missing_ok=True)
        (links / f".{name}").symlink_to(binary(name))
        (links / f".{name}").rename(links / name)


def kubectl(*arguments: object, text: str | None = None) -> str:
    """kubectl as the cluster's administrator."""
    return shell.run(binary("kubectl"), "--kubeconfig", settings.KUBECONFIG, *arguments, text=text)
