"""Programs of every language are judged in the image of that language: its toolchain is there, and tells right from wrong."""

import json

import pytest
from tests.cluster.conftest import finetunejob, install_chart, upload
from tests.cluster.kube import Json, Kube, holds

pytestmark = [pytest.mark.cluster, pytest.mark.full]

JAVA_MAIN = (
    "public class Main {\n    public static void main(String[] args) {\n"
    "        if (new Solution().twice(2) != 4) throw new AssertionError();\n    }\n}\n"
)
GO_TEST = "func TestTwice(t *testing.T) {\n    assert := assert.New(t)\n    assert.Equal(4, twice(2))\n}\n"
PROGRAMS: dict[str, dict[str, str]] = {
    "JavaScript": {
        "declaration": "\nconst twice = (x) => {\n",
        "canonical_solution": "  return 2 * x;\n}\n",
        "test": "const t = () => { console.assert(twice(2) === 4) }\nt()\n",
    },
    "CPP": {
        "declaration": "#include <vector>\nusing namespace std;\nint twice(int x) {\n",
        "canonical_solution": "    return 2 * x;\n}\n",
        "test": "#undef NDEBUG\n#include <assert.h>\nint main() { assert(twice(2) == 4); }\n",
    },
    "Java": {
        "declaration": "import java.util.*;\nclass Solution {\n    public int twice(int x) {\n",
        "canonical_solution": "        return 2 * x;\n    }\n}\n",
        "test": JAVA_MAIN,
    },
    "Go": {
        "declaration": "\nfunc twice(x int) int {\n",
        "canonical_solution": "    return 2 * x\n}\n",
        "test_setup": 'package main\n\nimport (\n    "testing"\n    "github.com/stretchr/testify/assert"\n)\n',
        "test": GO_TEST,
    },
}
"""A function in the format of HumanEval-X, by the name that it gives the language."""
RIGHT = 10
"""Problems of a language whose own solution passes its test. After them comes one whose own does not: a suite with more
than a tenth of these is refused."""


def suite() -> str:
    """Return the problems of all languages as JSON lines."""
    rows = list[Json]()
    for language, program in PROGRAMS.items():
        row = {"prompt": program["declaration"], **program}
        rows += [{"task_id": f"{language}/{number}", **row} for number in range(RIGHT)]
        wrong = program["canonical_solution"].replace("2", "3")
        rows.append({"task_id": f"{language}/{RIGHT}", **row, "canonical_solution": wrong})
    return "".join(json.dumps(row) + "\n" for row in rows)


@pytest.fixture(scope="module")
def result(team: Kube, tmp_path_factory: pytest.TempPathFactory) -> Json:
    """What a run's model scored on the suite, with the images of all languages installed."""
    install_chart(sandboxes="javascript cpp java go")
    folder = tmp_path_factory.mktemp("languages")
    (folder / "languages.jsonl").write_text(suite())
    upload(team, folder, ".")
    few = {"maxSteps": 2, "globalBatchTokens": 1024, "learningRate": 0.01}
    suites = {"suites": ["pvc://store/languages.jsonl"]}
    team.apply(finetunejob("languages", optimization=few, workers={"nodes": 1}, evaluation=suites))
    job = team.wait("finetunejob", "languages", holds("Complete"), 400, "Complete")
    uri = job["status"]["artifacts"]["suites"]["uri"].replace("pvc://", "/mnt/anneal/")
    (found,) = json.loads(team.run("exec", "loader", "--", "cat", f"{uri}/results.json"))
    return dict(found)


def test_each_language_is_judged_in_its_own_image(team: Kube, result: Json) -> None:
    (suites,) = team.list("jobs", "anneal.dev/stage=suites,anneal.dev/finetunejob=languages")
    judges = suites["spec"]["template"]["spec"]["initContainers"]
    images = {judge["name"]: judge["image"].split("/")[-1].split(":")[0] for judge in judges}
    assert images == {f"judge-{name}": f"sandbox-{name}" for name in ("cpp", "go", "java", "javascript")}


def test_own_solutions_pass_where_they_are_right_and_are_named_where_they_are_not(result: Json) -> None:
    assert result["invalid"] == sorted(f"{language}/{RIGHT}" for language in PROGRAMS)
    assert len(result["problems"]) == RIGHT * len(PROGRAMS)
