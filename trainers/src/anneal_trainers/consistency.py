"""What in a spec contradicts itself, beyond what a field's own type says; all of it is told at once.

The API server refuses most of this by the rules of the CRD; a spec may come to us without them.
"""

from collections import Counter
from collections.abc import Iterable, Iterator

from anneal_api.finetunejob import FineTuneJobSpec
from anneal_runtime.errors import Refused
from anneal_trainers.corpus import languages

SHARES_TOLERANCE = 1e-6


def check(spec: FineTuneJobSpec) -> None:
    """Raise Refused with every contradiction in `spec`, if there is one."""
    checks = (_names, _stages, _shares, _preferences, _patience, _languages, _suites)
    if found := [told for each in checks for told in each(spec)]:
        raise Refused("InvalidSpec", "; ".join(found))


def _names(spec: FineTuneJobSpec) -> Iterator[str]:
    yield from _repeated("spec.tasks[].name", (task.name for task in spec.tasks))
    yield from _repeated("spec.adapter.targets", spec.adapter.targets)
    yield from _repeated("spec.stages[].name", (stage.name for stage in spec.stages))
    for stage in spec.stages:
        yield from _repeated(f"spec.stages[].tasks of {stage.name}", stage.tasks)


def _repeated(field: str, names: Iterable[str]) -> Iterator[str]:
    for name, times in Counter(names).items():
        if times > 1:
            yield f"{field}: {name} is there {times} times; names must be unique: rename or remove the others"


def _stages(spec: FineTuneJobSpec) -> Iterator[str]:
    known = [task.name for task in spec.tasks]
    for stage in spec.stages:
        if unknown := sorted({*stage.tasks} - {*known}):
            yield f"spec.stages[].tasks: {stage.name} names {', '.join(unknown)}; choose among {', '.join(known)}"
    named = {name for stage in spec.stages for name in stage.tasks or known}
    if spec.stages and (idle := [name for name in known if name not in named]):
        yield f"spec.stages[].tasks: no stage names {', '.join(idle)}; add to a stage, or remove from spec.tasks"
    limits = {"epochs": spec.optimization.epochs, "maxSteps": spec.optimization.max_steps}
    for name, value in limits.items():
        if spec.stages and value is not None:
            yield f"spec.optimization.{name}: {value}, and stages have epochs of their own; remove it"


def _shares(spec: FineTuneJobSpec) -> Iterator[str]:
    shares = [task.sampling_share for task in spec.tasks if task.sampling_share is not None]
    if not shares:
        return
    total, without = sum(shares), len(spec.tasks) - len(shares)
    told = f"spec.tasks[].samplingShare: the shares add up to {total:.6g}"
    if total > 1 + SHARES_TOLERANCE:
        yield f"{told}, which is more than 1; lower them"
    elif without and total >= 1 - SHARES_TOLERANCE:
        yield f"{told}, which leaves nothing for {without} tasks without one; lower them, or give these one"
    elif not without and total < 1 - SHARES_TOLERANCE:
        yield f"{told}, and every task has one; raise them to 1, or leave a task without one"


def _preferences(spec: FineTuneJobSpec) -> Iterator[str]:
    if spec.optimization.objective == "dpo" and spec.data.over_length == "split":
        yield (
            "spec.data.overLength: split would compare pieces of answers under objective dpo; "
            "choose truncate or drop"
        )


def _patience(spec: FineTuneJobSpec) -> Iterator[str]:
    patience = spec.optimization.early_stopping.patience
    if patience and not spec.data.split.validation:
        yield (
            f"spec.optimization.earlyStopping.patience: {patience}, and spec.data.split.validation 0 leaves no "
            "validation loss to stop by; set patience to 0 or split.validation above 0"
        )


def _languages(spec: FineTuneJobSpec) -> Iterator[str]:
    if unknown := sorted({*spec.data.filters.languages} - languages.KNOWN):
        known = ", ".join(sorted(languages.KNOWN))
        yield f"spec.data.filters.languages: {', '.join(unknown)} is no known language; choose among {known}"


def _suites(spec: FineTuneJobSpec) -> Iterator[str]:
    if spec.evaluation.suites and not spec.output.merge:
        yield "spec.evaluation.suites: suites are run on the merged model; set spec.output.merge, or remove them"
    yield from _repeated("spec.evaluation.suites", spec.evaluation.suites)
