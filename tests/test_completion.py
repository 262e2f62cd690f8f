"""Completion by the tab key: what is offered, the scripts of the shells and where they go, and that none of it imports torch."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from test_cli import refused

from t2l.cli import main
from t2l.cli.completion import complete
from t2l.cli.shells import MARK, SCRIPTS, place
from t2l.config import choices
from t2l.verbs import VERBS

REPOSITORY = Path(__file__).parent.parent
HEAVY = "torch", "transformers", "hydra"


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs/a b").mkdir(parents=True)
    (tmp_path / "runs/.hidden").mkdir()
    (tmp_path / "rows.txt").touch()


def offered(line: str) -> list[str]:
    return list(complete(line))


def test_verbs_come_first() -> None:
    assert set(VERBS) < set(offered("t2l "))
    assert complete("t2l pl") == {"plan": VERBS["plan"]}
    assert "--install-completion" in offered("t2l --")
    assert offered("t2l --install-completion z") == ["zsh"]
    assert offered("t2l nosuchverb ") == []


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("t2l train se", ["seed="]),
        ("t2l train hyp", ["hypernetwork=", "hypernetwork."]),
        ("t2l train trainer.lr", ["trainer.lr="]),
        ("t2l train base_model.quantization=n", ["base_model.quantization=none", "base_model.quantization=nf4"]),
        ("t2l train base_model.shard=", ["base_model.shard=true", "base_model.shard=false"]),
        ("t2l train hypernetwork=res", ["hypernetwork=residual", "hypernetwork=residual_mini"]),
        ("t2l train -m hypernetwork=l,s", ["hypernetwork=l,s"]),
        ("t2l train hypernetwork=s hypernetwork.lat", ["hypernetwork.latent="]),
        ("t2l train hypernetwork.lat", []),
        ("t2l train hypernetwork.widt", ["hypernetwork.width="]),
        ("t2l train suite=folder suite.pa", ["suite.path="]),
        ("t2l train experiment=mini_reconstruction objective.dis", ["objective.distance="]),
        ("t2l train objective.dis", []),
        ("t2l train +objective_part@objective.parts.x=dist", ["+objective_part@objective.parts.x=distillation"]),
        ("t2l train hydra/launcher=c", ["hydra/launcher=cluster"]),
        ("t2l evaluate suite@training_suite=w", ["suite@training_suite=word_lists"]),
        ("t2l evaluate library=ru", ["library=runs/"]),
        ("t2l evaluate library=runs/", ["library=runs/a b/"]),
        ("t2l evaluate library=runs/a\\ ", ["library=runs/a b/"]),
        ("t2l evaluate checkpoints=[x,ro", ["checkpoints=[x,rows.txt"]),
        ("t2l generate --fi", ["--file"]),
        ("t2l generate --file ro", ["rows.txt"]),
        ("t2l generate --ou", ["--out"]),
        ("t2l train --cfg j", ["job"]),
        ("t2l try ru", ["runs/"]),
        ("t2l train ru", ["run_dir="]),
        ("t2l train seed=", []),
    ],
)
def test_a_verbs_words(line: str, found: list[str]) -> None:
    assert offered(line) == found


def test_a_group_offers_what_help_lists() -> None:
    for group in ("hypernetwork", "suite", "base_model", "trainer"):
        assert offered(f"t2l train {group}=") == [f"{group}={choice}" for choice in choices(group)]


@pytest.mark.parametrize("verb", VERBS)
def test_every_key_of_a_verb_is_offered(verb: str) -> None:
    from dataclasses import fields

    from t2l.verbs import verb_named

    keys = {word.rstrip("=.").partition("@")[2] or word.rstrip("=.") for word in offered(f"t2l {verb} ")}
    assert {f.name for f in fields(verb_named(verb).config)} - {"methods"} <= keys


def in_a_process(*arguments: str) -> subprocess.CompletedProcess[str]:
    """A t2l process that tells on standard error which heavy libraries it imported for real."""
    code = (
        "import atexit, sys\n"
        f"atexit.register(lambda: print({{m for m in {HEAVY} if getattr(sys.modules.get(m), '__file__', None)}}, file=sys.stderr))\n"
        "from t2l.cli import main\nmain()"
    )
    path = {"PYTHONPATH": str(REPOSITORY)}
    return subprocess.run(
        [sys.executable, "-c", code, *arguments],
        env={**os.environ, **path},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture(scope="module")
def with_torch() -> dict[str, str]:
    """The page of every verb from one process that imports the real torch, and no test's components."""
    code = (
        "import json\nfrom t2l.cli.help import verb_help\nfrom t2l.verbs import VERBS\n"
        "pages = {verb: verb_help(verb, [], None) + chr(10) for verb in VERBS}\n"
        "pages['train l'] = verb_help('train', ['hypernetwork=l', 'seed=7'], None) + chr(10)\nprint(json.dumps(pages))"
    )
    env = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True)
    return dict(json.loads(done.stdout))


def test_neither_completion_nor_help_imports_torch(with_torch: dict[str, str]) -> None:
    done = in_a_process("--complete", "t2l train hypernetwork=l")
    assert (done.stdout, done.stderr) == ("hypernetwork=l\t\n", "set()\n")
    words = ("train", "hypernetwork=l", "seed=7", "--help")
    done = in_a_process(*words)
    assert done.stderr == "{'hydra'}\n"
    assert done.stdout == with_torch["train l"]


@pytest.mark.parametrize("verb", VERBS)
def test_without_torch_a_page_is_the_same(verb: str, with_torch: dict[str, str]) -> None:
    done = in_a_process(verb, "--help")
    assert "torch" not in done.stderr
    assert done.stdout == with_torch[verb]


def test_help_that_needs_the_real_torch_gets_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A component from elsewhere computes with torch as it is imported."""
    (tmp_path / "mine.py").write_text("import torch\nassert torch.arange(3).sum().item() == 3\n")
    monkeypatch.setenv("T2L_COMPONENTS", "mine")
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    command = [sys.executable, "-m", "t2l", "train", "--help"]
    env = {**os.environ, "PYTHONPATH": f"{REPOSITORY}:{tmp_path}"}
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout[:16]) == (0, "usage: t2l train")


def test_a_wrong_word_beside_help_is_told_once() -> None:
    done = in_a_process("train", "hypernetwork=xl", "--help")
    assert done.returncode == 2
    assert done.stderr.count("t2l: error: hypernetwork=xl: there is none of that name") == 1


# Shells


def test_bash_completes_what_stands_after_its_word_breaks(tmp_path: Path) -> None:
    (tmp_path / "t2l").write_text(f'#!/bin/sh\nPYTHONPATH={REPOSITORY} exec {sys.executable} -m t2l "$@"\n')
    (tmp_path / "t2l").chmod(0o755)
    lines = {
        "t2l qui": ["quickstart "],
        "t2l train hypernetwork=l": ["l "],
        "t2l train trainer.lr": ["trainer.lr="],
        "t2l evaluate library=runs/": ["runs/a\\ b/"],
        "t2l evaluate suite@training_suite=wo": ["word_lists "],
    }
    ask = "".join(f"try '{line}'\n" for line in lines)
    script = (
        f"{SCRIPTS['bash']}\n"
        'try() { COMP_LINE="$1 "; COMP_POINT=${#1}; _t2l_complete ./t2l; printf "%s|" "${COMPREPLY[@]}"; echo; }\n'
        f"complete -p t2l\n{ask}"
    )
    done = subprocess.run(["bash", "--norc", "-c", script], capture_output=True, text=True, check=True)
    registered, *found = done.stdout.splitlines()
    assert registered.endswith("-F _t2l_complete t2l")
    assert found == [f"{'|'.join(words)}|" for words in lines.values()]
    assert not done.stderr


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_scripts_of_other_shells(shell: str) -> None:
    """Their syntax, if they are here; that they ask for the line up to the cursor in any case."""
    script = SCRIPTS[shell]
    line = {"zsh": '"${(j: :)words[1,CURRENT-1]} $PREFIX"', "fish": "(commandline -cp | string collect)"}[shell]
    assert f"--complete {line}" in script
    if shutil.which(shell):
        assert subprocess.run([shell, "-n"], input=script, text=True, check=False).returncode == 0


def test_installing_writes_one_file_and_again_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for variable in ("XDG_DATA_HOME", "XDG_CONFIG_HOME", "BASH_COMPLETION_USER_DIR"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("SHELL", "/usr/bin/fish")
    for words in (["--install-completion"], ["--install-completion", "fish"]):
        main(words)
        (path,) = (p for p in (tmp_path / "home").rglob("*") if p.is_file())
        assert path == tmp_path / "home/.config/fish/completions/t2l.fish"
        assert path.read_text() == SCRIPTS["fish"]
        assert capsys.readouterr().out.splitlines()[0] == str(path)
    main(["--install-completion", "zsh"])
    assert f"fpath=({place('zsh', os.environ).parent} $fpath)" in capsys.readouterr().out
    main(["--install-completion", "bash"])
    bash = tmp_path / "home/.local/share/bash-completion/completions/t2l"
    assert MARK in bash.read_text()
    bash.write_text("mine")
    assert "was not written by t2l" in refused(capsys, "--install-completion", "bash")
    assert bash.read_text() == "mine"


def test_shells_are_shown_and_others_refused(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for shell, script in SCRIPTS.items():
        main(["--show-completion", shell])
        assert capsys.readouterr().out == script
    monkeypatch.setenv("SHELL", "/bin/tcsh")
    assert "no completion for the shell 'tcsh': choose from bash, zsh, fish" in refused(capsys, "--install-completion")
    assert "--show-completion takes one word" in refused(capsys, "--show-completion")
    monkeypatch.delenv("SHELL")
    assert "which shell?" in refused(capsys, "--install-completion")
