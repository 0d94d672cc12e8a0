"""python3 -m images build|deps|push|refs [NAME...] [--registry HOST/PATH] [--base IMAGE]."""

import argparse

from images import build, catalogue

parser = argparse.ArgumentParser(prog="python3 -m images", description=__doc__)
parser.add_argument("action", choices=["build", "deps", "push", "refs"])
parser.add_argument("names", nargs="*", help="operator, trainers, serving; all when none is given")
parser.add_argument("--registry", default=catalogue.REGISTRY, help="where to push (also: REGISTRY)")
parser.add_argument("--base", help="a public base image instead of the one debootstrap makes here")
options = parser.parse_args()

for image in catalogue.IMAGES:
    if options.names and image.name not in options.names:
        continue
    if options.action == "deps":
        print(build.push_deps(image))
    elif options.action == "build":
        print(f"localhost/anneal/{image.name}:{build.build(image, options.base)}")
    elif options.action == "push":
        print(build.push(image, options.registry, options.base))
    else:
        print(catalogue.reference(image, options.registry, options.base))
