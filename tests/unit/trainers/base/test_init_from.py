"""An earlier adapter is gone on from exactly, or refused with both values and the remedy, before weights are read."""

import json
import math
import shutil
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import peft
import pytest
import torch
from family_models import CPU, plain, trainee, write_family
from safetensors.torch import load_file, save_file

from anneal_api.artifacts import Producer
from anneal_api.finetunejob import Adapter, FineTuneJobSpec
from anneal_runtime import model_shape
from anneal_runtime.artifacts import identity, publishing_at
from anneal_runtime.errors import Refused
from anneal_trainers.base import adapters, base_model, init_from, model

BASE = "sha256:base"


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_family(tmp_path_factory.mktemp("base"), "smollm2")


@pytest.fixture(scope="module")
def earlier(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("earlier")
    adapters.write(trainee(base, "lora").model, folder, BASE)
    return folder


def check(
    base: Path,
    folder: Path,
    digest: str = BASE,
    added: Mapping[str, int] = MappingProxyType({}),
    **fields: Any,
) -> Any:
    spec = FineTuneJobSpec.model_validate(
        {
            "baseModel": {"uri": f"file://{base}"},
            "tasks": [{"name": "one", "data": {"uri": "file:///rows.jsonl"}}],
            "adapter": {"rank": 4, "alpha": 8, "initFrom": f"file://{folder}"} | fields,
            "output": {"uri": "file:///store"},
        }
    )
    return init_from.check(
        spec, digest, model_shape.shape_of(base_model.read_config(f"file://{base}")), added
    )


def test_no_earlier_adapter_is_nothing_to_check(base: Path) -> None:
    assert check(base, base, initFrom=None) is None


def test_training_begins_with_the_earlier_weights(base: Path, earlier: Path) -> None:
    assert check(base, earlier) == identity(f"file://{earlier}")
    first, second = trainee(base, "lora"), trainee(base, "lora", scale=0.0, init_from=earlier)
    assert torch.equal(first.flat, second.flat)
    assert not torch.equal(first.flat, trainee(base, "lora", scale=0.0).flat)


def test_tokens_may_be_added_to_an_earlier_adapter_but_not_taken_from_it(
    base: Path, earlier: Path, tmp_path: Path
) -> None:
    added = {"<middle>": 320}
    made = trainee(base, "lora", scale=0.0, added=added, init_from=earlier)
    assert torch.equal(made.flat[64:], trainee(base, "lora").flat)
    adapters.write(made.model, tmp_path, BASE)
    assert check(base, tmp_path, added=added)
    with pytest.raises(Refused, match=r"the added tokens \[320\], and this run adds \[\]; set spec.tasks"):
        check(base, tmp_path)
    with pytest.raises(Refused, match="trainable_tokens_delta and 0 more tensors"):
        trainee(base, "lora", init_from=tmp_path)


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing.:FutureWarning")  # peft asks by a former name
def test_a_folder_of_pefts_own_is_an_earlier_adapter(base: Path, tmp_path: Path) -> None:
    torch.manual_seed(3)
    config = peft.LoraConfig(
        r=4,
        lora_alpha=8,
        target_modules=["q_proj", "down_proj"],
        init_lora_weights=False,
        task_type="CAUSAL_LM",
    )
    theirs = peft.get_peft_model(plain(base), config)
    theirs.save_pretrained(tmp_path)
    assert check(base, tmp_path, targets=["down_proj", "q_proj"])
    made = model.assemble(
        base,
        Adapter(type="lora", rank=4, alpha=8, targets=["q_proj", "down_proj"]),
        0,
        CPU,
        torch.float32,
        {},
    )
    adapters.put(made, tmp_path)
    ids = torch.arange(3, 30)[None]
    with torch.no_grad():
        assert torch.allclose(made(ids).logits, theirs(ids).logits, atol=1e-5)


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"rank": 8}, "its rank is 4, and spec.adapter.rank is 8; set the field"),
        ({"alpha": 16}, "its alpha is 8.0, and spec.adapter.alpha is 16.0; set the field"),
        ({"targets": ["q_proj"]}, r"its targets is \['down_proj'.*and spec.adapter.targets is \['q_proj'\]"),
    ],
)
def test_another_shape_of_adapter_is_refused(
    base: Path, earlier: Path, fields: dict[str, Any], told: str
) -> None:
    with pytest.raises(Refused, match=told) as refused:
        check(base, earlier, **fields)
    assert refused.value.reason == "AdapterMismatch"


def test_an_adapter_of_another_base_is_refused_by_digest_or_by_its_shapes(
    base: Path, earlier: Path, tmp_path: Path
) -> None:
    with pytest.raises(Refused, match="trained on the base sha256:base, and spec.baseModel is sha256:other"):
        check(base, earlier, digest="sha256:other")
    larger = write_family(tmp_path / "larger", "smollm2", hidden_size=128, num_attention_heads=8)
    unmarked = tmp_path / "unmarked"
    shutil.copytree(earlier, unmarked)
    save_file(load_file(earlier / "adapter_model.safetensors"), unmarked / "adapter_model.safetensors")
    assert check(base, unmarked, digest="sha256:other")
    with pytest.raises(
        Refused, match=r"weight is \[64, 4\], and this base needs \[128, 4\]; name an adapter"
    ):
        check(larger, unmarked, digest="sha256:other")
    shallow = write_family(tmp_path / "shallow", "smollm2", num_hidden_layers=1)
    with pytest.raises(Refused, match=r"layers.1.*weight is \[4, 128\], and this base needs none; name"):
        check(shallow, unmarked)
    with pytest.raises(Refused, match="more tensors are not as this run's adapter has them"):
        trainee(larger, "lora", init_from=unmarked)


def test_the_manifest_names_the_base_of_a_published_adapter(
    base: Path, earlier: Path, tmp_path: Path
) -> None:
    uri = f"file://{tmp_path}/adapter"
    with publishing_at(
        uri, "adapter", "key", producer=Producer(), inputs={"base": "sha256:manifest"}
    ) as made:
        for path in earlier.iterdir():
            shutil.copy(path, made.folder)
    assert check(base, tmp_path / "adapter", digest="sha256:manifest") == made.published.digest
    with pytest.raises(Refused, match="on the base sha256:manifest"):
        check(base, tmp_path / "adapter")


@pytest.mark.parametrize(
    ("key", "value"), [("use_dora", True), ("peft_type", "LOHA"), ("bias", "all"), ("rank_pattern", {"q": 8})]
)
def test_what_is_no_plain_lora_is_refused(
    base: Path, earlier: Path, tmp_path: Path, key: str, value: Any
) -> None:
    shutil.copytree(earlier, tmp_path / "copy")
    path = tmp_path / "copy" / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {key: value}))
    with pytest.raises(Refused, match=f"{key} is .* only plain LoRA can be continued"):
        check(base, tmp_path / "copy")


@pytest.mark.parametrize("start", ["pissa", "pissa_niter_16", "OLoRA", "corda", "loftq", "lora_ga"])
def test_an_adapter_of_altered_base_weights_is_refused(
    base: Path, earlier: Path, tmp_path: Path, start: str
) -> None:
    with pytest.raises(Refused, match=f"init_lora_weights is '{start}' .* path_initial_model_for_weight"):
        check(base, begun_by(start, earlier, tmp_path / "copy"))


@pytest.mark.parametrize("start", [True, False, "gaussian", "eva", "orthogonal"])
def test_an_adapter_beside_unaltered_base_weights_is_continued_however_it_began(
    base: Path, earlier: Path, tmp_path: Path, start: bool | str
) -> None:
    assert check(base, begun_by(start, earlier, tmp_path / "copy")) is not None


def begun_by(start: bool | str, earlier: Path, copy: Path) -> Path:
    """Return a copy of the adapter whose configuration says how its weights began."""
    shutil.copytree(earlier, copy)
    path = copy / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"init_lora_weights": start}))
    return copy


def test_a_folder_that_is_no_adapter_is_refused(base: Path, earlier: Path, tmp_path: Path) -> None:
    with pytest.raises(Refused, match=r"holds no adapter_config.json; name an adapter's folder"):
        check(base, tmp_path)
    shutil.copytree(earlier, tmp_path / "copy")
    (tmp_path / "copy" / "adapter_model.safetensors").write_bytes(b"\x10" + bytes(40))
    with pytest.raises(Refused, match="is no safetensors file; copy it again"):
        check(base, tmp_path / "copy")
    shutil.copy(earlier / "adapter_model.safetensors", tmp_path / "copy")
    (tmp_path / "copy" / "adapter_config.json").write_text("{")
    with pytest.raises(Refused, match=r"adapter_config.json is no JSON object: .*; copy it again"):
        check(base, tmp_path / "copy")


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_an_adapter_with_weights_that_are_no_numbers_is_refused(
    base: Path, earlier: Path, tmp_path: Path, value: float
) -> None:
    shutil.copytree(earlier, tmp_path / "copy")
    tensors = load_file(earlier / "adapter_model.safetensors")
    spoiled = min(tensors)
    tensors[spoiled][0, 0] = value
    save_file(tensors, tmp_path / "copy" / "adapter_model.safetensors")
    with pytest.raises(Refused, match=f"initFrom: {spoiled} and 0 more tensors hold NaN or infinity"):
        trainee(base, "lora", init_from=tmp_path / "copy")


def test_the_same_adapter_is_the_same_bytes(base: Path, tmp_path: Path) -> None:
    model = trainee(base, "lora").model
    for number in range(8):
        (tmp_path / str(number)).mkdir()
        adapters.write(model, tmp_path / str(number), BASE)
    assert len({(tmp_path / str(n) / "adapter_model.safetensors").read_bytes() for n in range(8)}) == 1
