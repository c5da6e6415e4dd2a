"""The command line: ``run_recbole_oov.py`` and ``recbole-oov``."""

from __future__ import annotations

import importlib
import os
import re
import sys
import warnings
from collections.abc import Callable, Sequence
from typing import Any

from recbole_oov import __version__, registry
from recbole_oov.config import parse_command_line
from recbole_oov.errors import ConfigError, RecBoleOOVError
from recbole_oov.processes import torchrun_group

HELP = f"""recbole_oov {__version__}: out-of-vocabulary items, users and LLM recommenders for RecBole

  run_recbole_oov.py [run] [--model=NAME] [--dataset=NAME] [--config_files="A.yaml B.yaml"] [--KEY=VALUE …]
      Train and test a model. Without options: BPR on ml-100k, as run_recbole.py. Any RecBole option works.
      --nproc=N --world_size=N --ip=HOST --port=N --group_offset=N   several processes; or torchrun (docs/scale.md)
      --resume   continue the last run of these options that was cut off; --resume=saved/NAME.json a certain one
  run_recbole_oov.py benchmark FILE.yaml [--KEY=VALUE …]
      Run the models, data sets and seeds of a benchmark file; continues where it stopped (docs/benchmark.md).
      --jobs=N   N cells side by side; --seeds=[…], --only=PARTS, --output=FOLDER, --tune=False
  run_recbole_oov.py bench [SUITE …] [--repeats=5] [--output=FOLDER] [--data_path=FOLDER] [--plot=FILE.svg] [--json]
      Measure the plugin beside RecBole's own path, answers compared (docs/results/speed.md); --growth, --quality.
  run_recbole_oov.py recommend --checkpoint=saved/NAME.json (--user=ID | --history="ID ID" | --new_items=FILE) [--k=N]
      Items for a user or a history, users for new items by their content; --users="ID ID"; --groups=iv|oov|overall,
      --scores, --keep_seen, --json, --data_path=FOLDER; --explain: what of the history moved the scores;
      --answers=TASKS: what the model says about the items (both OOVLLMRec).
  run_recbole_oov.py report FILE.yaml|FOLDER [--reference=NAME] [--k=N]
      Write tables, HTML page and plots of the results that are there again, without running anything.
      --by=transition|popularity   groups of test users by what training says of their item (docs/benchmark.md)
  run_recbole_oov.py from-csv FILE.csv --name=NAME --user=COLUMN --item=COLUMN [--items=ITEMS.csv --text=[COLUMNS]] …
      Make a data set of CSV files (docs/own-data.md); --time, --rating: columns of interactions; --item_id, --token,
      --number: columns of items; --output=FOLDER, --separator=CHARACTER.
  run_recbole_oov.py describe DATASET [--plot=FILE.png] [--json] [--KEY=VALUE …]
      What is in a data set, and what each protocol would leave of it.
  run_recbole_oov.py encode --dataset=NAME --output=FILE.npz [--content=ENCODER] [--KEY=VALUE …]
      Item text to a content file, once, for --content="{{from: file, path: FILE.npz}}".
  run_recbole_oov.py export --checkpoint=saved/NAME.json --output=FOLDER [--format=npy|parquet] [--index=faiss]
      Embeddings of items and users by whose dot product a model ranks.
  run_recbole_oov.py push --checkpoint=saved/NAME.json --to=FOLDER|hf://owner/name [--license=ID --evaluate --private]
  run_recbole_oov.py pull --from=FOLDER|hf://owner/name --to=FOLDER
      A checkpoint as a folder with a model card, for others, and back (docs/tools.md).
  run_recbole_oov.py doctor [--json]
      What is installed and whether it works together, devices, folders.
  run_recbole_oov.py models
      List the models that can be run.
"""


def main(argv: Sequence[str]) -> int:
    """Run one command.

    Args:
        argv: The arguments, without the program's name.

    Returns:
        The exit status: 0; 1 where cells of a benchmark failed and the others went on; 2 after an error in what the
        user gave, which is printed without a traceback; 130 after an interruption.
    """
    if any(argument in ("-h", "--help", "help") for argument in argv):
        print(_help_of(argv[0]), end="")
        return 0
    if "--version" in argv:
        print(__version__)
        return 0
    name, rest = (argv[0], argv[1:]) if argv and not argv[0].startswith("-") else ("run", argv)
    try:
        command = COMMANDS.get(name)
        if command is None:
            raise ConfigError(f"there is no command {name!r}; there are {', '.join(COMMANDS)} (see --help)")
        if name != "run" and torchrun_group() is not None:
            raise ConfigError(f"torchrun: {name} runs in one process; start it without torchrun")
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", category=FutureWarning, module=r"recbole\.")  # of no use to whoever types
            status = command(list(rest)) or 0
            sys.stdout.flush()
            return status
    except BrokenPipeError:  # whoever read along, such as head, has gone
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except RecBoleOOVError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted; the last checkpoint that was saved is whole", file=sys.stderr)
        return 130


def _help_of(name: str) -> str:
    """The part of the help about one command; all of it where the name is none."""
    title, *parts = re.split(r"^(?=  run_recbole_oov\.py )", HELP, flags=re.MULTILINE)
    together = ("push", "pull")  # they share a description
    wanted = together if name in together else (name,)
    of_command = [part for part in parts if part.split()[1].strip("[]") in wanted]
    return title + "".join(of_command or parts)


def entry() -> None:
    """The console script."""
    sys.exit(main(sys.argv[1:]))


def _run(argv: list[str]) -> None:
    from recbole_oov.runner import run

    argv = ["--resume=True" if argument == "--resume" else argument for argument in argv]
    given = parse_command_line(argv)
    if "nproc" in given or "world_size" in given:
        group: dict[str, Any] = {
            key: given[key] for key in ("nproc", "world_size", "ip", "port", "group_offset") if key in given
        }
        argv = [argument for argument in argv if argument.removeprefix("--").partition("=")[0] not in group]
        _check_group(group)
    else:
        group = {}
    defaults = {"model": "BPR", "dataset": "ml-100k"}
    # A configuration file may name them too: the defaults must not win over it.
    files = given.get("config_files")
    if files:
        from recbole_oov.config.reading import read_config_files

        named, _ = read_config_files(files.split() if isinstance(files, str) else files)
        defaults = {key: value for key, value in defaults.items() if key not in named}
    missing = [f"--{key}={value}" for key, value in defaults.items() if key not in given]
    run(argv=[*missing, *argv], **group)


def _check_group(group: dict[str, Any]) -> None:
    for key in ("nproc", "world_size", "group_offset"):
        value = group.get(key, 1)
        if not isinstance(value, int) or isinstance(value, bool) or (key == "nproc" and value < 1):
            raise ConfigError(f"{key}: {value!r} is not a number of processes; give a whole number, at least 1")


def _benchmark(argv: list[str]) -> int:
    from recbole_oov.report.benchmark import benchmark, failed_cells

    if not argv or argv[0].startswith("-"):
        raise ConfigError("benchmark: name a benchmark file, as in: benchmark properties/benchmark/quick.yaml")
    options = parse_command_line(argv[1:])
    benchmark(argv[0], options)
    failed = failed_cells(argv[0], options)
    if failed:
        print(f"error: {len(failed)} failed, which the same command tries again:", file=sys.stderr)
        print(*failed, sep="\n", file=sys.stderr)
    return int(bool(failed))


def _bench(argv: list[str]) -> None:
    from recbole_oov.bench.command import bench

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=FutureWarning, module=r"recbole\.")
        bench(argv)


def _recommend(argv: list[str]) -> None:
    from recbole_oov.recommendation.command import command

    command(argv)


def _report(argv: list[str]) -> None:
    from recbole_oov.report.command import command

    command(argv)


def _tool(module: str, name: str) -> Callable[[list[str]], None]:
    """A command of :mod:`recbole_oov.tools`, imported when it runs."""

    def run(argv: list[str]) -> None:
        getattr(importlib.import_module(f"recbole_oov.tools.{module}"), name)(argv)

    return run


def _models(argv: list[str]) -> None:
    if argv:
        raise ConfigError(f"models: {argv[0]!r} is not an option; it has none")
    ours = set(registry.plugin_model_names())
    for name in registry.model_names():
        print(f"{name}{'  (recbole_oov)' if name in ours else ''}")


COMMANDS: dict[str, Callable[[list[str]], int | None]] = {
    "run": _run,
    "benchmark": _benchmark,
    "bench": _bench,
    "recommend": _recommend,
    "report": _report,
    "from-csv": _tool("from_csv", "from_csv"),
    "describe": _tool("describe", "describe"),
    "encode": _tool("encode", "encode"),
    "export": _tool("export", "export"),
    "push": _tool("hub", "push"),
    "pull": _tool("hub", "pull"),
    "doctor": _tool("doctor", "doctor"),
    "models": _models,
}
