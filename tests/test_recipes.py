"""Which checkpoints are training seeds of one contender."""

from __future__ import annotations

import re
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from t2l.base_model import BaseModelConfig, LoraConfig
from t2l.encoder import EncoderConfig
from t2l.evaluation.checkpoint_names import recipe_names
from t2l.hypernetwork import ResidualConfig, TextToLoraConfig
from t2l.hypernetwork.checkpoint import CheckpointRecord
from t2l.hypernetwork.selection import Selection
from t2l.lora import LoraSpec, ModuleGroup, Scaling
from t2l.objectives import SftConfig
from t2l.run.record import Run
from t2l.training.loop import TrainerConfig
from t2l.verbs.train import TrainConfig

SPEC = LoraSpec((ModuleGroup("q_proj", "q_proj", 4, 4, (0,), ("0.q_proj",)),), 2, 4.0, Scaling.standard)


def _checkpoint(run: Path, seed: int, recorded: bool = True, **settings: Any) -> tuple[CheckpointRecord, Path]:
    """A checkpoint's record and folder, in a run that wrote down its config as `t2l train` does."""
    parts = {"objective": SftConfig(), "hypernetwork": ResidualConfig(), "encoder": EncoderConfig()}
    config = TrainConfig(seed=seed, run_dir=str(run), **{**parts, **settings})
    if recorded:
        kept = {k: v for k, v in asdict(config).items() if k not in ("run_dir", "logger")}
        Run(run, "train", kept)
    record = CheckpointRecord(
        10, "sft", ResidualConfig(), SPEC, 8, "encoder", "base", "mini", {"suite": "s", "tasks": ["a"], "seed": seed}
    )
    return record, run / "checkpoints/step-000010"


def test_seeds_are_one_contender_and_settings_make_another(tmp_path: Path) -> None:
    slower = TrainerConfig(lr=5e-4)
    found = recipe_names(
        [
            _checkpoint(tmp_path / "a", 0),
            _checkpoint(tmp_path / "b", 1),
            _checkpoint(tmp_path / "c", 2, trainer=slower),
            _checkpoint(tmp_path / "d", 0, trainer=slower),
            _checkpoint(tmp_path / "e", 1, trainer=TrainerConfig(description_noise=0.1)),
        ]
    )
    plain = "sft[lr=0.001, description_noise=0]"
    slow = "sft[lr=0.0005, description_noise=0]"
    assert found == [plain, plain, slow, slow, "sft[lr=0.001, description_noise=0.1]"]


def test_where_a_run_was_made_is_no_part_of_its_recipe(tmp_path: Path) -> None:
    here = _checkpoint(tmp_path / "a", 0, library="one", base_model=BaseModelConfig(device="cpu"))
    there = _checkpoint(
        tmp_path / "b", 1, library="two", base_model=BaseModelConfig("copy/of/it", device="cuda:1"),
        encoder=EncoderConfig(path="copy/of/that", cache=""),
    )  # fmt: skip
    coarser = _checkpoint(tmp_path / "c", 2, base_model=BaseModelConfig(dtype="bfloat16"))
    assert recipe_names([here, there, coarser]) == ["sft[dtype=float32]", "sft[dtype=float32]", "sft[dtype=bfloat16]"]


def test_seeds_may_each_have_a_library_of_their_own(tmp_path: Path) -> None:
    def learnt(seed: int, **told: str) -> tuple[CheckpointRecord, Path]:
        record, folder = _checkpoint(tmp_path / str(seed), seed, library=f"library{seed}")
        return replace(record, trained_on={**record.trained_on, **told}), folder

    own = [learnt(seed, library_sha256=f"{seed}", unchecked=f"library{seed}") for seed in (0, 1)]
    unchecked = "sft[unchecked=True]"
    assert recipe_names([*own, learnt(2, library_sha256="2")]) == [unchecked, unchecked, "sft"]


def test_the_record_and_a_repeated_seed_make_another_contender(tmp_path: Path) -> None:
    (record, folder), second = _checkpoint(tmp_path / "a", 0), _checkpoint(tmp_path / "b", 1)
    later = (replace(record, step=20, trained_on={**record.trained_on, "seed": 2}), folder)
    found = recipe_names([(record, folder), second, later, (record, folder)])
    assert found == ["sft[step=10, a 1]", "sft[step=10, a 1]", "sft[step=20]", "sft[step=10, a 2]"]
    assert recipe_names([(record, folder), _checkpoint(tmp_path / "c", 0)]) == ["sft[a]", "sft[c]"]


def test_checkpoints_without_their_run_are_told_apart_by_their_records(tmp_path: Path) -> None:
    bare = [_checkpoint(tmp_path / str(seed), seed, recorded=False) for seed in (0, 1)]
    assert recipe_names([*bare, _checkpoint(tmp_path / "run", 2)]) == ["sft[0]", "sft[0]", "sft[run]"]
    assert recipe_names(bare) == ["sft", "sft"]


def test_a_name_says_all_that_differs_and_no_more(tmp_path: Path) -> None:
    """Of a component that is chosen by name, that name; its settings only beside others of that name."""
    middle, large = TextToLoraConfig("m"), TextToLoraConfig("l")
    wide, narrow = ResidualConfig(width=512), ResidualConfig()
    slow = TrainerConfig(lr=5e-4)
    made = [
        _checkpoint(tmp_path / "a", 0, hypernetwork=middle),
        _checkpoint(tmp_path / "b", 0, hypernetwork=large),
        _checkpoint(tmp_path / "c", 0, hypernetwork=wide, trainer=slow),
        _checkpoint(tmp_path / "d", 0, hypernetwork=narrow, trainer=slow),
    ]
    assert recipe_names(made) == [
        "sft[m, lr=0.001]", "sft[l, lr=0.001]", "sft[residual, width=512, lr=0.0005]", "sft[residual, width=256, lr=0.0005]",
    ]  # fmt: skip
    assert recipe_names(made[2:]) == ["sft[width=512]", "sft[width=256]"]


def test_settings_of_one_last_word_are_told_apart_and_long_values_are_hashed(tmp_path: Path) -> None:
    def made(folder: str, layers: list[int], dtype: str, encoder: str) -> tuple[CheckpointRecord, Path]:
        base, words = BaseModelConfig(dtype=dtype), EncoderConfig(dtype=encoder)
        return _checkpoint(tmp_path / folder, 0, base_model=base, encoder=words, lora=LoraConfig(layers=layers))

    one, two = recipe_names(
        [made("a", [*range(9)], "float32", "auto"), made("b", [*range(10, 30)], "bfloat16", "float32")]
    )
    digits = [re.sub(r"#[0-9a-f]{6}", "#", name) for name in (one, two)]
    assert digits == [
        "sft[base_model.dtype=float32, encoder.dtype=auto, layers=#]",
        "sft[base_model.dtype=bfloat16, encoder.dtype=float32, layers=#]",
    ]
    assert one[-7:] != two[-7:]


def test_a_fixed_step_is_one_recipe_however_others_were_chosen(tmp_path: Path) -> None:
    """Seeds of which one was validated by loss and one by score, and whose last step is by chance the best of one."""

    def made(seed: int, step: int, best: int, by: str) -> tuple[CheckpointRecord, Path]:
        trainer = TrainerConfig(validate_every=5, select_by=by, validate_score=by == "validation/score")
        record, folder = _checkpoint(tmp_path / f"{seed}{by[-4:]}", seed, trainer=trainer)
        return replace(record, step=step, selection=Selection(by, {}, best, 1.0)), folder

    score, loss = "validation/score", "validation/loss"
    assert recipe_names([made(0, 20, 15, score), made(1, 20, 10, loss), made(2, 20, 20, score)]) == ["sft"] * 3
    best = [made(0, 15, 15, score), made(1, 20, 20, score)]
    assert recipe_names(best) == ["sft", "sft"]
    assert recipe_names([*best, made(2, 20, 10, score)]) == ["sft[step=best]", "sft[step=best]", "sft[step=20]"]
    assert recipe_names([best[0], made(1, 10, 10, loss)]) == [
        "sft[validate_score=True, select_by=validation/score]",
        "sft[validate_score=False, select_by=validation/loss]",
    ]
