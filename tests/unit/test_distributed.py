"""Several processes: they compute what one would, write one checkpoint, and none outlives the others."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import process_jobs as jobs
import pytest
import torch
from recbole.data.interaction import Interaction
from recbole.trainer.trainer import DecisionTreeTrainer, KGTrainer
from recbole.utils import InputType
from torch import Tensor

import recbole_oov
from recbole_oov import launch, processes
from recbole_oov.cli import main
from recbole_oov.compat import load_checkpoint
from recbole_oov.config import OOVConfig
from recbole_oov.data.histories import NEXT_ITEMS, Histories, WindowLoader
from recbole_oov.data.shares import own_part
from recbole_oov.errors import ConfigError
from recbole_oov.processes import ProcessError, check_alike, naming_the_lost, torchrun_group
from recbole_oov.trainer.autosample import AutoSampleTrainer
from recbole_oov.trainer.evaluation import EvaluationMixin, own_cases
from recbole_oov.trainer.loss_reduction import loss_reduction
from recbole_oov.trainer.pool_sampling import PositiveLoader
from recbole_oov.trainer.process_group import LaterStagesMixin, ProcessGroupTrainer, one_of_several
from recbole_oov.trainer.resume import ResumeMixin
from recbole_oov.trainer.usim import USIMTrainer

ROOT = Path(__file__).parents[2]
NAMES = list(jobs.JOBS)


def torchrun(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", *arguments]
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
        "RECBOLE_OOV_CACHE": str(folder / "c"),
    }
    return subprocess.Popen(
        command, cwd=folder, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )


def measure(place: Path) -> dict[str, Any]:
    """All jobs in one process here and in two of ``torchrun``, of which one is killed in the end."""
    alone, together = place / "alone", place / "together"
    for folder in (alone, together):
        jobs.write_data(folder)
    started = torchrun(together, jobs.__file__, *NAMES)
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(alone)
            patch.setattr(sys, "argv", sys.argv[:1])
            jobs.same_negatives(patch.setattr)
            one = {job: jobs.run(job, {}, patch.setattr) for job in NAMES}
        output = started.communicate(timeout=300)[0]
        ended = time.time()
    finally:
        started.kill()
    assert (together / "died").exists(), output[-6000:]
    seconds = ended - float((together / "died").read_text())
    two = {job: [json.loads((together / f"{job}-{rank}.json").read_text()) for rank in (0, 1)] for job in NAMES}
    return {"one": one, "two": two, "output": output, "status": started.returncode, "seconds": seconds}


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What :func:`measure` found; of several workers of pytest-xdist one measures, and the others wait."""
    base = tmp_path_factory.getbasetemp()
    place = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "processes"
    found, failed = place / "found.json", place / "failed"
    try:
        place.mkdir()
    except FileExistsError:
        while not found.exists():
            assert not failed.exists(), "the worker that measured has failed, and says why"
            time.sleep(0.2)
    else:
        try:
            (place / "part").write_text(json.dumps(measure(place)), encoding="utf-8")
            (place / "part").rename(found)
        except BaseException:
            failed.touch()
            raise
    return {**json.loads(found.read_text(encoding="utf-8")), "folder": place / "together"}


# ---- one process and two, the same options ----


@pytest.mark.parametrize("job", NAMES)
def test_the_loss_curve_is_that_of_one_process(both: dict[str, Any], job: str) -> None:
    one, (first, second) = both["one"][job], both["two"][job]
    assert one["losses"]
    for model, curve in one["losses"].items():
        assert first["losses"][model] == pytest.approx(curve, abs=1e-5), model
    base = {"USIM": "BPR", "sharded": "OOVLLMRec"}.get(job, job)  # later stages of USIM are the first process's alone
    assert second["losses"] == {base: first["losses"][base]}


@pytest.mark.parametrize("job", NAMES)
def test_metrics_are_those_of_one_process_and_each_user_counts_once(both: dict[str, Any], job: str) -> None:
    one, (first, second) = both["one"][job], both["two"][job]
    assert first["test"] == second["test"]
    assert first["valid"] == second["valid"]
    assert first["users"] == second["users"] == one["users"]
    assert len(one["users"]["overall"]) % 2 == 1, "two processes cannot have as many each"
    if job == "USIM":  # what the policy learns from rewards is another thing after a difference in the last bit
        assert list(first["stages"]) == list(second["stages"]) == list(one["stages"])
        assert first["stages"]["base"] == pytest.approx(one["stages"]["base"], abs=1e-6)
    else:
        assert first["test"] == pytest.approx(one["test"], abs=1e-6)
        assert first["valid"] == pytest.approx(one["valid"], abs=1e-6)


@pytest.mark.parametrize("job", NAMES)
def test_weights_are_the_same_in_both_and_near_those_of_one(both: dict[str, Any], job: str) -> None:
    one, (first, second) = both["one"][job], both["two"][job]
    assert first["weights"] == second["weights"]
    names = ("base_users", "base_items") if job == "USIM" else list(one["weights"])
    for name in names:
        assert first["weights"][name] == pytest.approx(one["weights"][name], rel=1e-5, abs=1e-4), name


def test_each_process_keeps_half_of_a_sharded_backbone(both: dict[str, Any]) -> None:
    assert both["one"]["sharded"]["kept"] == 1.0
    assert [of_process["kept"] for of_process in both["two"]["sharded"]] == pytest.approx([0.5, 0.5], abs=0.05)
    assert [of_process["kept"] for of_process in both["two"]["OOVLLMRec"]] == [1.0, 1.0]


def test_a_batch_with_fewer_rows_than_processes_was_among_them(both: dict[str, Any]) -> None:
    assert both["one"]["USIM"]["rows"] % jobs.JOBS["USIM"][1]["base_config"]["train_batch_size"] == 1


def test_the_search_for_a_sampler_finds_what_one_process_finds(both: dict[str, Any]) -> None:
    one, (first, second) = both["one"]["AutoSample"], both["two"]["AutoSample"]
    assert first["search"] == second["search"]
    assert first["search"][0] == pytest.approx(one["search"][0], abs=1e-6)
    assert first["search"][0][0] != pytest.approx(0.5, abs=1e-3), "the probabilities have moved"


def test_each_process_has_random_numbers_of_its_own(both: dict[str, Any]) -> None:
    for job in NAMES:
        first, second = both["two"][job]
        assert first["draw"] == both["one"][job]["draw"] != second["draw"]


def test_one_checkpoint_is_written_and_one_process_reads_it(
    both: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    written = sorted(path.name.partition("-")[0] for path in both["folder"].glob("saved/*.json"))
    assert [name for name in written if name != "OOVLLMRec"] == ["AutoSample", "BPR", "USIM"]
    first, second = both["two"]["OOVLLMRec"]
    assert first["file"] == second["file"]
    path = both["folder"] / first["file"]
    assert load_checkpoint(path)["config"]["single_spec"] is True, "who reads it is not one of several processes"
    monkeypatch.chdir(both["folder"])
    monkeypatch.setattr(sys, "argv", sys.argv[:1])
    made = jobs.experiment("OOVLLMRec", {})
    assert dict(made.trainer.evaluate(made.test_data, model_file=path)) == pytest.approx(first["test"], abs=1e-6)


def test_a_run_that_was_cut_off_is_continued_to_the_same_weights(both: dict[str, Any]) -> None:
    for rank in (0, 1):
        whole, continued = json.loads((both["folder"] / f"resumed-{rank}.json").read_text())
        assert whole == continued


def test_a_killed_process_ends_the_run(both: dict[str, Any]) -> None:
    assert both["status"] not in (0, None)
    assert "SIGKILL" in both["output"] or "-9" in both["output"]
    assert both["seconds"] < 60


# ---- shares of batches ----


def windows(share: tuple[int, int], *, batch_size: int = 7) -> WindowLoader:
    lengths = [2, 9, 3, 14, 2, 5]
    items = torch.arange(1, sum(lengths) + 1).numpy()
    offsets = torch.tensor([0, *lengths]).cumsum(0).numpy()
    histories = Histories(torch.arange(1, 7).numpy(), items, offsets, 7, len(items) + 1)
    names = {"user_field": "u", "list_field": "l", "length_field": "n"}
    return WindowLoader(histories, **names, length=4, stride=2, batch_size=batch_size, seed=3, share=share)


@pytest.mark.parametrize("n", [2, 3, 5])
def test_processes_share_each_batch_of_windows(n: int) -> None:
    parts: list[list[tuple[Interaction, float]]] = []
    for rank in range(n):
        loader = windows((rank, n))
        parts.append([(batch, loader.part) for batch in loader])
    whole = list(windows((0, 1)))
    assert {len(own) for own in parts} == {len(whole)}
    alone = 0
    for at, batch in enumerate(whole):
        targets = sorted(batch[NEXT_ITEMS][batch[NEXT_ITEMS] > 0].tolist())
        counted = [own[at] for own in parts if own[at][1] > 0]
        found = sorted(int(t) for own, _ in counted for t in own[NEXT_ITEMS][own[NEXT_ITEMS] > 0])
        assert found == targets
        for own, part in counted:
            assert part == pytest.approx(int((own[NEXT_ITEMS] > 0).sum()) / len(targets))
        assert all(len(own[at][0]) > 0 for own in parts), "all take part in each step"
        alone += len(counted) < n
    assert alone > 0 or n == 2


@pytest.mark.parametrize("n", [2, 3])
def test_processes_share_each_batch_of_rows(n: int) -> None:
    def loader(rank: int, n: int) -> PositiveLoader:
        rows = Interaction({"id": torch.arange(22)})
        return PositiveLoader(rows, batch_size=7, seed=1, device="cpu", share=(rank, n))

    parts = [[(batch["id"], own.part) for batch in own] for own in (loader(rank, n) for rank in range(n))]
    whole = [batch["id"] for batch in loader(0, 1)]
    assert len(parts[0]) == len(loader(0, n)) == len(whole) == 4
    for at, ids in enumerate(whole):
        counted = [own[at] for own in parts if own[at][1] > 0]
        assert sorted(torch.cat([own for own, _ in counted]).tolist()) == sorted(ids.tolist())
        assert sum(part for _, part in counted) == pytest.approx(1)
    assert [own[3][1] for own in parts] == [1.0, *[0.0] * (n - 1)], "the last batch has one row"


def test_one_process_takes_all_of_it() -> None:
    index = torch.arange(5)
    own, part = own_part(index, torch.tensor([3, 0, 1, 1, 2]), (0, 1))
    assert own.equal(index)
    assert part == 1.0


def test_no_case_is_evaluated_twice() -> None:
    from torch.utils.data import DistributedSampler

    sampler = DistributedSampler(list(range(7)), num_replicas=3, rank=0, shuffle=False)
    loader = SimpleNamespace(sampler=sampler, sample_size=7)
    parts = [own_cases(loader, (rank, 3)).tolist() for rank in range(3)]
    assert sorted(case for part in parts for case in part) == list(range(7))
    assert len(sampler) * 3 == 9, "torch's sampler repeats two"
    assert own_cases(SimpleNamespace(sampler=range(4)), (1, 3)).tolist() == [0, 1, 2, 3]


# ---- how a loss adds up ----


class Rows(torch.nn.Module):
    """A model whose loss of a row is its item's weight."""

    input_type = InputType.PAIRWISE
    ITEM_ID, NEG_ITEM_ID, device = "item", "negative", torch.device("cpu")

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind, self.weight, self.calls = kind, torch.nn.Parameter(torch.rand(50)), 0

    def calculate_loss(self, batch: Interaction) -> Tensor | tuple[Tensor, ...]:
        self.calls += 1
        losses = self.weight[batch["item"]] + self.weight[batch["negative"]] ** 2
        by_kind = {"mean": losses.mean(), "sum": losses.sum(), "norm": losses.norm(), "two": losses.mean()}
        return (by_kind[self.kind], losses.sum()) if self.kind == "two" else by_kind[self.kind]


@pytest.mark.parametrize(("kind", "expected"), [("mean", "mean"), ("sum", "sum"), ("norm", None), ("two", None)])
def test_how_a_loss_adds_up_is_found_out(kind: str, expected: str | None) -> None:
    model = Rows(kind)
    loader = PositiveLoader(Interaction({"item": torch.arange(50)}), batch_size=9, seed=0, device="cpu")
    before = torch.get_rng_state()
    assert loss_reduction(model, loader) == expected
    assert model.calls == 0
    assert torch.get_rng_state().equal(before)


# ---- starting, and ending ----


def test_torchrun_says_who_a_process_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RANK", raising=False)
    assert torchrun_group() is None
    said = {"RANK": 5, "LOCAL_RANK": 1, "WORLD_SIZE": 8, "LOCAL_WORLD_SIZE": 4, "MASTER_PORT": 29500}
    for name, value in {**said, "MASTER_ADDR": "node0"}.items():
        monkeypatch.setenv(name, str(value))
    group = {"nproc": 4, "world_size": 8, "ip": "node0", "port": "29500", "offset": 4, "local_rank": 1}
    assert torchrun_group() == group
    with pytest.raises(ConfigError, match="leave nproc and world_size out"):
        recbole_oov.run("BPR", "any", argv=[], nproc=2)
    monkeypatch.setenv("WORLD_SIZE", "1")
    assert torchrun_group() is None, "the only process is not one of several"
    monkeypatch.setenv("RANK", "first")
    with pytest.raises(ConfigError, match="RANK"):
        torchrun_group()


def test_other_commands_are_refused_under_torchrun(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    said = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "here", "MASTER_PORT": "1"}
    for name, value in said.items():
        monkeypatch.setenv(name, value)
    assert main(["models"]) == 2
    assert "start it without torchrun" in capsys.readouterr().err


def test_under_torchrun_each_process_takes_the_gpu_of_its_number(
    monkeypatch: pytest.MonkeyPatch, workplace: Path
) -> None:
    jobs.write_data(workplace)
    asked: dict[str, Any] = {}
    said = {"RANK": "3", "LOCAL_RANK": "1", "WORLD_SIZE": "4", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "node0"}
    for name, value in {**said, "MASTER_PORT": "29500", "CUDA_VISIBLE_DEVICES": "4,5"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", lambda number: asked.update(gpu=number))
    monkeypatch.setattr(torch.distributed, "init_process_group", lambda **kwargs: asked.update(kwargs))
    group = torchrun_group()
    assert group is not None
    options = {**group, "data_path": "dataset", "process_timeout": 90}
    config = OOVConfig("BPR", "kinds", config_dict=options, argv=[])
    assert config["device"] == torch.device("cuda", 1)
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "4,5", "torchrun's processes keep what they were given"
    assert (asked["backend"], asked["rank"], asked["world_size"], asked["gpu"]) == ("nccl", 3, 4, 1)
    assert asked["timeout"].total_seconds() == 90
    assert (config["show_progress"], config["state"], processes.share_of(config)) == (False, "error", (3, 4))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(ConfigError, match="1 there for nproc: 2"):
        OOVConfig("BPR", "kinds", config_dict=options, argv=[])


def test_processes_that_do_not_meet_are_told_where(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(**kwargs: Any) -> None:
        raise torch.distributed.DistNetworkError("The server socket has failed to listen: port 5678 in use")

    monkeypatch.setattr(torch.distributed, "init_process_group", fail)
    with pytest.raises(ProcessError, match=r"2 processes did not meet at here:5678 .*give another port"):
        processes.join_group({"local_rank": 0, "world_size": 2, "ip": "here", "port": "5678"}, "gloo")


@pytest.mark.parametrize(
    ("group", "said"),
    [
        ({"nproc": 2, "world_size": 1}, "nproc: 2 processes on this machine are more than world_size: 1"),
        ({"nproc": 2, "world_size": 3, "group_offset": 2}, "from group_offset: 2 on are more than world_size: 3"),
    ],
)
def test_more_processes_than_there_are_to_be(group: dict[str, int], said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recbole_oov.runner, "spawn", None)
    with pytest.raises(ConfigError, match=said):
        recbole_oov.run("BPR", "any", argv=[], **group)


def test_what_shares_batches_lies_below_every_other_trainer() -> None:
    from recbole.trainer import Trainer

    for base in (Trainer, KGTrainer, AutoSampleTrainer):
        kind = type("T", one_of_several("X", (ResumeMixin, EvaluationMixin, base)), {})
        order = kind.__mro__
        assert order[order.index(Trainer) - 1] is ProcessGroupTrainer
    assert one_of_several("X", (ResumeMixin, USIMTrainer))[0] is LaterStagesMixin
    with pytest.raises(ConfigError, match="LightGBM is not trained by gradients"):
        one_of_several("LightGBM", (ResumeMixin, DecisionTreeTrainer))


def test_a_trainer_with_a_loop_of_its_own_is_refused() -> None:
    trainer = object.__new__(ProcessGroupTrainer)
    trainer._in_epoch, trainer.config = False, {"model": "NCL"}
    with pytest.raises(ConfigError, match="the trainer of NCL has a loop of its own"):
        trainer.set_reduce_hook()


def test_who_failed_first_is_named() -> None:
    refused, lost = ConfigError("epochs: -1"), ProcessError("process 0 lost contact")
    failure = launch._failure
    assert (
        failure([1, -signal.SIGKILL], {0: ("lost", lost)}).args[0].startswith("process 1 of 2 was ended from outside")
    )
    assert "SIGKILL, perhaps because memory ran out" in str(failure([1, -signal.SIGKILL], {0: ("lost", lost)}))
    assert failure([2, 2], {0: ("lost", lost), 1: ("refused", refused)}) is refused
    assert "ValueError" in str(failure([2, 1], {0: ("lost", lost), 1: ("failed", ProcessError("ValueError: x"))}))
    assert failure([2, -signal.SIGTERM], {0: ("refused", refused)}) is refused
    assert "status 3" in str(failure([0, 3], {}))


def test_a_lost_process_is_named_and_other_errors_are_left_alone() -> None:
    with pytest.raises(ProcessError, match="lost contact"), naming_the_lost():
        raise RuntimeError("[gloo/transport/tcp/pair.cc:534] Connection closed by peer [127.0.0.1]:4242")
    with pytest.raises(RuntimeError, match="size of tensor"), naming_the_lost():
        raise RuntimeError("The size of tensor a must match")


def test_processes_with_other_options_or_data_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    config = {"single_spec": False}
    monkeypatch.setattr(processes, "from_all", lambda config, value: [value, {**value, "learning_rate": "0.1"}])
    with pytest.raises(ConfigError, match=r"process 1 has other options than process 0: learning_rate \(.*0\.1 there"):
        check_alike(config, "options", {"learning_rate": "0.2", "epochs": "3"}, "start all with the same")


@pytest.mark.slow
@pytest.mark.parametrize("end", ["SIGKILL", "ValueError"])
def test_nproc_ends_when_a_process_does(end: str, workplace: Path) -> None:
    jobs.write_data(workplace)
    code = """
import os, signal, sys
from recbole.trainer import Trainer
import recbole_oov
from recbole_oov.cli import main
stock = Trainer._train_epoch
def epoch(self, *args, **kwargs):
    if args[1] == 1 and self.config["local_rank"] == 1:
        if os.environ["END"] == "SIGKILL":
            os.kill(os.getpid(), signal.SIGKILL)
        raise ValueError("something broke")
    return stock(self, *args, **kwargs)
Trainer._train_epoch = epoch
if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
"""
    Path("run.py").write_text(code, encoding="utf-8")
    options = ["--model=BPR", "--dataset=kinds", "--data_path=dataset", "--nproc=2", "--use_gpu=False", "--state=ERROR"]
    done = subprocess.run(
        [sys.executable, "run.py", *options, "--epochs=3", "--show_progress=False"],
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "END": end},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 2
    assert "error: process 1 of 2" in done.stderr
    assert end in done.stderr
    assert list(Path("saved").glob("BPR-*.json")), "the best model of the first epoch is there, whole"
