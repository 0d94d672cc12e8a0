"""The report of a data set, as preparing one wrote it, in a real browser."""

from pathlib import Path
from typing import Any

import pytest
from browser import WIDTHS, opened

from anneal_trainers import prepare
from anneal_trainers.corpus import near
from anneal_trainers.tuned import dataset_folder

pytestmark = [pytest.mark.slow, pytest.mark.full]
HOSTILE = '"""<script>console.error(1)</script><img src=http://127.0.0.1:9/x.png> someone@company.org"""\n'


@pytest.fixture
def page(make_run: Any, tmp_path: Path) -> str:
    """A page with everything on it: rows left out, redacted, duplicates, a problem's function, samples."""
    folder = tmp_path / "code" / "a-folder-with-a-name-that-is-long-and-has-no-place-to-break_" / "within"
    folder.mkdir(parents=True)
    good = Path(near.__file__).read_text()
    for name, text in {
        "good.py": good,
        "copy.py": good,
        "mail.py": HOSTILE + good,
        "short.py": "x = 1\n",
    }.items():
        (folder / name).write_text(text)
    data = {
        "maxLength": 512,
        "overLength": "truncate",
        "dedup": "exact",
        "split": {"train": 100, "validation": 0, "test": 0},
        "filters": {"enabled": True, "personalData": "redact"},
        "decontaminate": ["humaneval"],
    }
    source = {"uri": f"file://{tmp_path}/code", "format": "code"}
    run = make_run(tasks=[{"name": "code", "data": source}], data=data)
    prepare.prepare(run)
    return (dataset_folder(run) / "report.html").read_text()


def test_it_opens_without_a_word_or_a_request_and_fits(page: str, tmp_path: Path) -> None:
    assert all(part in page for part in ("&lt;script&gt;", "Duplicates", "Contamination", "Redacted"))
    for device, width in WIDTHS.items():
        seen = opened(page, width, tmp_path)
        assert (seen.console, seen.addresses) == ([], set())
        assert seen.needed <= seen.width == width, device
        bars = seen.picture[..., 2] - seen.picture[..., 0] > 50
        assert bars.sum() > 1000
