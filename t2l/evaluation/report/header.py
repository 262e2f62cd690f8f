"""What a report is of: base model, suite, checkpoints, seeds and code, told from report.json alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

SHORT = 12
"""characters of a hash"""


def header_lines(data: Mapping[str, Any]) -> list[str]:
    """Lines of Markdown; what a report does not say, such as one made by an earlier version, is left out.

    Args:
        data: what report.json holds.
    """
    of = data.get("provenance") or {}
    told = [
        *_base(of), *_suite(of), *_when(of), *_code(of), *_checkpoints(of), *_seeds(data, of), *_validation(of),
    ]  # fmt: skip
    lines = [f"- **{what}:** {text}" for what, text in told]
    if of.get("command"):
        lines += ["", "Command:", "", "```", str(of["command"]), "```"]
    return lines


def _code_span(text: object) -> str:
    return f"`{str(text).replace('`', '')}`"


def _base(of: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    if base := of.get("base_model"):
        dtype = ((of.get("conditions") or {}).get("values") or {}).get("dtype")
        how = f", {dtype}" if dtype else ""
        yield "Base model", f"{_code_span(base['name'])}{how}, fingerprint {_code_span(base['fingerprint'][:SHORT])}"


def _suite(of: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    if suite := of.get("suite"):
        yield "Suite", f"{_code_span(suite['name'])}, sha256 {_code_span(suite['sha256'][:SHORT])}"


def _when(of: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    if of.get("time"):
        yield "Report written", str(of["time"]).replace("T", " ").replace("+00:00", " UTC")


def _code(of: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    code = (of.get("environment") or {}).get("code") or {}
    if not code:
        return
    commit, _, changes = str(code.get("commit", "")).partition("+")
    words = [code["t2l"]] if "t2l" in code else []
    words += [f"commit {_code_span(commit[:SHORT])}"] if commit else []
    words += ["with changes that are not committed"] if changes else []
    yield "t2l", ", ".join(words)


def _checkpoints(of: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    told = []
    for path, record in (of.get("checkpoints") or {}).items():
        seed = (record.get("trained_on") or {}).get("seed")
        words = [str(record.get("objective", "")), f"step {record['step']}" if "step" in record else ""]
        words += [] if seed is None else [f"training seed {seed}"]
        told.append(f"{_code_span(path)} ({', '.join(filter(None, words))})")
    if told:
        yield "Checkpoints", "; ".join(told)


def _seeds(data: Mapping[str, Any], of: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    told, seed = [], (of.get("config") or {}).get("seed")
    trained = [(c.get("trained_on") or {}).get("seed") for c in (of.get("checkpoints") or {}).values()]
    if seed is not None:
        told.append(f"{seed} draws tasks, descriptions and shuffles")
    if known := sorted({s for s in trained if s is not None}):
        told.append(f"{_listed(known)} trained the checkpoints")
    if told:
        most = max((r.get("n_seeds", 1) for r in data["results"]), default=1)
        told.append(f"{most} training seed{'' if most == 1 else 's'} behind a contender at most")
        yield "Seeds", "; ".join(told)


def _listed(values: Sequence[object]) -> str:
    *most, last = map(str, values)
    return f"{', '.join(most)} and {last}" if most else last


def _validation(of: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Tasks that had a say in which step or setting is scored; the suite's own split for it is called validation."""
    told = []
    on = [((c.get("selection") or {}).get("on") or {}) for c in (of.get("checkpoints") or {}).values()]
    if counts := sorted({o["unseen_tasks"]["tasks"] for o in on if "unseen_tasks" in o}):
        told.append(f"{_code_span('validation')} ({_listed(counts)} tasks) in training")
    if (mine := (of.get("config") or {}).get("validation_split")) is not None:
        told.append(f"{_code_span(mine)} by the user")
    if told:
        yield "Validation split", f"{' and '.join(told)}; not scored"
