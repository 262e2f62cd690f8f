"""`t2l describe` against a real HTTP server that misbehaves, and with local models."""

from __future__ import annotations

import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from conftest import SHARED, SIZES
from small_suites import make_suites
from transformers import LlamaConfig, LlamaForCausalLM

from t2l.base_model import BaseModelConfig
from t2l.cli import main
from t2l.describe import (
    REJECTIONS,
    AcceptConfig,
    DescribeConfig,
    EndpointConfig,
    Judge,
    LocalModelConfig,
    build,
    describe_tasks,
    parse_descriptions,
)
from t2l.describe.describers import LocalModel, _retry_after
from t2l.describe.replies import ReplyFile
from t2l.files import FileProblemError
from t2l.tasks import Example, Split, Task, TaskSuite

KEY = "sk-very-secret-0123456789"
SYLLABLES = "ba ce di fo gu ka le mi no pu ra se ti vo zu".split()


def sentences(seed: int, count: int = 10) -> list[str]:
    """Made-up descriptions, different for every seed."""
    rng = random.Random(seed)
    return [" ".join(f"{rng.choice(SYLLABLES)}{rng.choice(SYLLABLES)}" for _ in range(8)) for _ in range(count)]


class Server(ThreadingHTTPServer):
    """A chat-completions endpoint: `faults` are what the next requests get instead of an answer, `content` answers."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.content: Callable[[dict[str, Any]], str | None] = lambda body: json.dumps(sentences(body["seed"]))
        self.faults: Iterator[str | None] = iter(())
        self.lock = threading.Lock()
        self.asked: list[dict[str, Any]] = []
        self.answered: list[int] = []
        self.times: list[float] = []
        self.keys: list[str | None] = []
        self.under_way = self.most_under_way = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"

    def always(self, fault: str, after: int = 0) -> None:
        """Fails every request but the first few."""
        self.faults = chain([None] * after, iter(lambda: fault, ""))


class Handler(BaseHTTPRequestHandler):
    server: Server
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None:
        pass

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        server = self.server
        with server.lock:
            server.asked.append(body)
            server.times.append(time.monotonic())
            server.keys.append(self.headers["Authorization"])
            fault = next(server.faults, None)
        self._answer(body, fault)

    def _answer(self, body: dict[str, Any], fault: str | None) -> None:
        if self.path != "/v1/chat/completions":
            self._send(404, b"{}")
        elif fault == "drop":
            self.close_connection = True
        elif fault == "half":
            self._send(200, b'{"choices": [{"mess', length=5000)
            self.close_connection = True
        elif fault == "not json":
            self._send(200, b"<html>Bad gateway</html>")
        elif fault == "no choices":
            self._send(200, b'{"error": {"message": "overloaded"}}')
        elif fault is not None:
            status, _, wait = fault.partition(" ")
            message = json.dumps({"error": {"message": f"no, {self.headers['Authorization']},\nnot so"}})
            headers = {"Location": "/v1/elsewhere"} if status == "302" else {}
            self._send(int(status), message.encode(), headers | ({"Retry-After": wait} if wait else {}))
        else:
            with self.server.lock:
                self.server.under_way += 1
                self.server.most_under_way = max(self.server.most_under_way, self.server.under_way)
            content = self.server.content(body)
            message = {"choices": [{"message": {"role": "assistant", "content": content}}]}
            with self.server.lock:
                self.server.under_way -= 1
                self.server.answered.append(body.get("seed", -1))
            self._send(200, json.dumps(message).encode())

    def _send(self, status: int, data: bytes, headers: dict[str, str] | None = None, length: int | None = None) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(length or len(data)))
        self.end_headers()
        self.wfile.write(data)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with Server() as running:
        thread = threading.Thread(target=running.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        yield running
        running.shutdown()


def a_task(name: str) -> Task:
    """A task whose training, validation and test texts can be told apart."""

    def group(split: str) -> tuple[Example, ...]:
        return tuple(Example(f"{name} {split} question {i}", f"{split} answer {i} {name}") for i in range(8))

    shared = Example(f"{name} test question 0", "leaked answer")
    return Task(
        name,
        {"train": (f"Answer what {name} asks, with its number.", "Another one."), "test": ("Held-out wording of it.",)},
        {"train": (*group("train"), shared), "validation": group("validation"), "test": group("test")},
    )


TASKS = [a_task("apples"), a_task("pears"), a_task("plums")]
SUITE = TaskSuite("fruit", {t.name: t for t in TASKS}, {"train": Split(("apples", "pears", "plums"))})


def endpoint(server: Server, **changes: Any) -> EndpointConfig:
    settings = {"url": server.url, "model": "writer", "backoff_s": 0.01, "timeout_s": 20.0, **changes}
    return EndpointConfig(**settings)


def described(server: Server, out: Path, tasks: Sequence[Task] = TASKS, **changes: Any) -> list[str]:
    """Runs against the server; changes are of the endpoint where it has such a field."""
    mine = {k: changes.pop(k) for k in list(changes) if k in EndpointConfig.__dataclass_fields__}
    config = DescribeConfig(run_dir=str(out), **{"n": 24, **changes})
    return describe_tasks(config, SUITE, tasks, build(endpoint(server, **mine)))


def lines(out: Path, task: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / task / "replies.jsonl").read_text().splitlines()]


def metadata(out: Path, task: str) -> dict[str, Any]:
    """What was written about a task, without its date."""
    record = yaml.safe_load((out / task / "metadata.yaml").read_text())
    assert record["provenance"].pop("date")
    return record


def contents(folder: Path) -> bytes:
    """The bytes of every file in a folder."""
    return b"\n".join(p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file())


def test_a_well_behaved_endpoint(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_KEY", KEY)
    assert described(server, tmp_path, api_key_env="SOME_KEY", extra={"top_p": 0.9}) == []
    assert set(server.keys) == {f"Bearer {KEY}"}
    assert len(server.asked) == 9  # three requests of ten give 24 descriptions
    assert {b["model"] for b in server.asked} == {"writer"}
    assert {b["top_p"] for b in server.asked} == {0.9}
    for task in TASKS:
        record = metadata(tmp_path, task.name)
        assert len(set(record["descriptions"])) == len(record["descriptions"]) == 24
        about = record["provenance"]
        assert about["origins"] == [server.url]
        assert about["model"] == "writer"
        assert about["suite"] == {"name": "fruit", "sha256": SUITE.content_hash()}
        assert about["settings"] == {"temperature": 1.0, "max_tokens": 2048, "top_p": 0.9, "send_seed": True}
        assert sum(about["rejected"].values()) == 0
        prompt = (tmp_path / task.name / "prompt.txt").read_bytes()
        assert about["prompt_sha256"] == hashlib.sha256(prompt).hexdigest()
    assert KEY.encode() not in contents(tmp_path)


def test_several_requests_are_under_way_and_no_more(server: Server, tmp_path: Path) -> None:
    four = threading.Barrier(4)

    def content(body: dict[str, Any]) -> str:
        if len(server.asked) <= 4:
            four.wait(10)  # nobody is answered before four have come
        return json.dumps(sentences(body["seed"]))

    server.content = content
    described(server, tmp_path, concurrency=4, retries=0)
    assert server.most_under_way == 4
    assert len(server.asked) == 9


def test_prompts_show_training_examples_only(server: Server, tmp_path: Path) -> None:
    described(server, tmp_path, n=60)
    prompts = [b["messages"][0]["content"] for b in server.asked]
    assert len(set(prompts)) == len(prompts)
    for prompt in prompts:
        name = next(t.name for t in TASKS if f"what {t.name} asks" in prompt)
        assert prompt.count("\nInput: ") == prompt.count("\nOutput: ") == 5
        assert prompt.count(f"{name} train question") == 5
        for word in ("test question", "validation", "leaked", "Held-out", "Another one"):
            assert word not in prompt
    assert len({line for p in prompts for line in p.splitlines() if line.startswith("Input: apples")}) == 8


def test_order_of_arrival_does_not_matter(server: Server, tmp_path: Path) -> None:
    def slow(body: dict[str, Any]) -> str:
        time.sleep(random.random() * 0.05)
        found = sentences(body["seed"])
        return json.dumps(found[:4] + found[:3] if body["seed"] % 3 else found)

    server.content = slow
    described(server, tmp_path / "many", concurrency=6)
    first = sorted(server.answered)
    server.answered.clear()
    described(server, tmp_path / "one", concurrency=1)
    assert sorted(server.answered) == first  # not one request more than needed
    for task in TASKS:
        assert metadata(tmp_path / "many", task.name) == metadata(tmp_path / "one", task.name)


def test_every_misbehaviour_in_one_run(server: Server, tmp_path: Path) -> None:
    leak, known = "To be precise, TEST answer, 3 apples is what to say.", "answer WHAT apples asks with its number!"
    odd = {
        0: "I am sorry, I cannot help with that.",
        1: "[" + ", ".join(json.dumps(s) for s in sentences(1)[:6]) + ', "and this one is cut o',
        2: json.dumps([*sentences(1)[:3], sentences(1)[4].upper() + "!", *sentences(2)[:3]]),
        3: json.dumps([leak, known, "Say: apples train question 2, please.", " ", "Too short.", *sentences(3)[:2]]),
        4: json.dumps([f"{sentences(2)[0]} indeed", "word " * 200]),
    }

    def content(body: dict[str, Any]) -> str:
        number = len(server.answered)
        return odd.get(number, json.dumps(sentences(body["seed"])))

    server.content = content
    faults = ["429 1", "500", "not json", "drop", None, "503", "half", "no choices", "408", None, "drop", "429"]
    server.faults = iter(faults)
    described(server, tmp_path, [TASKS[0]], concurrency=1)
    answered, failures = len(server.answered), sum(f is not None for f in faults)
    assert len(server.asked) == answered + failures
    rounds = [line["round"] for line in lines(tmp_path, "apples")]
    assert rounds == list(range(answered))  # each once, none lost
    assert server.times[1] - server.times[0] >= 1  # Retry-After
    record = metadata(tmp_path, "apples")
    assert len(set(record["descriptions"])) == 24
    assert record["provenance"]["malformed_replies"] == 1
    assert record["provenance"]["replies"] == answered
    assert record["provenance"]["rejected"] == {
        "empty": 1, "too_short": 1, "too_long": 1, "output_leak": 1, "input_leak": 1, "known": 1, "duplicate": 4,
        "near_duplicate": 1,
    }  # fmt: skip
    assert not any("answer 3" in d.lower() or "question 2" in d for d in record["descriptions"])


def test_a_rerun_asks_nothing_and_changes_nothing(server: Server, tmp_path: Path) -> None:
    described(server, tmp_path)
    before, asked = contents(tmp_path), len(server.asked)
    written = (tmp_path / "pears/metadata.yaml").stat().st_mtime_ns
    described(server, tmp_path)
    assert contents(tmp_path) == before
    assert (tmp_path / "pears/metadata.yaml").stat().st_mtime_ns == written
    (tmp_path / "plums/metadata.yaml").unlink()
    described(server, tmp_path)
    assert contents(tmp_path) == before  # made again from the replies alone, with their date
    assert len(server.asked) == asked
    described(server, tmp_path, n=60)
    assert len(server.asked) == asked + 9
    assert len(metadata(tmp_path, "apples")["descriptions"]) == 60


def test_a_run_that_failed_midway_goes_on(server: Server, tmp_path: Path) -> None:
    described(server, tmp_path / "whole")
    server.answered.clear()
    server.always("500", after=4)
    with pytest.raises(ValueError, match=r"failed a request at attempt 3 of 3: status 500 .*the same command goes on"):
        described(server, tmp_path / "out", retries=2)
    kept = {(t.name, line["round"]) for t in TASKS for line in lines_if_any(tmp_path / "out", t.name)}
    assert len(kept) == len(server.answered) == 4
    server.faults = iter(())
    described(server, tmp_path / "out", retries=2)
    assert len(server.answered) == len(set(server.answered)) == 9
    for task in TASKS:
        assert metadata(tmp_path / "out", task.name) == metadata(tmp_path / "whole", task.name)
        assert sorted(line["round"] for line in lines(tmp_path / "out", task.name)) == [0, 1, 2]


def lines_if_any(out: Path, task: str) -> list[dict[str, Any]]:
    return lines(out, task) if (out / task / "replies.jsonl").is_file() else []


def test_a_killed_process_goes_on(server: Server, tmp_path: Path) -> None:
    out = tmp_path / "out"
    release = threading.Event()

    def content(body: dict[str, Any]) -> str:
        if len(server.answered) >= 5:
            release.wait(60)
        return json.dumps(sentences(body["seed"]))

    server.content = content
    tasks = "tasks=[keep_animals,keep_tools,count_animals]"
    command = ["describe", tasks, "n=30", f"describer.url={server.url}", "describer.model=m", f"run_dir={out}"]
    process = subprocess.Popen([sys.executable, "-m", "t2l", *command], stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while len(server.asked) < 7 and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(0.3)
    process.send_signal(signal.SIGKILL)
    process.wait()
    on_disk = {task.name: [line["round"] for line in lines(out, task.name)] for task in out.glob("[!.]*_*")}
    have = sum(map(len, on_disk.values()))
    assert 5 <= have < 9
    torn = next(iter(on_disk))
    with (out / torn / "replies.jsonl").open("a") as stream:
        stream.write('{"round": 2, "model": "m", "prom')
    release.set()
    time.sleep(0.2)
    asked = len(server.asked)
    main(command)
    assert len(server.asked) - asked == 9 - have
    for task in ("keep_animals", "keep_tools", "count_animals"):
        assert sorted(line["round"] for line in lines(out, task)) == [0, 1, 2]
        assert len(metadata(out, task)["descriptions"]) == 30


def test_a_refused_key_is_one_line_and_never_written(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SOME_KEY", KEY)
    monkeypatch.chdir(tmp_path)
    server.always("401")
    command = ["describe", "tasks=[keep_animals]", f"describer.url={server.url}", "describer.model=m"]
    with pytest.raises(SystemExit) as stopped:
        main([*command, "describer.api_key_env=SOME_KEY", f"run_dir={tmp_path}/out"])
    assert stopped.value.code == 2
    shown = capfd.readouterr()
    errors = [line for line in shown.err.splitlines() if line.startswith("t2l: error")]
    assert len(errors) == 1
    assert "status 401" in errors[0]
    assert "Bearer ***, not so" in errors[0]
    assert "describer.api_key_env" in errors[0]
    assert len(server.asked) <= 4  # not repeated
    assert KEY not in shown.err + shown.out
    assert KEY.encode() not in contents(tmp_path)


def test_a_key_that_the_endpoint_echoes_is_not_written(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("SOME_KEY", KEY)
    server.faults = iter(["429 0", "not json"])
    server.content = lambda body: json.dumps([f"{s} says {KEY}" for s in sentences(body["seed"])])
    described(server, tmp_path, [TASKS[0]], api_key_env="SOME_KEY")
    assert KEY.encode() not in contents(tmp_path)
    assert KEY not in caplog.text
    assert "says ***" in metadata(tmp_path, "apples")["descriptions"][0]


@pytest.mark.parametrize("status", [400, 403, 404, 422, 302])
def test_other_refusals_are_not_repeated(server: Server, tmp_path: Path, status: int) -> None:
    server.always(str(status))
    with pytest.raises(ValueError, match=f"refused the request: status {status}"):
        described(server, tmp_path, concurrency=1)
    assert len(server.asked) == 1


def test_what_waiting_is_worth(server: Server, tmp_path: Path) -> None:
    server.always("429 3600")
    with pytest.raises(ValueError, match=r"asks to wait 3600 s, longer than describer.max_wait_s=300"):
        described(server, tmp_path / "a", concurrency=1)
    assert len(server.asked) == 1
    server.always("503")
    with pytest.raises(ValueError, match="failed a request at attempt 5 of 5"):
        described(server, tmp_path / "b", concurrency=1, retries=4, backoff_s=0.1)
    waits = [b - a for a, b in zip(server.times[1:], server.times[2:], strict=False)]
    for wait, most in zip(waits, (0.1, 0.2, 0.4, 0.8), strict=True):
        assert most / 2 <= wait < most + 0.3
    server.faults = iter(["503", "503", "400"])
    start = time.monotonic()
    with pytest.raises(ValueError, match=r"failed a request at attempt 1|refused the request: status 400"):
        described(server, tmp_path / "c", concurrency=3, backoff_s=60)
    assert time.monotonic() - start < 10  # those that would wait half a minute give up with the one that failed


def test_retry_after_is_seconds_or_a_date() -> None:
    assert _retry_after("7") == 7
    assert 8 < (_retry_after(formatdate(time.time() + 10, usegmt=True)) or 0) <= 10
    assert _retry_after(None) is _retry_after("soon") is None


def test_a_silent_endpoint_times_out(server: Server, tmp_path: Path) -> None:
    hang = threading.Event()
    server.content = lambda body: str(hang.wait(3))
    with pytest.raises(ValueError, match=r"at attempt 2 of 2: ReadTimeout"):
        described(server, tmp_path, [TASKS[0]], concurrency=1, retries=1, timeout_s=0.2)
    hang.set()
    with pytest.raises(ValueError, match=r"at attempt 1 of 1: ConnectionError"):
        described(server, tmp_path, url="http://127.0.0.1:1/v1", retries=0)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"model": "another"}, "another model"),
        ({"temperature": 0.5}, "other settings"),
        ({"send_seed": False}, "other settings"),
        ({"prompt": "Describe $definition $count times, not like $examples."}, "another prompt"),
        ({"per_request": 12}, "another prompt"),
        ({"seed": 1}, "another prompt"),
    ],
)
def test_another_request_is_refused(server: Server, tmp_path: Path, change: dict[str, Any], says: str) -> None:
    described(server, tmp_path)
    before, asked = contents(tmp_path), len(server.asked)
    with pytest.raises(ValueError, match=f"holds replies to {says} than this command has") as refused:
        described(server, tmp_path, **change)
    assert "\n" not in str(refused.value)
    assert contents(tmp_path) == before
    assert len(server.asked) == asked


def test_another_seed_is_refused_where_no_prompt_tells_it(server: Server, tmp_path: Path) -> None:
    described(server, tmp_path, examples=0)
    with pytest.raises(ValueError, match="holds replies to another seed"):
        described(server, tmp_path, examples=0, seed=1)


def test_another_suite_is_refused_and_more_tasks_are_not(server: Server, tmp_path: Path) -> None:
    described(server, tmp_path, TASKS[:1])
    examples = {**TASKS[0].examples, "train": TASKS[0].examples["train"][1:]}
    with pytest.raises(ValueError, match="another prompt"):
        described(server, tmp_path, [replace(TASKS[0], examples=examples)])
    assert described(server, tmp_path, TASKS) == []
    assert len(server.asked) == 9


def test_filters_may_change_without_asking_again(server: Server, tmp_path: Path) -> None:
    described(server, tmp_path)
    asked = len(server.asked)
    described(server, tmp_path, n=20, accept=AcceptConfig(min_words=8, max_words=8))
    assert len(server.asked) == asked
    assert len(metadata(tmp_path, "pears")["descriptions"]) == 20


def test_a_task_without_enough_is_named(
    server: Server, tmp_path: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    def content(body: dict[str, Any]) -> str | None:
        pears = "what pears asks" in body["messages"][0]["content"]
        return json.dumps(sentences(1 if pears else body["seed"]))

    server.content = content
    with pytest.raises(ValueError, match=r"1 of 3 tasks did not reach n=24 .* max_rounds=6 requests: pears \(10\)\."):
        described(server, tmp_path, max_rounds=6)
    assert "given up: pears: 10 of 24 descriptions after 6 requests" in caplog.text
    assert "rejected: 50 duplicate" in caplog.text
    assert "1 of 3 tasks are incomplete: pears (10)" in caplog.text
    assert not (tmp_path / "pears/metadata.yaml").exists()
    assert (tmp_path / "plums/metadata.yaml").exists()
    asked = len(server.asked)
    assert described(server, tmp_path, max_rounds=6, allow_incomplete=True) == ["pears"]
    assert len(metadata(tmp_path, "pears")["descriptions"]) == 10
    assert len(server.asked) == asked
    server.content = lambda body: json.dumps(sentences(body["seed"]))
    assert described(server, tmp_path, max_rounds=8) == []
    assert len(server.asked) == asked + 2
    assert len(metadata(tmp_path, "pears")["descriptions"]) == 24


def test_two_runs_do_not_share_a_folder(server: Server, tmp_path: Path) -> None:
    started, release = threading.Event(), threading.Event()

    def content(body: dict[str, Any]) -> str:
        started.set()
        release.wait(20)
        return json.dumps(sentences(body["seed"]))

    server.content = content
    first = threading.Thread(target=described, args=(server, tmp_path))
    first.start()
    started.wait(20)
    try:
        with pytest.raises(ValueError, match="another `t2l describe` works in"):
            described(server, tmp_path)
    finally:
        release.set()
        first.join()
    assert len(server.asked) == 9
    assert len(metadata(tmp_path, "pears")["descriptions"]) == 24


def test_torn_and_damaged_reply_files(server: Server, tmp_path: Path) -> None:
    described(server, tmp_path, TASKS[:1])
    path = tmp_path / "apples/replies.jsonl"
    whole = path.read_bytes()
    path.write_bytes(whole[:-1])  # torn just before the end of the line
    assert set(ReplyFile(path).by_round) == {0, 1, 2}
    assert path.read_bytes() == whole
    path.write_bytes(whole[:-40])
    assert len(ReplyFile(path).by_round) == 2
    assert path.read_bytes() == b"".join(whole.splitlines(keepends=True)[:2])
    path.write_bytes(b"{}\n" + whole)
    with pytest.raises(FileProblemError, match=r"replies\.jsonl:1 is not a reply"):
        ReplyFile(path)
    path.write_bytes(whole + whole.splitlines(keepends=True)[0])
    with pytest.raises(FileProblemError, match=r"replies\.jsonl:4 is a second reply of round"):
        ReplyFile(path)


THREE = ["Keep the animals.", 'Say "yes" to animals, é.', "Drop the rest."]


@pytest.mark.parametrize(
    ("reply", "found"),
    [
        (json.dumps(THREE), THREE),
        (json.dumps(THREE, ensure_ascii=False, indent=1), THREE),
        (f"Here you are [as asked]:\n```json\n{json.dumps(THREE)}\n```\nAnything else [1]?", THREE),
        (json.dumps({"descriptions": THREE}), THREE),
        (json.dumps([{"description": d} for d in THREE]), THREE),
        (json.dumps(THREE)[:-1] + ",]", THREE),
        (json.dumps(THREE)[:-6], THREE[:2]),
        (f'<think>Maybe ["not this"]?</think>{json.dumps(THREE)}', THREE),
        (f"Unopened thought [\"x\"]</think>\n{json.dumps(THREE)}", THREE),
        ('<think>Still thinking ["not this"', []),
        ("\n".join(f"{i}. {d}" for i, d in enumerate(THREE, 1)), THREE),
        ("Sure:\n" + "\n".join(f"  {i}) **{d}**" for i, d in enumerate(THREE, 1)) + "\nEnjoy.", THREE),
        ("\n".join(f"- {d}" for d in THREE), THREE),
        ('* "Keep the animals.",\n• "Drop the rest."', [THREE[0], THREE[2]]),
        (json.dumps(["1. Keep the animals.", "2) Drop\n the  rest."]), [THREE[0], THREE[2]]),
        ('["Keep the \\ud83d animals."]', ["Keep the animals."]),
        ('["Keep the\nanimals."]', THREE[:1]),
        ("", []),
        ("I cannot help with that.", []),
        ("[1, 2, 3]", []),
        ("[[[", []),
    ],
)  # fmt: skip
def test_what_models_write_is_read(reply: str, found: list[str]) -> None:
    assert parse_descriptions(reply) == found


def test_each_kind_of_rejection() -> None:
    labels = [Example(f"number {i} is to be judged", ["not enough said", "true as said"][i % 2]) for i in range(60)]
    task = Task(
        "t",
        {"train": ("State what the text claims about numbers.",), "test": ("Tell me if the claim can hold.",)},
        {
            "train": (*labels[:40], Example("one", "Seven")),
            "test": (*labels[40:], Example("A cat sat.", "The Dog ran!")),
        },
    )
    expected = {
        "": "empty",
        " ...": "empty",
        "Just three words.": "too_short",
        "many " * 11: "too_long",
        "Always answer that the dog ran, whatever comes.": "output_leak",
        "If you read A CAT  SAT, answer truly.": "input_leak",
        "tell ME: if the claim can hold": "known",
        "Say 'not enough said' or 'true as said'.": None,
        "say not enough said, or true as said": "duplicate",
        "The dog ransacked and seven sheep survived it.": None,
        "The dog ransacked and seven sheep survived it too.": "near_duplicate",
        "Seven sheep survived and the dog did not.": None,
    }
    judge = Judge(AcceptConfig(max_words=10), task)
    assert {text: judge.take(text) for text in expected} == expected
    assert judge.accepted == [t for t, kind in expected.items() if kind is None]
    assert set(judge.rejected) == set(REJECTIONS)
    assert judge.rejected.total() == len(expected) - 3
    few = replace(task, examples={"train": (Example("A cat sat.", "The Dog ran!"),)})
    assert Judge(AcceptConfig(), few).take("Always answer that the dog ran.") == "output_leak"


@pytest.mark.parametrize("source", ["made", "published"])
def test_good_descriptions_pass(source: str, tmp_path: Path) -> None:
    """Descriptions that others made with a language model are nearly all kept; of a task, those made for these tests are."""
    folder = SHARED / "data/sni_subset" if source == "published" else make_suites(tmp_path) / "sni_subset"
    if not folder.is_dir():
        pytest.skip(f"needs {folder.name} of {SHARED.name}/data beside the repository")
    records = json.loads((folder / "tasks.json").read_text())
    kept = seen = 0
    for name in [n for n, r in records.items() if len(r["descriptions"]) > (100 if source == "published" else 10)][:12]:
        rows = [json.loads(line) for line in (folder / f"{name}.jsonl").read_text().splitlines()]
        first, *rest = records[name]["descriptions"]
        task = Task(name, {"train": (first,)}, {"train": tuple(Example(r["input"], r["output"]) for r in rows)})
        judge = Judge(AcceptConfig(), task)
        kept += sum(judge.take(d) is None for d in rest)
        seen += len(rest)
        for row in rows[:20]:
            assert judge.take(f"It is like this: {row['input']}") in ("input_leak", "output_leak", "too_long")
    assert kept / seen > 0.98


def small_folder(folder: Path, tokenizer: Any) -> Path:
    """A random model with room for a whole prompt in characters, on disk."""
    torch.manual_seed(0)
    config = LlamaConfig(**{**SIZES, "vocab_size": len(tokenizer), "max_position_embeddings": 8192})
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory: pytest.TempPathFactory, tokenizer: Any) -> Path:
    return small_folder(tmp_path_factory.mktemp("model") / "tiny", tokenizer)


def local(folder: Path, **changes: Any) -> LocalModel:
    settings = {"base_model": BaseModelConfig(path=str(folder), device="cpu"), "max_new_tokens": 24, **changes}
    return LocalModel(LocalModelConfig(**settings))


def test_a_model_that_writes_rubbish_is_given_up(
    model_folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    command = [
        "describe", "describer=local_model", f"describer.base_model.path={model_folder}", "tasks=[keep_animals]",
        "describer.base_model.device=cpu", "describer.max_new_tokens=12", "n=8", "max_rounds=2", f"run_dir={tmp_path}/out",
    ]  # fmt: skip
    with pytest.raises(SystemExit) as stopped:
        main(command)
    assert stopped.value.code == 2
    errors = [line for line in capfd.readouterr().err.splitlines() if line.startswith("t2l: error")]
    assert len(errors) == 1
    assert "1 of 1 tasks did not reach n=8" in errors[0]
    assert "keep_animals (0)" in errors[0]
    assert len(lines(tmp_path / "out", "keep_animals")) == 2
    assert not (tmp_path / "out/keep_animals/metadata.yaml").exists()


def test_a_local_model_is_seeded_and_recorded(model_folder: Path) -> None:
    model, again = local(model_folder), local(model_folder)
    state = torch.get_rng_state()
    assert model.reply("Keep the animals.", 3) == again.reply("Keep the animals.", 3)
    assert model.reply("Keep the animals.", 3) != model.reply("Keep the animals.", 4)
    assert torch.equal(torch.get_rng_state(), state)
    assert len(model.settings()["fingerprint"]) == 64
    greedy = local(model_folder, temperature=0.0)
    assert greedy.reply("Keep the animals.", 3) == greedy.reply("Keep the animals.", 4)
    with pytest.raises(ValueError, match="exceed the 8192 positions"):
        local(model_folder, max_new_tokens=9000).reply("Keep the animals.", 3)


def test_a_local_model_that_writes_lists(
    model_folder: Path, tmp_path: Path, tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompts = []

    def generate(self: Any, input_ids: torch.Tensor, **_: Any) -> torch.Tensor:
        prompts.append(input_ids)
        text = json.dumps(sentences(int(torch.randint(10**6, ()))))
        written = tokenizer(text, add_special_tokens=False, return_tensors="pt")["input_ids"]
        return torch.cat([input_ids, written], dim=1)

    monkeypatch.setattr(LlamaForCausalLM, "generate", generate)
    config = DescribeConfig(run_dir=str(tmp_path), n=15)
    assert describe_tasks(config, SUITE, TASKS[:2], local(model_folder)) == []
    assert len(prompts) == 4
    record = metadata(tmp_path, "pears")
    assert len(set(record["descriptions"])) == 15
    assert all(len(d.split()) == 8 for d in record["descriptions"])
    assert record["provenance"]["origins"] == ["local"]
    assert record["provenance"]["model"] == str(model_folder)
    assert tokenizer.decode(prompts[0][0]).startswith("<s>")
    describe_tasks(config, SUITE, TASKS[:2], local(model_folder))
    assert len(prompts) == 4


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["describer=local_model"], "run_dir is empty"),
        (["run_dir=o"], "describer.url and describer.model are needed"),
        (["run_dir=o", "describer.url=ftp://h/v1", "describer.model=m"], "must be like https://HOST/v1"),
        (["run_dir=o", "describer.url='https://me:hush@h/v1'", "describer.model=m"], "no user, password"),
        (["run_dir=o", "describer.url='https://h/v1?key=hush'", "describer.model=m"], "no user, password"),
        (
            ["run_dir=o", "describer.api_key_env=hush-1", "describer.url=http://h", "describer.model=m"],
            "not the key itself",
        ),
        (
            ["run_dir=o", "describer.retries=-1", "describer.url=http://h", "describer.model=m"],
            "retries must be at least 0, not -1",
        ),
        (["run_dir=o", "describer=local_model", "n=0"], "n must be at least 1, not 0"),
        (["run_dir=o", "describer=local_model", "n=500"], "cannot give n=500"),
        (["run_dir=o", "describer=local_model", "prompt=hello"], "prompt must have $definition"),
        (["run_dir=o", "describer=local_model", "accept.near_duplicate=2"], "must be in (0, 1], not 2"),
        (["run_dir=o", "describer=local_model", "describer.temprature=2"], "did you mean 'temperature'?"),
        (
            ["run_dir=o", "describer=oracle"],
            "describer=oracle: there is none of that name; choose from endpoint, local_model",
        ),
    ],
)
def test_bad_settings_are_one_line(
    arguments: list[str], says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stopped:
        main(["describe", *arguments])
    assert stopped.value.code == 2
    error = capsys.readouterr().err
    assert says in error
    assert len(error.splitlines()) == 1
    assert "hush" not in error
    assert not list(tmp_path.iterdir())


def test_a_missing_key_and_a_task_that_cannot_be_described(server: Server, tmp_path: Path) -> None:
    os.environ.pop("NO_SUCH_KEY", None)
    with pytest.raises(ValueError, match="api_key_env=NO_SUCH_KEY: this environment variable holds no key"):
        described(server, tmp_path / "o", api_key_env="NO_SUCH_KEY")
    with pytest.raises(ValueError, match="task 'plums' has no training description"):
        described(server, tmp_path / "o", [TASKS[0], replace(TASKS[2], descriptions={"train": ()})])
    assert not (tmp_path / "o").exists()
    with pytest.raises(ValueError, match=r"task '\.\./plums' cannot name a folder"):
        described(server, tmp_path / "o", [replace(TASKS[2], name="../plums")])
    assert not server.asked
