"""`python3 -m anneal_trainers make-rows MAKER --from URI --to URI`: rows for a task, made of a folder of source code.

docstrings    a function from its docstring, and its docstring from the function
exercises     a function from its summary, signature and examples
repairs       a function from itself with a defect
verdicts      whether a function has a defect
renamed       files with other local names
translations  a file from its parallel in another language
code-io       what a call returns, or a call that returns it; found by running the function
unit-tests    a test that a function passes and one with a defect does not; found by running both
in-context    a file after those it imports, for fill in the middle
scored        files as they are

Rows have a `group`, so that what belongs together is in one part of the split, and a `difficulty` by the syntax tree for
stages with a curriculum. All but translations are made of Python. The same files give the same bytes.
"""

import argparse
import json
import sys
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from tqdm import tqdm

from anneal_api.finetunejob import Data, Task
from anneal_runtime.errors import Refused
from anneal_runtime.storage import resolve
from anneal_trainers.data import sources
from anneal_trainers.data.formats import Row
from anneal_trainers.makers import defects, executed, pairs, python, renaming, repository, translations

Maker = Callable[[Iterable[Row]], Iterator[dict[str, Any]]]


def scored(documents: Iterable[Row]) -> Iterator[dict[str, Any]]:
    """Yield every document with how difficult it is, those of other languages than Python without."""
    for row in documents:
        yield {
            "text": row.text,
            "path": row.path,
            "language": row.language,
            **python.rated(row.text, row.language),
        }


MAKERS: dict[str, Maker] = {
    "docstrings": pairs.docstrings,
    "exercises": pairs.exercises,
    "repairs": defects.repairs,
    "verdicts": defects.verdicts,
    "renamed": renaming.renamed,
    "translations": translations.translations,
    "code-io": executed.code_io,
    "unit-tests": executed.unit_tests,
    "in-context": repository.in_context,
    "scored": scored,
}


def main(arguments: list[str]) -> int:
    """Write the rows where the arguments say."""
    parser = argparse.ArgumentParser(
        prog="anneal_trainers make-rows",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("maker", choices=sorted(MAKERS))
    parser.add_argument("--from", dest="source", required=True, help="URI of a folder of source code")
    parser.add_argument("--to", required=True, help="URI of the .jsonl file to write")
    given = parser.parse_args(arguments)
    count = written(given.to, MAKERS[given.maker](documents(given.source)))
    print(f"{given.maker}: {count} rows", file=sys.stderr)
    return 0


def documents(uri: str) -> Iterator[Row]:
    """Yield the files of source code in a folder."""
    task = Task.model_validate({"name": "code", "data": {"uri": uri, "format": "code"}})
    yield from (found.row for found in sources.found(task, Data()) if found.row)


def written(uri: str, rows: Iterable[dict[str, Any]]) -> int:
    """Write rows to a file that appears whole; return how many.

    Raises:
        Refused: there are none, or the name does not say JSON lines.
    """
    if not uri.endswith(".jsonl"):
        raise Refused("InvalidUri", f"--to: {uri} does not end in .jsonl; name a file of JSON lines")
    filesystem, path = resolve(uri)
    filesystem.makedirs(path.rsplit("/", 1)[0], exist_ok=True)
    count = 0
    with filesystem.open(f"{path}.partial", "wb") as stream:
        for row in tqdm(rows, unit=" rows", disable=None):
            stream.write(json.dumps(row).encode() + b"\n")
            count += 1
    if not count:
        filesystem.rm_file(f"{path}.partial")
        raise Refused(
            "NoRows",
            "--from: nothing there is of use for this maker; name a folder of documented source code",
        )
    filesystem.mv(f"{path}.partial", path)
    return count
