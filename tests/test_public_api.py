"""`import t2l`: what it offers, on a run, a library and a report made here; the README's snippet runs as it stands."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import random_adapters

import t2l
from t2l.base_model import BaseModel, LoraConfig, lora_spec
from t2l.encoder import EncoderConfig, TaskEncoder
from t2l.files import FileProblemError, write_json
from t2l.hypernetwork import ResidualConfig, build
from t2l.hypernetwork.checkpoint import CheckpointRecord
from t2l.hypernetwork.generator import adapter_name
from t2l.library import LibraryFolder
from t2l.lora import LoraSpec, inject
from t2l.lora.peft_folder import load_adapter, load_provenance
from t2l.training.checkpoint import save_checkpoint

REPOSITORY = Path(__file__).parent.parent
IDS = torch.randint(3, 100, (2, 9), generator=torch.Generator().manual_seed(1))
TEXTS = ["Keep only the animals.", "Reverse the list.", "Count."]
NAME = "keep_only_the_animals"
ROWS = [
    {"contender": c, "split": "train", "metric": "exact_match", "mean": m, "ci95": [m - 0.1, m + 0.1], "n_tasks": 2,
     "n_examples": 8, "n_seeds": 1}
    for c, m in (("base", 0.25), ("generated_sft", 0.75))
]  # fmt: skip


def make_run(folder: Path, base: BaseModel, spec: LoraSpec) -> None:
    """A checkpoint whose adapters do something: B is not zero, as it is before training."""
    encoder, config = TaskEncoder(EncoderConfig(layers=[0, 6])), ResidualConfig(width=16, description_width=8, blocks=1)
    width = encoder.encode(TEXTS).shape[1]
    hypernetwork = build(config, spec, width, seed=0)
    with torch.no_grad():
        for parameter in hypernetwork.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(3)))
    record = CheckpointRecord(
        step=12, objective="sft", hypernetwork=config, spec=spec, d_embedding=width, encoder_identity=encoder.identity,
        base_fingerprint=base.fingerprint, base_name="mini", trained_on={"suite": "word_lists", "seed": 7, "tasks": []},
        encoder=encoder.to_json(),
    )  # fmt: skip
    save_checkpoint(folder, record, hypernetwork, torch.optim.AdamW(hypernetwork.parameters()))


def make_library(folder: Path, base: BaseModel, spec: LoraSpec) -> None:
    library = LibraryFolder.of(folder, spec, base)
    library.adapters.save("keep_animals", random_adapters(spec, 1, seed=1), {"final_loss": 0.5})
    library.adapters.save("reverse", random_adapters(spec, 1, seed=2), {"final_loss": 0.25})
    library.static.save("multi_task", random_adapters(spec, 1, seed=3), {"final_loss": 2.0})
    record = {"spec": spec.to_json(), "base_model": "mini", "base_fingerprint": base.fingerprint}
    write_json(folder / "library.json", record)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, mini_base: BaseModel) -> Path:
    """Laid out as `make quickstart` leaves it: the base beside `runs/quickstart`."""
    root = tmp_path_factory.mktemp("repository")
    (root / "data").symlink_to(REPOSITORY / "data")
    spec = lora_spec(mini_base.model, LoraConfig(rank=2))
    make_run(root / "runs/quickstart/sft", mini_base, spec)
    make_library(root / "runs/quickstart/library", mini_base, spec)
    write_json(root / "runs/quickstart/report.json", {"results": ROWS})
    return root / "runs/quickstart"


def test_the_readmes_snippet_runs(
    runs: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (snippet,) = [
        b
        for b in re.findall(r"```python\n(.*?)```", (REPOSITORY / "README.md").read_text(), re.DOTALL)
        if "t2l.load" in b
    ]
    monkeypatch.chdir(runs.parent.parent)
    names: dict[str, Any] = {}
    exec(snippet, names)
    adapters, library = names["adapters"], names["library"]
    assert isinstance(adapters, t2l.LoraWeights)
    assert adapters.batch_size == 2
    assert library.names == ["keep_animals", "reverse", "multi_task"]
    for i, name in enumerate(map(adapter_name, TEXTS[:2])):
        folder = Path("my_adapters") / name
        assert load_provenance(folder)["description"] == TEXTS[i]
        for ours, theirs in zip(adapters[i].tensors(), load_adapter(folder, adapters.spec).tensors(), strict=True):
            assert torch.equal(ours, theirs)
    shown = capsys.readouterr().out
    assert "generated_sft" in shown
    assert "dog hammer cat" in shown


@pytest.mark.parametrize("wrapped", [True, False], ids=["BaseModel", "Hugging Face"])
def test_injection_needs_the_model_and_the_adapters_alone(runs: Path, mini_base: BaseModel, wrapped: bool) -> None:
    adapters = t2l.load(runs / "sft")(TEXTS)[[2, 0]]
    assert adapters.descriptions == ("Count.", "Keep only the animals.")
    model = mini_base.model
    with torch.no_grad():
        bare = model(IDS).logits
        with inject(model, adapters.spec, adapters):
            expected = model(IDS).logits
        with t2l.inject(mini_base if wrapped else model, adapters):
            assert torch.equal(model(IDS).logits, expected)
        with t2l.inject(model, adapters, torch.tensor([1, 1])):
            assert torch.allclose(model(IDS).logits[1], expected[1], atol=1e-5)
        assert torch.equal(model(IDS).logits, bare)
    assert not torch.allclose(expected, bare, atol=1e-3)


def test_adapters_for_another_base_or_none_are_refused(runs: Path, tiny_base: BaseModel) -> None:
    adapters = t2l.load(runs / "sft")(TEXTS)
    with pytest.raises(ValueError, match="are for another base model"), t2l.inject(tiny_base, adapters):
        pass
    with pytest.raises(ValueError, match="do not say what they are for"), t2l.inject(tiny_base, adapters.detach()):  # type: ignore[arg-type]
        pass


def test_a_generator_says_how_sure_it_is_and_saves_as_generate_does(runs: Path, tmp_path: Path) -> None:
    from t2l.cli import main

    adapters = t2l.load(runs / "sft")(TEXTS[:1])
    assert adapters.confidences() == [None]
    assert adapters.save_peft(tmp_path / "ours", licence="mit") == [tmp_path / "ours" / NAME]
    main(["generate", TEXTS[0], "--checkpoint", f"{runs}/sft", "--out", f"{tmp_path}/theirs", "licence=mit"])
    for name in ("t2l.json", "adapter_config.json", "adapter_model.safetensors"):
        assert (tmp_path / "ours" / NAME / name).read_bytes() == (tmp_path / "theirs" / NAME / name).read_bytes()
    assert (tmp_path / "ours" / NAME / "README.md").read_text() == (
        tmp_path / "theirs" / NAME / "README.md"
    ).read_text().replace("theirs", "ours")
    (tmp_path / "ours" / NAME / "notes.txt").write_text("mine")
    with pytest.raises(FileProblemError, match=r"holds 'notes\.txt', which t2l did not write"):
        adapters.save_peft(tmp_path / "ours")


def test_a_checkpoint_is_refused_for_another_base(runs: Path, tmp_path: Path) -> None:
    with pytest.raises(FileProblemError, match="does not exist"):
        t2l.load(tmp_path / "nothing")
    (tmp_path / "other").mkdir()
    (tmp_path / "other/config.json").write_text("{}")
    (tmp_path / "other/model.safetensors").write_bytes(b"another model")
    with pytest.raises(ValueError, match="was trained for another base model"):
        t2l.load(runs / "sft", base_model=str(tmp_path / "other"))
    with pytest.raises(ValueError, match="was trained with another sentence encoder"):
        t2l.load(runs / "sft", encoder=EncoderConfig(layers=[3]))


def test_a_library_gives_adapters_by_name(runs: Path, mini_base: BaseModel) -> None:
    library = t2l.load_library(runs / "library")
    for seed, name in enumerate(library.names, start=1):
        for ours, theirs in zip(
            library[name].tensors(), random_adapters(library.spec, 1, seed=seed).tensors(), strict=True
        ):
            assert torch.equal(ours, theirs)
    assert [library.provenance(n)["final_loss"] for n in library.names] == [0.5, 0.25, 2.0]
    several = library.load(["multi_task", "reverse"])
    assert torch.equal(several[1].tensors()[0], library["reverse"].tensors()[0])
    with torch.no_grad():
        bare = mini_base.model(IDS).logits
        with t2l.inject(mini_base, several):
            assert not torch.allclose(mini_base.model(IDS).logits, bare, atol=1e-2)
    for ask in (library.provenance, library.__getitem__):
        with pytest.raises(FileProblemError, match="has no adapter for task 'sort'"):
            ask("sort")
    with pytest.raises(FileProblemError, match="not a folder of `t2l train_library`"):
        t2l.load_library(runs)


def test_a_report_is_a_table(runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = t2l.load_report(runs).to_pandas()
    assert list(table["contender"]) == ["base", "generated_sft"]
    assert (table["low"] < table["mean"]).all()
    assert (table["mean"] < table["high"]).all()
    assert table.set_index("contender")["high"]["base"] == 0.35
    assert list(table.columns[-3:]) == ["n_tasks", "n_examples", "n_seeds"]
    with pytest.raises(FileProblemError, match=r"holds no report\.json: give a run folder"):
        t2l.load_report(tmp_path)
    (tmp_path / "report.json").write_text(json.dumps({"rows": []}))
    with pytest.raises(FileProblemError, match="it has no results"):
        t2l.load_report(tmp_path)
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(ImportError, match="`pip install pandas`"):
        t2l.load_report(runs).to_pandas()


def test_importing_t2l_loads_nothing_heavy_and_everything_it_names_is_there() -> None:
    code = "import sys, t2l; dir(t2l); sys.exit(', '.join({'torch', 'transformers', 'pandas', 'numpy'} & set(sys.modules)) or 0)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=REPOSITORY)
    assert done.returncode == 0, done.stderr
    assert set(t2l.__all__) <= set(dir(t2l))
    tree = ast.parse(Path(t2l.__file__).read_text())
    (typed,) = [node for node in tree.body if isinstance(node, ast.If)]
    told = {a.name: node.module for node in typed.body if isinstance(node, ast.ImportFrom) for a in node.names}
    assert told == t2l._MODULES
    for name in t2l.__all__:
        assert callable(getattr(t2l, name))
    with pytest.raises(AttributeError, match="has no attribute 'lod'"):
        _ = t2l.lod
    assert (Path(t2l.__file__).parent / "py.typed").is_file()
