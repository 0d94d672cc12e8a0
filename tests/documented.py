"""Every command that the pages tell a reader to type, and the one way in which each is proved to work.

A command is a line of a block marked `sh`, or code within a sentence that begins with a program. A program or a way of
calling one that no row of `PROOFS` knows has no `way`, and fails tests/unit/docs/test_documented.py.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, NamedTuple

ROOT = Path(__file__).parents[1]
PAGES = sorted(
    [
        *(ROOT / "docs").rglob("*.md"),
        *ROOT.glob("*/README.md"),
        *(ROOT / f"{name}.md" for name in ("README", "CONTRIBUTING", "CHANGELOG")),
    ]
)
NOTES = ROOT / "charts" / "anneal" / "templates" / "NOTES.txt"
"""What helm says after an installation: a command a line, and what it is for."""
Proof = Literal["parsed", "help", "dry", "syntax", "run", "server", "elsewhere", "allowed"]

ELSEWHERE = {
    "helm test anneal --namespace anneal-system --timeout 30m": "tests/cluster/test_helm_test.py",
    "helm test anneal -n anneal-system": "tests/cluster/test_helm_test.py",
    "kubectl -n anneal-system logs anneal-operator-test": "tests/cluster/test_helm_test.py",
    "ANNEAL_CONFIG=config.yaml python -m anneal_operator": "tests/cluster/operator_process.py",
}
"""What needs nodes or stays in the foreground, and the file that runs it."""

ALLOWED = {
    "buildah bud -f images/serving-trtllm.Containerfile -t host/path/serving-trtllm:26.04 .": (
        "starts from NVIDIA's image, tens of gigabytes behind a login, for machines with a GPU"
    ),
    "pip install ./api ./runtime ./operator ./cli": "fetches from a package index into the reader's own environment",
    "pip install anneal-evaluation[lm-eval]": "fetches from a package index into the reader's own environment",
    "go build": "names what a judge of Go does; nobody types it",
}
"""What no test runs, and why."""

PROOFS: tuple[tuple[Proof, str], ...] = (
    ("elsewhere", "|".join(map(re.escape, ELSEWHERE))),
    ("allowed", "|".join(map(re.escape, ALLOWED))),
    ("parsed", r"(kubectl )?anneal( .+)?"),
    ("help", r"python3? -m \w+(\.\w+)?( .+)?"),
    ("dry", r"([A-Z_]+=\S+ )*make [a-z][\w-]*"),
    ("syntax", r"([A-Z_]+=(\"[^\"]*\"|\S+) )*scripts/\w[\w -]*"),
    ("run", r'export KUBECONFIG=\$\(.+\)|eval "\$\(.+\)"'),
    ("server", r"(kubectl (?!anneal)|helm (?!test )).+"),
)
"""How a command is proved, and what such a command looks like; the first row that fits holds.

parsed: by the command line's own parser, as far as its commands and options. help: the program's own help knows every
option. dry: `make -n` knows what to do. syntax: the script is there and bash reads it. run: by bash, as it stands.
server: by bash, as it stands, against a real API server; what deletes as a dry run. A bare verb is looked up there.
"""

PROGRAM = re.compile(
    r"([A-Z_]+=(\"[^\"]*\"|\S+) )*(scripts/\w|(anneal|kubectl|helm|make|python3?|pip3?|uv|eval|export|source|bash|sh"
    r"|git|go|curl|wget|docker|podman|buildah|skopeo|apt|apt-get|aws|ssh|sudo|jq|sed|openssl|etcdctl|mkdocs) \S)"
)
"""How code within a sentence begins that is a command."""


class Command(NamedTuple):
    """A line to type, and the page that says so."""

    page: str
    line: str


def commands() -> list[Command]:
    """Return every command of every page once, in order."""
    typed = [(page, line) for page in PAGES for line in _typed(page)]
    typed += [(NOTES, line) for line in re.findall(r"^  (\w.*?)  ", NOTES.read_text(), re.MULTILINE)]
    return list(dict.fromkeys(Command(str(page.relative_to(ROOT)), line) for page, line in typed))


def proved(*proofs: Proof) -> list[Command]:
    """Return the commands that are proved in these ways."""
    return [command for command in commands() if way(command.line) in proofs]


def way(line: str) -> Proof | None:
    """Return how a command is proved; None for one that nobody has thought of."""
    return next((proof for proof, looks in PROOFS if re.fullmatch(looks, line)), None)


def _typed(page: Path) -> Iterator[str]:
    text, within = page.read_text(), []
    for block in re.finditer(r"^( *)```(\w*)\n(.*?)^ *```$", text, re.MULTILINE | re.DOTALL):
        within.append(block.span())
        if block[2] == "sh":
            lines = block[3].replace("\\\n", " ").splitlines()
            yield from filter(None, (re.sub(r"(^|\s+)# .*$", "", line).strip() for line in lines))
    for code in re.finditer(r"`([^`\n]+)`", text):
        inside = any(start <= code.start() < end for start, end in within)
        if not inside and PROGRAM.match(code[1]):
            yield code[1]
