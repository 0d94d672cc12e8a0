"""Builders of a ModelDeployment's children; every one is a function of a version's run and nothing else."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from anneal_api.artifacts import STAGE_KINDS, canonical
from anneal_api.base import LABEL_DEPLOYMENT, LABEL_STAGE, LABEL_VERSION, ArtifactRef, wire
from anneal_api.modeldeployment import ModelDeploymentSpec
from anneal_api.profiles import AcceleratorProfile, Images
from anneal_api.runs import ENV_JUDGES, GATEWAY_KEY, KEYS_FOLDER, DeploymentRun, GatewayConfig, GatewayVersion
from anneal_operator import naming, objects, plan, pods, uris
from anneal_operator.decision import Object

HTTP_PORT, GRPC_PORT, METRICS_PORT, GATEWAY_PORT = 8000, 8001, 8002, 8080
REQUESTS = {
    "inspect": {"cpu": "100m", "memory": "256Mi"},
    "quantize": {"cpu": "300m", "memory": "2Gi"},
    "engine": {"cpu": "300m", "memory": "1Gi"},
    "gate": {"cpu": "300m", "memory": "1Gi"},
    "serve": {"cpu": "300m", "memory": "1Gi"},
    "gateway": {"cpu": "50m", "memory": "192Mi"},
}
"""What a stage's pod asks for unless the accelerator's overlay says otherwise; none has a CPU limit."""
PRE_STOP_SECONDS = 5
"""Time for the news that a pod is leaving to reach those who send to it."""
GRACE_MARGIN = 15


@dataclass(frozen=True)
class Site:
    """Where a version's children are made: the owner, the run, its version's name, images and profiles."""

    owner: Object
    run: DeploymentRun
    version: str
    config_map: str
    images: Images
    plain: AcceleratorProfile
    quantizer: AcceleratorProfile | None
    measurer: AcceleratorProfile | None = None
    """Where the gate runs, if not where the replicas do."""

    def name(self, stage: str, *parts: object) -> str:
        """Return the deterministic name of a version's child."""
        return naming.child_name(self.run.name, stage, self.run.uid, stage, self.version, *parts)

    def engine(self, digest: str) -> ArtifactRef:
        """Return the engine artifact of this version."""
        return ArtifactRef(uri=self.artifact("engine"), digest=digest)

    def artifact(self, stage: str) -> str:
        """Return where a stage publishes."""
        assert self.run.inspection is not None
        key = str(getattr(self.run.inspection.keys, stage))
        return uris.artifact_uri(self.run.store, self.run.namespace, STAGE_KINDS[stage], key)


def labels(name: str, stage: str, version: str | None = None) -> dict[str, str]:
    """Return the labels of a child."""
    common = {LABEL_DEPLOYMENT: naming.label_value(name), LABEL_STAGE: stage}
    return {**common, LABEL_VERSION: version} if version else common


def metadata(site: Site, name: str, stage: str, version: str | None) -> Object:
    """Return the metadata of a child."""
    note = {pods.OWNER_ANNOTATION: site.run.name}
    return objects.meta(name, site.run.namespace, site.owner, labels(site.run.name, stage, version), note)


def run_config(site: Site) -> Object:
    """Return the ConfigMap of the inspect stage, whose run is not planned yet."""
    meta = metadata(site, site.config_map, "inspect", site.version)
    return objects.config_map(meta, {plan.RUN_KEY: plan.text(site.run)}, immutable=True)


def stage(site: Site, name: str, stage: str) -> Object:
    """Return the Job of a build stage."""
    template = pods.template(
        _work(site, stage), labels(site.run.name, stage, site.version), {pods.OWNER_ANNOTATION: site.run.name}
    )
    return objects.stage_job(metadata(site, name, stage, site.version), template)


def _profile(site: Site, stage: str) -> AcceleratorProfile | None:
    """Return the accelerator that a stage's pods run on; None for a stage that needs a CPU alone."""
    serving = site.run.accelerator
    own = {"quantize": site.quantizer, "gate": site.measurer or serving, "inspect": None}
    return own.get(stage, serving)


def accelerators(site: Site) -> dict[str, int]:
    """Return how many accelerators a pod of each stage holds; none where a profile is of plain nodes."""
    stages = ("quantize", "engine", "gate", "serve")
    profiles = {stage: _profile(site, stage) for stage in stages}
    return {s: _accelerators(site, s) for s, p in profiles.items() if p and p.resource_name}


def _work(site: Site, stage: str) -> pods.Work:
    profile = _profile(site, stage)
    return pods.Work(
        image=image(site.images, site.run.spec, stage),
        command=("python3", "-m", "anneal_serving", stage),
        config_map=site.config_map,
        config_key=plan.RUN_KEY,
        claims=claims(site.run, writes=stage not in ("serve", "inspect")),
        secrets=secrets(site.run.spec),
        profile=profile or site.plain,
        requests=REQUESTS[stage],
        accelerators=_accelerators(site, stage) if profile else 0,
        env={ENV_JUDGES: ",".join(sorted(site.images.judges("")))} if stage == "inspect" else {},
        judges=_judges(site) if stage == "gate" else {},
    )


def _judges(site: Site) -> dict[str, str]:
    """Return the judges that inspection found the gate's suites to need."""
    known = site.images.judges(image(site.images, site.run.spec, "gate"))
    needed = (site.run.inspection and site.run.inspection.judged) or []
    return {language: known[language] for language in needed if language in known}


def _accelerators(site: Site, stage: str) -> int:
    """Return how many of its profile a pod asks for: a divided engine is built, measured and run on all its parts."""
    return 1 if stage == "quantize" else site.run.spec.engine.tensor_parallel_size


def image(images: Images, spec: ModelDeploymentSpec, stage: str) -> str:
    """Return a stage's image: quantising needs torch, and a TensorRT engine needs TensorRT where it is made and run."""
    if stage == "quantize":
        return images.trainers
    on_device = stage in ("engine", "gate", "serve") and spec.engine.runtime != "openvino"
    return images.triton_trtllm if on_device else images.serving


def claims(run: DeploymentRun, *, writes: bool) -> dict[str, bool]:
    """Return the claims of a run, and whether each is read-only."""
    suites = [suite.name for suite in run.spec.gate.suites]
    inputs = [run.model.uri, run.spec.quantization.calibration.uri, *suites]
    return uris.claims(inputs, [run.store]) if writes else uris.claims([*inputs, run.store], [])


def secrets(spec: ModelDeploymentSpec) -> list[str]:
    """Return the Secrets of a run."""
    return [spec.model.secret_ref.name] if spec.model.secret_ref else []


def replicas_name(site: Site) -> str:
    """Return the name of a version's Deployment and of its Service."""
    return site.name("replicas")


def replicas_service(site: Site) -> Object:
    """Return the headless Service whose EndpointSlices the gateway watches."""
    ports = {"http": HTTP_PORT, "grpc": GRPC_PORT, "metrics": METRICS_PORT}
    meta = metadata(site, replicas_name(site), "serve", site.version)
    return objects.headless_service(
        meta, labels(site.run.name, "serve", site.version), ports, not_ready=False
    )


def replicas(site: Site, count: int) -> Object:
    """Return the Deployment of a version's Triton replicas."""
    tags = labels(site.run.name, "serve", site.version)
    work = _serving_work(site)
    notes = {pods.OWNER_ANNOTATION: site.run.name, **_scraped(METRICS_PORT)}
    meta = metadata(site, replicas_name(site), "serve", site.version)
    return _deployment(meta, tags, pods.template(work, tags, notes), count)


def _serving_work(site: Site) -> pods.Work:
    base = _work(site, "serve")
    drain = site.run.spec.drain_seconds
    return pods.Work(
        image=base.image,
        command=base.command,
        config_map=base.config_map,
        config_key=base.config_key,
        claims=base.claims,
        secrets=base.secrets,
        profile=base.profile,
        requests=base.requests,
        accelerators=base.accelerators,
        ports={"http": HTTP_PORT, "grpc": GRPC_PORT, "metrics": METRICS_PORT},
        grace_seconds=drain + GRACE_MARGIN,
        container={
            "lifecycle": _pre_stop(),
            "startupProbe": _probe("/v2/health/live", HTTP_PORT, period=5, failures=240),
            "readinessProbe": _probe("/v2/health/ready", HTTP_PORT, period=3, failures=2),
            "livenessProbe": _probe("/v2/health/live", HTTP_PORT, period=15, failures=4),
        },
    )


def gateway_name(name: str) -> str:
    """Return the name of all objects of the gateway but its Service."""
    return f"{name}-gateway"


@dataclass(frozen=True)
class Routed:
    """A version behind the gateway and its share of the requests, per cent."""

    site: Site
    engine: ArtifactRef
    percent: int


def _gateway_version(behind: Routed) -> GatewayVersion:
    limits = behind.site.run.spec.engine
    return GatewayVersion(
        name=behind.site.version,
        weight=behind.percent,
        service=replicas_name(behind.site),
        engine=behind.engine,
        max_batch_size=limits.max_batch_size,
        max_input_length=limits.max_input_length,
        max_sequence_length=limits.max_sequence_length,
        runtime=limits.runtime,
    )


def gateway_config(behind: Sequence[Routed], spec: ModelDeploymentSpec, trial: str) -> GatewayConfig:
    """Return what the gateway routes to: the versions that have traffic, and its limits."""
    run = behind[0].site.run
    return GatewayConfig(
        model=run.name,
        namespace=run.namespace,
        versions=[_gateway_version(each) for each in behind],
        trial=trial,
        config_map=gateway_name(run.name),
        max_queue=spec.gateway.max_queue,
        request_timeout_seconds=spec.gateway.request_timeout_seconds,
        api_keys=spec.gateway.api_keys_secret is not None,
        cache=spec.gateway.cache,
    )


def gateway(
    behind: Sequence[Routed], spec: ModelDeploymentSpec, trial: str, env: Mapping[str, str]
) -> list[Object]:
    """Return everything of the gateway, in the order in which it is needed; it runs as the first version's plan says."""
    site = behind[0].site
    name, tags = gateway_name(site.run.name), labels(site.run.name, "gateway")
    meta = metadata(site, name, "gateway", None)
    config = canonical(wire(gateway_config(behind, spec, trial))).decode()
    notes = {pods.OWNER_ANNOTATION: site.run.name, **_scraped(GATEWAY_PORT)}
    template = pods.template(_gateway_work(behind, spec, name, env), tags, notes)
    return [
        objects.config_map(meta, {GATEWAY_KEY: config}, immutable=False),
        *_identity(meta, name, site.run.namespace),
        _deployment(meta, tags, template, spec.gateway.replicas),
        _front(metadata(site, site.run.name, "gateway", None), tags),
    ]


def _gateway_work(
    behind: Sequence[Routed], spec: ModelDeploymentSpec, name: str, env: Mapping[str, str]
) -> pods.Work:
    site, runs = behind[0].site, [each.site.run for each in behind]
    return pods.Work(
        image=site.images.serving,
        command=("python3", "-m", "anneal_serving", "gateway"),
        config_map=name,
        config_key=GATEWAY_KEY,
        claims=uris.claims([run.store for run in runs], []),
        secrets=list(dict.fromkeys(name for run in runs for name in secrets(run.spec))),
        mounted_secrets=_keys(spec),
        env={"OTEL_SERVICE_NAME": name, **env} if env else {},
        profile=site.plain,
        requests=REQUESTS["gateway"],
        ports={"http": GATEWAY_PORT},
        service_account=name,
        api_token=True,
        grace_seconds=spec.drain_seconds + GRACE_MARGIN,
        container={
            "lifecycle": _pre_stop(),
            "readinessProbe": _probe("/readyz", GATEWAY_PORT, period=3, failures=2),
            "livenessProbe": _probe("/healthz", GATEWAY_PORT, period=15, failures=4),
        },
    )


def _keys(spec: ModelDeploymentSpec) -> dict[str, str]:
    secret = spec.gateway.api_keys_secret
    return {secret.name: KEYS_FOLDER} if secret else {}


def _identity(meta: Object, name: str, namespace: str) -> list[Object]:
    """Return the gateway's account, which may watch its namespace's EndpointSlices and its own config, nothing else."""
    rbac = "rbac.authorization.k8s.io"
    reads = ["get", "list", "watch"]
    rules = [
        {"apiGroups": ["discovery.k8s.io"], "resources": ["endpointslices"], "verbs": reads},
        {"apiGroups": [""], "resources": ["configmaps"], "resourceNames": [name], "verbs": reads},
    ]
    subject = {"kind": "ServiceAccount", "name": name, "namespace": namespace}
    return [
        {
            "apiVersion": "v1",
            "kind": "ServiceAccount",
            "metadata": meta,
            "automountServiceAccountToken": False,
        },
        {"apiVersion": f"{rbac}/v1", "kind": "Role", "metadata": meta, "rules": rules},
        {
            "apiVersion": f"{rbac}/v1",
            "kind": "RoleBinding",
            "metadata": meta,
            "roleRef": {"apiGroup": rbac, "kind": "Role", "name": name},
            "subjects": [subject],
        },
    ]


def _front(meta: Object, selector: dict[str, str]) -> Object:
    port = {"name": "http", "port": 80, "targetPort": GATEWAY_PORT, "protocol": "TCP"}
    spec = {"selector": selector, "ports": [port], "type": "ClusterIP"}
    return {"apiVersion": "v1", "kind": "Service", "metadata": meta, "spec": spec}


def _deployment(meta: Object, selector: dict[str, str], template: Object, count: int) -> Object:
    """Return a Deployment that never has fewer ready pods than asked for while it changes."""
    rolling = {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}}
    spec = {
        "replicas": count,
        "revisionHistoryLimit": 2,
        "selector": {"matchLabels": selector},
        "strategy": rolling,
        "template": template,
    }
    return {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": meta, "spec": spec}


def _pre_stop() -> Object:
    return {"preStop": {"sleep": {"seconds": PRE_STOP_SECONDS}}}


def _probe(path: str, port: int, *, period: int, failures: int) -> Object:
    return {
        "httpGet": {"path": path, "port": port},
        "periodSeconds": period,
        "timeoutSeconds": 5,
        "failureThreshold": failures,
    }


def _scraped(port: int) -> dict[str, str]:
    return {"prometheus.io/scrape": "true", "prometheus.io/port": str(port), "prometheus.io/path": "/metrics"}


def build_part(spec: ModelDeploymentSpec) -> Object:
    """Return the part of a spec that a version is made of; the rest never rebuilds anything."""
    fields = wire(spec)
    secret = fields["model"].get("secretRef", {})
    kept = {name: fields[name] for name in ("storage", "quantization", "engine", "accelerator")}
    # A suite that is added has to be measured; what it may lose is judged anew without that.
    suites = {"suites": sorted(suite.name for suite in spec.gate.suites)} if spec.gate.suites else {}
    return {**kept, **suites, "secret": secret}
