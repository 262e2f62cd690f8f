"""What a command's words mean: overrides, words that a verb takes by their place, and options of Hydra's."""

from __future__ import annotations

import pytest
from test_cli import refused

from t2l.cli import main
from t2l.cli.command import command_words


@pytest.mark.parametrize(
    ("verb", "arguments", "overrides", "positional"),
    [
        ("generate", ["x=5"], [], ["x=5"]),
        ("generate", ["Say a=b.", "a=b", "f(x)=y", "", "-5"], [], ["Say a=b.", "a=b", "f(x)=y", "", "-5"]),
        ("generate", ["encoder=minilm", "encoder.path=x", "licence=mit"], ["encoder=minilm", "encoder.path=x", "licence=mit"], []),
        ("generate", ["+x=5", "++y.z=1", "~encoder", "hydra.verbose=true"], ["+x=5", "++y.z=1", "~encoder", "hydra.verbose=true"], []),
        ("generate", ["+5 to each number", "~5 animals", "hydra"], [], ["+5 to each number", "~5 animals", "hydra"]),
        ("generate", ["--", "licence=mit", "--out", "-m"], [], ["licence=mit", "--out", "-m"]),
        ("generate", ["--checkpoint", "a b,c", "One.", "--out=d"], ["checkpoint='a b,c'", "run_dir='d'"], ["One."]),
        ("generate", ["--base-model", "m", "--file", "it's"], ["base='m'", "file='it\\'s'"], []),
        ("library", ["runs/seed=1", "--list", "--json"], ["list=true", "json=true"], ["runs/seed=1"]),
        ("compare", ["out=1", "--by-name", "runs/b"], ["by_name=true"], ["out=1", "runs/b"]),
        ("merge", ["a=b", "out=c", "--dtype", "float16"], ["run_dir=c", "dtype='float16'"], ["a=b"]),
        ("merge", ["a", "--revision", "1e5", "--trust-remote-code", "--base-model", "null"],
         ["revision='1e5'", "trust_remote_code=true", "base=null"], ["a"]),
        ("merge", ["a", "--trust-remote-code=false"], ["trust_remote_code=false"], ["a"]),
        ("train", ["--trainer.lr", "0.1", "--seed", "3", "--library", "null"], ["trainer.lr=0.1", "seed=3", "library=null"], []),
        ("train", ["out=x", "++out=y", "--out", "1,2"], ["run_dir=x", "++run_dir=y", "run_dir='1,2'"], []),
        ("merge", ["a", "base_model=b=c"], ["base=b=c"], ["a"]),
        ("train", ["base_model=mini", "--base-model", "mini"], ["base_model=mini", "base_model=mini"], []),
        ("plan", ["--json", "--memory-gb", "24", "experiment=mini_sft"], ["json=true", "memory_gb=24", "experiment=mini_sft"], []),
    ],
)  # fmt: skip
def test_words_are_sorted(verb: str, arguments: list[str], overrides: list[str], positional: list[str]) -> None:
    found = command_words(verb, arguments)
    assert (found.overrides, found.positional, found.options) == (overrides, positional, [])


def test_hydras_own_options_are_left_to_it() -> None:
    found = command_words(
        "train", ["-m", "seed=1,2", "--cfg", "job", "--config-dir", "d=e", "--info", "seed=3", "--resolve"]
    )
    assert found.options == ["-m", "--cfg", "job", "--config-dir", "d=e", "--info", "--resolve"]
    assert found.overrides == ["seed=1,2", "seed=3"]
    assert found.config_folder == "d=e"
    assert command_words("train", ["--config-dir=f", "--info", "defaults"]).config_folder == "f"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["library", "d", "--jsn"], "unknown option --jsn; did you mean --json?"),
        (["library", "d", "--out", "x"], "unknown option --out"),
        (["train", "--sed", "1"], "unknown option --sed; did you mean --seed?"),
        (["merge", "a", "--out"], "--out needs a value"),
        (["merge", "a", "b", "--out", "c"], "one adapter is taken here, not 2: a, b"),
        (["merge", "--out", "c"], "merge needs an adapter"),
        (["library"], "library needs a folder"),
        (["compare", "a"], "needs two report folders"),
        (["train", "--", "mini_sft"], "only key=value is taken here, not 'mini_sft'"),
        (["plan", "-m", "seed=1,2"], "keeps no run folder, so that -m cannot sweep over it"),
        (["generate", "x=5"], "generate needs --run-dir DIR"),
        (["generate", "x=5", "--checkpoint", "nowhere", "--out", "o"], "checkpoint nowhere does not exist"),
        (["generate", "--checkpoint", "nowhere", "--out", "o", "--", "encoder=minilm"], "checkpoint nowhere does not exist"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_one_line(arguments: list[str], says: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert says in refused(capsys, *arguments)


def test_the_configuration_is_shown_without_the_words(capsys: pytest.CaptureFixture[str]) -> None:
    main(["generate", "x=5", "--out", "a b", "--cfg", "job"])
    shown = capsys.readouterr().out
    assert "run_dir: a b\n" in shown
    assert "x=5" not in shown
