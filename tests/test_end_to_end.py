"""The whole path on the mini base, in small: library, training, generation, board, PEFT."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from small_run import BASE_HASHES, CONTROLS, DESCRIPTION, ONE, PLAIN, SMALL, TRAIN

import t2l
from t2l.base_model.files import mini_base_model_path
from t2l.cli import main
from t2l.encoder import TaskEncoder
from t2l.evaluation.report.forms import FIGURES
from t2l.files import write_json
from t2l.hypernetwork.checkpoint import find_checkpoint, load_record, load_training_data, own_encoder
from t2l.hypernetwork.generator import Generator, adapter_name, load_generator, write_adapters
from t2l.lora import LoraWeights
from t2l.lora.peft_folder import load_adapter, load_provenance
from t2l.lora.source import bytes_per_adapter
from t2l.verbs.library import examine_library


def test_report_has_a_row_for_every_contender_and_split(root: Path) -> None:
    report = json.loads((root / "board/report.json").read_text())
    contenders = set(PLAIN)
    for objective in ("sft", "reconstruction"):
        contenders |= {f"generated_{objective}{c}" for c in ("", "_refined", *(f"_{c}" for c in CONTROLS))}
    splits = {
        "train", "unseen_phrasing", "unseen_combination", "unseen_combination_and_phrasing", "unseen_composition",
        "unseen_category",
    }  # fmt: skip
    assert {(r["contender"], r["split"]) for r in report["results"]} == {(c, s) for c in contenders for s in splits}
    table = t2l.load_report(root / "board").to_pandas()
    assert table["high"].tolist() == [r["ci95"][1] for r in report["results"]]
    for row in report["results"]:
        assert set(row) == {"contender", "split", "metric", "mean", "ci95", "n_tasks", "n_examples", "n_seeds"}
        assert row["ci95"][0] <= row["mean"] <= row["ci95"][1]
        assert (row["n_tasks"], row["n_examples"]) == (3, 6)
    assert report["provenance"]["base_model"]["fingerprint"]
    assert (root / "board/scores.png").stat().st_size > 10_000
    assert "matched - control" in (root / "board/report.md").read_text()


def test_recorded_answers_give_the_recorded_means(root: Path) -> None:
    answers = [json.loads(line) for line in (root / "board/answers.jsonl").read_text().splitlines()]
    for row in json.loads((root / "board/report.json").read_text())["results"]:
        mine = [a["score"] for a in answers if (a["contender"], a["split"]) == (row["contender"], row["split"])]
        assert sum(mine) / len(mine) == pytest.approx(row["mean"], abs=1e-5)


def test_conditions_of_generated_contenders(root: Path) -> None:
    """Matched text is the task's own, shuffled text is another task's, and random text is nobody's."""
    answers = [json.loads(line) for line in (root / "board/answers.jsonl").read_text().splitlines()]

    def texts(contender: str) -> dict[tuple[str, str], set[str]]:
        found: dict[tuple[str, str], set[str]] = {}
        for a in answers:
            if a["contender"] == contender:
                found.setdefault((a["split"], a["task"]), set()).add(a["condition"])
        return found

    matched, shuffled, nearest, noise, static = (texts(f"generated_sft{c}") for c in ("", *(f"_{c}" for c in CONTROLS)))
    everything = set.union(*matched.values())
    for key in matched:
        assert not matched[key] & shuffled[key]
        assert shuffled[key] <= everything
        assert not nearest[key] & matched[key]
        assert not noise[key] & everything
    assert len(set.union(*static.values())) == 1


def test_report_is_one_page_with_every_figure(root: Path) -> None:
    """What can be told without a browser: no file or address is needed, and each figure is an image of readable size."""
    import base64
    import io

    from PIL import Image

    page = (root / "board/report.html").read_text()
    sources = re.findall(r'src="([^"]+)"', page)
    names = {p.stem for p in (root / "board").glob("*.png")}
    assert names == set(FIGURES)
    assert len(sources) == len(names)
    assert "http" not in re.sub(r"base64,[A-Za-z0-9+/=]+", "", page)  # pictures may spell anything
    for source in sources:
        kind, data = source.split(",", 1)
        assert kind == "data:image/png;base64"
        image = Image.open(io.BytesIO(base64.b64decode(data)))
        assert min(image.size) >= 300
        assert len(set(image.convert("L").resize((64, 64)).getdata())) > 10


def test_report_says_what_its_numbers_rest_on(root: Path) -> None:
    report = json.loads((root / "board/report.json").read_text())
    assert not report["condition_redundant"]
    assert report["overlap"] == []
    for run in ("sft", "reconstruction"):
        assert f"{root}/{run}: the best by validation/loss" in report["provenance"]["selection"]
    assert {d["control"] for d in report["controls"]} == set(CONTROLS)
    assert {r["contender"] for r in report["recovered"]} == {"generated_sft", "generated_reconstruction"}
    assert {"base", "oracle", "icl"} <= {r["other"] for r in report["against"] if r["contender"] == "generated_sft"}
    costs = {c["contender"]: c for c in report["costs"]}
    assert costs["icl"]["prompt_tokens"] > costs["base"]["prompt_tokens"]
    assert costs["generated_sft"]["generation_time_s"] > 0
    assert costs["generated_sft"]["hypernetwork_parameters"] > 1000
    assert costs["generated_sft"]["hypernetwork_time_s"] > 0
    assert costs["base"]["hypernetwork_parameters"] is None
    assert costs["few_shot"]["trainable_parameters"] == costs["oracle"]["trainable_parameters"] > 0
    assert {r["style"] for r in report["robustness"]["style"]} >= {
        "as_written",
        "terse",
        "misspelt",
        "several",
        "wrong",
    }
    for row in report["by_task"]:
        assert len(row["scores"]) == 3
    fingerprints = [f for row in report["by_task"] if row["split"] == "train" for f in row["fingerprints"]]
    assert len(set(fingerprints)) == len(fingerprints)


def test_generate_says_how_sure_it_is_and_warns(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["generate", DESCRIPTION, "--checkpoint", f"{root}/sft", "--out", f"{tmp_path}/one", "warn_below=1.0"])
    said = capsys.readouterr()
    assert said.out == f"{tmp_path}/{ONE}\n"
    assert "confidence" in said.err
    assert "may not do what is described" in said.err
    recorded = load_provenance(tmp_path / ONE)["confidence"]
    assert recorded["nearest_task"]
    assert 0 <= recorded["expected_score"] <= 1


def test_a_checkpoint_trained_on_a_held_out_task_is_refused(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Trained on another draw of the suite, whose training tasks are held out here."""
    main(["train", *TRAIN, "suite.seed=1", f"run_dir={tmp_path}/other"])
    scored = ["evaluate", *SMALL, "contenders=[generated]", "robustness_split=null", f"checkpoints=[{tmp_path}/other]"]
    line = _refused(capsys, *scored, "splits=[unseen_combination]", f"run_dir={tmp_path}/out")
    assert "cannot be scored on split 'unseen_combination': task overlap" in line
    assert not (tmp_path / "out/report.json").exists()


def test_a_library_of_another_deal_is_refused(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Another suite.seed deals other tasks and rows: neither scored nor learnt from."""
    scored = ["evaluate", *SMALL, "suite.seed=1", f"library={root}/library", f"run_dir={tmp_path}/out"]
    line = _refused(capsys, *scored, "contenders=[multi_task]", "splits=[unseen_combination]")
    assert "contender multi_task: cannot be scored on split 'unseen_combination': task overlap" in line
    train = ["train", *TRAIN, "objective=reconstruction", f"library={root}/library", f"run_dir={tmp_path}/run"]
    assert "was trained on other rows than suite word_lists has for training" in _refused(
        capsys, *train, "suite.seed=1"
    )
    assert "was trained with prompt.definition=hidden" in _refused(capsys, *train, "prompt.definition=shown")
    assert not list(tmp_path.rglob("r*.json"))
    checkpoint = find_checkpoint(root / "reconstruction")
    data, record = load_training_data(checkpoint), json.loads((checkpoint / "checkpoint.json").read_text())
    assert data is not None
    assert data.manifest.validation.keys() == data.manifest.examples.keys()
    assert record["conditions"] == json.loads((root / "library/library.json").read_text())["conditions"]
    assert record["conditions"]["definition"] == "hidden"


def test_a_suite_without_training_tasks_borrows_them(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tasks = {name: {"descriptions": [f"Write {name}."]} for name in ("dog", "cat")}
    (tmp_path / "tasks").mkdir()
    (tmp_path / "tasks/tasks.json").write_text(json.dumps(tasks))
    for name in tasks:
        rows = [json.dumps({"input": f"{word} 7", "output": name}) for word in ("dog", "cat", "lion")]
        (tmp_path / f"tasks/{name}.jsonl").write_text("\n".join(rows))
    command = ["evaluate", "suite=folder", f"suite.path={tmp_path}/tasks", "suite.evaluation_tasks=[dog,cat]",
               f"checkpoints=[{root}/sft]", "contenders=[base,generated]", "confidence=false",
               "evaluation.bootstrap_samples=20", f"run_dir={tmp_path}/board"]  # fmt: skip
    with pytest.raises(SystemExit) as stopped:
        main(command)
    assert stopped.value.code == 2
    assert "name the suite that was trained on, suite@training_suite=NAME" in capsys.readouterr().err
    main([*command, "suite@training_suite=word_lists", *(f"training_{s}" for s in SMALL)])
    cells = {(r["contender"], r["split"]) for r in json.loads((tmp_path / "board/report.json").read_text())["results"]}
    assert ("generated_sft_shuffled_nearest", "evaluation_only") in cells


def test_a_base_that_reads_the_description_is_marked(root: Path, tmp_path: Path) -> None:
    """And what it scores is not left with the checkpoint as the confidence of its adapters."""
    (kept,) = root.glob("sft/checkpoints/*/confidence.json")
    calibrated = kept.read_bytes()
    main(
        ["evaluate", *SMALL, "contenders=[base,prompted,generated]", f"checkpoints=[{root}/sft]", "prompt.definition=shown",
         "conditions=given", "keep_calibration=true", "splits=[unseen_combination]", "robustness_split=null", "evaluation.tasks_per_split=3", f"run_dir={tmp_path}/shown"]
    )  # fmt: skip
    report = json.loads((tmp_path / "shown/report.json").read_text())
    assert report["confidence"]["generated_sft"]["n_tested"] > 0
    assert kept.read_bytes() == calibrated
    assert report["provenance"]["conditions"]["deviations"] == [
        f"checkpoint {root}/sft was trained with prompt.definition=hidden, and is scored with shown"
    ]
    assert (
        "was trained with prompt.definition=hidden, and is scored with shown"
        in (tmp_path / "shown/report.md").read_text()
    )
    assert report["condition_redundant"]
    assert all(line.endswith("condition redundant.") for line in report["headline"])
    assert "**condition redundant**" in (tmp_path / "shown/report.md").read_text()
    answers = [json.loads(line) for line in (tmp_path / "shown/answers.jsonl").read_text().splitlines()]
    assert all(a["prefix"] for a in answers if a["contender"].startswith("generated"))
    assert not any(a["prefix"] for a in answers if a["contender"] == "base")


def test_reports_are_compared_by_example(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A report against itself differs nowhere; one whose answers were all made right is better, by as much as can be."""
    shutil.copytree(root / "board", tmp_path / "better")
    lines = [json.loads(line) for line in (root / "board/answers.jsonl").read_text().splitlines()]
    (tmp_path / "better/answers.jsonl").write_text("\n".join(json.dumps({**a, "score": 1.0}) for a in lines))
    capsys.readouterr()
    main(["compare", f"{root}/board", f"{root}/board", f"{tmp_path}/better", "--json"])
    rows = json.loads(capsys.readouterr().out)
    same, better = ([r for r in rows if r["other"] == f"{p}"] for p in (root / "board", tmp_path / "better"))
    assert len(same) == len(better) == 6 * (len(PLAIN) + 12)
    assert all(r["difference"] == 0 and not r["distinguishable"] for r in same)
    assert all(r["difference"] == pytest.approx(1 - r["first_mean"], abs=1e-4) for r in better)
    main(["compare", f"{root}/board", f"{tmp_path}/better"])
    shown = capsys.readouterr().out
    assert f"{tmp_path}/better, on unseen_combination\n" in shown
    assert "  generated_sft  " in shown
    assert "needs two report folders" in _refused(capsys, "compare", f"{root}/board")
    assert "no such file" in _refused(capsys, "compare", f"{root}/board", f"{tmp_path}/nowhere")


def test_seeds_of_one_recipe_are_one_contender(root: Path, tmp_path: Path) -> None:
    main(["train", *TRAIN, "seed=1", f"run_dir={tmp_path}/sft1"])
    main(["train", *TRAIN, "seed=2", "trainer.lr=0.0001", f"run_dir={tmp_path}/slow"])
    main(
        ["evaluate", *SMALL, "contenders=[base,generated]", f"checkpoints=[{root}/sft,{tmp_path}/sft1,{tmp_path}/slow]",
         "splits=[unseen_combination]", "robustness_split=null", "evaluation.tasks_per_split=3", f"run_dir={tmp_path}/two"]
    )  # fmt: skip
    report = json.loads((tmp_path / "two/report.json").read_text())
    seeds = {r["contender"]: r["n_seeds"] for r in report["results"]}
    usual, slow = "generated_sft[lr=0.003]", "generated_sft[lr=0.0001]"
    assert (seeds[usual], seeds[slow], seeds["base"]) == (2, 1, 1)
    assert {(d["contender"], d["n_seeds"]) for d in report["controls"]} == {(usual, 2), (slow, 1)}


def test_every_verb_leaves_the_base_as_it_was(root: Path) -> None:
    """The parameters of each base that was loaded, before and after; records of training hold their hash."""
    hashes = json.loads((root / BASE_HASHES).read_text())
    assert {name for name, pairs in hashes.items() if pairs} == {"library", "sft", "reconstruction", "board"}
    (only,) = {hash_ for pairs in hashes.values() for pair in pairs for hash_ in pair}
    for record in ("library/library.json", "sft/run.json", "reconstruction/run.json"):
        assert json.loads((root / record).read_text())["base_parameters_sha256"] == only


def test_generated_adapter_answers_in_plain_peft_as_recorded(root: Path, tmp_path: Path) -> None:
    """Transformers and PEFT alone, from the folder on disk, give the answers that the board recorded."""
    answers = [json.loads(line) for line in (root / "board/answers.jsonl").read_text().splitlines()]
    rows = [a for a in answers if a["contender"] == "generated_sft" and a["split"] == "unseen_combination"]
    description = rows[0]["condition"]
    rows = [a for a in rows if a["condition"] == description]
    main(["generate", description, "--checkpoint", f"{root}/sft", "--out", f"{tmp_path}"])
    adapter = tmp_path / adapter_name(description)
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    path = str(mini_base_model_path())
    tokenizer = AutoTokenizer.from_pretrained(path)
    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(path), adapter)
    for row in rows:
        chat = [{"role": "user", "content": row["input"]}]
        ids = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_tensors="pt", return_dict=True)
        out = model.generate(**ids, max_new_tokens=24, do_sample=False)
        text = tokenizer.decode(out[0, ids["input_ids"].shape[1] :], skip_special_tokens=True)
        assert " ".join(text.split()) == row["answer"]


def test_descriptions_with_any_punctuation_arrive_whole(root: Path) -> None:
    assert load_provenance(root / ONE)["description"] == DESCRIPTION


def test_a_thousand_descriptions_are_generated_a_few_at_a_time(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And every folder gets its own description's adapter."""
    texts = ["Count the tools.", "Reverse the list.", "Keep the animals."]
    record = load_record(find_checkpoint(root / "sft"))
    whole = load_generator(root / "sft", TaskEncoder(own_encoder(record)), None)
    expected, sizes = whole(texts), []
    forward = Generator.__call__

    def counting(self: Generator, descriptions: Sequence[str]) -> LoraWeights:
        sizes.append(len(descriptions))
        return forward(self, descriptions)

    monkeypatch.setattr(Generator, "__call__", counting)
    monkeypatch.setattr("t2l.hypernetwork.generator.GENERATED_AT_ONCE", 2 * bytes_per_adapter(record.spec))
    folders = [folder for folder, _ in write_adapters(whole, texts, tmp_path / "out")]
    assert sizes == [2, 1]
    for i, folder in enumerate(folders):
        for ours, theirs in zip(load_adapter(folder, record.spec).tensors(), expected[i].tensors(), strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)


def test_many_descriptions_from_a_file(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "list.txt").write_text("Count the tools.\n\nReverse the list.\n")
    main(["generate", "--file", f"{tmp_path}/list.txt", "--checkpoint", f"{root}/sft", "--out", f"{tmp_path}/many"])
    assert capsys.readouterr().out.split() == [f"{tmp_path}/many/count_the_tools", f"{tmp_path}/many/reverse_the_list"]
    assert load_provenance(tmp_path / "many/reverse_the_list")["description"] == "Reverse the list."


def _refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    with pytest.raises(SystemExit) as stopped:
        main(list(arguments))
    assert stopped.value.code == 2
    (line,) = [x for x in capsys.readouterr().err.splitlines() if x.startswith("t2l: error")]
    return line


def test_checkpoint_of_another_base_is_refused(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:

    import torch
    from safetensors.torch import load_file, save_file

    other = tmp_path / "other"
    shutil.copytree(mini_base_model_path(), other)
    weights = load_file(other / "model.safetensors")
    name = sorted(weights)[0]
    save_file({**weights, name: weights[name] + torch.tensor(1.0)}, other / "model.safetensors", {"format": "pt"})
    says = "was trained for another base model"
    generate = ["generate", "Count.", "--checkpoint", f"{root}/sft", "--out", f"{tmp_path}/out"]
    assert says in _refused(capsys, *generate, "--base-model", str(other))
    evaluate = ["evaluate", *SMALL, "contenders=[generated]", f"checkpoints=[{root}/sft]", f"run_dir={tmp_path}/out"]
    assert says in _refused(capsys, *evaluate, f"base_model.path={other}")
    assert "was trained on another base model" in _refused(
        capsys,
        "evaluate",
        *SMALL,
        "contenders=[oracle]",
        f"library={root}/library",
        f"base_model.path={other}",
        f"run_dir={tmp_path}/out",
    )
    assert not [p for p in (tmp_path / "out").rglob("*") if p.suffix in (".json", ".safetensors")]


def test_truncated_checkpoint_is_refused(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:

    shutil.copytree(root / "sft", tmp_path / "sft")
    (weights,) = (tmp_path / "sft").rglob("hypernetwork.safetensors")
    weights.write_bytes(weights.read_bytes()[:-100])
    line = _refused(capsys, "generate", "Count.", "--checkpoint", f"{tmp_path}/sft", "--out", f"{tmp_path}/out")
    assert "is damaged and cannot be read" in line
    assert not (tmp_path / "out").exists()


def test_folder_with_other_files_is_left_alone(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_json(tmp_path / "mine/count/notes.json", {})
    line = _refused(capsys, "generate", "Count.", "--checkpoint", f"{root}/sft", "--out", f"{tmp_path}/mine")
    assert "holds 'notes.json', which t2l did not write" in line
    assert [p.name for p in (tmp_path / "mine").rglob("*.*")] == ["notes.json"]


def test_killed_training_resumes_to_identical_metrics(root: Path, tmp_path: Path) -> None:
    """SIGKILL in the middle, the same command again: the metrics of an uninterrupted run."""
    train = [
        sys.executable,
        "-m",
        "t2l.cli.main",
        "train",
        *(o for o in TRAIN if "trainer.steps" not in o),
        "trainer.steps=60",
    ]
    command = [*train, f"run_dir={tmp_path}/killed"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    metrics, deadline = tmp_path / "killed/metrics.jsonl", time.monotonic() + 300
    while process.poll() is None and time.monotonic() < deadline:
        if metrics.is_file() and metrics.read_text().count("\n") >= 4:
            process.send_signal(signal.SIGKILL)
            break
        time.sleep(0.005)
    assert process.wait() == -signal.SIGKILL
    assert 4 <= metrics.read_text().count("\n") < 60
    resumed = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
    assert f"resuming {tmp_path}/killed at step" in resumed.stdout + resumed.stderr
    subprocess.run([*train, f"run_dir={tmp_path}/whole"], env=environment, check=True, capture_output=True)
    assert metrics.read_text() == (tmp_path / "whole/metrics.jsonl").read_text()
    assert metrics.read_text().count("\n") == 60


@pytest.mark.slow
def test_library_training_killed_twice_ends_with_the_same_library(tmp_path: Path) -> None:
    """SIGKILL after some adapters, twice, then the same command to its end: the library of an uninterrupted run."""
    tasks = "[keep_tools,count_jobs,sort,reverse,any_animals,mask_drinks,first_sports,back_fruits]"
    settings = ["steps=60", "cycles=2", "rows_per_task=2", "tasks_at_once=2", "snapshot_every=7"]
    options = [*SMALL, f"tasks={tasks}", *(f"training.{s}" for s in settings)]
    command = [sys.executable, "-m", "t2l.cli.main", "train_library", *options, f"run_dir={tmp_path}/killed"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    for adapters in (2, 4):
        process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 300
        while process.poll() is None and time.monotonic() < deadline:
            if len(list(tmp_path.glob("killed/adapters/[!.]*/t2l.json"))) >= adapters:
                process.send_signal(signal.SIGKILL)
                break
            time.sleep(0.005)
        assert process.wait() == -signal.SIGKILL
    assert len(list(tmp_path.glob("killed/adapters/[!.]*/t2l.json"))) < 8
    for name in ("killed", "whole"):
        subprocess.run([*command[:-1], f"run_dir={tmp_path}/{name}"], env=environment, check=True, capture_output=True)
    reports = [examine_library(tmp_path / name) for name in ("killed", "whole")]
    assert [len(r.adapters) for r in reports] == [8, 8]
    assert not any(r.problems or r.failed for r in reports)
    library = t2l.load_library(tmp_path / "whole")
    assert library.names == [a.task for a in reports[1].adapters]
    assert library.provenance("sort")["steps"] == reports[1].adapters[-1].steps
    for one, two in zip(*(r.adapters for r in reports), strict=True):
        assert (one.task, one.steps) == (two.task, two.steps)
        first, second = (
            load_file(tmp_path / name / "adapters" / one.task / "adapter_model.safetensors")
            for name in ("killed", "whole")
        )
        assert set(first) == set(second)
        assert all(torch.equal(tensor, second[key]) for key, tensor in first.items())
    assert not (tmp_path / "killed/adapters/.in_progress").exists()
