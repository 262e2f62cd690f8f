from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import random_adapters
from safetensors.torch import load_file, save_file

from t2l.cli import main
from t2l.files import FileProblemError, write_json
from t2l.library import AdapterLibrary
from t2l.lora import LoraSpec, ModuleGroup
from t2l.verbs.library import examine_library

SPEC = LoraSpec((ModuleGroup("q_proj", "q_proj", 6, 4, (0, 1), ("layers.0.q_proj", "layers.1.q_proj")),), 2, 8.0)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    library = AdapterLibrary(tmp_path / "adapters", SPEC, "mini", "fingerprint")
    for i, task in enumerate(["count_tools", "keep_animals", "sort"]):
        outcome = {"steps": 10 + i, "final_loss": 0.1 * i, "validation_loss": None}
        library.save(task, random_adapters(SPEC, 1, seed=i), outcome)
    record = {
        "spec": SPEC.to_json(),
        "base_model": "mini",
        "base_fingerprint": "fingerprint",
        "suite": {"name": "word_lists", "sha256": "0"},
        "failed": {"reverse": "diverged after 5 steps (loss nan)"},
    }
    write_json(tmp_path / "library.json", record)
    return tmp_path


def test_a_sound_library(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report = examine_library(folder)
    assert [a.task for a in report.adapters] == ["count_tools", "keep_animals", "sort"]
    assert [a.steps for a in report.adapters] == [10, 11, 12]
    assert not report.problems
    weights = random_adapters(SPEC, 1, seed=0)
    product = SPEC.scaling * weights.B["q_proj"] @ weights.A["q_proj"]
    assert report.adapters[0].norm == pytest.approx(product.norm().item(), rel=1e-4)
    main(["library", str(folder), "--list"])
    shown = capsys.readouterr().out
    assert "3 sound adapters" in shown.replace("\n", " ")
    assert "reverse: diverged after 5 steps" in shown
    main(["library", str(folder), "--json"])
    assert json.loads(capsys.readouterr().out)["problems"] == 0


def test_every_kind_of_damage_is_found(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    adapters = folder / "adapters"
    library = AdapterLibrary(adapters, SPEC, "mini", "fingerprint")
    weights = adapters / "keep_animals" / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-7])
    (adapters / "count_tools" / "t2l.json").unlink()
    library.save("last_jobs", random_adapters(SPEC, 1), {})
    file = adapters / "last_jobs" / "adapter_model.safetensors"
    save_file({k: v * float("nan") for k, v in load_file(file).items()}, file)
    AdapterLibrary(adapters, SPEC, "mini", "another").save("any_jobs", random_adapters(SPEC, 1), {})
    wide = replace(SPEC, rank=3)
    AdapterLibrary(adapters, wide, "mini", "fingerprint").save("first_jobs", random_adapters(wide, 1), {})
    shutil.copytree(adapters / "sort", adapters / "mask_jobs")
    problems = {a.task: a.problem or "" for a in examine_library(folder).problems}
    assert set(problems) == {"any_jobs", "count_tools", "first_jobs", "keep_animals", "last_jobs", "mask_jobs"}
    assert "another base model" in problems["any_jobs"]
    assert "t2l.json" in problems["count_tools"]
    assert "rank" in problems["first_jobs"]
    assert "adapter_model.safetensors" in problems["keep_animals"]
    assert "not finite" in problems["last_jobs"]
    assert "trained for task 'sort'" in problems["mask_jobs"]
    with pytest.raises(SystemExit) as stopped:
        main(["library", str(folder)])
    assert stopped.value.code == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "6 adapters are not sound" in error


def test_another_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileProblemError, match=r"not a folder of `t2l train_library`"):
        examine_library(tmp_path)
