"""Builds and pushes the images with buildah.

Every step is skipped when its result is there: the base by its package list, the dependency layer by its lock files,
the image by its sources, the push by asking the registry.
"""

import functools
import os
import pathlib
import runpy
import shutil
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable

from images import catalogue

CACHE = pathlib.Path(
    os.environ.get("ANNEAL_CACHE")
    or pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache") / "anneal"
)


def timed(what: str, action: Callable[[], None]) -> None:
    """Say what starts and how long it took, beside the standard output, which is for references."""
    started = time.monotonic()
    print(f"{what} ...", file=sys.stderr, flush=True)
    action()
    print(f"{what}: {time.monotonic() - started:.0f}s", file=sys.stderr, flush=True)


def run(*command: str | pathlib.Path) -> None:
    """Run a command; what it says is progress."""
    subprocess.run([str(part) for part in command], check=True, cwd=catalogue.ROOT, stdout=sys.stderr)


def exists(name: str) -> bool:
    """Whether buildah's own storage has the image."""
    command = ["buildah", "inspect", "--type", "image", name]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def pushed(reference: str) -> bool:
    """Whether the local registry has the reference. Other registries are left to buildah, which knows credentials."""
    registry, _, rest = reference.partition("/")
    if not reference.startswith(catalogue.LOCAL_REGISTRY):
        return False
    repository, _, tag = rest.rpartition(":")
    request = urllib.request.Request(f"http://{registry}/v2/{repository}/manifests/{tag}", method="HEAD")
    request.add_header("Accept", "application/vnd.oci.image.manifest.v1+json")
    try:
        return bool(urllib.request.urlopen(request, timeout=5).status == 200)
    except (urllib.error.URLError, TimeoutError):
        return False


def mounts(certificates: str = "ro") -> list[str]:
    """What a build may read of this machine: the certificates it trusts, and uv's downloads. Never copied.

    With `certificates` "O" the build may add to those as well, and what it adds is thrown away.
    """
    downloads = pathlib.Path(os.environ.get("UV_CACHE_DIR") or CACHE.parent / "uv")
    downloads.mkdir(parents=True, exist_ok=True)
    return ["--volume", f"/etc/ssl/certs:/etc/ssl/certs:{certificates}", "--volume", f"{downloads}:/mnt"]


def go_root() -> str:
    """Return where this machine's Go is, whose compiler the sandbox of Go has."""
    found = subprocess.run(["go", "env", "GOROOT"], capture_output=True, text=True, check=True)
    return found.stdout.strip()


def bud(name: str, containerfile: pathlib.Path, context: pathlib.Path, *options: str) -> None:
    """One buildah build. chroot isolation works where a nested runc would not."""
    run(
        *("buildah", "bud", "--quiet", "--isolation", "chroot", "--network", "host"),
        *("--ignorefile", catalogue.ROOT / "images/containerignore"),
        *options,
        *("--file", containerfile, "--tag", name, context),
    )


def local_base() -> str:
    """A Debian with Python, for machines that reach Debian's mirror but no image registry."""
    key = catalogue.base_key(None)
    name = f"localhost/anneal/base:{key}"
    if not exists(name):
        context = CACHE / f"base-{key}"
        shutil.rmtree(context, ignore_errors=True)
        timed("base: debootstrap", lambda: debootstrap(context / "rootfs"))
        timed("base: image", lambda: bud(name, catalogue.ROOT / "images/base.Containerfile", context))
        shutil.rmtree(context)
    return name


def debootstrap(rootfs: pathlib.Path) -> None:
    """Minimal variant; documentation, downloaded packages and caches are dropped."""
    rootfs.parent.mkdir(parents=True)
    log = rootfs.parent / "debootstrap.log"
    with log.open("w") as output:
        packages = f"--include={','.join(catalogue.BASE_PACKAGES)}"
        command = ["debootstrap", "--variant=minbase", packages, "bookworm", str(rootfs)]
        subprocess.run(command, check=True, stdout=output, stderr=subprocess.STDOUT)
    for folder in (
        "var/cache/apt",
        "var/lib/apt/lists",
        "usr/share/doc",
        "usr/share/man",
        "usr/share/locale",
    ):
        shutil.rmtree(rootfs / folder, ignore_errors=True)


def build_deps(image: catalogue.Image, base: str | None) -> str:
    """The dependency layer; returns its name."""
    name = f"localhost/anneal/{image.name}-deps:{catalogue.deps_key(image, base)}"
    if not exists(name):
        below = build_deps(image.parent, base) if image.parent else base or local_base()
        # Java's package makes a store of its own of the certificates, beside them.
        volumes = mounts("O" if image.language == "java" else "ro")
        options = ["--target", "deps", "--build-arg", f"BASE={below}", *volumes]
        options += ["--build-arg", f"LANGUAGE={image.language}"] if image.language else []
        options += ["--volume", f"{go_root()}:/usr/local/go:ro"] if image.language == "go" else []
        timed(f"{image.name}: dependencies", lambda: bud(name, image.containerfile, catalogue.ROOT, *options))
        forget(image, name)
    return name


def forget(image: catalogue.Image, newest: str) -> None:
    """Remove an image's builds from buildah's own storage, but for the newest dependencies: gigabytes each.

    What the local cluster holds of them stays with it, and layers that another image is made of stay too.
    """
    listed = ["buildah", "images", "--format", "{{.Name}}:{{.Tag}}"]
    names = subprocess.run(listed, check=True, capture_output=True, text=True).stdout.split()
    own = (f"localhost/anneal/{image.name}:", f"localhost/anneal/{image.name}-deps:")
    if old := [name for name in names if name.startswith(own) and name != newest]:
        run("buildah", "rmi", *old)


def build(image: catalogue.Image, base: str | None) -> str:
    """The whole image; returns its tag. Sources that changed meanwhile would make the tag a lie: build again."""
    while True:
        tag = catalogue.tag(image, base)
        if exists(local_name(image, tag)):
            return tag
        timed(f"{image.name}: code", functools.partial(build_code, image, tag, build_deps(image, base)))
        if catalogue.tag(image, base) != tag:
            run("buildah", "rmi", local_name(image, tag))


def local_name(image: catalogue.Image, tag: str) -> str:
    """What buildah's own storage calls an image."""
    return f"localhost/anneal/{image.name}:{tag}"


def build_code(image: catalogue.Image, tag: str, deps: str) -> None:
    """The thin layer on top of the dependencies, from the second stage of the Containerfile."""
    recipe = CACHE / f"{image.name}.Containerfile"
    recipe.write_text(
        f"ARG DEPS\n{catalogue.SPLIT}{image.containerfile.read_text().split(catalogue.SPLIT)[1]}"
    )
    told = {"DEPS": deps, "VERSION": version(), "REVISION": revision()}
    options = [word for name, value in told.items() for word in ("--build-arg", f"{name}={value}")]
    bud(local_name(image, tag), recipe, catalogue.ROOT, *options, "--pull-never")


def version() -> str:
    """Anneal's, as its packages have it."""
    return str(runpy.run_path(str(catalogue.ROOT / "api/src/anneal_api/version.py"))["VERSION"])


def revision() -> str:
    """The commit, marked when the tree differs from it."""
    command = ["git", "-C", str(catalogue.ROOT), "describe", "--always", "--dirty"]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    return found.stdout.strip() or "dev"


def push(image: catalogue.Image, registry: str, base: str | None) -> str:
    """Build if needed and push; returns the reference."""
    reference = catalogue.reference(image, registry, base)
    if not pushed(reference):
        tag = build(image, base)
        reference = f"{registry}/{image.name}:{tag}"
        push_as(local_name(image, tag), reference)
    return reference


def push_deps(image: catalogue.Image) -> str:
    """Push the dependency layer to the local registry, whose nodes then hold what is heavy in advance."""
    reference = catalogue.local_deps_reference(image)
    if not pushed(reference):
        push_as(build_deps(image, None), reference)
    return reference


def push_as(name: str, reference: str) -> None:
    """Push a local image. Layers the registry has are not sent again."""
    local = reference.startswith(catalogue.LOCAL_REGISTRY)
    options = ["--tls-verify=false"] if local else []
    command = ["buildah", "push", "--quiet", *options, name, f"docker://{reference}"]
    timed(f"pushing {reference}", lambda: run(*command))
