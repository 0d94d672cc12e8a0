"""Programs in other languages, where their toolchains are."""

import pytest

from anneal_evaluation import golang, languages
from anneal_evaluation.sandbox.confine import Limits
from anneal_evaluation.sandbox.runner import Sandbox

BOX = Sandbox(Limits(wall_seconds=10, cpu_seconds=8))
JS_TESTS = "const t = () => { console.assert(f(2) === 4) }\nt()"
CPP_TESTS = "#undef NDEBUG\n#include <assert.h>\nint main() { assert(f(2) == 4); }"

JAVA_TESTS = "public class Main { public static void main(String[] a) { if (new Solution().f(2) != 4) throw new AssertionError(); } }"

GO_TESTS = (
    'package main\nimport (\n    "testing"\n    "github.com/stretchr/testify/assert"\n)\n'
    "func TestF(t *testing.T) {\n    assert := assert.New(t)\n    assert.Equal(4, f(2))\n}\n"
)


def java(body: str) -> str:
    return f"import java.util.*;\nclass Solution {{\n    public int f(int x) {{ {body} }}\n}}"


def go(body: str) -> str:
    return f'package main\nimport "math"\nfunc f(x int) int {{ {body} }}\nfunc main() {{}}'


@pytest.mark.slow
@pytest.mark.usefixtures("machine")
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
        ("cpp", "#include <unistd.h>\nint f(int x) { return fork() == -1 ? 4 : 0; }", CPP_TESTS, "passed"),
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
        ("go", go("return 2 * x"), GO_TESTS, "passed"),
        ("go", go("return 3 * x"), GO_TESTS, "failed"),
        ("go", go("os.Exit(0); return 4"), GO_TESTS, "failed"),
        ("go", go("for {}"), GO_TESTS, "timeout"),
        ("go", go("for { fmt.Println(strings.Repeat(`x`, 1 << 16)) }"), GO_TESTS, "limit"),
        ("go", go("b := make([]byte, 4 << 30); for i := range b { b[i] = 1 }; return 4"), GO_TESTS, "failed"),
        (
            "go",
            go('if _, e := os.ReadFile("/etc/passwd"); e != nil { return 0 }; return 4'),
            GO_TESTS,
            "failed",
        ),
        (
            "go",
            'import "syscall"\nfunc f(x int) int { if syscall.Kill(-1, 0) != nil { return 0 }; return 4 }',
            GO_TESTS,
            "failed",
        ),
        (
            "go",
            'import "os/exec"\nfunc f(x int) int { exec.Command("true").Run(); return 4 }',
            GO_TESTS,
            "failed",
        ),
        (
            "go",
            'import "net"\nfunc f(x int) int { net.Dial("tcp", "10.0.0.1:80"); return 4 }',
            GO_TESTS,
            "failed",
        ),
        ("go", go("return g(x)"), GO_TESTS, "failed"),
        ("go", go("return 4"), "func Other() {}", "failed"),
    ],
)
def test_programs_pass_only_when_their_tests_do(language: str, program: str, tests: str, state: str) -> None:
    found = languages.judge(BOX, language, program, tests)
    assert found.state == state, found


def test_a_go_package_has_the_imports_it_uses_once_and_first() -> None:
    text = (
        'package a\n\nimport (\n\t"math"\n\tr "math/rand"\n\t"os"\n)\n// os.Exit, then\n'
        'func f() string { return strings.Repeat("os.Exit", int(math.Abs(r.Float64()))) }\n'
        'package b\nimport "math"\nfunc TestF() {}'
    )
    lines = golang.package(text).splitlines()
    assert lines[0] == "package candidate"
    assert sorted(line for line in lines if line.startswith("import")) == [
        'import math "math"',
        'import r "math/rand"',
        'import strings "strings"',
    ]
    assert "package b" not in lines
