"""Artifacts appear whole or not at all, are named by content, and are verified when opened."""

from pathlib import Path

import pytest

from anneal_api.artifacts import Producer
from anneal_runtime import artifacts
from anneal_runtime.errors import Refused


@pytest.fixture
def store(tmp_path: Path) -> str:
    return f"file://{tmp_path}/store"


def publish(store: str, text: str = "weights") -> artifacts.Publication:
    with artifacts.publishing(
        store, "team", "adapter", "k1", producer=Producer(), inputs={"base": "d"}
    ) as made:
        (made.folder / "sub").mkdir()
        (made.folder / "sub" / "w.bin").write_text(text)
        made.metadata["step"] = 3
    return made


def test_what_is_published_can_be_opened(store: str, tmp_path: Path) -> None:
    ref = publish(store).published
    folder, manifest = artifacts.open_artifact(ref.uri, tmp_path / "cache")
    assert (folder / "sub" / "w.bin").read_text() == "weights"
    assert (manifest.digest, manifest.metadata, manifest.inputs) == (ref.digest, {"step": 3}, {"base": "d"})
    assert artifacts.identity(ref.uri) == ref.digest


def test_an_error_publishes_nothing_and_leaves_nothing(store: str, tmp_path: Path) -> None:
    with (
        pytest.raises(OSError),
        artifacts.publishing(store, "team", "adapter", "k1", producer=Producer(), inputs={}) as made,
    ):
        (made.folder / "w.bin").write_text("half")
        raise OSError("disk full")
    assert artifacts.reference(artifacts.uri_of(store, "team", "adapter", "k1")) is None
    assert [p for p in (tmp_path / "store").rglob("*") if p.is_file()] == []


def test_the_first_of_two_producers_wins(store: str) -> None:
    first, second = publish(store, "first"), publish(store, "second")
    assert first.ref == second.ref


def test_two_producers_at_the_same_moment_leave_one_whole_copy(store: str) -> None:
    producer = Producer()
    with artifacts.publishing(store, "team", "adapter", "k1", producer=producer, inputs={}) as slow:
        (slow.folder / "w.bin").write_text("slow")
        quick = publish(store, "quick")
    assert slow.ref == quick.ref


@pytest.mark.parametrize("damage", ["weightz", "w", None])
def test_damage_is_seen_when_opened(store: str, tmp_path: Path, damage: str | None) -> None:
    uri = publish(store).published.uri
    path = Path(uri.removeprefix("file://")) / "sub" / "w.bin"
    path.unlink() if damage is None else path.write_text(damage)
    with pytest.raises(Refused, match=r"sub/w\.bin"):
        artifacts.open_artifact(uri, tmp_path)


def test_a_users_files_are_never_replaced(store: str, tmp_path: Path) -> None:
    own = tmp_path / "store" / "team" / "adapter" / "k1"
    own.mkdir(parents=True)
    (own / "precious").write_text("mine")
    with pytest.raises(Refused, match="did not publish"):
        publish(store)
    assert (own / "precious").read_text() == "mine"


def test_identity_of_a_plain_folder_follows_names_and_contents(tmp_path: Path) -> None:
    for name, text in (("a", "1"), ("b", "1"), ("c", "2")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "x.json").write_text(text)
    a, b, c = (artifacts.identity(f"file://{tmp_path}/{n}") for n in "abc")
    assert a == b != c
    (tmp_path / "b" / "x.json").rename(tmp_path / "b" / "y.json")
    assert artifacts.identity(f"file://{tmp_path}/b") != a


def test_only_weights_may_change_in_the_middle_unseen(tmp_path: Path) -> None:
    large = tmp_path / "rows.jsonl"
    with large.open("wb") as stream:
        stream.truncate(80 << 20)
    whole, sampled = (artifacts.identity(f"file://{large}", sampled=how) for how in (False, True))
    with large.open("r+b") as stream:
        stream.seek(40 << 20)
        stream.write(b"x")
    assert artifacts.identity(f"file://{large}") != whole
    assert artifacts.identity(f"file://{large}", sampled=True) == sampled


def test_what_git_keeps_beside_the_files_is_no_part_of_a_checkout(tmp_path: Path) -> None:
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "a.py").write_text("x = 1")
    plain = artifacts.identity(f"file://{tmp_path}")
    (tmp_path / ".git" / "objects").mkdir(parents=True)
    (tmp_path / ".git" / "objects" / "pack").write_text("changes with every fetch")
    (tmp_path / "src" / ".cache").write_text("x")
    assert artifacts.identity(f"file://{tmp_path}") == plain
    (tmp_path / "src" / "b.py").write_text("y = 1")
    assert artifacts.identity(f"file://{tmp_path}") != plain


def test_identity_of_nothing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Refused, match="does not exist"):
        artifacts.identity(f"file://{tmp_path}/nowhere")
