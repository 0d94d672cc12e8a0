"""python3 -m images build|deps|push|refs|sbom [NAME...] [--registry HOST/PATH] [--base IMAGE]."""

import argparse
import os
import subprocess

from images import build, catalogue, sbom

parser = argparse.ArgumentParser(prog="python3 -m images", description=__doc__)
parser.add_argument("action", choices=["build", "deps", "push", "refs", "sbom"])
parser.add_argument(
    "names",
    nargs="*",
    help="operator, trainers, samples, serving: these when none is given; sandbox-LANGUAGE",
)
parser.add_argument("--registry", default=catalogue.REGISTRY, help="where to push (also: REGISTRY)")
parser.add_argument(
    "--base",
    default=os.environ.get("BASE_IMAGE"),
    help="a public base image instead of the one debootstrap makes here (also: BASE_IMAGE)",
)
options = parser.parse_args()


def act(image: catalogue.Image) -> str:
    """Do to one image what was asked, and return its name."""
    if options.action == "deps":
        return build.push_deps(image)
    if options.action == "build":
        return build.local_name(image, build.build(image, options.base))
    if options.action == "push":
        return build.push(image, options.registry, options.base)
    if options.action == "sbom":
        return str(sbom.write(image, options.base))
    return catalogue.reference(image, options.registry, options.base)


for image in (*catalogue.IMAGES, *catalogue.SANDBOXES):
    if image.name in (options.names or [each.name for each in catalogue.IMAGES]):
        try:
            print(act(image), flush=True)
        except subprocess.CalledProcessError as error:
            raise SystemExit(f"{image.name}: {error.cmd[0]} {error.cmd[1]} failed: see above") from None
