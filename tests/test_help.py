"""`t2l VERB --help` shows every group and key of a verb with its meaning and value, 80 columns wide."""

from __future__ import annotations

import re
from dataclasses import dataclass, fields

import pytest
from test_cli import refused
from test_overrides import _dataclasses

from t2l.cli import main
from t2l.cli.help import meanings, summary
from t2l.cli.settings import groups_of
from t2l.config import choices, config_folder, roots
from t2l.run.console import WIDTH
from t2l.verbs import VERBS, verb_named


def test_every_field_says_what_it_means() -> None:
    for kind in _dataclasses():
        assert not {f.name for f in fields(kind)} - meanings(kind).keys(), kind
        assert summary(kind), kind


def test_verbs_are_what_there_is() -> None:
    folder = config_folder()
    assert set(VERBS) == set(roots()) == {p.stem for p in folder.glob("*.yaml")}
    for name in VERBS:
        verb = verb_named(name)
        assert {*verb.words} <= {f.name for f in fields(verb.config)}
        assert not verb.keeps_records or "run_dir" in {f.name for f in fields(verb.config)}
        assert "out" not in {f.name for f in fields(verb.config)}
        # Hydra takes KEY=VALUE for a choice if conf/KEY is a group, so that no other key may be called like one.
        groups = {re.split("[@.]", g)[-1 if "@" in g else 0] for g in groups_of(name)}
        assert {f.name for f in fields(verb.config) if (folder / f.name).is_dir()} <= groups


@pytest.mark.parametrize("verb", VERBS)
def test_the_page_has_all_of_it_and_fits(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    main([verb, "--help"])
    shown = capsys.readouterr().out
    assert max(map(len, shown.splitlines())) <= WIDTH
    words = shown.split()
    groups = {g.split("@")[-1].split(".")[0] for g in groups_of(verb)}
    for field in fields(roots()[verb]):
        assert any(w.startswith((f"{field.name}=", f"{field.name}.")) for w in words) or field.name in groups
    for group in groups_of(verb):
        place = group.partition("@")[2]
        assert any(w.startswith(f"{group.split('.')[0]}.NAME=" if "." in place else f"{group}=") for w in words), group
    assert "Hydra" not in shown


def test_the_page_shows_what_the_command_would_compose(capsys: pytest.CaptureFixture[str]) -> None:
    main(["train", "hypernetwork=s", "trainer.lr=0.5", "--seed", "7", "--help"])
    shown = capsys.readouterr().out
    assert "  hypernetwork=s " in shown
    assert "hypernetwork.latent=128" in shown
    assert "  trainer.lr=0.5            peak learning rate of AdamW\n" in shown
    assert "  seed=7                    decides initial weights and sampling\n" in shown
    assert "hypernetwork=xl: there is none of that name; choose from l, m, " in refused(
        capsys, "train", "hypernetwork=xl", "--help"
    )


def test_choices_are_files_and_components() -> None:
    assert {"l", "m", "s", "residual"} <= set(choices("hypernetwork"))
    assert not any(c.endswith("schema") for group in ("encoder", "suite", "method") for c in choices(group))


@dataclass
class _Base:
    one: int = 1
    """first
    meaning"""
    bare: int = 2


@dataclass
class _Derived(_Base):
    """`t2l x`: what it is,
    in short.

    More.
    """

    two: dict[str, int] | None = None
    """second"""
    one: int = 3
    """another"""


def test_meanings_are_the_lines_below_fields() -> None:
    assert meanings(_Derived) == {"one": "another", "two": "second"}
    assert meanings(_Base) == {"one": "first meaning"}
    assert summary(_Derived) == "what it is, in short."
