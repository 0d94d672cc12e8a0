"""The report of a data set as one HTML page that needs nothing else: no script, no font, no network."""

import html
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

_STYLE = """
body{font:15px/1.5 system-ui,sans-serif;max-width:72rem;margin:2rem auto;padding:0 1rem;color:#1c2530;background:#fff}
h1{font-size:1.6rem}h2{font-size:1.2rem;margin-top:2.2rem;border-bottom:1px solid #d8dee6}h3{font-size:1rem}
table{border-collapse:collapse;margin:.6rem 0}td,th{padding:.15rem .8rem .15rem 0;text-align:left;vertical-align:top}
td.n{text-align:right;font-variant-numeric:tabular-nums}.bar{background:#4878b0;height:.8rem;min-width:1px}
.track{width:18rem}pre{background:#f4f6f8;padding:.6rem;white-space:pre-wrap;overflow-wrap:anywhere;margin:.2rem 0}
.pair{display:grid;grid-template-columns:1fr 1fr;gap:.6rem}.muted{color:#66717f}
h2,h3{overflow-wrap:anywhere}table{display:block;overflow-x:auto}
@media(max-width:40rem){.pair{grid-template-columns:1fr}.track{width:8rem}}
"""
_HITS_SHOWN = 200


def page(report: Mapping[str, Any]) -> str:
    """Return the page of a report, as `prepare` writes it to report.json."""
    tasks = report["tasks"]
    body = [
        "<h1>Data set</h1>",
        _summary(tasks),
        *(_task(task) for task in tasks),
        _duplicates(report["duplicates"]),
        _hits(report["hits"]),
        _samples(report["samples"]),
    ]
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width"><title>Data set</title>'
        f"<style>{_STYLE}</style></head><body>{''.join(body)}</body></html>\n"
    )


def _summary(tasks: Sequence[Mapping[str, Any]]) -> str:
    dropped: Counter[str] = Counter()
    for task in tasks:
        dropped.update(task["dropped"])
    rows = [
        (
            task["name"],
            task["read"],
            sum(task["units"].values()),
            sum(task["dropped"].values()),
            *(f"{task['rows'][part]:,} rows, {task['tokens'][part]:,} tokens" for part in task["rows"]),
        )
        for task in tasks
    ]
    parts = list(tasks[0]["rows"]) if tasks else []
    return (
        _table(("task", "rows in", "kept", "left out", *parts), rows)
        + "<h2>Left out, by reason</h2>"
        + _bars(dict(dropped.most_common()))
        + '<p class="muted">Every row that was left out is a line of dropped.jsonl: task, file, line, reason.</p>'
    )


def _task(task: Mapping[str, Any]) -> str:
    parts = [
        f"<h2>Task {_text(task['name'])}</h2>",
        _section("Left out, by reason", task["dropped"]),
        _section("Length in tokens, up to", task["lengths"]),
        _section("Redacted", task["personal"]),
    ]
    if task["languages"]:
        rows = [
            (name, told["read"], told["kept"], sum(told["dropped"].values()), _reasons(told["dropped"]))
            for name, told in task["languages"].items()
        ]
        head = ("language", "rows in", "kept", "left out", "by reason")
        parts.append("<h3>Languages</h3>" + _table(head, rows))
    return "".join(parts)


def _reasons(dropped: Mapping[str, int]) -> str:
    most = sorted(dropped.items(), key=lambda each: (-each[1], each[0]))
    return ", ".join(f"{reason} {count:,}" for reason, count in most)


def _duplicates(duplicates: Mapping[str, Any]) -> str:
    rows = [
        (f"{each['file']}:{each['line']}", each["task"], each["copies"]) for each in duplicates["largest"]
    ]
    if not rows:
        return ""
    return (
        f"<h2>Duplicates</h2><p>{duplicates['rows']:,} rows left for {duplicates['groups']:,} that stayed; the rows "
        "with the most:</p>" + _table(("row", "task", "duplicates left out"), rows)
    )


def _hits(hits: Sequence[Mapping[str, Any]]) -> str:
    if not hits:
        return ""
    rows = [
        (hit["task"], f"{hit['file']}:{hit['line']}", f"{hit['suite']} {hit['problem']}", _sign(hit))
        for hit in hits[:_HITS_SHOWN]
    ]
    more = f"<p>{len(hits) - _HITS_SHOWN:,} more in report.json.</p>" if len(hits) > _HITS_SHOWN else ""
    return "<h2>Contamination</h2>" + _table(("task", "row", "problem", "sign"), rows) + more


def _sign(hit: Mapping[str, Any]) -> str:
    if hit["shared"]:
        return f"left out: {hit['shared']}"
    return f"score {hit['score']:.2f}" if hit["score"] else f"defines {hit['defines']}"


def _samples(samples: Sequence[Mapping[str, Any]]) -> str:
    shown = "".join(
        f"<h3>{_text(each['what'])} <span class='muted'>{_text(each['task'])}, {_text(each['file'])}:"
        f"{each['line']}</span></h3><div class='pair'><pre>{_text(each['before'])}</pre>"
        f"<pre>{_text(each['after'])}</pre></div>"
        for each in samples
    )
    return f"<h2>Samples, before and after</h2>{shown}" if shown else ""


def _section(title: str, counts: Mapping[str, int]) -> str:
    return f"<h3>{title}</h3>{_bars(counts)}" if counts else ""


def _bars(counts: Mapping[str, int]) -> str:
    most = max(counts.values(), default=1) or 1
    rows = "".join(
        f"<tr><td>{_text(name)}</td><td class='n'>{count:,}</td>"
        f"<td class='track'><div class='bar' style='width:{100 * count / most:.1f}%'></div></td></tr>"
        for name, count in counts.items()
    )
    return f"<table>{rows}</table>" if rows else "<p>Nothing.</p>"


def _table(head: Iterable[str], rows: Iterable[Sequence[object]]) -> str:
    titles = "".join(f"<th>{_text(title)}</th>" for title in head)
    lines = "".join(f"<tr>{''.join(map(_cell, row))}</tr>" for row in rows)
    return f"<table><tr>{titles}</tr>{lines}</table>"


def _cell(value: object) -> str:
    return f"<td class='n'>{value:,}</td>" if isinstance(value, int) else f"<td>{_text(value)}</td>"


def _text(value: object) -> str:
    return html.escape(str(value))
