"""Overrides, `key=value`: which are Hydra's own, which name files, and quotes around what Hydra's grammar cannot read."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

PATH_KEYS = frozenset(
    "path checkpoint checkpoints library method_libraries base_model dataset cache init_from file folder folders adapter base runs report".split()
)
"""last parts of keys whose values are files, folders or hub ids, beside those that end like one of PATH_ENDINGS"""
PATH_ENDINGS = ("_dir", "_folder", "_path", "_root", "_cache", "_file")
HYDRA_FOLDERS = ("hydra.run.dir", "hydra.sweep.dir", "hydra.sweep.subdir")
_PLAIN = re.compile(r"(?:[A-Za-z_/]|\.{1,2}/|\.{1,2}$)[\w./+@%:-]*", re.ASCII)
"""what Hydra's grammar reads as one string without quotes, and as no number"""
_NO_STRINGS = ("true", "false", "nan", "inf")


def is_of_hydra(word: str) -> bool:
    """Whether an override sets Hydra itself (hydra.verbose=true, hydra/launcher=local), not t2l."""
    return re.match(r"[+~]*hydra[./=@]", word) is not None


def names_a_path(key: str) -> bool:
    """Whether the values of a config key (`base_model.path`) are files or folders."""
    bare = key.lstrip("+~")
    last = bare.split(".")[-1]
    return bare in HYDRA_FOLDERS or last in PATH_KEYS or last.endswith(PATH_ENDINGS)


def quoted(text: str) -> str:
    """A text in quotes, so that Hydra's grammar reads it as it stands: \' for a quote, backslashes before one doubled."""
    return "'" + re.sub(r"(\\*)('|\Z)", lambda m: 2 * m[1] + ("\\'" if m[2] else ""), text) + "'"


def quote_paths(words: Sequence[str]) -> list[str]:
    """The words, with quotes around paths that Hydra's grammar could not read: `library=runs/seed=1`, `[a b,c]`.

    What is quoted already, null or a sweep function (choice(...), glob(...)) stays as it is. A comma
    parts the values of a sweep or list, unless it stands within quotes.
    """
    return [_quoted(word) for word in words]


def _quoted(word: str) -> str:
    key, separator, value = word.partition("=")
    if not separator or not re.fullmatch(r"[+~]*[\w.]+", key) or not names_a_path(key):
        return word
    if value.startswith("[") and value.endswith("]"):
        return f"{key}=[{','.join(map(_quoted_path, _parts(value[1:-1])))}]"
    return f"{key}={','.join(map(_quoted_path, _parts(value)))}"


def _parts(value: str) -> Iterator[str]:
    """What stands between commas that are neither in quotes nor in brackets."""
    start, depth, quote = 0, 0, ""
    for i, c in enumerate(value):
        if quote:
            quote = "" if c == quote and value[i - 1] != "\\" else quote
        elif c in "'\"" and not value[start:i].strip():
            quote = c
        elif c in "([{":
            depth += 1
        elif c in ")]}":
            depth = max(0, depth - 1)
        elif c == "," and not depth:
            yield value[start:i].strip()
            start = i + 1
    yield value[start:].strip()


def _quoted_path(path: str) -> str:
    is_quoted = len(path) > 1 and path[0] == path[-1] and path[0] in "'\""
    is_function = re.fullmatch(r"(choice|glob|range|shuffle|sort|interval|str)\(.*\)", path) is not None
    if not path or path == "null" or is_quoted or is_function:
        return path
    if _PLAIN.fullmatch(path) and path.lower() not in _NO_STRINGS:
        return path
    return quoted(path)
