"""What an image is made of, and the names that follow from it.

A tag is a hash of the image's inputs, so a name that exists is up to date, nothing is built twice, and a running
pod's image tells exactly which code it runs.
"""

import hashlib
import os
import pathlib
from collections.abc import Iterable
from dataclasses import dataclass

ROOT = pathlib.Path(__file__).resolve().parent.parent
LOCAL_REGISTRY = "10.77.0.1:5000/anneal"
REGISTRY = os.environ.get("REGISTRY", LOCAL_REGISTRY)
BASE_PACKAGES = ("python3", "python3-venv", "libpython3.11", "ca-certificates")
SPLIT = "FROM ${DEPS}"


@dataclass(frozen=True)
class Image:
    """One image: the requirement files of its dependency layer, the packages of its code layer."""

    name: str
    requirements: tuple[str, ...]
    packages: tuple[str, ...]
    parent: "Image | None" = None
    """The image whose dependency layer this one's stands on, instead of the base."""
    language: str = ""
    """Of a sandbox: whose toolchain it has, instead of requirements."""

    @property
    def containerfile(self) -> pathlib.Path:
        return ROOT / "images" / f"{'sandbox' if self.language else self.name}.Containerfile"


TRAINERS = Image("trainers", ("trainers",), ("api", "runtime", "evaluation", "trainers", "serving"))
IMAGES = (
    Image("operator", ("operator",), ("api", "operator")),
    TRAINERS,
    Image("samples", ("models",), ("api", "runtime", "trainers"), parent=TRAINERS),
    Image("serving", ("serving", "triton"), ("api", "runtime", "evaluation", "serving")),
)
SANDBOXES = tuple(
    Image(f"sandbox-{language}", (), ("runtime", "evaluation"), language=language)
    for language in ("python", "javascript", "cpp", "java", "go")
)
"""Built where they are named: a cluster needs those of the languages that its suites have."""


def digest(parts: Iterable[str | bytes]) -> str:
    """Twelve hex digits over length-prefixed parts, so that moved bytes cannot collide."""
    state = hashlib.sha256()
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        state.update(len(data).to_bytes(8, "big") + data)
    return state.hexdigest()[:12]


def base_key(base: str | None) -> str:
    """A public base is keyed by its name; the local one by what debootstrap is asked for."""
    if base:
        return digest(["public", base])
    return digest([*BASE_PACKAGES, (ROOT / "images/base.Containerfile").read_bytes()])


def deps_key(image: Image, base: str | None = None) -> str:
    """What the dependency layer depends on: base, locked requirements, and how they are installed."""
    if image.language:
        names = ["images/install-toolchain", "evaluation/src/anneal_evaluation/golang.py"]
    else:
        names = [f"requirements/{name}.txt" for name in ("uv", *image.requirements)]
        names += ["images/install-requirements"]
    names += ["images/install-triton"] if "triton" in image.requirements else []
    recipe = image.containerfile.read_text().split(SPLIT)[0]
    below = deps_key(image.parent, base) if image.parent else base_key(base)
    return digest(
        [
            below,
            recipe,
            *([image.language] if image.language else []),
            *((ROOT / name).read_bytes() for name in names),
        ]
    )


def sources(image: Image) -> list[pathlib.Path]:
    """Every file of the code layer, in a fixed order."""
    found: list[pathlib.Path] = []
    for package in image.packages:
        folder = ROOT / package / "src"
        found += [path for path in folder.rglob("*") if path.is_file() and not ignored(path)]
    return sorted(found)


def ignored(path: pathlib.Path) -> bool:
    """The same rule as images/containerignore."""
    return "__pycache__" in path.parts or path.suffix == ".pyc"


def tag(image: Image, base: str | None = None) -> str:
    """The tag of the whole image."""
    recipe = image.containerfile.read_text().split(SPLIT)[1]
    parts: list[str | bytes] = [deps_key(image, base), recipe]
    for path in sources(image):
        parts += [str(path.relative_to(ROOT)), path.read_bytes()]
    return digest(parts)


def reference(image: Image, registry: str = REGISTRY, base: str | None = None) -> str:
    """The full name a pod would use."""
    return f"{registry}/{image.name}:{tag(image, base)}"


def local_reference(image: Image) -> str:
    """The image's name in the local cluster's registry."""
    return reference(image, LOCAL_REGISTRY)


def local_deps_reference(image: Image) -> str:
    """The dependency layer's name there: nodes hold it before any code exists."""
    return f"{LOCAL_REGISTRY}/{image.name}-deps:{deps_key(image)}"


def references(registry: str = REGISTRY, base: str | None = None) -> dict[str, str]:
    """Name to full reference, of every image."""
    return {image.name: reference(image, registry, base) for image in IMAGES}
