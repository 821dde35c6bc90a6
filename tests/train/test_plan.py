"""The plan of a stage: exact parameters, memory close to what is measured, and nothing allocated."""

import ctypes
import re
import threading
from pathlib import Path

import pytest
import torch

from train.assembly import assemble
from train.engine import prepare_process
from train.launch import main
from train.lora import LoraConfig, add_adapters
from train.plan import build_on_meta, count_parameters, parse_gpus, plan_stage
from train.plan_report import GB, Gpus, Plan
from train.stages import count_by_component, freeze_all_but
from vila_hd.errors import VilaHDError
from vila_hd.testing import tiny_config, tiny_model, tiny_processor
from vila_hd.towers.choice import EncoderChoice

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("lora", "trainable"),
    [
        (None, ("projector",)),
        (None, ("vision", "selector", "projector", "llm")),
        (LoraConfig(rank=3), ("selector", "llm")),
        (LoraConfig(rank=3, dora=True, components=("llm", "vision")), ("vision", "llm")),
    ],
)
def test_parameters_are_those_of_the_run(lora, trainable, tiny_stage, tmp_path):
    config = tiny_stage(tmp_path, trainable=list(trainable))
    object.__setattr__(config, "lora", lora)
    model = tiny_model(tiny_config(vision={"max_select_num": 12}, text={"max_position_embeddings": 512}))
    freeze_all_but(model, trainable)
    if lora is not None:
        add_adapters(model, lora)
    planned = build_on_meta(config)
    assert all(parameter.is_meta for parameter in planned.parameters())
    trained, frozen = count_parameters(planned, config)
    for component, counts in count_by_component(model).items():
        assert (trained.get(component, 0), frozen.get(component, 0)) == counts


def test_tokens_are_those_of_the_looks(tiny_stage, tmp_path):
    plan = plan_stage(tiny_stage(tmp_path, looks={"per_scale": [16, 64]}), Gpus(2, 1.0), words=10)
    # 2 x 2 patches per token: 4 low-resolution ones, 80 / 4 others.
    assert (plan.visual_tokens, plan.tokens) == (24, 34)


@pytest.mark.parametrize(
    ("encoder", "tokens", "squares"),
    [
        (EncoderChoice(kind="low_res"), 4, 1),
        (EncoderChoice(kind="anyres", max_tiles=6), 4 + 6 * 4, 7),
        (EncoderChoice(kind="s2", scales=(32, 64)), 16, 5),
    ],
    ids=lambda value: getattr(value, "kind", None),
)
def test_a_tower_that_sees_whole_pictures(encoder, tokens, squares, tiny_stage, tmp_path):
    def plan_of(encoder):
        folder = tmp_path / encoder.kind
        tiny_config(encoder=encoder).save_pretrained(folder)
        config = tiny_stage(tmp_path, model=str(folder), trainable=["vision", "projector", "llm"])
        return plan_stage(config, Gpus(1, 1.0), words=10)

    plan, one = plan_of(encoder), plan_of(EncoderChoice(kind="low_res"))
    assert (plan.visual_tokens, plan.tokens) == (tokens, tokens + 10)
    assert plan.activations["tower, low"] == squares * one.activations["tower, low"]
    assert plan.activations["tower, high"] == 0


@pytest.mark.parametrize(("text", "expected"), [("4x24GB", Gpus(4, 24.0)), ("80gb", Gpus(1, 80.0))])
def test_gpus(text, expected):
    assert parse_gpus(text) == expected


@pytest.mark.parametrize("text", ["24", "x24GB", "0x24GB", "4x0GB", "4*24GB", ""])
def test_gpus_in_another_form(text):
    with pytest.raises(VilaHDError, match="like 4x24GB"):
        parse_gpus(text)


def make_plan(config, *, zero, ranks=4, trained=1000, frozen=500, **settings) -> Plan:
    return Plan(
        config=config, gpus=Gpus(ranks, 1.0), accumulation=1, trained={"llm": trained},
        frozen={"vision": frozen}, zero={"stage": zero, **settings}, activations={}, tokens=1,
        visual_tokens=1, tower=frozen,
    )  # fmt: skip


def test_what_is_divided_by_the_ranks(tiny_stage, tmp_path):
    config = tiny_stage(tmp_path)
    memory = {zero: make_plan(config, zero=zero).memory for zero in (0, 1, 2, 3)}
    assert [memory[zero]["optimizer"] for zero in memory] == [8000, 2000, 2000, 2000]
    assert [memory[zero]["gradients"] for zero in memory] == [4000, 4000, 1000, 1000]
    assert [memory[zero]["weights"] for zero in memory] == [6000, 6000, 6000, 1500]
    assert memory[3]["gathered tower"] == 2000
    offloaded = make_plan(config, zero=2, offload_optimizer={"device": "cpu"})
    assert "optimizer" not in offloaded.memory
    assert offloaded.host == make_plan(config, zero=2).host + 12 * 250


def test_command_says_whether_it_fits_and_what_to_do(tiny_stage, tiny_folder, monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    arguments = ["plan", "--config", "configs/train/nano/sft.yaml", "--set", f"model={tiny_folder}"]
    assert main([*arguments, "--gpus", "2x24GB"]) == 0
    assert "usable: fits" in capsys.readouterr().out
    assert main([*arguments, "--gpus", "2x0.01GB"]) == 1
    printed = capsys.readouterr().out
    assert "DOES NOT FIT" in printed
    for words in ("--set gradient_checkpointing=true", "--set lora.rank=16"):
        assert words in printed
    assert main([*arguments, "--gpus", "5x24GB"]) == 2
    assert "x 5 processes" in capsys.readouterr().err


def test_suggestions_follow_what_takes_the_memory(tiny_stage, tmp_path):
    config = tiny_stage(tmp_path)
    for zero, file in ((0, "zero2.json"), (2, "zero3.json"), (2, "zero2_offload.json")):
        suggestions = list(make_plan(config, zero=zero, trained=10**9).suggestions())
        assert any(file in line for line in suggestions)
    assert not any("zero" in line for line in make_plan(config, zero=0, ranks=1).suggestions())


# ---------------------------------------------------------------- measured


def own_memory() -> int:
    """Memory that this process has written to, in bytes; code and mapped files are not part of a plan."""
    status = Path("/proc/self/status").read_text()
    return int(re.search(r"RssAnon:\s+(\d+)", status)[1]) * 1024


class Peak:
    """The most memory inside of a ``with`` block, looked at every 2 milliseconds."""

    def __enter__(self) -> "Peak":
        self.most, self.ended = 0, threading.Event()
        self.thread = threading.Thread(target=self._watch)
        self.thread.start()
        return self

    def _watch(self) -> None:
        while not self.ended.wait(0.002):
            self.most = max(self.most, own_memory())

    def __exit__(self, *error: object) -> None:
        self.ended.set()
        self.thread.join()


def measure(config) -> int:
    """What training took on top of the process itself."""
    from train.run import build_trainer, training_arguments

    # M_MMAP_THRESHOLD: give every larger block back at once, as the allocator of a GPU reuses it; otherwise
    # what is measured is mostly how the C library's heap happens to be cut up.
    ctypes.CDLL(None).mallopt(-3, 1 << 16)
    arguments = training_arguments(config, config.output_dir)
    # What any first step needs: threads, code, arenas. Rendered pictures are not part of the plan.
    assembly = assemble(config, ranks=1)
    freeze_all_but(assembly.model, config.trainable)
    rows = [assembly.dataset[i] for i in range(config.max_steps * config.global_batch_size)]
    for parameter in assembly.model.parameters():
        parameter.data = parameter.data.clone()  # out of the mapped file
    weights = sum(parameter.numel() * 4 for parameter in assembly.model.parameters())
    trainer = build_trainer(config, assembly, arguments, None)
    trainer.train_dataset = torch.utils.data.StackDataset(row=rows)
    collate = assembly.collator
    trainer.data_collator = lambda batch: collate([entry["row"] for entry in batch])
    before = own_memory() - weights
    with Peak() as peak:
        trainer.train()
    return peak.most - before


SIZES = {
    "weights": {"text": {"hidden_size": 512, "intermediate_size": 2048, "num_hidden_layers": 12}},
    "activations": {"text": {"hidden_size": 64, "intermediate_size": 1024, "num_hidden_layers": 24}},
}


@pytest.mark.slow
@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("size", SIZES)
def test_estimate_is_close_to_what_is_measured(
    size, checkpointing, tiny_stage, tmp_path, run_ranks, values_of
):
    parts = SIZES[size]
    config = tiny_config(
        vision={"hidden_size": 64, "max_select_num": 200},
        text={"head_dim": 16, "max_position_embeddings": 512, **parts["text"]},
    )
    folder = tmp_path / "model"
    tiny_model(config).save_pretrained(folder)
    tiny_processor(config).save_pretrained(folder)
    many = 1 if size == "weights" else 8
    stage = tiny_stage(
        tmp_path / "run", model=str(folder), trainable=["vision", "selector", "projector", "llm"],
        max_steps=2, micro_batch_size=many, global_batch_size=many, gradient_checkpointing=checkpointing,
        data={"items_per_picture": min(many, 2), "num_objects": 2},
        looks={"per_scale": [60, 140]},
    )  # fmt: skip
    prepare_process  # noqa: B018  # imported before the fork, so that it is not measured
    (measured,) = values_of(run_ranks(measure, stage, ranks=1, timeout=300))
    planned = plan_stage(stage, Gpus(1, 1.0), words=75, device="cpu").total
    print(
        f"{size}, checkpointing {checkpointing}: planned {planned / GB:.3f}, measured {measured / GB:.3f} GB"
    )
    assert planned == pytest.approx(measured, rel=0.25)
