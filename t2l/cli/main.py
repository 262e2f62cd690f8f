"""`t2l <verb>`: parses, validates before anything heavy loads, then runs the verb.

Problems a user can mend end in one line on standard error and exit code 2. Heavy libraries are imported
inside the verb that needs them.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from t2l.cli.overrides import is_override
from t2l.run.console import fail, print_wrapped

HYDRA_VERBS = {
    "quickstart": "the whole path in one run, on the embedded world by default",
    "train_library": "train an oracle LoRA per task, and the multi-task LoRA",
    "train": "train a hypernetwork, by SFT or by reconstruction",
    "evaluate": "score contenders on every split and write a report",
    "compare_methods": "train every adaptation method on the same tasks, one table",
    "describe": "write descriptions of tasks with a language model",
    "pretrain_base": "pretrain the mini base model from scratch",
}
PLAIN_VERBS = {
    "generate": "turn descriptions into PEFT adapter folders",
    "library": "verify and summarise the adapters of a library",
    "compare": "reports side by side, with differences paired by example",
    "merge": "add an adapter to its base's weights and save the model",
    "plan": "what `t2l train` would train, its sizes, whether a step fits",
}
MULTI_PROCESS_VERBS = ("train", "train_library")
HELP = f"""t2l: from the description of a task to a LoRA adapter

usage: t2l VERB [key=value ...] [-m] [--cfg job]
       t2l generate "DESCRIPTION" ... --checkpoint DIR --out DIR [--file FILE]
                    [key=value ...]
       t2l library DIR [--list] [--json]
       t2l compare RUN RUN ... [--json] [--by-name]
       t2l merge ADAPTER --out DIR [--base-model PATH] [--dtype DTYPE]
                 [--revision REV] [--trust-remote-code]
       t2l plan [key=value ...] [--json]

verbs:
{chr(10).join(f"  {verb:<15} {text}" for verb, text in (HYDRA_VERBS | PLAIN_VERBS).items())}

Verbs are configured with Hydra: `t2l train --cfg job` prints the configuration,
`t2l train experiment=mini_sft seed=1` changes it, and
`t2l train -m hypernetwork=l,m,s seed=1,2,3` sweeps.
A run without a folder of its own (run_dir=DIR) gets a dated one in runs/VERB/;
the same command finds it again and goes on there.
`torchrun --nproc-per-node N -m t2l VERB ...` runs {" and ".join(MULTI_PROCESS_VERBS)}
in N processes.
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
    elif verb in PLAIN_VERBS:
        of_verb = {"generate": _generate, "library": _library, "compare": _compare, "merge": _merge, "plan": _plan}
        of_verb[verb](rest)
    elif verb in HYDRA_VERBS:
        _run_with_hydra(verb, rest)
    else:
        fail(f"unknown verb {verb!r}: choose from {', '.join(HYDRA_VERBS | PLAIN_VERBS)}")


def _compose(verb: str, overrides: Sequence[str]) -> Any:
    """The verb's config object. Exits with code 2 where it does not compose or validate."""
    from t2l.cli.settings import compose_settings

    try:
        return compose_settings(verb, overrides)
    except ValueError as error:
        fail(str(error))


def _run_with_hydra(verb: str, rest: Sequence[str]) -> None:
    from t2l.cli.command import Job, read_command, run_once, run_sweep

    if int(os.environ.get("WORLD_SIZE", "1")) > 1 and verb not in MULTI_PROCESS_VERBS:
        several = ", ".join(MULTI_PROCESS_VERBS)
        fail(f"{verb} runs in one process: start it without torchrun; in several run {several}")
    try:
        command = read_command(verb, rest)
    except ValueError as error:
        fail(str(error))

    def launch(words: list[str], job: Job) -> None:
        import hydra

        from t2l.config import config_folder

        sys.argv = ["t2l", *words]
        hydra.main(config_path=str(config_folder()), config_name=verb, version_base="1.3")(job)()

    if command is None or command.shows_only:
        launch(list(rest) if command is None else command.words, Job(verb, _run_verb))
        return
    try:
        (run_sweep if command.is_sweep else run_once)(command, _run_verb, launch)
    except ValueError as error:
        fail(str(error))


def _quiet_libraries() -> None:
    """Keeps other libraries' notices and loading bars out of the way of t2l's own progress."""
    import logging

    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    for name in ("bitsandbytes", "sentence_transformers", "httpx", "matplotlib"):
        logging.getLogger(name).setLevel(logging.ERROR)
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()


def _run_verb(verb: str, settings: Any) -> None:
    """Runs a verb. Raises ValueError for what the user can mend."""
    _quiet_libraries()
    if verb == "quickstart":
        from t2l.verbs.quickstart import quickstart

        quickstart(settings)
    elif verb == "compare_methods":
        from t2l.verbs.compare_methods import compare_methods

        compare_methods(settings)
    elif verb == "evaluate" and settings.harness is not None:
        from t2l.evaluation.harness.report import print_harness
        from t2l.verbs.evaluate_harness import evaluate_with_harness

        print_harness(evaluate_with_harness(settings), Path(settings.run_dir))
    elif verb == "evaluate":
        from t2l.verbs.evaluate import evaluate, print_report

        print_report(evaluate(settings), Path(settings.run_dir))
    elif verb in MULTI_PROCESS_VERBS:
        from importlib import import_module

        from t2l.distributed import world

        with world() as processes:
            settings.run_dir = processes.gather(settings.run_dir)[0]  # the main process decided on it
            made = getattr(import_module(f"t2l.verbs.{verb}"), verb)(settings, processes)
        if verb == "train_library":
            _end_training(made, processes.is_main)
    else:
        from importlib import import_module

        getattr(import_module(f"t2l.verbs.{verb}"), verb)(settings)


def _end_training(folder: Path, is_main: bool) -> None:
    """Ends with exit code 1 and one line if a task of a library failed or there is no adapter at all."""
    from t2l.verbs.library import training_outcome

    outcome = training_outcome(folder)
    if outcome.is_complete:
        return
    if is_main:
        print(f"t2l: incomplete: {outcome.summary}", file=sys.stderr)
    raise SystemExit(1)


def _generate(rest: Sequence[str]) -> None:
    import argparse

    parser = argparse.ArgumentParser(prog="t2l generate", description="Turns descriptions into PEFT adapter folders.")
    parser.add_argument("words", nargs="*", metavar="DESCRIPTION | key=value")
    parser.add_argument("--checkpoint", default="", help="run or checkpoint folder of `t2l train`")
    parser.add_argument("--out", default="", help="adapter folder to write; numbered folders inside it for several")
    parser.add_argument("--file", help="text file with one description per line")
    parser.add_argument("--base-model", dest="base", help="base the adapters are for (default: the checkpoint's)")
    parsed = parser.parse_intermixed_args(list(rest))
    overrides = [w for w in parsed.words if is_override(w)]
    config = _compose("generate", overrides)
    config.checkpoint = parsed.checkpoint or config.checkpoint
    config.out = parsed.out or config.out
    config.base_model = parsed.base or config.base_model
    from t2l.verbs.generate import generate

    _quiet_libraries()
    try:
        made = generate(
            config, [w for w in parsed.words if not is_override(w)], Path(parsed.file) if parsed.file else None
        )
    except ValueError as error:
        fail(str(error))
    for folder, confidence in made:
        print(folder)
        if confidence is not None and confidence.expected_score is not None:
            print(f"t2l: confidence {confidence.expected_score:.2f}: {folder}", file=sys.stderr)
        if confidence is not None and (warning := confidence.warning(config.warn_below)):
            print(f"t2l: warning: {folder}: {warning}", file=sys.stderr)


def _library(rest: Sequence[str]) -> None:
    import argparse
    import json

    parser = argparse.ArgumentParser(
        prog="t2l library", description="Loads every adapter of a library strictly and says what is there."
    )
    parser.add_argument("folder", help="folder of `t2l train_library`")
    parser.add_argument("--list", action="store_true", help="list every adapter, not only those that are not sound")
    parser.add_argument("--json", action="store_true", help="print the report as JSON")
    parsed = parser.parse_args(list(rest))
    from t2l.verbs.library import examine_library, print_library

    try:
        report = examine_library(Path(parsed.folder))
    except ValueError as error:
        fail(str(error))
    if parsed.json:
        print(json.dumps(report.to_json(), indent=2))
    else:
        print_library(report, parsed.list)
    if report.problems:
        first = report.problems[0]
        fail(
            f"{parsed.folder}: {len(report.problems)} adapters are not sound, first {first.task!r} ({first.problem}): "
            "remove their folders and run `t2l train_library` again"
        )


def _compare(rest: Sequence[str]) -> None:
    import argparse
    import json

    parser = argparse.ArgumentParser(prog="t2l compare", description="Puts reports of `t2l evaluate` side by side.")
    parser.add_argument("runs", nargs="+", metavar="RUN", help="report folder; the others are compared with the first")
    parser.add_argument("--json", action="store_true", help="print rows as JSON")
    parser.add_argument(
        "--by-name",
        action="store_true",
        help="pair contenders by name, whatever was trained and whatever they were asked",
    )
    parsed = parser.parse_args(list(rest))
    from t2l.verbs.compare import compare_reports, comparison_lines

    try:
        found = compare_reports([Path(r) for r in parsed.runs], by_name=parsed.by_name)
    except ValueError as error:
        fail(str(error))
    for note in found.notes:
        print(f"t2l: note: {note}", file=sys.stderr)
    if parsed.json:
        print(json.dumps(found.rows, indent=2))
        return
    for line in comparison_lines(found):
        print(line)


def _plan(rest: Sequence[str]) -> None:
    import argparse
    import json

    parser = argparse.ArgumentParser(
        prog="t2l plan", description="Says what `t2l train` with the same overrides would train, from configs alone."
    )
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="as for `t2l train`; and memory_gb=24")
    parser.add_argument("--json", action="store_true", help="print the plan as JSON")
    parsed = parser.parse_args(list(rest))
    config = _compose("plan", parsed.overrides)
    from t2l.verbs.plan import plan, plan_text

    _quiet_libraries()
    try:
        found = plan(config)
    except ValueError as error:
        fail(str(error))
    if parsed.json:
        print(json.dumps(found.to_json(), indent=2))
        return
    for line in plan_text(found).splitlines():
        print_wrapped(line, indent=14)


def _merge(rest: Sequence[str]) -> None:
    import argparse

    parser = argparse.ArgumentParser(
        prog="t2l merge",
        description="Adds a plain LoRA adapter to the full-precision weights of its base (in float32, four bytes of memory "
        "per parameter) and saves model, tokenizer and card. A base that was quantised only for training is merged "
        "unquantised; files quantised by bitsandbytes are dequantised.",
    )
    parser.add_argument("adapter", metavar="ADAPTER", help="PEFT adapter folder, of `t2l generate` or any other")
    parser.add_argument("--out", required=True, help="folder to write; it must be empty or not there")
    parser.add_argument("--base-model", help="folder or hub id of the base (default: the one the adapter names)")
    parser.add_argument("--dtype", help="float32, bfloat16 or float16 (default: what the base is stored in)")
    parser.add_argument("--revision", help="commit, tag or branch of a base on the hub")
    parser.add_argument(
        "--trust-remote-code", dest="trust", action="store_true", help="let Python code that comes with the base run"
    )
    parsed = parser.parse_args(list(rest))
    _quiet_libraries()
    from t2l.base_model.merge import merge

    try:
        merged = merge(
            Path(parsed.adapter), Path(parsed.out), parsed.base_model, parsed.dtype, parsed.revision, parsed.trust
        )
    except ValueError as error:
        fail(str(error))
    print(merged.folder)
    if merged.was_quantised:
        print("t2l: the base's files are quantised: its weights were dequantised before merging", file=sys.stderr)


if __name__ == "__main__":
    main()
