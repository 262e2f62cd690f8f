"""A generated adapter's folder elsewhere: its card, and the programs that load it."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import CONFIGS, random_adapters, tiny_model
from torch import Tensor

from t2l.base_model import BaseModel, LoraConfig, lora_spec
from t2l.cli import main
from t2l.hypernetwork import ResidualConfig, build
from t2l.hypernetwork.checkpoint import CheckpointRecord
from t2l.hypernetwork.generator import Generator, write_adapters
from t2l.lora import LoraSpec, Scaling, inject
from t2l.lora.card import MAX_LORA_RANKS, adapter_card, max_lora_rank, portable
from t2l.lora.peft_folder import load_adapter, load_provenance, save_adapter
from t2l.verbs.generate import GenerateConfig

IDS = torch.randint(3, 100, (2, 9), generator=torch.Generator().manual_seed(1))
DESCRIPTION = 'Keep: the "animals" --- please,\n# and nothing else'
NAME = "keep_the_animals_please_and_nothing_else"


class Lengths:
    """Stands in for a sentence encoder: a description's length, four times."""

    identity = "lengths"

    def encode(self, descriptions: Sequence[str]) -> Tensor:
        return torch.tensor([[float(len(d))] * 4 for d in descriptions])


def generator_for(base: BaseModel, spec: LoraSpec, checkpoint: Path) -> Generator:
    """A hypernetwork whose adapters do something: B is not zero, as it is before training."""
    config = ResidualConfig(width=16, description_width=8, blocks=1)
    hypernetwork = build(config, spec, 4, seed=0).eval()
    with torch.no_grad():
        for parameter in hypernetwork.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(3)))
    record = CheckpointRecord(
        step=12, objective="sft", hypernetwork=config, spec=spec, d_embedding=4, encoder_identity="lengths",
        base_fingerprint=base.fingerprint, base_name="mini", trained_on={"suite": "word_lists", "seed": 7, "tasks": []},
    )  # fmt: skip
    return Generator(hypernetwork, Lengths(), record, checkpoint)  # type: ignore[arg-type]


@pytest.fixture
def generator(mini_base: BaseModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Generator:
    monkeypatch.chdir(tmp_path)
    spec = lora_spec(mini_base.model, LoraConfig(rank=4))
    return generator_for(mini_base, spec, Path("/somewhere/private/sft/checkpoints/step-000012"))


def check_snippets(snippets: list[str], ids: torch.Tensor, injected: torch.Tensor) -> None:
    """Runs each as it stands; its `model` gives the logits of injection."""
    for snippet in snippets:
        scope: dict[str, Any] = {}
        exec(snippet, scope)
        with torch.no_grad():
            torch.testing.assert_close(scope["model"](ids).logits, injected, atol=1e-4, rtol=1e-4)


def blocks(card: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)\n```", card, re.DOTALL)


@pytest.mark.parametrize("rule", list(Scaling))
@pytest.mark.parametrize("name", CONFIGS)
def test_transformers_gives_the_logits_of_injection(name: str, rule: Scaling, tmp_path: Path) -> None:
    model = tiny_model(name)
    spec = lora_spec(model, LoraConfig(rank=4, target_modules=CONFIGS[name][1], scaling_rule=rule, layers=[0, 2]))
    weights = random_adapters(spec, 1)
    with torch.no_grad(), inject(model, spec, weights):
        injected = model(IDS).logits
    save_adapter(tmp_path / "adapter", spec, weights, "base", {})
    with torch.no_grad():
        assert not torch.allclose(model(IDS).logits, injected, atol=1e-2)
        model.load_adapter(str(tmp_path / "adapter"))
        torch.testing.assert_close(model(IDS).logits, injected, atol=1e-5, rtol=1e-4)


def test_the_card_is_one_that_the_hub_reads(generator: Generator) -> None:
    from huggingface_hub import ModelCard

    write_adapters(generator, [DESCRIPTION], Path("one"), licence="mit")
    data = ModelCard.load(f"one/{NAME}/README.md").data
    assert (data.base_model, data.library_name, data.license) == ("mini", "peft", "mit")
    assert data.pipeline_tag == "text-generation"
    assert {"lora", "text-to-lora"} <= set(data.tags)
    write_adapters(generator, [DESCRIPTION], Path("two"))
    assert ModelCard.load(f"two/{NAME}/README.md").data.license == "unknown"
    assert "licence of the base model applies" in Path(f"two/{NAME}/README.md").read_text()


def test_the_card_says_where_the_adapter_comes_from(generator: Generator, tmp_path: Path) -> None:
    write_adapters(generator, [DESCRIPTION], tmp_path / "one")
    card = Path(f"one/{NAME}/README.md").read_text()
    assert '> Keep: the "animals" --- please,\n> # and nothing else' in card
    assert generator.record.base_fingerprint in card
    assert "`sft/checkpoints/step-000012`, trained by sft for 12 steps, seed 7" in card
    assert "word_lists" in card
    assert f"{generator.hypernetwork.spec.parameters_per_adapter:,}" in card
    assert "Rank 4, alpha 16, scaling 4 (standard)" in card
    assert str(tmp_path) not in card
    assert "private" not in card


def test_every_adapter_has_its_own_card_and_confidence_is_returned(generator: Generator) -> None:
    made = write_adapters(generator, ["Count.", "Reverse."], Path("many"))
    assert made == [(Path("many/count"), None), (Path("many/reverse"), None)]
    assert "> Count." in Path("many/count/README.md").read_text()
    assert "> Reverse." in Path("many/reverse/README.md").read_text()


def test_the_commands_of_the_card_work(
    generator: Generator, mini_base: BaseModel, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each snippet, run as it stands, gives the logits of injection; the merged model's snippet too."""
    write_adapters(generator, [DESCRIPTION], Path("one"))
    spec = generator.hypernetwork.spec
    with torch.no_grad(), inject(mini_base.model, spec, load_adapter(Path("one", NAME), spec)):
        injected = mini_base.model(IDS).logits
    with torch.no_grad():
        assert not torch.allclose(mini_base.model(IDS).logits, injected, atol=1e-2)
    card = Path(f"one/{NAME}/README.md").read_text()
    serve, merge = blocks(card, "sh")
    main(shlex.split(merge)[1:])
    assert capsys.readouterr().out == f"one/{NAME}_merged\n"
    snippets = [*blocks(card, "python"), *blocks(Path(f"one/{NAME}_merged/README.md").read_text(), "python")]
    assert len(snippets) == 3
    check_snippets(snippets, IDS, injected)
    assert f"--enable-lora --max-lora-rank 8 --lora-modules {NAME}=one/{NAME}" in serve
    assert load_provenance(Path(f"one/{NAME}_merged"))["adapter"]["description"] == DESCRIPTION


def test_the_code_in_a_card_finds_a_base_that_lies_elsewhere(
    generator: Generator, mini_base: BaseModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An absolute path is no part of the card, and the code runs all the same."""
    base = shutil.copytree(mini_base.path, tmp_path / "models/my base")
    (tmp_path / "far").mkdir()
    monkeypatch.chdir(tmp_path / "far")
    (made, _), *_ = write_adapters(replace(generator, base_model=str(base)), [DESCRIPTION], Path("many"))
    spec, card = generator.hypernetwork.spec, (made / "README.md").read_text()
    with torch.no_grad(), inject(mini_base.model, spec, load_adapter(made, spec)):
        injected = mini_base.model(IDS).logits
    snippets = blocks(card, "python")
    assert len(snippets) == 2
    check_snippets(snippets, IDS, injected)
    assert str(tmp_path) not in card
    monkeypatch.setenv("PATH", str(Path(sys.executable).parent), prepend=os.pathsep)
    serve = blocks(card, "sh")[0].replace("vllm serve", "printf '%s\\n'")
    found = subprocess.run(["bash", "-c", serve], capture_output=True, text=True, check=True).stdout.splitlines()
    assert found[0] == str(base)


def test_transformers_finds_the_base_by_itself(
    generator: Generator, mini_base: BaseModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers import AutoModelForCausalLM

    write_adapters(generator, [DESCRIPTION], tmp_path / "one")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    model, spec = AutoModelForCausalLM.from_pretrained(str(tmp_path / "one" / NAME)), generator.hypernetwork.spec
    with torch.no_grad():
        with inject(mini_base.model, spec, load_adapter(tmp_path / "one" / NAME, spec)):
            injected = mini_base.model(IDS).logits
        torch.testing.assert_close(model(IDS).logits, injected, atol=1e-4, rtol=1e-4)
        assert not torch.allclose(mini_base.model(IDS).logits, injected, atol=1e-2)


def provenance(**changes: Any) -> dict[str, Any]:
    usual = {
        "description": "Count.", "generated_by": "sft", "checkpoint": "runs/a/checkpoints/step-000001", "step": 1,
        "base_model": "owner/name", "base_fingerprint": "f" * 64, "confidence": None, "licence": None,
    }  # fmt: skip
    return {**usual, **changes}


@pytest.mark.parametrize(
    ("confidence", "says"),
    [
        (None, "unknown; the checkpoint does not say"),
        ({"distance": 1.234, "nearest_task": "count_primes", "expected_score": None}, "not calibrated"),
        ({"distance": 1.234, "nearest_task": "count_primes", "expected_score": 0.876}, "Expected score: 0.88 of 1"),
    ],
)
def test_the_card_says_what_to_expect(confidence: dict[str, Any] | None, says: str, mini_base: BaseModel) -> None:
    spec = lora_spec(mini_base.model, LoraConfig(rank=4))
    card = adapter_card(spec, provenance(confidence=confidence), Path("out"))
    assert says in card
    if confidence:
        assert "`count_primes`): 1.23" in card
    assert 'base = "owner/name"' in card
    assert "vllm serve owner/name --enable-lora" in card


@pytest.mark.parametrize(("definition", "says"), [("hidden", "leave the description out"), ("shown", "put it there")])
def test_the_card_says_how_to_ask(definition: str, says: str, mini_base: BaseModel) -> None:
    spec = lora_spec(mini_base.model, LoraConfig())
    assert says in adapter_card(spec, provenance(definition=definition), Path("out"))


def test_the_card_of_an_adapter_that_vllm_refuses_says_why(mini_base: BaseModel) -> None:
    card = adapter_card(lora_spec(mini_base.model, LoraConfig(rank=600)), provenance(), Path("out"))
    assert "not as it is, since rank 600 is above 512" in card
    assert "vllm serve" not in card


def test_paths_of_this_machine_stay_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert portable("runs/a") == "runs/a"
    assert portable(tmp_path / "runs/a") == "runs/a"
    assert portable("/home/me/models/base") == "base"
    assert portable("/home/me/run/checkpoints/step-1", keep=3) == "run/checkpoints/step-1"


def test_an_empty_licence_is_refused() -> None:
    with pytest.raises(ValueError, match="licence is empty"):
        GenerateConfig(licence=" ")


def test_ranks_that_vllm_takes() -> None:
    assert [max_lora_rank(r) for r in (1, 8, 9, 100, 257, 512, 513)] == [8, 8, 16, 128, 320, 512, None]
    assert all(max_lora_rank(r) == r for r in MAX_LORA_RANKS)
