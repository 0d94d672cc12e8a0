"""The commands: each reads what it needs, hands it to a pure function, and prints what comes of it."""

import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import Any, TypeVar

import click
import yaml
from rich.console import Console, RenderableType
from rich.live import Live

from anneal_api.base import LABEL_DEPLOYMENT, LABEL_JOB, LABEL_STAGE
from anneal_api.outcome import EXIT_CONFIG, EXIT_TRY_AGAIN
from anneal_api.version import VERSION
from anneal_cli import chat as endpoint
from anneal_cli import curves, difference, garbage, planning, policies, reader, report, story, waiting
from anneal_cli import lineage as origins
from anneal_cli import logs as printed
from anneal_cli import overview as glance
from anneal_cli.kubectl import RESOURCES, Kubectl, Object
from anneal_operator import naming
from anneal_runtime.errors import Refused, StageError
from anneal_runtime.model_shape import shape_of

SECONDS = 2.0
"""Between two looks of --watch."""
OPERATOR = "app.kubernetes.io/name=anneal,app.kubernetes.io/component=operator"
Command = TypeVar("Command", bound=Callable[..., Any])


class _Group(click.Group):
    """What is wrong is told to the person who asked, with the exit code of a stage."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except StageError as error:
            click.echo(f"{error.reason}: {error.message}", err=True)
            ctx.exit(EXIT_CONFIG if isinstance(error, Refused) else EXIT_TRY_AGAIN)


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--context", help="Context of kubectl's configuration; the current one when unset.")
@click.option("--namespace", "-n", help="Namespace; that of the context when unset.")
@click.version_option(VERSION)
@click.pass_context
def anneal(ctx: click.Context, context: str | None, namespace: str | None) -> None:
    """Look at runs and endpoints of Anneal. NAME is a resource's name, or ftj/NAME or mdep/NAME."""
    ctx.obj = Kubectl(context, namespace)


def _complete(ctx: click.Context, _: click.Parameter, unfinished: str) -> list[str]:
    """Return the names of resources; none where the cluster is not in reach."""
    options = ctx.find_root().params
    kubectl = Kubectl(options.get("context"), options.get("namespace"))
    try:
        names = [each["metadata"]["name"] for kind in RESOURCES for each in kubectl.select(kind)]
    except (StageError, OSError):
        return []
    return sorted({name for name in names if name.startswith(unfinished)})


named = click.argument("name", shell_complete=_complete)
as_json = click.option(
    "--output", "-o", type=click.Choice(["text", "json"]), default="text", help="For people, or for programs."
)


def _data(value: Any) -> Any:
    return asdict(value) if is_dataclass(value) and not isinstance(value, type) else value


def _tell(output: str, value: Any, shown: Callable[[], RenderableType]) -> None:
    if output == "json":
        data = [_data(each) for each in value] if isinstance(value, list) else _data(value)
        click.echo(json.dumps(data, indent=2, default=str))
    else:
        Console(soft_wrap=not sys.stdout.isatty()).print(shown())


@anneal.command()
@click.argument("name", required=False, shell_complete=_complete)
@click.option("--watch", "-w", is_flag=True, help="Look again every two seconds until it is over.")
@as_json
@click.pass_obj
def status(kubectl: Kubectl, name: str | None, watch: bool, output: str) -> None:
    """What resources are doing: all of the namespace, or everything about one."""
    if name is None:
        views = [glance.overview(each) for kind in RESOURCES for each in kubectl.select(kind)]
        _tell(output, views, lambda: glance.many(views))
    elif watch:
        _watch(kubectl, name, output)
    else:
        view = glance.overview(kubectl.find(name))
        _tell(output, view, lambda: glance.one(view))


def _watch(kubectl: Kubectl, name: str, output: str) -> None:
    """Draw one resource anew until it is over; where nobody looks, say a line whenever something has changed."""
    seen = _looks(kubectl, name)
    if output == "text" and sys.stdout.isatty():
        with Live(auto_refresh=False) as live:
            for view in seen:
                live.update(glance.one(view), refresh=True)
        return
    last = None
    for view in seen:
        if view != last:
            click.echo(json.dumps(asdict(view)) if output == "json" else glance.line(view))
        last = view


def _looks(kubectl: Kubectl, name: str) -> Iterator[glance.Overview]:
    while True:
        view = glance.overview(kubectl.find(name))
        yield view
        if view.over:
            return
        time.sleep(SECONDS)


@anneal.command()
@named
@click.option(
    "--stage", default="train", help="train, prepare, evaluate, export, quantize, engine, gate, ..."
)
@click.option("--follow", "-f", is_flag=True, help="Go on with what is printed from now on.")
@as_json
@click.pass_obj
def logs(kubectl: Kubectl, name: str, stage: str, follow: bool, output: str) -> None:
    """Logs of all pods of a stage, merged by time; each line begins with attempt/rank."""
    resource = kubectl.find(name)
    label = LABEL_JOB if resource["kind"] == "FineTuneJob" else LABEL_DEPLOYMENT
    selector = f"{label}={naming.label_value(resource['metadata']['name'])},{LABEL_STAGE}={stage}"
    pods = {
        each["metadata"]["name"]: printed.source(each)
        for each in kubectl.select("pods", "--selector", selector)
    }
    if not pods:
        raise Refused(
            "NoPods",
            f"--stage {stage}: {name} has no pod of it now; `anneal why {name}` names the records of attempts",
        )
    with ExitStack() as stack:
        if follow:
            many = ["--follow", "--prefix", "--max-log-requests", str(max(5, len(pods)))]
            stream = stack.enter_context(
                kubectl.stream("logs", "--selector", selector, "--timestamps", "--tail=-1", *many)
            )
            lines = printed.followed(stream, pods)
        else:
            streams = {
                source: stack.enter_context(kubectl.stream("logs", pod, "--timestamps"))
                for pod, source in pods.items()
            }
            lines = printed.merged(streams)
        for line in lines:
            click.echo(json.dumps(asdict(line)) if output == "json" else str(line))


@anneal.command()
@named
@click.option("--png", type=click.Path(dir_okay=False, path_type=Path), help="Write a picture instead.")
@as_json
@click.pass_obj
def plot(kubectl: Kubectl, name: str, png: Path | None, output: str) -> None:
    """The loss of each task and the learning rate, step by step."""
    shown = curves.curves(_steps(kubectl, kubectl.find(name)))
    if png is not None:
        png.write_bytes(curves.image(shown, "png"))
        click.echo(str(png))
    elif output == "json":
        click.echo(json.dumps(asdict(shown)))
    else:
        click.echo(curves.terminal(shown, colour=sys.stdout.isatty()))


def _steps(kubectl: Kubectl, resource: Object) -> list[Object]:
    steps = kubectl.answer(reader.steps(reader.plan_of(kubectl, resource)))
    if not steps:
        raise Refused(
            "NoSteps",
            f"{resource['metadata']['name']} has recorded no step; the first come with a checkpoint",
        )
    return steps


@anneal.command()
@click.option(
    "--filename", "-f", required=True, type=click.File(), help="Manifest with the resources; - reads stdin."
)
@click.option("--config", required=True, type=click.File(), help="config.json of the base model.")
@click.option(
    "--values", type=click.File(), help="The chart's values; the cluster's operator is asked when unset."
)
@click.option(
    "--tokens", type=float, help="Tokens of all training rows, for the time that epochs of them take."
)
@as_json
@click.pass_obj
def plan(
    kubectl: Kubectl, filename: Any, config: Any, values: Any, tokens: float | None, output: str
) -> None:
    """Whether resources fit their accelerators and about how long it takes, before anything is started."""
    settings = yaml.safe_load(values) if values else _settings(kubectl)
    resources = planning.resources_of(list(yaml.safe_load_all(filename)))
    shape, profiles = shape_of(json.load(config)), planning.profiles_of(settings)
    needs = [planning.need(each, shape, profiles, tokens) for each in resources]
    _tell(output, needs, lambda: planning.render(needs))
    if not all(each.fits for each in needs):
        raise click.exceptions.Exit(EXIT_CONFIG)


def _settings(kubectl: Kubectl) -> Any:
    found = kubectl.select("configmaps", "--all-namespaces", "--selector", OPERATOR)
    if not found:
        raise Refused(
            "NoOperator", "no operator of Anneal is in this cluster; give the chart's values with --values"
        )
    return yaml.safe_load(found[0]["data"]["config.yaml"])


@anneal.command()
@named
@click.argument("prompt", required=False)
@click.option("--system", help="What the model is told first.")
@click.option("--max-tokens", default=512, show_default=True, type=click.IntRange(1))
@as_json
@click.pass_obj
def chat(
    kubectl: Kubectl, name: str, prompt: str | None, system: str | None, max_tokens: int, output: str
) -> None:
    """Talk to an endpoint; without a PROMPT, turn by turn. A key is taken from the variable ANNEAL_API_KEY."""
    service = endpoint.service_of(kubectl.find(name))
    messages = [{"role": "system", "content": system}] if system else []
    with kubectl.forward(service, endpoint.PORT) as address:
        for said in [prompt] if prompt else _prompts():
            messages.append({"role": "user", "content": said})
            body = endpoint.request(service, messages, max_tokens)
            text = ""
            answer = endpoint.answer(address, os.environ.get("ANNEAL_API_KEY"), body)
            for piece in waiting.until_first(service, answer):
                text += piece
                click.echo(piece, nl=False) if output == "text" else None
            click.echo() if output == "text" else click.echo(
                json.dumps({"role": "assistant", "content": text})
            )
            messages.append({"role": "assistant", "content": text})


def _prompts() -> Iterator[str]:
    """Yield what the person types, until the input ends."""
    while True:
        try:
            yield click.prompt("", prompt_suffix="> ")
        except click.Abort:
            return


@anneal.command()
@named
@click.argument("other", shell_complete=_complete)
@as_json
@click.pass_obj
def diff(kubectl: Kubectl, name: str, other: str, output: str) -> None:
    """What two FineTuneJobs were asked for and what came of it, where they differ."""
    found = difference.difference(
        *(kubectl.get("FineTuneJob", each.removeprefix("ftj/")) for each in (name, other))
    )
    _tell(output, found, lambda: difference.render(found))


@anneal.command()
@named
@as_json
@click.pass_obj
def lineage(kubectl: Kubectl, name: str, output: str) -> None:
    """What a model was made from: artifact by artifact, back to the data and the base model."""
    resource = kubectl.find(name)
    known = origins.read(kubectl.answer(reader.artifacts(reader.plan_of(kubectl, resource))))
    for node in (found := origins.lineage(resource, known)):
        if output == "text":
            Console(soft_wrap=True).print(origins.render(node))
    if output == "json":
        click.echo(json.dumps([origins.data(node) for node in found], indent=2))


@anneal.command()
@named
@as_json
@click.pass_obj
def why(kubectl: Kubectl, name: str, output: str) -> None:
    """The story of a resource: what happened when, how it stands, and what to do about it."""
    found = story.story(*_with_events(kubectl, name))
    _tell(output, found, lambda: story.text(found))


def _with_events(kubectl: Kubectl, name: str) -> tuple[Object, list[Object]]:
    resource = kubectl.find(name)
    selector = f"involvedObject.uid={resource['metadata']['uid']}"
    return resource, kubectl.select("events", "--field-selector", selector)


@anneal.command("report")
@named
@click.option(
    "--to", required=True, type=click.Path(dir_okay=False, path_type=Path), help="The page to write."
)
@click.pass_obj
def report_command(kubectl: Kubectl, name: str, to: Path) -> None:
    """Write the report of a FineTuneJob: one HTML page that needs no network."""
    resource, events = _with_events(kubectl, name)
    steps = _steps(kubectl, resource)
    to.write_text(report.page(resource, events, steps, _samples(kubectl, resource)))
    click.echo(str(to))


def _samples(kubectl: Kubectl, resource: Object) -> list[Object]:
    """Return the rows that the report of the data set shows; none before there is one."""
    dataset = resource.get("status", {}).get("artifacts", {}).get("dataset")
    if dataset is None:
        return []
    return kubectl.answer(reader.samples(reader.plan_of(kubectl, resource), dataset["uri"]))


@anneal.command()
@named
@click.option("--yes", is_flag=True, help="Remove it; without, it is only listed.")
@as_json
@click.pass_obj
def gc(kubectl: Kubectl, name: str, yes: bool, output: str) -> None:
    """What nothing refers to any more in the store and namespace that NAME uses."""
    config_map = reader.plan_of(kubectl, kubectl.find(name))
    told = kubectl.answer(reader.artifacts(config_map))
    objects = [each for kind in (*RESOURCES, "configmaps") for each in kubectl.select(kind)]
    runs = [each["run"] for each in told if "run" in each]
    found = garbage.garbage(origins.read(told), runs, objects)
    if yes and found.uris:
        kubectl.answer(reader.removal(config_map, found.uris))
    _tell(output, found, lambda: garbage.text(found, removed=yes))


@anneal.command("policies")
@click.option("--image", help="Image with the operator in it; that of the cluster's operator when unset.")
@as_json
@click.pass_obj
def policies_command(kubectl: Kubectl, image: str | None, output: str) -> None:
    """Whether this cluster enforces NetworkPolicies: tried with two small pods. Exit code 1 where nothing does."""
    secrets: list[Object] = []
    if image is None:
        image, secrets = _operator_image(kubectl)
    with kubectl.standing(policies.target(image, secrets)) as address:
        found = policies.verdict(kubectl.answer(policies.caller(image, secrets, address)))
    click.echo(json.dumps({"policies": found}) if output == "json" else policies.SAID[found])
    if found == "ignored":
        raise click.exceptions.Exit(1)


def _operator_image(kubectl: Kubectl) -> tuple[str, list[Object]]:
    found = kubectl.select("deployments", "--all-namespaces", "--selector", OPERATOR)
    if not found:
        raise Refused("NoOperator", "no operator of Anneal is in this cluster; name its image with --image")
    pod = found[0]["spec"]["template"]["spec"]
    return pod["containers"][0]["image"], pod.get("imagePullSecrets", [])


def main() -> None:
    """Run the command that was asked for."""
    anneal(prog_name="anneal")


if __name__ == "__main__":
    main()
