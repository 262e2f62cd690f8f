"""`t2l VERB ...`: finds the verb and runs it. Nothing heavy is imported before there is one.

Problems a user can mend end in one line on standard error and exit code 2.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from t2l.run.console import fail
from t2l.verbs import VERBS

HELP = f"""t2l: from the description of a task to a LoRA adapter

usage: t2l VERB [WORD ...] [key=value ...] [--some-key VALUE] [-m]
       t2l VERB --help    its words, groups and keys: meanings and defaults

verbs:
{chr(10).join(f"  {verb:<15} {text}" for verb, text in VERBS.items())}

Verbs are configured with Hydra: `t2l train --cfg job` prints the configuration,
`t2l train experiment=mini_sft seed=1` changes it, and
`t2l train -m hypernetwork=l,m,s seed=1,2,3` sweeps. Some take words as well:
`t2l generate "Keep only the animals." checkpoint=RUN run_dir=my_adapter`.
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
    if verb not in VERBS:
        fail(f"unknown verb {verb!r}: choose from {', '.join(VERBS)}")
    from t2l.cli.command import run_command

    try:
        run_command(verb, rest)
    except ValueError as error:
        fail(str(error))


if __name__ == "__main__":
    main()
