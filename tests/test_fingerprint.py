"""A base's fingerprint is that of its weight files, in whichever format and however they are loaded."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from t2l.base_model import BaseModelConfig, hash_parameters, load_base_model
from t2l.base_model.files import earlier_fingerprint_hint, file_fingerprint, mini_base_model_path
from t2l.files import write_json
from t2l.library import LIBRARY_RECORD, open_library
from t2l.methods import build
from t2l.methods.folder import MethodLibrary
from t2l.methods.hooked import BitFitConfig


def pickled(folder: Path, shards: int = 1) -> Path:
    """The mini base as `.bin` files, one or several with an index, beside others that are no weights."""
    shutil.copytree(mini_base_model_path(), folder, ignore=shutil.ignore_patterns("*.safetensors"))
    tensors = load_file(mini_base_model_path() / "model.safetensors")
    names = sorted(tensors)
    if shards == 1:
        torch.save(tensors, folder / "pytorch_model.bin")
    else:
        weight_map = {}
        for s in range(shards):
            file = f"pytorch_model-{s + 1:05d}-of-{shards:05d}.bin"
            torch.save({n: tensors[n] for n in names[s::shards]}, folder / file)
            weight_map |= dict.fromkeys(names[s::shards], file)
        index = {"metadata": {"total_size": 1}, "weight_map": weight_map}
        (folder / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    torch.save({"lr": 1.0}, folder / "training_args.bin")
    return folder


@pytest.mark.parametrize("shards", [1, 2])
def test_bin_files_have_one_fingerprint_however_they_are_loaded(shards: int, tmp_path: Path) -> None:
    folder = pickled(tmp_path / "base", shards)
    single, half = (load_base_model(BaseModelConfig(str(folder), d, "cpu")) for d in ("float32", "bfloat16"))
    assert single.fingerprint == half.fingerprint == file_fingerprint(str(folder))
    assert single.fingerprint.startswith("bin-")
    assert hash_parameters(single.model) != hash_parameters(half.model)
    torch.save({"lr": 2.0}, folder / "training_args.bin")
    copy = shutil.copytree(folder, tmp_path / "copy")
    assert file_fingerprint(str(copy)) == single.fingerprint
    weights = sorted(copy.glob("pytorch_model*.bin"))[-1]
    state = torch.load(weights)
    next(iter(state.values())).view(-1)[0] += 1
    torch.save(state, weights)
    assert file_fingerprint(str(copy)) != single.fingerprint


def test_bin_files_in_the_hubs_cache_are_those_of_a_copy(tmp_path: Path) -> None:
    import hashlib

    folder, blobs, snapshot = pickled(tmp_path / "base", 2), tmp_path / "blobs", tmp_path / "snapshot"
    blobs.mkdir()
    snapshot.mkdir()
    for file in folder.iterdir():
        blob = blobs / hashlib.sha256(file.read_bytes()).hexdigest()
        shutil.copy(file, blob)
        (snapshot / file.name).symlink_to(blob)
    assert file_fingerprint(str(snapshot)) == file_fingerprint(str(folder))


def test_safetensors_go_before_bin_files_and_shards_count(tmp_path: Path) -> None:
    """As transformers reads them; and fingerprints that are recorded already stay what they are."""
    folder = pickled(tmp_path / "base")
    shutil.copy(mini_base_model_path() / "model.safetensors", folder)
    assert file_fingerprint(str(folder)) == file_fingerprint(str(mini_base_model_path()))
    tensors = load_file(folder / "model.safetensors")
    for s in range(2):
        part = {n: tensors[n] for n in sorted(tensors)[s::2]}
        save_file(part, folder / f"model-0000{s + 1}-of-00002.safetensors", {"format": "pt"})
    (folder / "model.safetensors").unlink()
    sharded = file_fingerprint(str(folder))
    save_file(part, folder / "model-00001-of-00002.safetensors", {"format": "pt"})
    assert sharded != file_fingerprint(str(folder))
    assert sharded is not None
    assert not sharded.startswith("bin-")


def test_what_was_trained_on_bin_files_before_says_what_to_do(tmp_path: Path) -> None:
    base = load_base_model(BaseModelConfig(str(pickled(tmp_path / "base")), device="cpu"))
    earlier = hash_parameters(base.model)
    says = f"depends on base_model.dtype: if it is the same base, replace {earlier} by {base.fingerprint}"
    write_json(tmp_path / "library" / LIBRARY_RECORD, {"spec": {}, "base_fingerprint": earlier})
    with pytest.raises(ValueError, match=says):
        open_library(tmp_path / "library", base)
    with pytest.raises(ValueError, match=says):
        MethodLibrary(tmp_path / "m", build(BitFitConfig()), earlier).check_base(base)
    assert earlier_fingerprint_hint("abc", "def") == earlier_fingerprint_hint("bin-abc", "bin-def") == ""
