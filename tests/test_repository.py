"""What the documents say of the repository is there."""

from __future__ import annotations

import importlib
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from test_architecture import ORDER

import t2l

REPOSITORY = Path(__file__).parent.parent
CONTRIBUTING = (REPOSITORY / "CONTRIBUTING.md").read_text()
TRIPS = [block.splitlines() for block in re.findall(r"```trip\n(.*?)```", CONTRIBUTING, re.DOTALL)]


def named(path: str) -> Any:
    """What a dotted name stands for. Raises AttributeError if it is not there."""
    parts = path.split(".")
    for end in range(len(parts), 0, -1):
        try:
            found: Any = importlib.import_module(".".join(parts[:end]))
        except ModuleNotFoundError:
            continue
        for part in parts[end:]:
            found = getattr(found, part)
        return found
    raise AttributeError(path)


@pytest.mark.parametrize("trip", TRIPS, ids=["generate", "train", "evaluate"])
def test_trips_name_functions_that_are_there_and_never_climb(trip: list[str]) -> None:
    above: list[tuple[int, str]] = []
    for line in trip:
        name, depth = line.split()[0], len(line) - len(line.lstrip())
        assert callable(named(name)), name
        above = [(d, n) for d, n in above if d < depth]
        package = name.split(".")[1]
        is_handed_in = "handed in" in line
        if above and not is_handed_in:
            caller = above[-1][1].split(".")[1]
            assert ORDER.index(package) <= ORDER.index(caller), f"{above[-1][1]} calls up to {name}"
        above.append((depth, name))


def test_the_table_of_components_names_every_group() -> None:
    from t2l.registry import PACKAGES

    table = CONTRIBUTING.split("| to add |")[1].split("\n\n")[0]
    assert set(re.findall(r"\| `(\w+)` \|", table)) == set(PACKAGES) - {"harness"}
    for file in re.findall(r"`([a-z_/]+)/NAME\.py`", table):
        assert (REPOSITORY / "t2l" / file).is_dir()


def test_hooks_run_what_make_check_runs() -> None:
    (check,) = re.findall(r"^check: (.*)$", (REPOSITORY / "Makefile").read_text(), re.MULTILINE)
    hooks = yaml.safe_load((REPOSITORY / ".pre-commit-config.yaml").read_text())["repos"][0]["hooks"]
    assert [hook["entry"] for hook in hooks] == [f"make {target}" for target in check.split()]


def test_the_citation_is_of_this_version() -> None:
    citation = yaml.safe_load((REPOSITORY / "CITATION.cff").read_text())
    assert (citation["title"].split(":")[0], citation["version"]) == ("t2l", t2l.__version__)
    assert citation["authors"] == [{"name": "The t2l authors"}]
    assert citation["references"][0]["identifiers"][0]["value"] == "arXiv:2506.06105"
    assert f"## {t2l.__version__} " in (REPOSITORY / "CHANGELOG.md").read_text()


def test_the_readme_lists_every_package() -> None:
    tree = (REPOSITORY / "README.md").read_text().split("## The packages")[1].split("```")[1]
    packages = {p.name for p in (REPOSITORY / "t2l").iterdir() if (p / "__init__.py").is_file()}
    assert set(re.findall(r"\b([a-z_]+)/", tree)) >= packages


@pytest.mark.parametrize("document", ["README.md", "CONTRIBUTING.md", "CHANGELOG.md", "notebooks/README.md", "data/mini/base_model/README.md"])  # fmt: skip
def test_paths_in_documents_are_there(document: str) -> None:
    text = (REPOSITORY / document).read_text()
    linked = re.findall(r"\]\(([^)#:]+)\)", text)
    spelled = re.findall(r"`((?:t2l|conf|tests|data|experiments|notebooks)/[\w/.]*)`", text)
    for path in (p for p in [*linked, *spelled] if "NAME" not in p):
        places = ((REPOSITORY / document).parent / path, REPOSITORY / path)
        assert any(place.exists() for place in places), path


def test_every_name_that_moved_is_where_the_changelog_says() -> None:
    """Those spelled out, of which each is a module."""
    rows = re.findall(r"^\| `t2l.*\| (.*) \|$", (REPOSITORY / "CHANGELOG.md").read_text(), re.MULTILINE)
    names = [name for row in rows for name in re.findall(r"`(t2l\.[\w.]+)`", row)]
    assert len(names) > 40
    for name in names:
        assert importlib.import_module(name)
