"""`t2l plan`: what a training run would train, how large it is, and whether a step fits, from configs alone.

Nothing is loaded: the base's architecture comes from its config, which may be in the cache or ship with t2l.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from t2l.base_model import Quantization, lora_spec, meta_model
from t2l.base_model.files import model_config
from t2l.checks import at_least, positive
from t2l.encoder import embedding_width
from t2l.hypernetwork import config_from_json
from t2l.lora import AdapterKind, LoraSpec
from t2l.objectives import needs_of, objective_of
from t2l.registry import component, component_of
from t2l.run.console import print_wrapped
from t2l.training.memory import StepMemories, StepMemory, StepShape, adapter_file_bytes, meta_hypernetwork
from t2l.verbs import Verb
from t2l.verbs.train import TrainConfig

GIB = 2**30
SHOWN = 3
"""other ways to make a step fit that are shown"""


@dataclass
class PlanConfig(TrainConfig):
    """`t2l plan`: the sizes of a `t2l train` run, from the same configuration; neither suite nor library is read."""

    length: int = 512
    """tokens of a row, prompt and response, at most trainer.max_length"""
    response: int = 64
    """tokens of a row that are predicted"""
    d_embedding: int | None = None
    """width of the descriptions' embeddings; None reads it off the encoder's config"""
    memory_gb: float | None = None
    """memory (GiB) that a step should fit into; None: only say what it takes"""
    json: bool = False
    """whether to print the plan as JSON"""

    def __post_init__(self) -> None:
        at_least(self, 1, "descriptions_per_task")
        if not 1 <= self.response < self.length:
            raise ValueError(f"response must be in 1 to length - 1 = {self.length - 1}, not {self.response}")
        positive(self, "memory_gb")
        if self.objective is not None:
            objective_of(self.objective).check_settings(self.objective, self.trainer, self.prompt)


@dataclass(frozen=True)
class Change:
    """Changes of a run's configuration that are made together, and the memory of a step with them."""

    overrides: tuple[str, ...]
    memory_gib: float
    fits: bool

    @property
    def override(self) -> str:
        """As typed."""
        return " ".join(self.overrides)


@dataclass(frozen=True)
class Plan:
    """What `t2l plan` found out."""

    base_model: str
    base_parameters: int
    spec: LoraSpec
    d_embedding: int
    hypernetwork_parameters: int
    adapter_file_bytes: int
    step: StepShape
    memory: StepMemory
    limit_gib: float | None
    changes: list[Change]
    """of one override each, if a step does not fit"""
    together: list[Change]
    """if none of these makes it fit: the fewest together that do, in every way; else all together that save most"""

    @property
    def fits(self) -> bool | None:
        """Whether a step fits into the limit; None if none was given."""
        return None if self.limit_gib is None else self.memory.total <= self.limit_gib * GIB

    def to_json(self) -> dict[str, Any]:
        """A JSON-able dict."""
        modules = [
            {"name": g.name, "d_in": g.d_in, "d_out": g.d_out, "layers": list(g.layers)} for g in self.spec.groups
        ]
        return {
            "base_model": self.base_model,
            "base_parameters": self.base_parameters,
            "modules": modules,
            "rank": self.spec.rank,
            "scaling": self.spec.scaling,
            "kind": self.spec.kind.value,
            "adapter_parameters": self.spec.parameters_per_adapter,
            "adapter_file_bytes": self.adapter_file_bytes,
            "d_embedding": self.d_embedding,
            "hypernetwork_parameters": self.hypernetwork_parameters,
            "step": asdict(self.step),
            "memory_bytes": {**asdict(self.memory), "total": self.memory.total},
            "limit_gib": self.limit_gib,
            "fits": self.fits,
            "changes": [{"override": c.override, "memory_gib": c.memory_gib, "fits": c.fits} for c in self.changes],
            "together": [asdict(c) for c in self.together],
        }


def _step(config: PlanConfig) -> StepShape:
    trainer = config.trainer
    rows = trainer.tasks_per_step * trainer.rows_per_task
    if trainer.rows_per_pass is not None:
        rows = min(rows, trainer.rows_per_pass // trainer.rows_per_task * trainer.rows_per_task)
    length = min(config.length, trainer.max_length)
    return StepShape(
        trainer.tasks_per_step, rows, length, min(config.response, length - 1), trainer.gradient_checkpointing,
        trainer.adapter_dtype, trainer.optimizer,
    )  # fmt: skip


Variant = tuple[str, Callable[[PlanConfig], PlanConfig]]
"""an override, and what it makes of a configuration"""


def _variants(config: PlanConfig) -> Iterator[Variant]:
    """Single changes that save memory, those that change no result first."""
    trainer, base = config.trainer, config.base_model
    if needs_of(config.objective).base:
        if not trainer.gradient_checkpointing:
            yield "trainer.gradient_checkpointing=true", _of_trainer(gradient_checkpointing=True)
        rows = _step(config).rows
        fewer = max(trainer.rows_per_task, rows // 4 // trainer.rows_per_task * trainer.rows_per_task)
        if fewer < rows:
            yield f"trainer.rows_per_pass={fewer}", _of_trainer(rows_per_pass=fewer)
        if base.dtype != "float32" and trainer.adapter_dtype == "float32":
            yield f"trainer.adapter_dtype={base.dtype}", _of_trainer(adapter_dtype=base.dtype)
    if trainer.optimizer == "adamw":
        yield "trainer.optimizer=adamw_8bit", _of_trainer(optimizer="adamw_8bit")
    if base.dtype == "float32":
        yield "base_model.dtype=bfloat16", _of_base(dtype="bfloat16")
    for kind in (Quantization.int8, Quantization.nf4):
        if base.quantization is Quantization.none:
            yield f"base_model.quantization={kind}", _of_base(quantization=kind)
    smaller = component_of("hypernetwork", config.hypernetwork).make.smaller
    if smaller is not None and config.lora.kind in component("hypernetwork", smaller).make.kinds:
        made = _of_architecture(smaller, config.hypernetwork)
        yield f"hypernetwork={smaller}", lambda before: replace(before, hypernetwork=made)


def _of_trainer(**changes: Any) -> Callable[[PlanConfig], PlanConfig]:
    return lambda before: replace(before, trainer=replace(before.trainer, **changes))


def _of_base(**changes: Any) -> Callable[[PlanConfig], PlanConfig]:
    return lambda before: replace(before, base_model=replace(before.base_model, **changes))


def _of_architecture(name: str, like: Any) -> Any:
    """The config of an architecture, with another config's values of the settings that both have."""
    kind: Any = component("hypernetwork", name).config
    shared = {f.name: getattr(like, f.name) for f in fields(kind) if hasattr(like, f.name)}
    return config_from_json({**shared, "architecture": name})


@dataclass(frozen=True)
class _Search:
    """Looks for changes of a configuration with which a step fits."""

    config: PlanConfig
    limit: float
    """bytes"""
    memory_of: Callable[[PlanConfig], float]
    """bytes of a step"""

    def change(self, variants: Sequence[Variant]) -> Change:
        """Variants made together."""
        config = self.config
        for _, make in variants:
            config = make(config)
        total = self.memory_of(config)
        return Change(tuple(override for override, _ in variants), total / GIB, total <= self.limit)

    def single(self) -> list[Change]:
        """Every change alone."""
        return [self.change([variant]) for variant in _variants(self.config)]

    def together(self) -> list[Change]:
        """The fewest changes that fit together, in every way; if none do, the one way that saves most."""
        variants = list(_variants(self.config))
        tried: list[Change] = []
        for count in range(2, len(variants) + 1):
            tried += [
                self.change(several)
                for several in itertools.combinations(variants, count)
                if len({override.partition("=")[0] for override, _ in several}) == count  # one value of each key
            ]
            if fitting := [change for change in tried if change.fits]:
                return fitting
        return sorted(tried, key=lambda change: change.memory_gib)[:1]


def plan(config: PlanConfig) -> Plan:
    """Sizes of a run and, if a limit is given that its step exceeds, changes with what they would need.

    Raises ValueError if the base's config is not to be had, or it has no such targets.
    """
    base = config.base_model
    hf_config = model_config(base.path, base.trust_remote_code, base.revision)
    meta = meta_model(hf_config, base.trust_remote_code)
    spec, d_embedding = lora_spec(meta, config.lora), config.d_embedding or embedding_width(config.encoder, hf_config)

    memories = StepMemories(hf_config, spec, d_embedding, meta)

    def memory_of(variant: PlanConfig) -> StepMemory:
        """Of a configuration with the same base model and adapters."""
        needs_base = needs_of(variant.objective).base
        return memories.of(variant.base_model, variant.hypernetwork, _step(variant), needs_base)

    memory, changes, together = memory_of(config), [], []
    if config.memory_gb is not None and memory.total > config.memory_gb * GIB:
        search = _Search(config, config.memory_gb * GIB, lambda variant: memory_of(variant).total)
        changes = search.single()
        together = [] if any(c.fits for c in changes) else search.together()
    hypernetwork = meta_hypernetwork(config.hypernetwork, spec, d_embedding)
    return Plan(
        base_model=base.path,
        base_parameters=sum(p.numel() for p in meta.parameters()),
        spec=spec,
        d_embedding=d_embedding,
        hypernetwork_parameters=sum(p.numel() for p in hypernetwork.parameters()),
        adapter_file_bytes=adapter_file_bytes(spec),
        step=_step(config),
        memory=memory,
        limit_gib=config.memory_gb,
        changes=changes,
        together=together,
    )


def _layers(layers: tuple[int, ...]) -> str:
    whole = layers == tuple(range(layers[0], layers[-1] + 1))
    return f"{layers[0]} to {layers[-1]}" if whole and len(layers) > 1 else ", ".join(map(str, layers))


def plan_text(found: Plan) -> str:
    """A plan in words, line by line."""
    spec, step = found.spec, found.step
    size = f"rank {spec.rank}, scaling {spec.scaling:g}" if spec.kind is AdapterKind.lora else "(IA)3"
    lines = [
        f"base model    {found.base_model}: {found.base_parameters:,} parameters",
        f"adapter       {size}, {spec.parameters_per_adapter:,} parameters, file of {found.adapter_file_bytes:,} bytes",
        *(f"  {g.name:<12}  {g.d_in} -> {g.d_out} in layers {_layers(g.layers)}" for g in spec.groups),
        f"hypernetwork  {found.hypernetwork_parameters:,} parameters, from embeddings {found.d_embedding} wide",
        f"a step        {step.adapters} adapters; {step.rows} rows of {step.length} tokens through the base at once, "
        f"{step.response} of them predicted",
        f"peak memory   {found.memory.total / GIB:.2f} GiB, estimated (allocator and sentence encoder come on top)",
        *(
            f"  {f.name.replace('_', ' '):<12}  {getattr(found.memory, f.name) / GIB:.2f} GiB"
            for f in fields(StepMemory)
        ),
    ]
    if found.fits is not None:
        lines.append(f"limit         {found.limit_gib:g} GiB: {'fits' if found.fits else 'does not fit'}")
    return "\n".join([*lines, *_advice(found)])


def _advice(found: Plan) -> list[str]:
    if not found.changes:
        return []
    lines = [f"  {c.override:<38} {c.memory_gib:.2f} GiB{'  fits' if c.fits else ''}" for c in found.changes]
    if enough := [c for c in found.changes if c.fits]:
        return [f"this single change makes it fit: {enough[0].override}", *lines]
    if not found.together:
        return ["no single change makes it fit, and there are no two to make together:", *lines]
    best = found.together[0]
    if not best.fits:
        said = f"not even together do changes make it fit: {best.override} leaves {best.memory_gib:.2f} GiB; "
        return [f"{said}plan with fewer tokens (length=N) or a smaller base", "each alone:", *lines]
    shown = sorted(found.together[1:], key=lambda c: c.memory_gib)[:SHOWN]
    return [
        f"no single change makes it fit; these {len(best.overrides)} together do, with {best.memory_gib:.2f} GiB: {best.override}",
        *(f"or these, with {c.memory_gib:.2f} GiB: {c.override}" for c in shown),
        "each alone:",
        *lines,
    ]


def run(config: PlanConfig) -> None:
    """Prints the plan."""
    found = plan(config)
    if config.json:
        print(json.dumps(found.to_json(), indent=2))
        return
    for line in plan_text(found).splitlines():
        print_wrapped(line, indent=14)


VERB = Verb(PlanConfig, run, keeps_records=False)
