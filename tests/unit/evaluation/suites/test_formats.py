import pytest

from anneal_evaluation.suites import formats


def test_mbpp_asks_for_the_names_its_tests_use() -> None:
    row = {
        "task_id": 2,
        "text": "Write a function.",
        "code": "def similar(a, b): return a",
        "test_setup_code": "import math",
        "test_list": ["assert set(similar((1,), (math.pi,))) == {Pair(1)}", "assert similar(1, 2)"],
    }
    problem = formats.problem(row, 1)
    assert (problem.name, problem.asked, problem.trusted) == ("2", ("similar", "Pair"), "import math\n"[:-1])
    assert "Your code should pass" in problem.statement


def test_names_that_tests_bind_are_their_own() -> None:
    tests = "def check(c):\n    for n in range(3):\n        assert c(n) == helper(n)\ncheck(found)"
    assert formats.free_names(tests, "def helper(n): return n") == ("found",)


def test_human_eval_x_reads_language_and_name() -> None:
    row = {
        "task_id": "JavaScript/0",
        "prompt": "/* doc */\nconst closest = (numbers, threshold) => {\n",
        "declaration": "\nconst closest = (numbers, threshold) => {\n",
        "canonical_solution": "  return 1;\n}\n",
        "test": "const t = () => { console.assert(closest([1], 2) === 1) }\nt()\n",
        "example_test": "",
    }
    problem = formats.problem(row, 1)
    assert (problem.language, problem.entry_point, problem.asked) == ("javascript", "closest", ())
    cpp = row | {
        "task_id": "CPP/0",
        "declaration": "#include<vector>\nusing namespace std;\nbool close(vector<float> n){\n",
    }
    assert (formats.problem(cpp, 1).language, formats.problem(cpp, 1).entry_point) == ("cpp", "close")


def test_multipl_e_of_python_is_judged_from_outside() -> None:
    row = {
        "name": "HumanEval_0",
        "language": "py",
        "prompt": "def f(x: int) -> int:\n",
        "tests": "def check(candidate):\n    assert candidate(1) == 1\ndef test_check():\n    check(f)\ntest_check()\n",
        "stop_tokens": ["\ndef"],
    }
    problem = formats.problem(row, 1)
    assert (problem.asked, problem.entry_point, problem.stops) == (("f",), "f", ("\ndef",))


def test_multipl_e_of_cpp_brings_no_brace_of_its_own() -> None:
    row = {
        "name": "HumanEval_0",
        "language": "cpp",
        "prompt": "#include <assert.h>\n// doc (of it)\nlong f(long x) {\n",
        "tests": "}\nint main() { assert(f(1) == 1); }\n",
        "stop_tokens": ["\n}"],
    }
    problem = formats.problem(row, 1)
    assert (problem.entry_point, problem.tests) == ("f", "\nint main() { assert(f(1) == 1); }\n")


def test_multipl_e_of_java_is_tested_by_a_class_of_its_own() -> None:
    row = {
        "name": "HumanEval_0",
        "language": "java",
        "prompt": "import java.util.*;\nclass Problem {\n    // doc (of it)\n    public static long f(long x) {\n",
        "tests": "    }\n    public static void main(String[] args) {\n    assert(f(1) == 1);\n    }\n\n}\n",
        "stop_tokens": ["\n    }\n"],
    }
    problem = formats.problem(row, 1)
    assert problem.entry_point == "f"
    assert problem.tests.startswith("class Main extends Problem {\n    public static void main")
    assert problem.tests.count("{") == problem.tests.count("}")


@pytest.mark.parametrize(
    ("row", "task"),
    [
        ({"prefix": "a", "suffix": "c", "middle": "b"}, "infill"),
        ({"context": "a", "line": "b"}, "line"),
        ({"prompt": "a", "reference": "b"}, "text"),
        ({"code": "a", "defect": True}, "defect"),
    ],
)
def test_rows_of_a_users_own(row: dict[str, object], task: str) -> None:
    assert formats.problem(row, 1).task == task


@pytest.mark.parametrize(
    "row", [{}, {"prompt": "a"}, {"code": "a", "test_list": 1}, {"code": "a", "test_list": ["assert ("]}]
)
def test_other_rows_are_told(row: dict[str, object]) -> None:
    with pytest.raises(formats.UnknownFormat):
        formats.problem(row, 1)


def test_go_has_its_tests_set_up_and_its_function_found() -> None:
    row = {
        "task_id": "Go/0",
        "prompt": 'import (\n    "math"\n)\n\n// doc\nfunc Close(numbers []float64) bool {\n',
        "declaration": "\nfunc Close(numbers []float64) bool {\n",
        "canonical_solution": "    return true\n}\n",
        "test_setup": 'package main\n\nimport (\n    "testing"\n)\n',
        "test": "func TestClose(t *testing.T) {}\n",
    }
    problem = formats.problem(row, 1)
    assert (problem.language, problem.entry_point) == ("go", "Close")
    assert problem.tests == f"{row['test_setup']}\n{row['test']}"
    other = {
        "name": "H_0",
        "language": "go",
        "prompt": "package p\n\nfunc close_by(x int) int {\n",
        "tests": "func Test(t *testing.T) {}",
    }
    assert formats.problem(other, 1).entry_point == "close_by"
