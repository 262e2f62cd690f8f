"""What a user types wrong ends in one line and exit code 2, and leaves nothing behind."""

from __future__ import annotations

from pathlib import Path

import pytest

from t2l.cli import main


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """Runs the command, asserts exit code 2 and one line on standard error, and returns the line."""
    with pytest.raises(SystemExit) as stopped:
        main(list(arguments))
    assert stopped.value.code == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("t2l: error")]
    assert len(lines) == 1
    return lines[0]


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["fly"], "unknown verb 'fly': choose from quickstart"),
        (["train", "trainer.stepz=3"], "unknown config key trainer.stepz; did you mean 'steps'?"),
        (["train", "nonsense=3"], "unknown config key nonsense"),
        (["train", "trainer.steps=many"], "trainer.steps: Value 'many'"),
        (["train", "trainer.steps=0"], "trainer.steps must be at least 1, not 0"),
        (["train", "hypernetwork=xl"], "hypernetwork=xl: there is none of that name; choose from l, m, "),
        (["train", "objective=reconstruction"], "needs library=DIR"),
        (["train", "-m", "seed=1,2", "trainer.lr=0.1,-1"], "trainer.lr must be positive, not -1"),
        (["train", "base_model.quantization=3bit"], "base_model.quantization"),
        (["train", "base_model.path=./nowhere", "encoder.cache="], "no such folder"),
        (["train", "encoder.path=./nowhere"], "encoder.path=./nowhere: no such folder"),
        (["train_library", "tasks=[keep_unicorns]"], "unknown task 'keep_unicorns'"),
        (["train_library", "splits=[unseen]"], "unknown split 'unseen'"),
        (["train_library", "lora.target_modules=[c_attn]"], "no linear 'c_attn'"),
        (["train_library", "method=telepathy"], "method=telepathy: there is none of that name; choose from adalora, "),
        (["train_library", "method=dora", "method.rank=0"], "method.rank must be at least 1, not 0"),
        (["train_library", "method=dora", "lora.layers=[1]"], "method.layers is None, lora.layers is [1]"),
        (["train_library", "method=ia3", "method.target_modules=[c_attn]"], "no linear 'c_attn'"),
        (["compare_methods", "methods.lora.optimization.lr=-1"], "optimization.lr must be positive, not -1"),
        (["compare_methods", "contenders=[generated]"], "unknown 'generated' here"),
        (["compare_methods", "+method@methods.x=batched_lora"], "batched_lora is the contender `oracle`"),
        (["evaluate", "contenders=[base]", "method_libraries=[nowhere]"], "nowhere is not a folder of"),
        (["evaluate", "contenders=[magic]"], "unknown 'magic'"),
        (["evaluate", "contenders=[base]", "splits=[dev]"], "unknown split 'dev'"),
        (["evaluate", "contenders=[oracle]"], "need library=DIR"),
        (["evaluate", "contenders=[icl]", "few_shot.shots=300"], "has 256 training examples, 300"),
        (["evaluate", "contenders=[base]", "validation_split=train"], "was chosen on, so it cannot be scored"),
        (["evaluate", "contenders=[base]", "prompt.definition=both"], "must be hidden or shown"),
        (["evaluate", "contenders=[refined]"], "contenders refined need checkpoints=[DIR]"),
        (["train", "encoder.layers=[]"], "encoder.layers must name hidden layers"),
        (["evaluate", "contenders=[oracle]", "library=nowhere"], "not a folder of `t2l train_library`"),
        (["evaluate", "contenders=[generated]", "checkpoints=[nowhere]"], "checkpoint nowhere does not exist"),
        (["generate", "Count the animals."], "needs --run-dir DIR"),
        (["generate", " ", "--checkpoint", "c", "--out", "o"], "a description is empty"),
        (["generate", "--checkpoint", "c", "--out", "o"], "nothing to generate from"),
        (["generate", "--file", "no.txt", "--checkpoint", "c", "--out", "o"], "no such file of descriptions: no.txt"),
        (["generate", "Count.", "--checkpoint", "nowhere", "--out", "o"], "checkpoint nowhere does not exist"),
        (["generate", "Count.", "encoder=minilm", "encoder.pth=x"], "did you mean 'path'?"),
        (["generate", "Count.", "encoder.path=x"], "unknown config key encoder.path (it has kind"),
        (["train", "encoder=own"], "choose one, like encoder=minilm_layers"),
        (["train", "encoder=one_hot"], "set trainer.description_whitening=null"),
        (["train", "encoder=causal_lm", "encoder.template=xml"], "encoder.template must be raw or chat"),
    ],
)
def test_bad_input(arguments: list[str], says: str, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    if arguments[0] in ("train_library", "evaluate", "train", "compare_methods") and "-m" not in arguments:
        arguments = [*arguments, f"hydra.run.dir={tmp_path}/hydra"]
    assert says in refused(capsys, *arguments)
    left = {p.name for p in tmp_path.rglob("*") if p.is_file()}
    assert not left or "method.json" in left  # a method's library, whose record is written before its first task


def test_help_lists_verbs(capsys: pytest.CaptureFixture[str]) -> None:
    main(["--help"])
    shown = capsys.readouterr().out
    assert all(
        verb in shown for verb in ("quickstart", "train_library", "train", "evaluate", "generate", "pretrain_base")
    )
