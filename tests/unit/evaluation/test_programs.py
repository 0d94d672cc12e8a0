"""Programs in other languages, where their toolchains are."""

import pytest

from anneal_evaluation import languages
from anneal_evaluation.sandbox.confine import Limits
from anneal_evaluation.sandbox.runner import Sandbox

BOX = Sandbox(Limits(wall_seconds=10, cpu_seconds=8))
JS_TESTS = "const t = () => { console.assert(f(2) === 4) }\nt()"
CPP_TESTS = "#undef NDEBUG\n#include <assert.h>\nint main() { assert(f(2) == 4); }"

JAVA_TESTS = "public class Main { public static void main(String[] a) { if (new Solution().f(2) != 4) throw new AssertionError(); } }"


def java(body: str) -> str:
    return f"import java.util.*;\nclass Solution {{\n    public int f(int x) {{ {body} }}\n}}"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("language", "program", "tests", "state"),
    [
        ("javascript", "const f = (x) => 2 * x", JS_TESTS, "passed"),
        ("javascript", "const f = (x) => 3 * x", JS_TESTS, "failed"),
        ("javascript", "const f = (x) => ({ valueOf: () => 4 })", JS_TESTS, "failed"),
        ("javascript", "process.exit(0)", JS_TESTS, "failed"),
        ("javascript", "const f = () => require('child_process').execSync('true') && 4", JS_TESTS, "failed"),
        ("cpp", "int f(int x) { return 2 * x; }", CPP_TESTS, "passed"),
        ("cpp", "int f(int x) { return 3 * x; }", CPP_TESTS, "crashed"),
        ("cpp", "int f(int x) { _exit(0); }", CPP_TESTS, "failed"),
        ("cpp", "int f(int x) { return g(x); }", CPP_TESTS, "failed"),
        ("java", java("return 2 * x;"), JAVA_TESTS, "passed"),
        ("java", java("return 3 * x;"), JAVA_TESTS, "failed"),
        ("java", java("System.exit(0); return 4;"), JAVA_TESTS, "failed"),
        (
            "java",
            java('try { new ProcessBuilder("true").start(); } catch (Exception e) { return 0; } return 4;'),
            JAVA_TESTS,
            "failed",
        ),
        ("java", java("return g(x);"), JAVA_TESTS, "failed"),
    ],
)
def test_programs_pass_only_when_their_tests_do(language: str, program: str, tests: str, state: str) -> None:
    found = languages.judge(BOX, language, program, tests)
    assert found.state == state, found
