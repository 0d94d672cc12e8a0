"""lm-eval's own runner over a model behind an endpoint. The only module that imports lm-eval.

The endpoint is asked by the client that all suites are asked by, through lm-eval's interface for models. lm-eval's own clients
send more stops than the API takes to one route and drop the fifth on the other, and know no Retry-After.
"""

import contextlib
import hashlib
import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import lm_eval
from lm_eval.api.instance import Instance
from lm_eval.api.model import LM
from lm_eval.models.utils import normalize_gen_kwargs
from lm_eval.tasks import TaskManager

from anneal_evaluation.harness import asking, measured
from anneal_evaluation.results import Settings, SuiteResult
from anneal_evaluation.scoring import Generate
from anneal_runtime.errors import Refused, StageError


def evaluate(
    place: Path, suite: str, model: str, generate: Generate, settings: Settings, *, chat: bool
) -> list[SuiteResult]:
    """Return the results of every task of a file; what it names by a relative path lies in its own folder.

    Raises:
        Refused: lm-eval cannot load or score a task, or needs more of an endpoint than answers.
    """
    with _told(suite), contextlib.chdir(place.parent):
        manager = TaskManager(include_path=str(place.parent), include_defaults=False)
        tasks = _loaded(suite, place, manager)
        for name, task in tasks.items():
            _check(name, task)
        found = lm_eval.simple_evaluate(
            model=Model(generate, settings, chat=chat),
            tasks=list(tasks.values()),
            task_manager=manager,
            limit=settings.first,
            apply_chat_template=chat,
            bootstrap_iters=0,
        )
        code = _code(place.parent)
        return [
            _result(f"{suite}#{name}", code, model, task, found["samples"][name], settings, chat)
            for name, task in tasks.items()
        ]


class Model(LM):  # type: ignore[misc]  # lm-eval is not installed where types are checked
    """A model that answers, as lm-eval's runner calls it."""

    def __init__(self, generate: Generate, settings: Settings, *, chat: bool) -> None:
        super().__init__()
        self._generate, self._settings, self._chat = generate, settings, chat

    def generate_until(self, requests: Sequence[Instance], disable_tqdm: bool = False) -> list[str]:
        """Return the answers; several that are wanted of one prompt stand side by side and differ in seed."""
        wanted = [
            (repeat, *each.args)
            for _, same in itertools.groupby(requests, key=id)
            for repeat, each in enumerate(same)
        ]
        puts = [(repeat, text, _generation(said, self._settings)) for repeat, text, said in wanted]
        asked = [asking.request(text, said, self._settings, n, chat=self._chat) for n, text, said in puts]
        answers = self._generate(asked)
        return [asking.kept(a, asking.stops_of(put[2])) for a, put in zip(answers, puts, strict=True)]

    def loglikelihood(self, requests: Sequence[Instance]) -> list[tuple[float, bool]]:
        """Refuse: see _check, which no such request passes."""
        raise _needs_likelihoods(requests[0].task_name, "loglikelihood")

    def loglikelihood_rolling(self, requests: Sequence[Instance]) -> list[float]:
        """Refuse: see _check, which no such request passes."""
        raise _needs_likelihoods(requests[0].task_name, "loglikelihood_rolling")

    def apply_chat_template(
        self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True
    ) -> str:
        """Return a chat as JSON: the endpoint has the template."""
        if not add_generation_prompt:
            raise Refused(
                "InvalidSuite",
                "gen_prefix: the answer's beginning can not be given to a chat; leave it out, or give --as-text",
            )
        return json.dumps(chat_history, ensure_ascii=False)

    @property
    def tokenizer_name(self) -> str:
        """Return the name that lm-eval would keep prompts under; none are kept."""
        return "endpoint"


def _loaded(suite: str, place: Path, manager: Any) -> dict[str, Any]:
    """Return the tasks of a file by name. A group is asked for by its name: lm-eval takes no path for one."""
    entry = next((entry for entry in manager.task_index.values() if entry.yaml_path == place), None)
    if entry is not None:
        _check_members(suite, entry.cfg, manager.all_tasks)
    found: dict[str, Any] = manager.load([entry.name if entry else str(place)])["tasks"]
    return found


def _check_members(suite: str, said: Mapping[str, Any], known: Sequence[str]) -> None:
    """Raise Refused where a group names a task that its folder has not; lm-eval's error does not say which."""
    members = said["task"] if "group" in said else []
    for member in [members] if isinstance(members, str) else members:
        if isinstance(member, str) and member not in known:
            raise Refused(
                "InvalidSuite",
                f"--suite {suite}: task: {member}: no YAML file in its folder is of that name; correct it, or put the file "
                f"there. There are {', '.join(known)}",
            )


def _check(name: str, task: Any) -> None:
    if task.OUTPUT_TYPE != "generate_until":
        raise _needs_likelihoods(name, task.OUTPUT_TYPE)
    if getattr(task, "UNSAFE_CODE", False):
        raise Refused(
            "InvalidSuite",
            f"task {name}: unsafe_code: lm-eval would run what the model writes unconfined; give the problems as a .jsonl "
            "suite, whose programs run in the sandbox",
        )
    for metric, better in task.higher_is_better().items():
        if not better:
            raise Refused(
                "InvalidSuite",
                f"task {name}: metric {metric}: less is better, and scores are shares where more is; leave it out of metric_list",
            )
    asking.check(name, normalize_gen_kwargs(task.config.generation_kwargs))


def _needs_likelihoods(name: str | None, kind: str) -> Refused:
    return Refused(
        "NeedsLogLikelihoods",
        f"task {name}: output_type: {kind} needs the log-probability of texts that the model did not write (`echo` with "
        "`logprobs`), which endpoints of Anneal do not tell; take the task's variant with output_type: generate_until, or write one",
    )


def _generation(said: Mapping[str, Any], settings: Settings) -> dict[str, Any]:
    return dict(normalize_gen_kwargs(dict(said), default_max_gen_toks=settings.max_tokens))


def _result(
    suite: str,
    code: bytes,
    model: str,
    task: Any,
    samples: Sequence[Mapping[str, Any]],
    settings: Settings,
    chat: bool,
) -> SuiteResult:
    said = _generation(task.config.generation_kwargs, settings)
    name, aggregations = task.config.task, task.aggregation()
    used = settings.model_copy(
        update={
            "samples": task.config.repeats,
            "temperature": said.get("temperature", 0.0),
            "max_tokens": said["max_gen_toks"],
            "harness": f"lm-eval {version('lm-eval')}, as a {'chat' if chat else 'text to go on from'}",
        }
    )
    return SuiteResult(
        suite=suite,
        digest=_digest(name, code, samples),
        model=model,
        settings=used,
        problems=measured.problems(samples, aggregations),
        scores=measured.scores(name, samples, aggregations),
    )


def _code(folder: Path) -> bytes:
    """Return a digest of what a task is made of besides its data: the YAML and Python files of its folder.

    Files that tasks include are called `_default_yaml` and the like.
    """
    files = sorted(path for kind in ("*yaml*", "*.py") for path in folder.rglob(kind))
    parts = [(str(path.relative_to(folder)), path.read_bytes()) for path in files]
    return hashlib.sha256(repr(parts).encode()).digest()


def _digest(name: str, code: bytes, samples: Sequence[Mapping[str, Any]]) -> str:
    """Return what stands for a task, wherever it and its data lie: its code, and every prompt and target."""
    digest = hashlib.sha256(name.encode() + code)
    for sample in samples:
        digest.update(f"{sample['doc_hash']} {sample['prompt_hash']} {sample['target_hash']}".encode())
    return f"sha256:{digest.hexdigest()}"


@contextlib.contextmanager
def _told(suite: str) -> Iterator[None]:
    """Tell what lm-eval makes of a wrong task, whichever exception it chose."""
    try:
        yield
    except StageError:
        raise
    except Exception as error:
        raise Refused(
            "InvalidSuite",
            f"--suite {suite}: lm-eval: {type(error).__name__}: {error}; correct the task's file; data is read "
            "without a network: `dataset_path: json` with `dataset_kwargs.data_files`",
        ) from error
