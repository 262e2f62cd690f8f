"""`t2l VERB ...`: finds the verb and runs it. Nothing heavy is imported before there is one.

Problems a user can mend end in one line on standard error and exit code 2.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import suppress

from t2l.run.console import fail
from t2l.verbs import VERBS

HELP = f"""t2l: from the description of a task to a LoRA adapter

usage: t2l VERB [WORD ...] [key=value ...] [--some-key VALUE] [-m]
       t2l VERB --help    its words, groups and keys: meanings and defaults
       t2l --install-completion [SHELL]    the tab key, in bash, zsh or fish

verbs:
{chr(10).join(f"  {verb:<15} {text}" for verb, text in VERBS.items())}

Verbs are configured with Hydra: `t2l train --cfg job` prints the configuration,
`t2l train experiment=mini_sft seed=1` changes it, and
`t2l train -m hypernetwork=l,m,s seed=1,2,3` sweeps. Some take words as well:
`t2l generate "Keep only the animals." checkpoint=RUN run_dir=my_adapters`.
A run without a folder of its own (run_dir=DIR) gets a dated one in runs/VERB/;
the same command finds it again and goes on there.
`torchrun --nproc-per-node N -m t2l VERB ...` trains in N processes.
"""


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point of the `t2l` command."""
    args = list(sys.argv[1:] if arguments is None else arguments)
    if not args or args[0] in ("-h", "--help", "help"):
        print(HELP)
        return
    verb, rest = args[0], args[1:]
    if verb == "--version":
        from t2l import __version__

        print(__version__)
        return
    if verb in ("--install-completion", "--show-completion", "--complete"):
        _completion(verb, rest, is_own_process=arguments is None)
        return
    if verb not in VERBS:
        fail(f"unknown verb {verb!r}: choose from {', '.join(VERBS)}")
    try:
        if arguments is None and _asks_for_help(rest):
            from t2l.cli import without_torch

            without_torch.show(args, lambda: _page(verb, rest))
        from t2l.cli.command import run_command

        run_command(verb, rest)
    except ValueError as error:
        fail(str(error))


def _asks_for_help(words: Sequence[str]) -> bool:
    """Whether --help stands where no option could take it for its value."""
    return any(w in ("-h", "--help") and (i == 0 or not words[i - 1].startswith("-")) for i, w in enumerate(words))


def _completion(option: str, words: Sequence[str], is_own_process: bool) -> None:
    """What the options of completion print, for a user or for a shell."""
    from t2l.cli import shells, without_torch

    if option == "--complete":  # a shell asks, and shows nothing else
        from t2l.cli.completion import complete

        if is_own_process:
            without_torch.stand_in()
        with suppress(Exception, SystemExit):
            for text, meaning in complete(words[0] if words else "").items():
                print(text, meaning, sep="\t")
        return
    try:
        if len(words) > 1 or (option == "--show-completion" and not words):
            raise ValueError(f"{option} takes one word: {', '.join(shells.SCRIPTS)}")
        sys.stdout.write(shells.script(words[0]) if option == "--show-completion" else shells.install(*words))
    except ValueError as error:
        fail(str(error))


def _page(verb: str, words: Sequence[str]) -> str:
    from t2l.cli.command import command_words
    from t2l.cli.help import verb_help

    read = command_words(verb, words)
    if not read.asks_for_help:
        raise ValueError("there is no page to show")
    return f"{verb_help(verb, read.overrides, read.config_folder)}\n"


if __name__ == "__main__":
    main()
