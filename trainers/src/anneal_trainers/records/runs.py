"""What lies in a run's working folder, whose place `anneal_api.runs` says."""

import contextlib
import re
from collections.abc import Iterator

from anneal_runtime.errors import TryAgain
from anneal_runtime.storage import resolve


def attempts(runs: str) -> list[int]:
    """Return the attempts that have written something, in order."""
    names = names_in(runs)
    return sorted(int(name.removeprefix("attempt-")) for name in names if re.fullmatch(r"attempt-\d+", name))


def names_in(uri: str) -> list[str]:
    """Return the names of what lies in a folder, hidden ones too; none where there is no folder.

    Raises:
        TryAgain: the storage fails. Asking whether there is a folder would say no then.
    """
    filesystem, path = resolve(uri)
    with storage_away(uri):
        try:
            found = [str(name).strip("/") for name in filesystem.ls(path, detail=False)]
        except (FileNotFoundError, NotADirectoryError):
            return []
    # A file lists itself, and so does the mark that makes a folder of a store of objects.
    return [name.rsplit("/", 1)[-1] for name in found if name != path.strip("/")]


@contextlib.contextmanager
def storage_away(uri: str, work: str = "read") -> Iterator[None]:
    """Tell an error of the storage at `uri` as one that may be over at the next attempt."""
    try:
        yield
    except OSError as error:
        raise TryAgain("StorageAway", f"{uri} cannot be {work}: {error}") from error
