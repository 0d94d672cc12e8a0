"""Fields that are not built yet are refused by name; the table names only fields that exist."""

from anneal_api import unsupported
from anneal_api.finetunejob import FineTuneJobSpec
from anneal_api.modeldeployment import ModelDeploymentSpec

JOB = {
    "baseModel": {"uri": "pvc://store/base"},
    "tasks": [{"name": "a", "data": {"uri": "pvc://store/a.jsonl"}}],
    "output": {"uri": "pvc://store"},
}
DEPLOYMENT = {"model": {"uri": "pvc://store/team/model/k"}}


def test_defaults_pass() -> None:
    assert unsupported.refused(FineTuneJobSpec.model_validate(JOB)) == []
    assert unsupported.refused(ModelDeploymentSpec.model_validate(DEPLOYMENT)) == []


def test_a_field_that_is_not_built_is_named() -> None:
    change = {"model": {"selector": {"team": "a"}}}
    assert unsupported.refused(ModelDeploymentSpec.model_validate({**DEPLOYMENT, **change})) == [
        "spec.model.selector: {'team': 'a'} is not implemented yet; remove the field"
    ]
