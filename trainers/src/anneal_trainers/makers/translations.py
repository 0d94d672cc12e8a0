"""Pairs across languages: files that are the same but for their language, by their place among parallel sources.

Two files are parallel when their paths are equal without suffix, case, `_` and `-`, and without folders that name a
language: python/sorting/heap_sort.py and go/sorting/heapsort.go.
"""

import itertools
from collections.abc import Iterable, Iterator
from typing import Any

from anneal_trainers.corpus import languages
from anneal_trainers.data.formats import Row
from anneal_trainers.makers import python

_FOLDERS = (
    languages.KNOWN
    | {suffix for suffixes in languages.SUFFIXES.values() for suffix in suffixes}
    | {"c++", "c#"}
)


def translations(documents: Iterable[Row]) -> Iterator[dict[str, Any]]:
    """Yield a row for every two parallel files and direction; all texts are held until the last one is read."""
    parallel: dict[str, dict[str, Row]] = {}
    for document in documents:
        parallel.setdefault(place(document.path), {}).setdefault(document.language, document)
    for key, found in sorted(parallel.items()):
        for source, target in itertools.permutations(sorted(found), 2):
            yield {
                "instruction": f"Translate this program from {source} to {target}.\n\n{found[source].text}",
                "output": found[target].text,
                "group": key,
                **(python.rated(found["python"].text) if "python" in (source, target) else {}),
            }


def place(path: str) -> str:
    """Return where a file stands among parallel sources."""
    *folders, name = path.lower().split("/")
    stem = name.rsplit(".", 1)[0].replace("_", "").replace("-", "")
    return "/".join([*(folder for folder in folders if folder not in _FOLDERS), stem])
