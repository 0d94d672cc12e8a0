"""What a stage published, when its pod went before anybody read what it reported: the store is asked."""

from anneal_api.base import ArtifactRef
from anneal_api.finetunejob import FineTuneJobStatus
from anneal_api.outcome import FineTuneInspection
from anneal_operator import stages
from anneal_operator.draft import Draft
from anneal_operator.finetunejob import resources, status
from anneal_operator.finetunejob.observe import Observed
from anneal_operator.finetunejob.resources import Site


def recovered(
    draft: Draft[FineTuneJobStatus], observed: Observed, site: Site, stage: str
) -> tuple[ArtifactRef | None, bool]:
    """Ask the store for what a vanished pod published; the second value says whether it has answered."""
    wanted = resources.stage(site, site.name("inspect", stage), "inspect")
    step = stages.follow(draft, observed.children, wanted)
    if step.state == "running":
        return None, False
    if step.outcome is None and step.job:
        draft.remove(step.job)
        return None, False
    if step.state == "failed" or step.outcome is None:
        return None, True
    seen = FineTuneInspection.model_validate(step.outcome.result)
    if stage == "evaluate":
        draft.update(scores=status.scores(seen.scores, site.run.spec))
    if stage == "suites":
        draft.update(suite_scores=status.suite_scores(seen.suite_scores))
    return seen.published.get(stage), True


def inspection(site: Site) -> FineTuneInspection:
    """Return what inspection found out; a plan always has it."""
    assert site.run.inspection is not None
    return site.run.inspection
