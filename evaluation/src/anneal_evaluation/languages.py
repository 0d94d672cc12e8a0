"""Languages other than Python: a declared toolchain compiles a program with its tests, and runs it.

Such a program holds its own tests, so what it says of them is worth less than the judge's word on Python: it must end
well and have said, last, a word that the program got when it was written out. `anneal_evaluation` reports that.
"""

import os
import secrets
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from anneal_evaluation import golang
from anneal_evaluation.sandbox.confine import Limits
from anneal_evaluation.sandbox.runner import Sandbox, Verdict, scratch
from anneal_runtime.errors import Refused

_COMPILING = Limits(
    wall_seconds=60, cpu_seconds=50, memory_bytes=2 << 30, file_bytes=64 << 20, processes=True
)


@dataclass(frozen=True)
class Toolchain:
    """How programs of one language are built and run."""

    program: str
    """The executable that must be there."""
    files: Callable[[str, str, str], dict[str, str]]
    """Sources by name, of a program with its tests, the word that is said last, and the scratch folder."""
    run: tuple[str, ...]
    """A command whose {program} is that executable, {bin} its folder and {folder} the scratch folder."""
    build: tuple[tuple[str, ...], ...] = ()
    address_space: bool = True
    readable: tuple[str, ...] = ()
    find: Callable[[str], str | None] = shutil.which


def _javascript(text: str, word: str, _: str) -> dict[str, str]:
    strict = "console.assert = (held) => { if (held !== true) throw new Error('assertion failed'); };\n"
    return {"main.js": f"{strict}{text}\n;console.log('{word}');\n"}


def _cpp(text: str, word: str, _: str) -> dict[str, str]:
    # HumanEval-X and MultiPL-E both bring a main(); it runs before the destructor that says the word, unless it aborts.
    head = "#undef NDEBUG\n#include <cassert>\n#include <bits/stdc++.h>\nusing namespace std;\n"
    tail = f'static struct Word {{ ~Word() {{ puts("{word}"); }} }} word_;\n'
    return {"main.cpp": f"{head}{text}\n{tail}"}


def _java(text: str, word: str, _: str) -> dict[str, str]:
    # HumanEval-X brings a public class Main, and MultiPL-E's tests are put into one.
    said = f'public static void main(String[] a) throws Exception {{ Main.main(a); System.out.println("{word}"); }}'
    return {"Main.java": f"{text}\nclass Word_ {{ {said} }}\n"}


_JVM = ("-XX:+UseSerialGC", "-XX:-UsePerfData", "-XX:-UseContainerSupport", "-XX:TieredStopAtLevel=1")
"""A short life: one thread collects, nothing is written or read elsewhere, and no code is compiled twice."""

TOOLCHAINS = {
    "javascript": Toolchain(
        "node",
        _javascript,
        ("{program}", "--max-old-space-size=512", "{folder}/main.js"),
        address_space=False,
        readable=("/etc/ssl",),
    ),
    "cpp": Toolchain(
        "g++",
        _cpp,
        ("{folder}/main",),
        build=(("{program}", "-std=c++17", "-O1", "-w", "-o", "{folder}/main", "{folder}/main.cpp"),),
    ),
    "java": Toolchain(
        "javac",
        _java,
        ("{bin}/java", "-Xmx512m", *_JVM, "-ea", "-cp", "{folder}", "Word_"),
        build=(
            (
                "{program}",
                *(f"-J{option}" for option in _JVM),
                "-nowarn",
                "-d",
                "{folder}",
                "{folder}/Main.java",
            ),
        ),
        address_space=False,
        readable=("/etc/java-17-openjdk",),
    ),
    "go": Toolchain(
        "go",
        golang.files,
        ("{folder}/main",),
        build=golang.BUILD,
        address_space=False,
        readable=("{bin}",),
        find=lambda _: golang.compiler(),
    ),
}


def check(languages: Sequence[str]) -> None:
    """Raise Refused where a suite has a language that cannot be run here."""
    for language in sorted(set(languages) - {"python"}):
        if language not in TOOLCHAINS:
            known = ", ".join(["python", *TOOLCHAINS])
            raise Refused(
                "UnknownLanguage",
                f"programs in {language} cannot be run; {known} can: leave its problems out",
            )
        if TOOLCHAINS[language].find(TOOLCHAINS[language].program) is None:
            raise Refused(
                "NoToolchain",
                f"programs in {language} need {TOOLCHAINS[language].program}, which is not here; run the suite in an image "
                "that has it",
            )


def judge(box: Sandbox, language: str, program: str, tests: str) -> Verdict:
    """Return the verdict on a program of another language than Python."""
    chain, word = TOOLCHAINS[language], secrets.token_hex(16)
    executable = os.path.realpath(chain.find(chain.program) or chain.program)
    with scratch() as folder:
        for name, text in chain.files(f"{program}\n{tests}", word, folder).items():
            Path(folder, name).write_text(text, encoding="utf-8")
        names = {"program": executable, "bin": os.path.dirname(executable), "folder": folder}
        readable = _filled(chain.readable, names)
        compiling = replace(_COMPILING, address_space=chain.address_space)
        for step in chain.build:
            built = box.command(_filled(step, names), folder, limits=compiling, readable=readable)
            if not built.passed:
                return replace(built, detail=f"it does not compile: {built.detail}")
        limits = replace(box.limits, address_space=chain.address_space)
        found = box.command(_filled(chain.run, names), folder, limits=limits, readable=readable)
    return _believed(found, word)


def _believed(found: Verdict, word: str) -> Verdict:
    if found.passed and word not in found.output[-200:]:
        return replace(found, state="failed", detail="it ended before its tests did")
    return replace(found, output=found.output.replace(word, ""), detail=found.detail.replace(word, ""))


def _filled(command: Sequence[str], names: dict[str, str]) -> list[str]:
    return [part.format(**names) for part in command]
