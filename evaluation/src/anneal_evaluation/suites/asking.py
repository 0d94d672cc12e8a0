"""How a problem is put to a model, and which part of its answer is kept.

The wording belongs to a suite's settings: a score holds for it alone. Raise VERSION with any change here.
"""

import re

from anneal_evaluation.suites.problems import Ask, Problem

VERSION = 1
_FENCE = re.compile(r"```[^\n]*\n(.*?)(?:```|\Z)", re.DOTALL)
_TITLES = {"python": "Python", "javascript": "JavaScript", "cpp": "C++", "java": "Java", "go": "Go"}


def ask(problem: Problem, as_text: bool = False) -> Ask:
    """Return what a model is asked: where that is no gap or line, a chat, or `as_text` one to go on from."""
    match problem.task:
        case "infill":
            return Ask(prefix=problem.prompt, suffix=problem.suffix, stops=problem.stops)
        case "line":
            return Ask(prefix=problem.prompt, stops=problem.stops)
        case "code" if as_text:
            # Of MBPP there is no code to go on from: its words are a docstring, as in BigCode's evaluation harness.
            return Ask(prefix=problem.prompt or f'"""\n{problem.statement}\n"""\n', stops=problem.stops)
        case _ if as_text:
            return Ask(prefix=_question(problem), stops=problem.stops)
        case _:
            return Ask(messages=(("user", _question(problem)),))


def _question(problem: Problem) -> str:
    title = _TITLES.get(problem.language, problem.language)
    if problem.task == "defect":
        return f"Does this {title} code have a defect? Answer yes or no.\n```\n{problem.prompt}\n```"
    if problem.statement:
        return problem.statement
    return (
        f"Complete the following {title} function. Answer with the complete function in one code block.\n"
        f"```{problem.language}\n{problem.prompt.rstrip()}\n```"
    )


def kept(problem: Problem, answer: str) -> str:
    """Return what of an answer is judged: a program, the middle, a line, a text, yes or no."""
    match problem.task:
        case "code":
            return program(problem, answer)
        case "line":
            return answer.lstrip("\n").partition("\n")[0]
        case "defect":
            return _yes_or_no(answer)
        case _:
            return answer


def program(problem: Problem, answer: str) -> str:
    """Return a whole program: the code block of an answer, after the prompt or in its place."""
    fenced = _FENCE.search(answer)
    code = fenced.group(1) if fenced else answer
    if not problem.prompt:
        return code
    if problem.entry_point and _defines(code, problem):
        return f"{_preamble(problem, code)}\n{_in_class(code, problem)}"
    return problem.prompt + _cut(code, problem.language)


def _defines(code: str, problem: Problem) -> bool:
    if problem.language == "python":
        return f"def {problem.entry_point}(" in code
    return re.search(rf"\b{re.escape(problem.entry_point)}\b", code) is not None and "{" in code


def _preamble(problem: Problem, code: str) -> str:
    """Return what of a prompt stays where the answer has the whole function: Python's helpers, others' inclusions."""
    if problem.language == "python":
        return problem.prompt.partition(f"def {problem.entry_point}(")[0]
    if problem.language == "go":
        return _go_preamble(problem, code)
    kept = ("#include", "using ", "const assert", "require(", "import ")
    return "\n".join(line for line in problem.prompt.splitlines() if line.startswith(kept))


def _go_preamble(problem: Problem, code: str) -> str:
    """Return a prompt's imports and helpers; where the answer defines a helper again, which Go refuses, the imports alone."""
    before = problem.prompt.partition(f"func {problem.entry_point}(")[0]
    helpers = re.findall(r"^func (\w+)\(", before, re.MULTILINE)
    again = any(re.search(rf"^func {name}\(", code, re.MULTILINE) for name in helpers)
    return before[: before.index(f"func {helpers[0]}(")] if again else before


def _in_class(code: str, problem: Problem) -> str:
    """Return a function within the class that the problem has it in, where the answer does not have that itself."""
    outer = re.search(r"^\s*(?:public )?class (\w+)", problem.prompt, re.MULTILINE)
    if problem.language != "java" or outer is None or re.search(rf"\bclass {outer.group(1)}\b", code):
        return (
            re.sub(r"^public class", "class", code, flags=re.MULTILINE)
            if problem.language == "java"
            else code
        )
    return f"class {outer.group(1)} {{\n{code}\n}}"


def _cut(code: str, language: str) -> str:
    """Return a continuation up to the first line that is not indented, or the brace that closes the function."""
    lines = code.splitlines(keepends=True)
    for number, line in enumerate(lines):
        if language == "python" and number and line.strip() and not line[0].isspace():
            return "".join(lines[:number])
        if language != "python" and line.startswith("}"):
            return "".join(lines[: number + 1])
    return code


def _yes_or_no(answer: str) -> str:
    found = re.search(r"\b(yes|no)\b", answer.lower())
    return found.group(1) if found else ""
