"""Tensors on disk: what is read is what was written, and it is numbers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from conftest import random_adapters
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from small_run import ONE

from t2l.cli import main
from t2l.files import (
    CHECKSUM,
    EARLIER_CHECKSUM,
    FileProblemError,
    check_finite,
    read_tensors,
    tensors_checksum,
    write_tensors,
)
from t2l.lora import LoraSpec, ModuleGroup
from t2l.lora.peft_folder import load_adapter, save_adapter

SPEC = LoraSpec((ModuleGroup("q_proj", "q_proj", 6, 4, (0, 1), ("layers.0.q_proj", "layers.1.q_proj")),), 2, 8.0)
TENSORS = {
    "weight": torch.arange(12.0).view(3, 4),
    "half": torch.ones(5, dtype=torch.bfloat16),
    "count": torch.tensor(7),
    "none": torch.zeros(0, 3),
    "mask": torch.tensor([True, False]),
    "ümlaut/name": torch.tensor([2**40]),
}


def flip(path: Path, byte: int, bit: int = 0) -> None:
    data = bytearray(path.read_bytes())
    data[byte] ^= 1 << bit
    path.write_bytes(data)


def payload(path: Path) -> range:
    data = path.read_bytes()
    return range(8 + int.from_bytes(data[:8], "little"), len(data))


def test_tensors_come_back_with_their_checksum(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    write_tensors(path, TENSORS, {"more": "metadata"})
    found = read_tensors(path)
    assert found.keys() == TENSORS.keys()
    assert all(torch.equal(found[k], t) and found[k].dtype == t.dtype for k, t in TENSORS.items())
    with safe_open(path, "pt") as file:
        assert file.metadata() == {"format": "pt", "more": "metadata", CHECKSUM: tensors_checksum(TENSORS)}


def test_the_payload_is_that_which_the_library_writes(tmp_path: Path) -> None:
    """Also of views, of parameters, and of tensors that share memory, which the library alone refuses."""
    whole = torch.arange(24.0).view(2, 3, 4)
    views = {"column": whole[:, 1], "turned": whole.transpose(0, 2), "parameter": torch.nn.Parameter(whole[0])}
    views |= {"expanded": torch.ones(1, 3).expand(4, 3), "shared": whole}
    ours, theirs = tmp_path / "ours.safetensors", tmp_path / "theirs.safetensors"
    write_tensors(ours, TENSORS | views)
    save_file(
        {k: t.detach().clone(memory_format=torch.contiguous_format) for k, t in (TENSORS | views).items()}, theirs
    )
    contents = [path.read_bytes()[payload(path).start :] for path in (ours, theirs)]
    assert contents[0] == contents[1]
    assert all(torch.equal(t.float(), load_file(ours)[k].float()) for k, t in views.items())


def test_the_same_tensors_are_the_same_bytes(tmp_path: Path) -> None:
    """safetensors alone writes its metadata in an order that changes from one file to the next."""
    for i in range(12):
        write_tensors(tmp_path / f"{i}.safetensors", TENSORS)
    assert len({(tmp_path / f"{i}.safetensors").read_bytes() for i in range(12)}) == 1


@pytest.mark.parametrize("bit", [0, 7])
def test_any_flipped_bit_of_a_payload_is_found(tmp_path: Path, bit: int) -> None:
    path = tmp_path / "x.safetensors"
    write_tensors(path, TENSORS)
    whole = path.read_bytes()
    for byte in payload(path):
        flip(path, byte, bit)
        with pytest.raises(FileProblemError, match=r"x\.safetensors is damaged"):
            read_tensors(path)
        path.write_bytes(whole)
    read_tensors(path)


def test_a_flipped_bit_in_a_file_with_the_earlier_checksum_is_found(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    save_file(TENSORS, path, {"format": "pt", EARLIER_CHECKSUM: tensors_checksum(TENSORS, EARLIER_CHECKSUM)})
    read_tensors(path)
    flip(path, payload(path)[0], 0)
    with pytest.raises(FileProblemError, match=r"x\.safetensors is damaged"):
        read_tensors(path)


def test_checksum_tells_names_shapes_and_dtypes_apart() -> None:
    one = {"a": torch.zeros(4)}
    others = [{"b": torch.zeros(4)}, {"a": torch.zeros(2, 2)}, {"a": torch.zeros(4, dtype=torch.int32)}]
    assert len({tensors_checksum(t) for t in (one, *others)}) == 4
    assert tensors_checksum({"a": torch.ones(1), "b": torch.zeros(1)}) == tensors_checksum(
        {"b": torch.zeros(1), "a": torch.ones(1)}
    )


def test_files_without_a_checksum_are_read(tmp_path: Path) -> None:
    save_file(TENSORS, tmp_path / "x.safetensors")
    assert read_tensors(tmp_path / "x.safetensors").keys() == TENSORS.keys()


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_values_that_are_not_finite_are_neither_written_nor_read(
    tmp_path: Path, value: float, dtype: torch.dtype
) -> None:
    path, tensors = tmp_path / "x.safetensors", {"fine": torch.ones(2), "bad": torch.tensor([1, value], dtype=dtype)}
    with pytest.raises(FileProblemError, match=r"x\.safetensors cannot be written.*not finite, first 'bad'"):
        write_tensors(path, tensors)
    assert not path.exists()
    write_tensors(path, tensors, finite=False)
    with pytest.raises(FileProblemError, match=r"x\.safetensors: 1 tensors .*not finite, first 'bad'"):
        read_tensors(path)
    assert read_tensors(path, finite=False).keys() == tensors.keys()
    check_finite({"largest integer": torch.tensor(2**63 - 1)}, "here")


def test_adapters_are_checked_both_ways(tmp_path: Path) -> None:
    broken = random_adapters(SPEC, 1).map(lambda t: t / 0)
    with pytest.raises(FileProblemError, match="adapter: 4 tensors hold values that are not finite"):
        save_adapter(tmp_path / "adapter", SPEC, broken, "base", {})
    assert not list(tmp_path.iterdir())
    save_adapter(tmp_path / "adapter", SPEC, random_adapters(SPEC, 1), "base", {})
    path = tmp_path / "adapter/adapter_model.safetensors"
    flip(path, payload(path)[-1])
    with pytest.raises(FileProblemError, match=r"adapter_model\.safetensors is damaged"):
        load_adapter(tmp_path / "adapter", SPEC)


# Through the command line.


@pytest.mark.parametrize("how", ["nan", "flipped"])
def test_no_verb_works_with_a_broken_checkpoint(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], how: str
) -> None:
    import shutil

    run = tmp_path / "sft"
    shutil.copytree(root / "sft", run)
    (weights,) = run.glob("checkpoints/*/hypernetwork.safetensors")
    if how == "nan":
        tensors = load_file(weights)
        name = next(k for k, t in tensors.items() if t.is_floating_point() and t.numel() > 1)
        tensors[name].view(-1)[0] = float("nan")
        save_file(tensors, weights)
    else:
        flip(weights, payload(weights)[100])
    capsys.readouterr()
    for command in (
        ["generate", "Keep the animals.", "--checkpoint", str(run), "--out", str(tmp_path / "out")],
        ["generate", "One.", "Two.", "--checkpoint", str(run), "--out", str(tmp_path / "out")],
        ["evaluate", "suite.train_examples=16", "suite.test_examples=4", "suite.train_compositions=5",
         "contenders=[generated]", f"checkpoints=[{run}]", f"run_dir={tmp_path}/out"],
    ):  # fmt: skip
        with pytest.raises(SystemExit) as stopped:
            main(command)
        assert stopped.value.code == 2
        (line,) = [x for x in capsys.readouterr().err.splitlines() if x.startswith("t2l: error")]
        assert "hypernetwork.safetensors" in line
        assert ("not finite" if how == "nan" else "is damaged") in line
        assert not [
            p
            for p in (tmp_path / "out").rglob("*")
            if p.is_file() and ".hydra" not in p.parts and p.suffix not in (".log", ".lock")
        ]


def test_adapter_folders_keep_what_peft_and_transformers_ask(root: Path) -> None:
    with safe_open(root / ONE / "adapter_model.safetensors", "pt") as file:
        assert file.metadata()["format"] == "pt"
    assert json.loads((root / ONE / "adapter_config.json").read_text())["peft_type"] == "LORA"


def test_every_tensor_file_of_a_run_has_a_checksum(root: Path) -> None:
    files = list(root.rglob("*.safetensors"))
    assert {f.name for f in files} >= {"adapter_model.safetensors", "hypernetwork.safetensors", "trainer.safetensors"}
    for path in files:
        with safe_open(path, "pt") as file:
            assert CHECKSUM in (file.metadata() or {}), path
