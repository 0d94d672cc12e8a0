"""`python3 -m anneal_trainers quickstart-data --to URI`: three tasks from the standard library's own source.

describe    a function, to be described: the answer is the summary line of its docstring
implement   name, signature and docstring of a function, to be written
fill        a function with a gap of whole lines, to be filled in (worded as fill in the middle as an
            instruction is: see fim.py)

Rows name their module and carry it as `group`, so held-out rows are of held-out modules. The same
interpreter gives the same bytes.
"""

import argparse
import json
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path

from anneal_runtime.storage import join, resolve
from anneal_trainers.data import fim
from anneal_trainers.makers import python
from anneal_trainers.makers.python import Function

ROWS = 400
"""Rows of a task; chosen by hash among all functions that qualify."""
LINES = range(5, 26)
CHARACTERS = range(160, 900)
SUMMARY = range(20, 110)
PER_MODULE = 12
"""At most so many functions of one module, so that no module dominates."""


def main(arguments: list[str]) -> int:
    """Write the three files where the arguments say."""
    parser = argparse.ArgumentParser(prog="anneal_trainers quickstart-data", description=__doc__)
    parser.add_argument("--to", required=True, help="URI of a folder, such as pvc://claim/data")
    target = parser.parse_args(arguments).to
    functions = choose(library_functions())
    filesystem, folder = resolve(target)
    filesystem.makedirs(folder, exist_ok=True)
    for task, rows in tasks(functions).items():
        text = "".join(json.dumps(row) + "\n" for row in rows)
        _, path = resolve(join(target, f"{task}.jsonl"))
        filesystem.pipe_file(path, text.encode())
        print(f"{task}: {len(rows)} rows", file=sys.stderr)
    return 0


def library_functions() -> Iterator[Function]:
    """Yield every function of the standard library that qualifies."""
    root = Path(sysconfig.get_paths()["stdlib"])
    skipped = {"test", "tests", "idlelib", "lib2to3", "site-packages", "dist-packages", "turtledemo"}
    for path in sorted(root.rglob("*.py")):
        inner = path.relative_to(root)
        if not skipped & set(inner.parts):
            module = ".".join(inner.with_suffix("").parts).removesuffix(".__init__")
            yield from functions_of(module, path.read_text(errors="replace"))


def functions_of(module: str, source: str) -> Iterator[Function]:
    """Yield the functions of one module's source that have a docstring and are of moderate length."""
    yield from filter(_qualifies, python.functions(module, source))


def choose(functions: Iterator[Function]) -> list[Function]:
    """Return at most ROWS functions in the order of their hash, few of one module, none twice."""
    chosen: dict[str, Function] = {}
    per_module: dict[str, int] = {}
    for function in sorted(functions, key=lambda f: f.digest):
        if per_module.get(function.path, 0) < PER_MODULE and function.source not in chosen:
            chosen[function.source] = function
            per_module[function.path] = per_module.get(function.path, 0) + 1
    return list(chosen.values())[:ROWS]


def tasks(functions: list[Function]) -> dict[str, list[dict[str, str]]]:
    """Return the rows of the three tasks."""
    return {
        "describe": [_row(f, _describe(f), f.summary) for f in functions],
        "implement": [_row(f, _implement(f), f.source) for f in functions],
        "fill": [_row(f, *_fill(f)) for f in functions],
    }


def _row(function: Function, instruction: str, output: str) -> dict[str, str]:
    return {"instruction": instruction, "output": output, "group": function.path}


def _describe(function: Function) -> str:
    return f"Write the docstring of this function of the module {function.path}.\n\n{function.source}"


def _implement(function: Function) -> str:
    return (
        f"Write this function of the module {function.path}. It shall: {function.summary}\n\n"
        f"{function.signature}"
    )


def _fill(function: Function) -> tuple[str, str]:
    lines = function.body.splitlines()
    seed = int.from_bytes(function.digest)
    size = 1 + seed % max(1, min(4, len(lines) - 1))
    starts = [n for n, line in enumerate(lines[: len(lines) - size + 1]) if line.strip()]
    start = starts[(seed >> 16) % len(starts)]
    before = "".join(f"{line}\n" for line in [function.signature, *lines[:start]])
    after = "".join(f"\n{line}" for line in lines[start + size :])
    instruction = fim.request(before, after, f"function of the module {function.path}")
    return instruction, "\n".join(lines[start : start + size])


def _qualifies(function: Function) -> bool:
    return (
        function.signature.endswith(":")
        and len(function.body.splitlines()) + 1 in LINES
        and len(function.source) in CHARACTERS
        and len(function.summary) in SUMMARY
        and function.source.isascii()
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
