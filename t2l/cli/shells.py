"""Completion by the tab key in bash, zsh and fish: a script for each, which asks `t2l --complete`, and where it goes."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from t2l.own_files import FileProblemError, replace_file

MARK = "# Completion of t2l, written by `t2l --install-completion`, which writes it anew."
BASH = (
    MARK
    + r"""
_t2l_complete() {
    local line="${COMP_LINE:0:COMP_POINT}" found begin="" mark IFS=$'\n'
    local word="${line##*[[:space:]]}"
    # Readline replaces what stands after the last of these marks alone.
    for mark in = : @; do
        [[ $COMP_WORDBREAKS == *$mark* && $word == *$mark* ]] || continue
        mark="${word%"$mark"*}$mark"
        (( ${#mark} > ${#begin} )) && begin=$mark
    done
    COMPREPLY=()
    while read -r found; do
        found="${found%%$'\t'*}"
        [[ $found == *[=./] ]] || found+=$'\n'
        found="${found// /\\ }"
        COMPREPLY+=("${found/$'\n'/ }")
    done < <("${1/#\~/$HOME}" --complete "$line" 2>/dev/null)
    COMPREPLY=("${COMPREPLY[@]#"$begin"}")
}
complete -o nospace -o nosort -F _t2l_complete t2l 2>/dev/null || complete -o nospace -F _t2l_complete t2l
"""
)
ZSH = (
    "#compdef t2l\n"
    + MARK
    + r"""
_t2l() {
    local entry word
    local -a whole whole_told begun begun_told
    for entry in "${(@f)$(${~words[1]} --complete "${(j: :)words[1,CURRENT-1]} $PREFIX" 2>/dev/null)}"; do
        word="${entry%%$'\t'*}"
        [[ -n $word ]] || continue
        if [[ $word == *[=./] ]]; then
            begun+=("$word") begun_told+=("${entry/$'\t'/  }")
        else
            whole+=("$word") whole_told+=("${entry/$'\t'/  }")
        fi
    done
    (( $#begun )) && compadd -S '' -l -d begun_told -a begun
    (( $#whole )) && compadd -l -d whole_told -a whole
    return 0
}
if [[ $funcstack[1] == _t2l ]]; then _t2l "$@"; else compdef _t2l t2l; fi
"""
)
FISH = MARK + "\ncomplete -c t2l -f -a '(t2l --complete (commandline -cp | string collect) 2>/dev/null)'\n"
SCRIPTS = {"bash": BASH, "zsh": ZSH, "fish": FISH}


def script(shell: str) -> str:
    """The script of a shell. Raises ValueError for one that there is none for."""
    if shell not in SCRIPTS:
        raise ValueError(f"there is no completion for the shell {shell!r}: choose from {', '.join(SCRIPTS)}")
    return SCRIPTS[shell]


def place(shell: str, environment: Mapping[str, str]) -> Path:
    """Where a shell looks for a user's completions."""
    home = Path(environment.get("HOME") or Path.home())
    data = Path(environment.get("XDG_DATA_HOME") or home / ".local/share")
    if shell == "bash":
        return Path(environment.get("BASH_COMPLETION_USER_DIR") or data / "bash-completion") / "completions/t2l"
    if shell == "zsh":
        return data / "zsh/site-functions/_t2l"
    return Path(environment.get("XDG_CONFIG_HOME") or home / ".config") / "fish/completions/t2l.fish"


def install(shell: str = "") -> str:
    """Writes a shell's script where it looks for such; again, it is the same file. Returns what to tell the user.

    Args:
        shell: bash, zsh or fish; empty: the user's, by the environment variable SHELL.

    Raises ValueError for another shell, and FileProblemError if a file is there that t2l did not write.
    """
    name = shell or Path(os.environ.get("SHELL", "")).name
    if not name:
        raise ValueError(f"which shell? t2l --install-completion {'|'.join(SCRIPTS)}")
    text, path = script(name), place(name, os.environ)
    if path.exists() and (not path.is_file() or MARK not in path.read_text(encoding="utf-8", errors="replace")):
        raise FileProblemError(
            f"{path} was not written by t2l: move it away, or keep t2l --show-completion {name} elsewhere"
        )
    try:
        replace_file(path, text.encode())
    except OSError as error:
        raise FileProblemError(f"{path} cannot be written: {error.strerror or error}") from error
    after = {
        "bash": "bash reads it by itself if the package bash-completion is installed;\n"
        f"if not, add to ~/.bashrc:  source {path}\n",
        "zsh": f"add to ~/.zshrc, before compinit:  fpath=({path.parent} $fpath)\n"
        "and, if nothing there runs compinit:  autoload -Uz compinit && compinit\n",
        "fish": "fish reads it by itself\n",
    }
    return f"{path}\n{after[name]}"
