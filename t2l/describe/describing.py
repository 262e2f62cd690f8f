"""Asks a describer for descriptions of tasks, round by round, until each task has enough that are worth keeping.

    <run_dir>/<task>/replies.jsonl    every reply as it came, by round
    <run_dir>/<task>/metadata.yaml    {descriptions: [str, ...], provenance: {...}}, made from the replies alone
    <run_dir>/<task>/prompt.txt       the prompt's template

A round is one request. Its prompt and seed follow from the task and the round's number, not from other replies, so
rounds may run at once and arrive in any order; they are judged in the order of their numbers. A task asks as many
rounds as it would need if every reply were kept whole, then, when some of it was rejected, as many more.
"""

from __future__ import annotations

import datetime
import heapq
import logging
import math
from collections.abc import Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import asdict, dataclass, field
from pathlib import Path
from string import Template
from typing import Any

import yaml

from t2l.checks import at_least
from t2l.describe.describers import Describer
from t2l.describe.judging import AcceptConfig, Judge, parse_descriptions
from t2l.describe.replies import Reply, ReplyFile, Request, sha256
from t2l.files import check_own, write_own
from t2l.run.progress import Progress
from t2l.seeding import generator_for
from t2l.tasks import Example, Task, TaskSuite
from t2l.tracking.interface import active, current_stage

log = logging.getLogger(__name__)
REPLIES, METADATA, PROMPT_FILE, LOCK = "replies.jsonl", "metadata.yaml", "prompt.txt", ".describe.lock"
PROMPT = """\
A task turns an input text into an output text. Write $count different descriptions of the task below, for a reader \
who gets one description and one input, and must give the output.

The task, as its authors describe it:
$definition

$examples
Rules:
- Each description stands alone and says everything one needs to know to do the task on any input.
- Do not quote or mention the examples above, neither their inputs nor their outputs.
- Let the descriptions differ from one another in words, in sentence structure and in length.
- Write these $count as $style.

Answer with a JSON list of $count strings and nothing else."""
STYLES = (
    "short commands",
    "complete sentences that address an assistant",
    "questions or requests, as a person would type them in a chat",
    "formal instructions, as in a manual",
    "descriptions of two to three sentences, with every detail that matters",
    "casual explanations to a colleague",
    "statements of what the output is, given the input",
    "step-by-step instructions in one running sentence",
)


@dataclass
class DescribeConfig:
    """`t2l describe`: descriptions of tasks, written by a language model."""

    suite: Any = None
    """where the tasks come from"""
    describer: Any = None
    """who writes: endpoint or local_model"""
    splits: list[str] | None = None
    """splits whose tasks are described; None means all"""
    tasks: list[str] | None = None
    """names of single tasks instead of splits"""
    n: int = 64
    """descriptions wanted of each task (the Text-to-LoRA paper has 128 to 200)"""
    definitions: int = 1
    """training descriptions of the suite that the prompt shows, from the first on"""
    examples: int = 5
    """training examples that each prompt shows, drawn anew each round; test examples are never shown"""
    example_characters: int = 1000
    """characters after which a shown input or output is cut"""
    per_request: int = 10
    """descriptions that one request asks for; more than that in a reply are dropped"""
    max_rounds: int = 40
    """requests after which a task is given up"""
    accept: AcceptConfig = field(default_factory=AcceptConfig)
    """which descriptions are kept"""
    allow_incomplete: bool = False
    """whether tasks that were given up are written with what there is, instead of failing in the end"""
    prompt: str = PROMPT
    """template with $definition, $examples, $count and $style"""
    styles: list[str] = field(default_factory=lambda: list(STYLES))
    """values of $style, round by round in turn"""
    seed: int = 0
    """decides which examples are shown, and each request's sampling"""
    logger: Any = None
    """where metrics and results go besides the run's own files"""
    run_dir: str = ""
    """folder to write"""

    def __post_init__(self) -> None:
        if not self.run_dir:
            raise ValueError("run_dir is empty: give the folder to write, run_dir=DIR")
        at_least(self, 1, "n", "definitions", "example_characters", "per_request", "max_rounds")
        at_least(self, 0, "examples")
        if self.max_rounds * self.per_request < self.n:
            raise ValueError(
                f"max_rounds={self.max_rounds} requests of per_request={self.per_request} descriptions cannot give n={self.n}"
            )
        if not self.styles:
            raise ValueError("styles is empty: name at least one, like [short commands]")
        self._check_prompt()

    def _check_prompt(self) -> None:
        template = Template(self.prompt)
        if not template.is_valid():
            raise ValueError("prompt has a $ that begins no name: write $$ for a dollar sign")
        found = set(template.get_identifiers())
        needed = {"definition", "count", "examples"} if self.examples else {"definition", "count"}
        if found - {"definition", "examples", "count", "style"} or needed - found:
            raise ValueError(
                f"prompt must have $definition, $count, $examples (unless examples=0) and may have $style; it has {sorted(found)}"
            )


def _examples_to_show(config: DescribeConfig, task: Task, round_number: int) -> list[Example]:
    """Training examples of a round; none whose input is also an input of another example split."""
    held = {e.input for split, group in task.examples.items() if split != "train" for e in group}
    pool = [e for e in task.examples.get("train", ()) if e.input not in held]
    order = generator_for("describe:examples", config.seed, task.name, round_number).permutation(len(pool))
    return [pool[i] for i in order[: config.examples]]


def render_prompt(config: DescribeConfig, task: Task, round_number: int) -> str:
    """The prompt of a task's round.

    Raises ValueError if the task has no training description.
    """
    definitions = task.descriptions.get("train", ())[: config.definitions]
    if not definitions:
        raise ValueError(f"task {task.name!r} has no training description to start from")

    def cut(text: str) -> str:
        return text if len(text) <= config.example_characters else f"{text[: config.example_characters]} [...]"

    shown = _examples_to_show(config, task, round_number)
    blocks = [f"Example {i}\nInput: {cut(e.input)}\nOutput: {cut(e.output)}\n" for i, e in enumerate(shown, start=1)]
    return Template(config.prompt).substitute(
        definition="\n".join(definitions),
        examples="\n".join(blocks),
        count=config.per_request,
        style=config.styles[round_number % len(config.styles)],
    )


class TaskDescriptions:
    """One task's descriptions in the making: which rounds to ask, and what came of those that were."""

    def __init__(self, config: DescribeConfig, task: Task, describer: Describer) -> None:
        """Reads the replies there are.

        Raises ValueError if they answer other requests than this configuration makes, or a file was changed by hand.
        """
        self.config, self.task, self.describer = config, task, describer
        if task.name.startswith(".") or Path(task.name).name != task.name:
            raise ValueError(f"task {task.name!r} cannot name a folder of descriptions")
        self.folder = Path(config.run_dir) / task.name
        # Of a folder from before its files were recorded, this is told when one would change.
        check_own(self.folder, (METADATA, PROMPT_FILE), owns=(METADATA, PROMPT_FILE))
        self.replies = ReplyFile(self.folder / REPLIES)
        for number in self.replies.by_round:
            self.replies.check(self._request(number, render_prompt(config, task, number)))
        self.judge = Judge(config.accept, task)
        self.judged = self.malformed = self._asked = 0

    def _request(self, number: int, prompt: str) -> Request:
        seed = int(generator_for("describe:reply", self.config.seed, self.task.name, number).integers(2**31))
        return Request(number, self.describer.model, sha256(prompt), seed, self.describer.settings())

    @property
    def missing(self) -> int:
        """Descriptions still wanted."""
        return self.config.n - len(self.judge.accepted)

    @property
    def is_finished(self) -> bool:
        """Whether there is nothing more to ask: all descriptions are there, or the task is given up."""
        return not self.missing or self.judged == self.config.max_rounds

    def ask(self, number: int) -> None:
        """Asks a round and writes its reply down. Raises ValueError if the describer gives none."""
        prompt = render_prompt(self.config, self.task, number)
        request = self._request(number, prompt)
        text = self.describer.reply(prompt, request.seed)
        date = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        self.replies.add(Reply(request, self.describer.origin, date, text))

    def advance(self) -> list[int]:
        """Judges replies in the order of rounds as far as they have come; returns the rounds to ask next."""
        while not self.is_finished and self.judged in self.replies.by_round:
            found = parse_descriptions(self.replies.by_round[self.judged].text)
            self.malformed += not found
            for description in found[: self.config.per_request]:
                if self.missing:
                    self.judge.take(description)
            self.judged += 1
        if self.is_finished:
            self.judge.forget_examples()
            return []
        needed = min(self.judged + math.ceil(self.missing / self.config.per_request), self.config.max_rounds)
        rounds = [n for n in range(max(self._asked, self.judged), needed) if n not in self.replies.by_round]
        self._asked = max(self._asked, needed)
        return rounds

    def finish(self, suite: dict[str, str]) -> None:
        """Writes what there is, if that is enough; else tells how far the task came, and why not further."""
        if self.missing:
            rejected = ", ".join(f"{count} {kind}" for kind, count in self.judge.rejected.items() if count) or "none"
            log.warning(
                "given up: %s: %d of %d descriptions after %d requests (%d malformed replies; rejected: %s)",
                self.task.name, len(self.judge.accepted), self.config.n, self.judged, self.malformed, rejected,
            )  # fmt: skip
        if not self.missing or (self.config.allow_incomplete and self.judge.accepted):
            self.write(suite)

    def write(self, suite: dict[str, str]) -> None:
        """Writes metadata.yaml and prompt.txt, whole, unless they are there and the same."""
        used = [self.replies.by_round[n] for n in range(self.judged)]
        asked_with = ("definitions", "examples", "example_characters", "per_request", "seed")
        provenance = {
            "made_by": "t2l describe",
            "suite": suite,
            "task_sha256": self.task.content_hash(),
            "model": self.describer.model,
            "origins": sorted({r.origin for r in used}),
            "settings": self.describer.settings(),
            "prompt_sha256": sha256(self.config.prompt),
            "styles": list(self.config.styles),
            **{key: getattr(self.config, key) for key in asked_with},
            "accept": asdict(self.config.accept),
            "wanted": self.config.n,
            "replies": len(used),
            "malformed_replies": self.malformed,
            "rejected": dict(self.judge.rejected),
            "date": max(r.date for r in used),
        }
        record = {"descriptions": self.judge.accepted, "provenance": provenance}
        text = yaml.safe_dump(record, sort_keys=False, allow_unicode=True, width=120)
        for path, content in ((self.folder / PROMPT_FILE, self.config.prompt), (self.folder / METADATA, text)):
            if not path.is_file() or path.read_text() != content:
                write_own(path, content)


def _ask_all(works: Sequence[TaskDescriptions], describer: Describer, suite: dict[str, str]) -> None:
    """Asks every round that is wanting, several at once, and writes each task when it is finished.

    The first round that fails ends it; replies that are still under way then are waited for and kept.
    """
    wanted = sum(w.config.n for w in works)
    with (
        Progress("describing tasks", wanted, "description") as progress,
        ThreadPoolExecutor(describer.concurrency) as pool,
    ):
        running: dict[Future[None], int] = {}
        queue: list[tuple[int, int]] = []  # a heap of rounds to ask: the number of the task, the number of the round

        def go_on(index: int) -> None:
            """Judges what has come of a task, and queues what it asks next."""
            work = works[index]
            before = len(work.judge.accepted)
            for number in work.advance():
                heapq.heappush(queue, (index, number))
            progress.advance(len(work.judge.accepted) - before)
            if work.is_finished:
                work.finish(suite)

        for index in range(len(works)):
            go_on(index)
        try:
            while queue or running:
                while queue and len(running) < describer.concurrency:
                    index, number = heapq.heappop(queue)
                    running[pool.submit(works[index].ask, number)] = index
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    index = running.pop(future)
                    future.result()
                    go_on(index)
                _tell(works)
        except BaseException:
            describer.stop()
            raise


def _tell(works: Sequence[TaskDescriptions]) -> None:
    """Tells the tracker, if there is one, how far it is; steps are replies."""
    if (tracker := active()) is None:
        return
    counts = {"tasks": sum(w.is_finished for w in works), "descriptions": sum(len(w.judge.accepted) for w in works)}
    counts |= {"malformed_replies": sum(w.malformed for w in works)}
    tracker.log_metrics(current_stage(), sum(w.judged for w in works), {f"describe/{k}": v for k, v in counts.items()})


def describe_tasks(config: DescribeConfig, suite: TaskSuite, tasks: Sequence[Task], describer: Describer) -> list[str]:
    """Writes descriptions of each task. Returns the names of tasks that did not get all of theirs.

    A request whose reply is in the folder is not made again, and the same replies make the same metadata.yaml.

    Raises ValueError if the folder holds replies to other requests, another process works in it, the describer
    fails, or a task is incomplete and that is not allowed.
    """
    from filelock import FileLock, Timeout

    if not tasks:
        raise ValueError("no task to describe: name some in splits=[...] or tasks=[...]")
    for task in tasks:
        render_prompt(config, task, 0)  # raises before anything is asked
    unshown = [t.name for t in tasks if config.examples and not _examples_to_show(config, t, 0)]
    if unshown:
        log.warning("no training examples to show of %d tasks, the first: %s", len(unshown), unshown[0])
    out = Path(config.run_dir)
    out.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(out / LOCK, timeout=0):
            works = [TaskDescriptions(config, task, describer) for task in tasks]
            _ask_all(works, describer, {"name": suite.name, "sha256": suite.content_hash()})
    except Timeout:
        raise ValueError(f"another `t2l describe` works in {out}: wait for it, or choose another run_dir") from None
    incomplete = {w.task.name: len(w.judge.accepted) for w in works if w.missing}
    if incomplete:
        names = [f"{name} ({count})" for name, count in incomplete.items()]
        log.warning("%d of %d tasks are incomplete: %s", len(names), len(works), ", ".join(names))
        if not config.allow_incomplete:
            raise ValueError(
                f"{len(names)} of {len(works)} tasks did not reach n={config.n} descriptions in max_rounds="
                f"{config.max_rounds} requests: {', '.join(names[:5])}{', ...' if len(names) > 5 else ''}. What there is "
                f"stays in {out}: raise max_rounds to go on, or set allow_incomplete=true"
            )
    log.info("descriptions of %d tasks in %s", len(works) - len(incomplete), out)
    return list(incomplete)
