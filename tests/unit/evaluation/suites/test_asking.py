import pytest

from anneal_evaluation.suites import asking
from anneal_evaluation.suites.problems import Ask, Problem

PROMPT = 'import math\n\n\ndef area(r):\n    """Area."""\n'
PYTHON = Problem("p", "code", PROMPT, entry_point="area")


def test_a_whole_function_takes_the_place_of_the_one_that_was_begun() -> None:
    answer = "Sure:\n```python\ndef area(r):\n    return math.pi * r * r\n```\nDone."
    assert asking.kept(PYTHON, answer) == "import math\n\n\n\ndef area(r):\n    return math.pi * r * r\n"


def test_a_continuation_ends_where_the_function_does() -> None:
    assert asking.kept(PYTHON, "    return 1\n\nprint(area(2))\n") == PROMPT + "    return 1\n\n"


def test_a_block_that_is_cut_off_is_taken() -> None:
    assert asking.kept(PYTHON, "```python\ndef area(r):\n    return 1").endswith("def area(r):\n    return 1")


def test_other_languages_end_with_the_closing_brace() -> None:
    prompt = "#include <vector>\nint f(int x){\n"
    problem = Problem("p", "code", prompt, language="cpp", entry_point="f")
    assert asking.kept(problem, "  return x;\n}\nint main() {}\n") == prompt + "  return x;\n}\n"
    whole = asking.kept(problem, "```cpp\nint f(int x){\n  return x;\n}\n```")
    assert whole == "#include <vector>\nint f(int x){\n  return x;\n}\n"


JAVA = "import java.util.*;\n\nclass Solution {\n    /** Doubles. */\n    public int f(int x) {\n"


@pytest.mark.parametrize(
    "answer",
    [
        "    public int f(int x) {\n        return 2 * x;\n    }",
        "class Solution {\n    public int f(int x) {\n        return 2 * x;\n    }\n}",
        "public class Solution {\n    public int f(int x) {\n        return 2 * x;\n    }\n}",
    ],
    ids=["the function", "the class", "a public class, which would want a file of its own"],
)
def test_a_function_of_java_is_in_its_class_once(answer: str) -> None:
    problem = Problem("p", "code", JAVA, language="java", entry_point="f")
    found = asking.kept(problem, f"```java\n{answer}\n```")
    assert (found.count("class Solution {"), found.count("public int f"), found.count("public class")) == (
        1,
        1,
        0,
    )
    assert found.startswith("import java.util.*;\n")
    assert found.count("{") == found.count("}")


GO = Problem(
    "p",
    "code",
    'import (\n\t"math"\n)\n\nfunc half(x int) int {\n\treturn x / 2\n}\n\n// F is\nfunc F(x int) int {\n',
    language="go",
    entry_point="F",
)


def test_a_function_of_go_keeps_the_helpers_that_it_does_not_define_again() -> None:
    alone = asking.kept(GO, "```go\nfunc F(x int) int {\n\treturn half(x)\n}\n```")
    both = asking.kept(
        GO, "```go\nfunc half(x int) int { return x / 2 }\nfunc F(x int) int { return half(x) }\n```"
    )
    assert (alone.count("func half("), both.count("func half(")) == (1, 1)
    assert (alone[:8], both[:8]) == ("import (", "import (")
    assert asking.kept(GO, "\treturn half(x)\n}\n\nfunc other() {}\n") == GO.prompt + "\treturn half(x)\n}\n"


def test_a_line_and_a_yes() -> None:
    assert asking.kept(Problem("p", "line", ""), "\nx = 1\ny = 2") == "x = 1"
    assert asking.kept(Problem("p", "defect", ""), "Yes, it has.") == "yes"
    assert asking.kept(Problem("p", "defect", ""), "Perhaps.") == ""


def test_infill_is_asked_as_what_stands_between() -> None:
    found = asking.ask(Problem("p", "infill", "a", suffix="c"))
    assert (found.prefix, found.suffix, found.messages) == ("a", "c", ())


def test_a_base_model_goes_on_from_code_up_to_its_stop_words() -> None:
    problem = Problem("p", "code", PROMPT, entry_point="area", stops=("\ndef",))
    assert asking.ask(problem, as_text=True) == Ask(prefix=PROMPT, stops=("\ndef",))
    assert asking.ask(problem).messages[0][1].endswith(f"```python\n{PROMPT.rstrip()}\n```")
    words = Problem("p", "code", "", statement="Add.\nassert add(1) == 2", stops=("\nclass",))
    assert asking.ask(words, as_text=True).prefix == '"""\nAdd.\nassert add(1) == 2\n"""\n'
    assert asking.ask(Problem("p", "text", "say", statement="say"), as_text=True) == Ask(prefix="say")
