"""One experiment, from a configuration to a result: RecBole's quick start, with the plugin's checks and trainers."""

from __future__ import annotations

import atexit
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from logging import getLogger
from pathlib import Path
from typing import Any

from recbole.data import create_dataset, data_preparation
from recbole.utils import get_environment, get_model, get_trainer, init_logger, init_seed, set_color

from recbole_oov.config import OOVConfig, check_writable
from recbole_oov.data.atomic import check_atomic_files
from recbole_oov.data.leaks import check_leaks
from recbole_oov.data.oov_files import check_split_files
from recbole_oov.errors import ConfigError, DataError
from recbole_oov.evaluation.answers import TaskResults
from recbole_oov.evaluation.checks import check_evaluation
from recbole_oov.evaluation.per_user import user_tokens, users_file, write_per_user
from recbole_oov.evaluation.table import group_table, task_table
from recbole_oov.launch import free_port, spawn
from recbole_oov.model.extended import extended
from recbole_oov.processes import check_alike, leave_group, naming_the_lost, seed_process, share_of, torchrun_group
from recbole_oov.refusals import recbole_refusals
from recbole_oov.trainer.state import data_fingerprint
from recbole_oov.trainer.unfinished import options_of, unfinished_run

Result = dict[str, Any]


@dataclass
class Experiment:
    """All parts of one experiment, ready to be trained."""

    config: OOVConfig
    dataset: Any
    train_data: Any
    valid_data: Any
    test_data: Any
    model: Any
    trainer: Any


def run(
    model: str | type | None = None,
    dataset: str | None = None,
    config_file_list: Sequence[str] | None = None,
    config_dict: dict[str, Any] | None = None,
    saved: bool = True,
    nproc: int = 1,
    world_size: int = -1,
    ip: str = "localhost",
    port: str | int | None = None,
    group_offset: int = 0,
    *,
    argv: Sequence[str] | None = None,
) -> Result | None:
    """Train and test a model, of the plugin, registered, or RecBole's; takes what ``recbole.quick_start.run`` takes.

    Args:
        model: A model's name or class.
        dataset: A data set's name.
        config_file_list: YAML files, the later ones stronger.
        config_dict: Options by name, stronger than the files.
        saved: Save the best checkpoint, and test with it.
        nproc: Processes on this machine, which are started; on GPUs one each, without any on CPUs. In a process of
            ``torchrun``, which has started them, these five are left out (docs/scale.md).
        world_size: Processes on all machines; -1 for ``nproc``.
        ip, port: Where the processes meet; by default at a free port, and at 5678 if there are several machines.
        group_offset: The rank of this machine's first process.
        argv: Command line options ``--key=value``, the strongest. None reads ``sys.argv``, as RecBole does.

    Returns:
        RecBole's result: ``best_valid_score``, ``valid_score_bigger``, ``best_valid_result``, ``test_result``, under
        the OOV protocol with the metrics of the other groups of items (``oov_recall@10``) beside RecBole's;
        ``test_groups``, the users, items and targets behind each group; with ``tasks`` of OOVLLMRec ``task_results``,
        by task, by who answers, metrics by name; and ``model_file``, the checkpoint's path, None if nothing was saved.
        Of processes started here, the first one's.

    Raises:
        ProcessError: A process was killed or failed; all others have been ended.
        ConfigError: The configuration cannot work; all problems are listed. Nothing was loaded or written.
        DataError: A data file cannot be used. Nothing was written.
    """
    task = (model, dataset, config_file_list, config_dict, saved, argv)
    started = torchrun_group()
    if started is not None:
        if nproc != 1 or world_size > 0:
            raise ConfigError("nproc: torchrun starts the processes; leave nproc and world_size out")
        atexit.register(leave_group)  # a script may go on, to another run
        return _run_rank(started["local_rank"], task, started)
    if nproc == 1 and world_size <= 0:
        return _run_one(*task)
    world_size = nproc if world_size == -1 else world_size
    if group_offset + nproc > world_size:
        behind = f" from group_offset: {group_offset} on" if group_offset else ""
        raise ConfigError(
            f"nproc: {nproc} processes on this machine{behind} are more than world_size: {world_size}, which counts "
            f"those of all machines; give a larger world_size, or leave it out where this is the only machine"
        )
    if port is None:
        port = free_port() if world_size == nproc else 5678
    group = {"world_size": world_size, "ip": ip, "port": str(port), "nproc": nproc, "offset": group_offset}
    return spawn(_run_spawned, nproc, task, group)  # type: ignore[no-any-return]


def load(
    model_file: str | Path, *, data_path: str | Path | None = None, log: bool = True
) -> tuple[Any, Any, Any, Any, Any, Any]:
    """A saved model with its data, as ``recbole.quick_start.load_data_and_model``.

    Args:
        model_file: A checkpoint.
        data_path: The folder of data sets, where it is not the one that the model was trained with.
        log: Open a log file and log the configuration and the data set, as RecBole does.

    Returns:
        config, model, dataset, train_data, valid_data, test_data

    Raises:
        CheckpointError: The checkpoint is not there or cannot be read.
        DataError: The data set is not there.
        ConfigError: RecBole refuses the data set or the model, or they do not fit the checkpoint.
    """
    from recbole_oov.checkpoint_loading import load_checkpoint_and_data

    return load_checkpoint_and_data(Path(model_file), data_path, log=log)


def trainer_class(config: Any) -> type:
    """RecBole's trainer for the model, extended by what the configuration asks for."""
    from recbole_oov.trainer.all_positions import AllPositionMixin, CausalNetworkMixin
    from recbole_oov.trainer.evaluation import EvaluationMixin
    from recbole_oov.trainer.pool_sampling import PoolSamplingMixin
    from recbole_oov.trainer.resume import ResumeMixin
    from recbole_oov.trainer.weight_averaging import WeightAveragingMixin, check_can_average

    base: type = get_trainer(config["MODEL_TYPE"], config["model"])
    added: list[type] = [ResumeMixin]
    if config["sampler"] is not None:
        added.append(PoolSamplingMixin)
    if config["train_positions"] == "all" and not issubclass(base, AllPositionMixin):
        added.append(CausalNetworkMixin)
    if config["ema_decay"]:
        check_can_average(config, base)
        added.append(WeightAveragingMixin)
    if not issubclass(base, EvaluationMixin):
        added.append(EvaluationMixin)
    parts = (*added, base)
    if not config["single_spec"]:
        from recbole_oov.trainer.process_group import one_of_several

        parts = one_of_several(config["model"], parts)
    return type(base.__name__, parts, {})


def _run_spawned(rank: int, task: tuple[Any, ...], group: dict[str, Any]) -> Result:
    result = _run_rank(rank, task, group)
    leave_group()
    return result


def _run_rank(rank: int, task: tuple[Any, ...], group: dict[str, Any]) -> Result:
    """What each process of a group runs; importing this module has made the plugin known in it."""
    model, dataset, files, config_dict, saved, argv = task
    config_dict = {**(config_dict or {}), **group, "local_rank": rank}
    with naming_the_lost():
        return _run_one(model, dataset, files, config_dict, saved, argv)


def _run_one(
    model: str | type | None,
    dataset_name: str | None,
    config_file_list: Sequence[str] | None,
    config_dict: dict[str, Any] | None,
    saved: bool,
    argv: Sequence[str] | None,
) -> Result:
    experiment = prepare(model, dataset_name, config_file_list, config_dict, argv=argv)
    config, trainer, logger = experiment.config, experiment.trainer, getLogger()
    show_progress = config["show_progress"]
    best_valid_score, best_valid_result = trainer.fit(
        experiment.train_data, experiment.valid_data, saved=saved, show_progress=show_progress
    )
    test_result = trainer.evaluate(experiment.test_data, load_best_model=saved, show_progress=show_progress)

    trainer.forget_progress()
    logger.info("The running environment of this training is as follows:\n" + get_environment(config).draw())
    logger.info(set_color("best valid ", "yellow") + f": {best_valid_result}")
    logger.info(set_color("test result", "yellow") + f": {test_result}")
    groups = _report_groups(experiment)
    tasks = task_results(experiment, show_progress=show_progress)
    for task, found in tasks.items():
        logger.info(set_color(f"test result of {task}", "yellow") + f":\n{task_table(found)}")
    return {
        "best_valid_score": best_valid_score,
        "valid_score_bigger": config["valid_metric_bigger"],
        "best_valid_result": best_valid_result,
        "test_result": test_result,
        "test_groups": groups,
        **({"task_results": tasks} if tasks else {}),
        "model_file": trainer.saved_model_file if saved else None,
    }


def task_results(experiment: Experiment, *, show_progress: bool) -> TaskResults:
    """On the test part, what the model does beside ranking, where it does (``tasks`` of OOVLLMRec); else nothing."""
    measure = getattr(experiment.trainer, "task_results", None)
    return {} if measure is None else measure(experiment.test_data, show_progress=show_progress)


def _report_groups(experiment: Experiment) -> dict[str, dict[str, int]]:
    """Log the test result group by group and save each user's values, where asked for; what is behind each group."""
    config, trainer, logger = experiment.config, experiment.trainer, getLogger()
    evaluation = trainer.last_evaluation
    if evaluation is None:
        return {}
    if len(evaluation.groups) > 1:
        logger.info(set_color("test result by group", "yellow") + f":\n{group_table(evaluation)}")
    users_path = users_file(config, trainer.saved_model_file)
    if users_path is not None and share_of(config)[0] == 0:
        users, values = evaluation.by_user()
        write_per_user(users_path, user_tokens(experiment.dataset, users), values)
        logger.info(set_color("metrics of each user", "yellow") + f": {users_path}")
    return dict(evaluation.counts())


def prepare(
    model: str | type | None = None,
    dataset: str | None = None,
    config_file_list: Sequence[str] | None = None,
    config_dict: dict[str, Any] | None = None,
    *,
    argv: Sequence[str] | None = None,
) -> Experiment:
    """Everything up to training: check, load, split, build. Arguments and errors as of :func:`run`."""
    config = OOVConfig(model, dataset, config_file_list, config_dict, argv=argv)
    options = options_of(config)  # before models and data sets write into it
    asked = {**options, "resume": str(config["resume"])}
    check_alike(config, "options", asked, "start all processes with the same options and files")
    unfinished = unfinished_run(config)
    notes = check_atomic_files(config)
    check_split_files(config)
    check_writable(config)
    if not config["single_spec"]:
        _make_folders(config)
    init_seed(config["seed"], config["reproducibility"])
    init_logger(config)
    logger = getLogger()
    logger.info(sys.argv if argv is None else list(argv))
    logger.info(config)
    for note in notes:
        logger.warning(note)
    if config["resume"] is True and unfinished is None:
        logger.info(f"resume: no unfinished run of this configuration in {config['checkpoint_dir']}; beginning anew")
    try:
        with recbole_refusals("the data set"):
            whole = create_dataset(config)
    except OSError as error:
        raise DataError(
            f"dataset: {config['dataset']} could not be loaded or downloaded ({error}); put its atomic files into "
            f"{config['data_path']}"
        ) from error
    logger.info(whole)
    with recbole_refusals("the split"):
        train_data, valid_data, test_data = data_preparation(config, whole)
    check_evaluation(config, train_data, valid_data, test_data)
    if not config["single_spec"]:
        loaders = {"training": train_data, "validation": valid_data, "test": test_data}
        found = {name: data_fingerprint({name: loader}) for name, loader in loaders.items()}
        check_alike(config, "data", found, "give all machines the same files")
    init_seed(config["seed"], config["reproducibility"])
    with recbole_refusals("the model"):
        recommender = extended(get_model(config["model"]), config)(config, train_data._dataset)
    if not config["single_spec"] and config["shard_backbone"]:  # before it is moved: it may fit no device whole
        recommender.shard(config["device"])
    elif config["shard_backbone"]:
        logger.warning("shard_backbone: this is a run of one process, which keeps all weights; start several")
    recommender = recommender.to(config["device"])
    logger.info(recommender)
    check_leaks(config, train_data, valid_data, test_data, recommender)
    if not config["single_spec"]:
        from recbole_oov.trainer.process_group import agree

        agree(config, recommender)
    trainer = trainer_class(config)(config, recommender)
    trainer.options, trainer.continue_from = options, unfinished
    trainer.keep_progress = True  # until the test is done as well
    seed_process(config)
    trainer.remember(train_data, valid_data)
    return Experiment(config, whole, train_data, valid_data, test_data, recommender, trainer)


def _make_folders(config: Any) -> None:
    """RecBole looks whether a folder is there and then makes it, which two processes must not do at once."""
    for folder in (Path(config["checkpoint_dir"]), Path("log") / config["model"]):
        folder.mkdir(parents=True, exist_ok=True)
    for key in ("save_dataset", "save_dataloaders"):
        if config[key]:
            raise ConfigError(f"{key}: several processes would write one file; save it in a run without nproc")
