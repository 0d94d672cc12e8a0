"""Rows of suites' files to problems, by the fields a row has.

HumanEval (arXiv 2107.03374), MBPP (2108.07732), HumanEval-X (2303.17568), MultiPL-E (2208.08227), and rows of a user's:
{prefix, suffix, middle}; {context, line}; {prompt, reference}; {code, defect: true or false}.
"""

import ast
import builtins
from collections.abc import Callable
from typing import Any

from anneal_evaluation.suites.problems import Problem

Row = dict[str, Any]
COMPLETION_STOPS = ("\nclass", "\ndef", "\n#", "\n@", "\nprint", "\nif", "\n```")
MBPP_STOPS = ("\nclass", "\nassert", '\n"""', "\nprint")
_NAMES = {"py": "python", "js": "javascript", "cpp": "cpp", "c++": "cpp", "java": "java", "golang": "go"}


class UnknownFormat(ValueError):
    """A row has the fields of no format."""


def problem(row: Row, number: int) -> Problem:
    """Return the problem in a row.

    Raises:
        UnknownFormat: it has the fields of no format, or one of another type.
    """
    for fields, read in _FORMATS.items():
        if set(fields) <= set(row):
            try:
                return read(row, str(row.get("task_id", row.get("name", number))))
            except (TypeError, AttributeError, SyntaxError) as error:
                raise UnknownFormat(
                    f"a field of {', '.join(fields)} is not as it should be: {error}"
                ) from error
    raise UnknownFormat(f"fields {', '.join(sorted(row))[:200]}")


def _human_eval(row: Row, name: str) -> Problem:
    entry = row["entry_point"]
    return Problem(
        name,
        "code",
        row["prompt"],
        wanted=row["prompt"] + row["canonical_solution"],
        entry_point=entry,
        tests=f"{row['test']}\n\ncheck({entry})\n",
        trusted=row["prompt"] + row["canonical_solution"],
        asked=(entry,),
        stops=COMPLETION_STOPS,
    )


def _human_eval_x(row: Row, name: str) -> Problem:
    language = _language(name.partition("/")[0])
    entry = row.get("entry_point") or _defined(row["declaration"], language)
    return Problem(
        name,
        "code",
        row["prompt"],
        language=language,
        wanted=row["prompt"] + row["canonical_solution"],
        entry_point=entry,
        tests=f"{row.get('test_setup', '')}\n{row['test']}" if language == "go" else row["test"],
        trusted=row["prompt"] + row["canonical_solution"] if language == "python" else "",
        asked=(entry,) if language == "python" else (),
    )


def _mbpp(row: Row, name: str) -> Problem:
    setup = "\n".join([row.get("test_setup_code") or "", *row.get("test_imports", ())])
    tests = "\n".join(row["test_list"])
    asked = free_names(tests, setup)
    examples = "\n".join(row["test_list"][:3])
    return Problem(
        name,
        "code",
        "",
        statement=f"{row.get('text') or row['prompt']}\nYour code should pass these tests:\n{examples}",
        wanted=row["code"],
        entry_point=asked[0] if asked else "",
        tests=tests,
        trusted=setup,
        asked=asked,
        stops=MBPP_STOPS,
    )


def _multipl_e(row: Row, name: str) -> Problem:
    language = _language(row["language"])
    python = language == "python"
    return Problem(
        name,
        "code",
        row["prompt"],
        language=language,
        entry_point=_defined(row["prompt"], language),
        tests=_opened(row["tests"], language),
        asked=free_names(row["tests"], "") if python else (),
        stops=tuple(row.get("stop_tokens", ())),
    )


def _opened(tests: str, language: str) -> str:
    """Return tests that begin behind a whole program.

    Of C++ and Java they begin with the brace that answers are cut off before; ours are cut off behind it. Those of Java go
    on within the answer's class, and so are put into one of their own.
    """
    rest = tests if language == "python" else tests.lstrip().removeprefix("}")
    return f"class Main extends Problem {{{rest}" if language == "java" else rest


def _infill(row: Row, name: str) -> Problem:
    return Problem(
        name, "infill", row["prefix"], suffix=row["suffix"], wanted=row["middle"], language=_told(row)
    )


def _line(row: Row, name: str) -> Problem:
    return Problem(name, "line", row["context"], wanted=row["line"], language=_told(row), stops=("\n",))


def _text(row: Row, name: str) -> Problem:
    return Problem(
        name, "text", row["prompt"], statement=row["prompt"], wanted=row["reference"], language=_told(row)
    )


def _defect(row: Row, name: str) -> Problem:
    wanted = "yes" if row["defect"] else "no"
    return Problem(name, "defect", row["code"], wanted=wanted, language=_told(row))


_FORMATS: dict[tuple[str, ...], Callable[[Row, str], Problem]] = {
    ("prompt", "declaration", "canonical_solution", "test"): _human_eval_x,
    ("prompt", "entry_point", "canonical_solution", "test"): _human_eval,
    ("code", "test_list"): _mbpp,
    ("prompt", "language", "tests"): _multipl_e,
    ("prefix", "suffix", "middle"): _infill,
    ("context", "line"): _line,
    ("prompt", "reference"): _text,
    ("code", "defect"): _defect,
}


def free_names(tests: str, given: str) -> tuple[str, ...]:
    """Return the names that `tests` use and neither they, nor `given`, nor the language define; in order of use."""
    bound = {name for text in (tests, given) for name in _bound(ast.parse(text))} | set(dir(builtins))
    used = [
        node for node in ast.walk(ast.parse(tests)) if isinstance(node, ast.Name) and node.id not in bound
    ]
    used.sort(key=lambda node: (node.lineno, node.col_offset))
    return tuple(dict.fromkeys(node.id for node in used))


def _bound(tree: ast.AST) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(tree):
        match node:
            case ast.FunctionDef(name=name) | ast.ClassDef(name=name):
                names.add(name)
            case ast.Name(id=name, ctx=ast.Store()) | ast.arg(arg=name) | ast.ExceptHandler(name=str(name)):
                names.add(name)
            case ast.alias(name=name, asname=other):
                names.add(other or name.partition(".")[0])
    return names


def _language(name: str) -> str:
    return _NAMES.get(name.lower(), name.lower())


def _told(row: Row) -> str:
    return _language(str(row.get("language", "python")))


_CUES = {"python": ("def ",), "javascript": ("const ", "function "), "cpp": (), "go": ("func ",)}


def _defined(text: str, language: str) -> str:
    """Return the name of the last function that `text` begins to define."""
    lines = [
        line.strip()
        for line in text.splitlines()
        if line.strip() and not line.lstrip().startswith(("//", "#", "*"))
    ]
    for line in reversed(lines):
        for cue in _CUES.get(language, ()):
            if line.startswith(cue):
                return line[len(cue) :].replace("=", "(").partition("(")[0].strip()
        if not _CUES.get(language) and "(" in line:
            return line.partition("(")[0].split()[-1].lstrip("*&")
    return ""
