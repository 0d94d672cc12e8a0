"""Figures of a benchmark: printed as a table, written as JSON, and docs/benchmarks.md made from all of them.

bench/results/NAME.json is a list of {figure, value, unit, peer, target, met, machine, commit, date}.
"""

import datetime
import json
import os
import platform
import subprocess
from dataclasses import asdict, dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "bench" / "results"
PAGE = ROOT / "docs" / "benchmarks.md"


@dataclass(frozen=True)
class Figure:
    """One measured figure; `met` is None where there is no target."""

    figure: str
    value: float
    unit: str
    peer: str = ""
    target: str = ""
    met: bool | None = None


def machine() -> str:
    """Return what the figures were measured on."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    model = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), "")
    return f"{os.cpu_count()} cores, {model or platform.machine()}"


def commit() -> str:
    """Return the commit, marked when the tree differs from it; figures recorded before this one are no difference."""
    own = [f":(exclude){path.relative_to(ROOT)}" for path in (RESULTS, PAGE)]
    changed = git("status", "--porcelain", "--untracked-files=no", "--", ".", *own)
    return git("describe", "--always") + ("-dirty" if changed else "")


def git(*arguments: str) -> str:
    """Return what git prints of the checkout."""
    command = ["git", "-C", str(ROOT), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def record(name: str, figures: list[Figure]) -> None:
    """Print the figures, write them to bench/results/NAME.json, and make docs/benchmarks.md again."""
    where = {
        "machine": machine(),
        "commit": commit(),
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
    }
    rows = [{**asdict(figure), **where} for figure in figures]
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{name}.json").write_text(json.dumps(rows, indent=1) + "\n")
    print("\n".join(table(rows)))
    PAGE.write_text(page())


def page() -> str:
    """Return docs/benchmarks.md: a section a result file."""
    parts = [
        "# Benchmarks\n\nMade from bench/results by the benchmarks themselves; `make bench-NAME` runs one.\n"
    ]
    for path in sorted(RESULTS.glob("*.json")):
        rows = json.loads(path.read_text())
        place = f"{rows[0]['date']}, commit {rows[0]['commit']}, {rows[0]['machine']}"
        parts.append(f"\n## {path.stem}\n\n{place}\n\n" + "\n".join(table(rows)) + "\n")
    return "".join(parts)


def table(rows: list[dict[str, object]]) -> list[str]:
    """Return rows as a Markdown table."""
    head = ["| figure | value | unit | peer | target | met |", "|---|---|---|---|---|---|"]
    met = {True: "yes", False: "no", None: ""}
    return head + [
        f"| {r['figure']} | {r['value']:.4g} | {r['unit']} | {r['peer']} | {r['target']} | {met[r['met']]} |"  # type: ignore[index]
        for r in rows
    ]
