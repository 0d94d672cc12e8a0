"""A plan is known by what its ConfigMap holds, whichever operator reads it."""

import json

from world import CONFIG, finetunejob

from anneal_api.artifacts import content_key
from anneal_api.base import wire
from anneal_api.finetunejob import FineTuneJobSpec
from anneal_api.runs import FineTuneRun
from anneal_operator import plan


def frozen() -> dict[str, str]:
    """Return what the ConfigMap of a plan holds."""
    spec = FineTuneJobSpec.model_validate(finetunejob()["spec"])
    profile = CONFIG.accelerator(spec.workers.accelerator)
    assert profile is not None
    run = FineTuneRun(namespace="team", name="tune", uid="u", spec=spec, accelerator=profile)
    return dict(plan.freeze({"name": "where", "namespace": "team"}, run, CONFIG.images)["data"])


def test_its_name_is_the_content_key_of_run_and_images() -> None:
    found = plan.thaw("where", frozen(), FineTuneRun)
    assert found is not None
    assert (
        found.identity == content_key([wire(found.run), wire(found.images)])[:12] == plan.identity(frozen())
    )


def test_a_later_operator_that_reads_fields_anew_knows_it_by_the_same_name() -> None:
    data = frozen()
    run = json.loads(data[plan.RUN_KEY])
    del run["spec"]["workers"]["startTimeoutSeconds"]
    older = {**data, plan.RUN_KEY: json.dumps(run, sort_keys=True, separators=(",", ":"))}
    found = plan.thaw("where", older, FineTuneRun)
    assert found is not None
    assert found.run.spec.workers.start_timeout_seconds
    assert found.identity == plan.identity(older) != content_key([wire(found.run), wire(found.images)])[:12]
