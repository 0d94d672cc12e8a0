"""A file stands after what it imports, and what is connected is one group; parallel files are found by their places."""

import pytest

from anneal_trainers.data.formats import Row
from anneal_trainers.makers import repository
from anneal_trainers.makers.translations import place, translations

FILES = {
    "src/pkg/__init__.py": "",
    "src/pkg/base.py": "LIMIT = 3\n",
    "src/pkg/tools.py": "from pkg import base\n\ndef tool():\n    return base.LIMIT\n",
    "src/pkg/use.py": "from .tools import tool\nimport os\n\nprint(tool())\n",
    "tests/test_use.py": "import pkg.use\n",
    "lone.py": "import os, pkg\n",
    "elsewhere/os.py": "",
    "loop/a.py": "import loop.b\n",
    "loop/b.py": "import loop.a\n",
}


def rows(files: dict[str, str]) -> dict[str, dict]:
    documents = [Row((), text, path=path, language="python") for path, text in files.items()]
    return {row["path"]: row for row in repository.in_context(documents)}


def test_dependencies_come_first_each_under_its_path() -> None:
    found = rows(FILES)
    assert set(found) == {
        "src/pkg/tools.py",
        "src/pkg/use.py",
        "tests/test_use.py",
        "lone.py",
        "loop/a.py",
        "loop/b.py",
    }
    text = found["src/pkg/use.py"]["text"]
    order = [line[2:] for line in text.splitlines() if line.startswith("# ")]
    assert order == ["src/pkg/__init__.py", "src/pkg/base.py", "src/pkg/tools.py", "src/pkg/use.py"]
    assert text.endswith(FILES["src/pkg/use.py"])


def test_files_that_depend_on_each_other_are_one_group() -> None:
    groups = {path: row["group"] for path, row in rows(FILES).items()}
    assert groups["src/pkg/tools.py"] == groups["src/pkg/use.py"] == groups["tests/test_use.py"]
    assert groups["loop/a.py"] == groups["loop/b.py"] == "loop/a.py"
    assert len(set(groups.values())) == 2


def test_the_farthest_are_left_out_where_there_is_no_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(repository, "CHARACTERS", len(FILES["src/pkg/tools.py"]) + 2)
    text = rows(FILES)["src/pkg/use.py"]["text"]
    assert text.startswith("# src/pkg/tools.py\n")
    assert "base.py" not in text


def test_the_order_of_files_changes_nothing() -> None:
    assert rows(FILES) == rows(dict(reversed(FILES.items())))


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("python/sorting/heap_sort.py", "go/sorting/heapsort.go", True),
        ("two-sum.py", "TwoSum.java", True),
        ("a/x.py", "b/x.go", False),
    ],
)
def test_parallel_files_stand_in_the_same_place(one: str, other: str, same: bool) -> None:
    assert (place(one) == place(other)) is same


def test_parallel_files_are_translated_both_ways_and_stay_together() -> None:
    documents = [
        Row((), "print(1)", path="python/one.py", language="python"),
        Row((), "fmt.Println(1)", path="go/one.go", language="go"),
        Row((), "print(2)", path="python/two.py", language="python"),
    ]
    there, back = translations(documents)
    assert (there["instruction"], there["output"]) == (
        "Translate this program from go to python.\n\nfmt.Println(1)",
        "print(1)",
    )
    assert back["output"] == "fmt.Println(1)"
    assert there["group"] == back["group"] == "one"
    assert there["difficulty"] == back["difficulty"]
