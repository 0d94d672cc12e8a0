"""`python3 -m anneal_evaluation`: score a model behind an endpoint, compare two, rank many.

run --suite humaneval --endpoint URL --model NAME --to FOLDER; compare A.json B.json; winrate RESULT.json...
"""

import argparse
import os
import sys
from collections import defaultdict
from pathlib import Path

from anneal_evaluation import comparison, records, report, scoring
from anneal_evaluation.harness import tasks
from anneal_evaluation.judging import Here
from anneal_evaluation.results import Settings, SuiteResult
from anneal_evaluation.sandbox.confine import LEVELS
from anneal_evaluation.sandbox.runner import Sandbox
from anneal_evaluation.suites import files
from anneal_runtime.errors import Refused, StageError


def main(arguments: list[str]) -> int:
    """Do what `arguments` say; what is wrong is told to the person who gave them."""
    options = _parser().parse_args(arguments)
    try:
        print(options.do(options), end="")
    except StageError as error:
        print(f"{error.reason}: {error.message}", file=sys.stderr)
        return os.EX_USAGE if isinstance(error, Refused) else os.EX_TEMPFAIL
    return 0


def read(path: str) -> list[SuiteResult]:
    """Return the results in a file that `run` has written."""
    try:
        return records.parse(Path(path).read_bytes())
    except (OSError, ValueError) as error:
        raise Refused(
            "InvalidResults", f"{path}: {error}; name a results.json that `run` has written"
        ) from error


def _run(options: argparse.Namespace) -> str:
    from anneal_evaluation.endpoint import Endpoint  # httpx is needed here alone

    settings = Settings(
        samples=options.samples,
        temperature=options.temperature,
        seed=options.seed,
        max_tokens=options.max_tokens,
        ks=tuple(k for k in (1, 10, 100) if k <= options.samples),
        first=options.first,
        as_text=options.as_text,
    )
    model = Endpoint(options.endpoint, options.model, key=os.environ.get("OPENAI_API_KEY", ""))
    judges = Here(Sandbox(required=options.isolation))
    results: list[SuiteResult] = []
    for suite in options.suite:
        if tasks.is_task_file(suite):
            results += tasks.evaluate(suite, options.model, model, settings, chat=not options.as_text)
        else:
            results.append(scoring.evaluate(files.read(suite), options.model, model, settings, judges))
    folder = Path(options.to)
    folder.mkdir(parents=True, exist_ok=True)
    records.write(folder, results)
    return report.markdown(results)


def _compare(options: argparse.Namespace) -> str:
    first, second = (({r.suite: r for r in read(path)}) for path in (options.first, options.second))
    both = [name for name in first if name in second]
    found = [comparison.compare(first[name], second[name]) for name in both]
    return report.markdown([r for name in both for r in (first[name], second[name])], found)


def _winrate(options: argparse.Namespace) -> str:
    table: dict[str, dict[str, float]] = defaultdict(dict)
    for result in (result for path in options.results for result in read(path)):
        for score in result.scores:
            table[result.model][f"{result.suite} {score.name}"] = score.value
    return report.win_rates(table)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="anneal_evaluation", description=__doc__)
    commands = parser.add_subparsers(required=True)
    run = commands.add_parser("run", help="score a model behind an endpoint")
    run.add_argument(
        "--suite",
        action="append",
        required=True,
        help="humaneval, or the URI of a .jsonl file, or of a .yaml task file of lm-eval",
    )
    run.add_argument(
        "--endpoint", required=True, help="base URL, such as http://host/v1; key in OPENAI_API_KEY"
    )
    run.add_argument("--model", required=True)
    run.add_argument("--to", required=True, help="folder for results and reports")
    run.add_argument("--samples", type=int, default=1)
    run.add_argument("--temperature", type=float, default=0.0)
    run.add_argument("--seed", type=int, default=0)
    run.add_argument("--max-tokens", type=int, default=512)
    run.add_argument("--first", type=int, help="only so many problems")
    run.add_argument(
        "--as-text",
        action="store_true",
        help="put a text to go on from in place of a chat, as base models want it",
    )
    run.add_argument("--isolation", choices=LEVELS, default="filtered", help="weakest that is good enough")
    run.set_defaults(do=_run)
    compare = commands.add_parser("compare", help="the second model against the first")
    compare.add_argument("first")
    compare.add_argument("second")
    compare.set_defaults(do=_compare)
    winrate = commands.add_parser("winrate", help="rank models over languages and suites")
    winrate.add_argument("results", nargs="+")
    winrate.set_defaults(do=_winrate)
    return parser


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
