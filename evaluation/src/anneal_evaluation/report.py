"""What people read of results: Markdown, and one HTML page with every sample. Made from the JSON alone."""

import html
from collections import Counter
from collections.abc import Mapping, Sequence

from anneal_evaluation import comparison
from anneal_evaluation.comparison import Comparison
from anneal_evaluation.results import ProblemResult, Score, SuiteResult

_STYLE = (
    "body{font:15px/1.5 system-ui,sans-serif;max-width:70rem;margin:2rem auto;padding:0 1rem;color:#222}"
    "table{border-collapse:collapse}td,th{padding:.2rem .8rem;border-bottom:1px solid #ddd;text-align:left}"
    "pre{background:#f6f6f6;padding:.8rem;overflow:auto}summary{cursor:pointer}"
    "h2,p,summary{overflow-wrap:anywhere}table{display:block;overflow-x:auto}"
    ".passed,.scored{color:#17692f}.failed,.crashed,.timeout,.limit{color:#a3211b}.error{color:#8a6100}"
)


def percent(score: Score) -> str:
    """Return a score and its interval in per cent."""
    return f"{100 * score.value:.1f}% [{100 * score.low:.1f}, {100 * score.high:.1f}]"


def settings_text(result: SuiteResult) -> str:
    """Return how the suite was run, as a sentence."""
    chosen = result.settings
    way = "greedy" if not chosen.temperature else f"temperature {chosen.temperature:g}, seed {chosen.seed}"
    parts = [
        f"{chosen.samples} sample{'s' * (chosen.samples > 1)} a problem, {way}, at most {chosen.max_tokens} tokens",
        chosen.harness or f"wording {chosen.wording}",
        "put as texts to go on from" if chosen.as_text else "",
        f"the first {chosen.first} problems" if chosen.first else "",
        f"isolation {result.isolation}" if result.isolation else "",
        "tests run within the program" if result.trust == "program" else "",
        f"{len(result.invalid)} problems left out, whose own solution fails here" if result.invalid else "",
    ]
    return "; ".join(filter(None, parts))


def markdown(results: Sequence[SuiteResult], comparisons: Sequence[Comparison] = ()) -> str:
    """Return results, and how models compare, as Markdown."""
    lines = ["| suite | model | score | value [95%] | problems |", "|---|---|---|---|---|"]
    lines += [
        f"| {r.suite} | {r.model} | {score.name} | {percent(score)} | {score.problems} |"
        for r in results
        for score in r.scores
    ]
    lines += ["", *(f"{r.suite}, {r.model}: {settings_text(r)}. Samples: {_states(r)}." for r in results)]
    lines += ["", *(f"- {compared(each)}" for each in comparisons)] if comparisons else []
    return "\n".join(lines) + "\n"


def win_rates(table: Mapping[str, Mapping[str, float]]) -> str:
    """Return models from the best to the worst, with the formula and the table that the rates are made of."""
    rates = comparison.win_rates(table)
    ranked = sorted(rates, key=lambda model: -rates[model])
    columns = sorted(table[ranked[0]])
    rows = [
        [model, f"{rates[model]:.2f}", *(f"{table[model][name]:.3f}" for name in columns)] for model in ranked
    ]
    lines = [["model", "WinRate", *columns], ["---"] * (2 + len(columns)), *rows]
    formula = f"WinRate: the mean over {len(columns)} columns of {len(ranked)} models - (rank - 1); equal scores share a rank."
    return "\n".join([*(f"| {' | '.join(line)} |" for line in lines), "", formula]) + "\n"


def compared(found: Comparison) -> str:
    """Return a comparison as a sentence."""
    points = found.difference
    return (
        f"{found.suite}: {found.second} against {found.first}: {found.decision}; {100 * points.value:+.1f} points "
        f"[{100 * points.low:+.1f}, {100 * points.high:+.1f}] over {found.problems} problems, {found.only_first} solved by "
        f"the first alone and {found.only_second} by the second alone (McNemar p = {found.p_value:.3g})"
    )


def _states(result: SuiteResult) -> str:
    counts = Counter(sample.state for problem in result.problems for sample in problem.samples)
    return ", ".join(f"{count} {state}" for state, count in counts.most_common())


def page(results: Sequence[SuiteResult], comparisons: Sequence[Comparison] = ()) -> str:
    """Return one HTML page without scripts; answers are foreign text and are escaped."""
    body = "".join(map(_section, results))
    told = "".join(f"<p>{html.escape(compared(each))}</p>" for each in comparisons)
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width"><title>Evaluation</title>'
        f"<style>{_STYLE}</style><h1>Evaluation</h1>{told}{body}</html>\n"
    )


def _section(result: SuiteResult) -> str:
    rows = "".join(f"<tr><td>{html.escape(s.name)}<td>{percent(s)}<td>{s.problems}" for s in result.scores)
    return (
        f"<h2>{html.escape(result.suite)}, {html.escape(result.model)}</h2><p>{html.escape(settings_text(result))}</p>"
        f"<table><tr><th>score<th>value [95%]<th>problems{rows}</table>"
        f"{''.join(map(_problem, result.problems))}"
    )


def _problem(problem: ProblemResult) -> str:
    states = " ".join(f'<span class="{s.state}">{s.state} {s.score:.2f}</span>' for s in problem.samples)
    samples = "".join(
        f"<p>{html.escape(sample.detail)}</p><pre>{html.escape(kept)}</pre>"
        for sample, kept in zip(problem.samples, problem.kept, strict=True)
    )
    return f"<details><summary>{html.escape(problem.name)} {states}</summary>{samples}</details>"
