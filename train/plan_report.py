"""The arithmetic of a plan: parameters and tokens in, memory per GPU, a verdict and suggestions out."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from .config import StageConfig
from .stages import Component

GB = 10**9
FREE = 0.92
"""Share of a GPU's memory that is planned with; the rest is for CUDA, the allocator's gaps and NCCL."""


@dataclass(frozen=True)
class Gpus:
    """What a run gets."""

    count: int
    memory_gb: float
    """Of each, in units of 10^9 bytes."""


@dataclass(frozen=True)
class Plan:
    """What one process of a stage needs."""

    config: StageConfig
    gpus: Gpus
    accumulation: int
    trained: Mapping[Component, int]
    """Values per component."""

    frozen: Mapping[Component, int]
    zero: Mapping[str, Any]
    """DeepSpeed's ``zero_optimization``."""

    activations: Mapping[str, int]
    """Bytes of one micro-batch."""

    tokens: int
    """Of the language model's sequence for one look (of the tower in ``ps3_pretrain``)."""

    visual_tokens: int
    tower: int
    """Values of the vision tower, which ZeRO-3 gathers as a whole."""

    @property
    def stage(self) -> int:
        """ZeRO stage."""
        return int(self.zero.get("stage", 0))

    @property
    def memory(self) -> dict[str, int]:
        """Bytes on each GPU by what they are for."""
        ranks = self.gpus.count
        trained, frozen = sum(self.trained.values()), sum(self.frozen.values())
        cut = [ranks if self.stage >= stage else 1 for stage in (0, 1, 2, 3)]
        on_cpu = self._offloaded("offload_optimizer")
        parts = {
            "weights": 4 * trained // cut[3] + self._frozen_bytes(frozen) // cut[3],
            "gradients": 4 * trained // cut[2],
            "optimizer": 0 if on_cpu else 8 * trained // cut[1],
            # Stages 1 and 2 update a flat copy of their part of the weights.
            "master copy": 0 if on_cpu or self.stage not in (1, 2) else 4 * trained // cut[1],
            "buckets": self._buckets(trained),
            "bf16 copies": self._casts(trained),
        }
        if self._offloaded("offload_param") and self.stage == 3:
            parts["weights"] = 0
        if self.stage == 3:
            parts["gathered tower"] = 4 * self.tower
        parts["activations"] = sum(self.activations.values())
        return {name: size for name, size in parts.items() if size}

    def _frozen_bytes(self, frozen: int) -> int:
        lora = self.config.lora
        if lora is None or lora.bits is None:
            return 4 * frozen
        held = sum(self.frozen.get(component, 0) for component in lora.components)
        # Quantised weights and their scales.
        return 4 * (frozen - held) + held * lora.bits // 8 + held // 16

    def _buckets(self, trained: int) -> int:
        if not self.stage:
            return 4 * trained if self.gpus.count > 1 else 0  # gradients are summed in one flat copy
        bucket = int(float(self.zero.get("reduce_bucket_size", 5e8)))
        return 4 * min(trained, bucket) * (2 if self.zero.get("overlap_comm") else 1)

    def _casts(self, trained: int) -> int:
        """Autocast keeps the bf16 copies that the backward pass needs."""
        if self.config.precision != "bf16" or self.stage == 3:
            return 0
        return 2 * trained

    def _offloaded(self, what: str) -> bool:
        return str((self.zero.get(what) or {}).get("device", "none")) != "none"

    @property
    def total(self) -> int:
        """Bytes on each GPU."""
        return sum(self.memory.values())

    @property
    def host(self) -> int:
        """Bytes of the machine's memory per process while the model is loaded and cut up, and for what is
        offloaded."""
        values = sum(self.trained.values()) + sum(self.frozen.values())
        share = -(-sum(self.trained.values()) // self.gpus.count)
        return 4 * values + (12 * share if self._offloaded("offload_optimizer") else 0)

    @property
    def fits(self) -> bool:
        """Whether a GPU has room for it."""
        return self.total <= FREE * self.gpus.memory_gb * GB

    def lines(self) -> list[str]:
        """The report."""
        config = self.config
        verdict = "fits" if self.fits else "DOES NOT FIT"
        usable = FREE * self.gpus.memory_gb
        return [
            f"stage {config.name} ({config.stage}) on {self.gpus.count} GPU(s) of {self.gpus.memory_gb:g} GB "
            f"under ZeRO-{self.stage}, {config.precision}",
            "",
            *self._components(),
            "",
            f"visual tokens per sample  {self.visual_tokens:,}",
            f"tokens per sequence       {self.tokens:,}",
            f"rows per step             {config.global_batch_size} = {self.gpus.count} GPU(s) x "
            f"{config.micro_batch_size} x {self.accumulation} accumulated",
            "",
            "memory per GPU",
            *(f"  {name:<16} {size / GB:9.3f} GB" for name, size in self.memory.items()),
            *(f"    {name:<16} {size / GB:9.3f} GB" for name, size in self.activations.items() if size),
            f"  {'total':<16} {self.total / GB:9.3f} GB of {usable:.1f} usable: {verdict}",
            f"memory of the machine per process  {self.host / GB:9.3f} GB",
            *([] if self.fits else ["", "to make it fit:", *(f"  - {line}" for line in self.suggestions())]),
        ]

    def _components(self) -> Iterator[str]:
        for component in sorted({*self.trained, *self.frozen}):
            trained, frozen = self.trained.get(component, 0), self.frozen.get(component, 0)
            yield f"{component:<10} trained {trained:>14,}   frozen {frozen:>14,}"

    def suggestions(self) -> Iterator[str]:
        """Changes that need less memory, the cheapest first."""
        config, memory = self.config, self.memory
        large = memory.get("activations", 0) > 0.3 * self.total
        states = memory.get("optimizer", 0) + memory.get("gradients", 0) + memory.get("weights", 0)
        if large and config.micro_batch_size > 1:
            yield "--set micro_batch_size=1 (the global batch stays: more is accumulated)"
        if large and not config.gradient_checkpointing:
            yield "--set gradient_checkpointing=true (a third more time)"
        if large and config.stage in ("sft", "align"):
            yield "fewer patches per look: --set looks.per_scale=[...]"
        if self.gpus.count > 1 and self.stage < 3 and states > 0.3 * self.total:
            yield f"--set deepspeed=configs/deepspeed/zero{2 if self.stage < 2 else 3}.json"
        if self.stage and not self._offloaded("offload_optimizer") and memory.get("optimizer", 0):
            yield f"--set deepspeed=configs/deepspeed/zero{max(self.stage, 2)}_offload.json"
        if config.lora is None and self.trained.get("llm", 0):
            yield "adapters instead of the whole language model: --set lora.rank=16"
        elif config.lora is not None and config.lora.bits is None and self.stage < 3:
            yield "--set lora.bits=4 --set lora.merge=false"
        if states > 0.3 * self.total:
            yield "more GPUs: weights, gradients and optimiser are divided between them under ZeRO"
