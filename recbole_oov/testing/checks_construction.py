"""Checks of a model as it is made: what the class declares, and that making it touches nothing else."""

from __future__ import annotations

import copy
from typing import Any

from recbole.model.abstract_recommender import AbstractRecommender
from recbole.utils import InputType
from torch import nn

from recbole_oov.testing.check import NotApplicable, check, require
from recbole_oov.testing.subject import OTHER_SEED, Subject
from recbole_oov.testing.tensors import different, fingerprint, plain_parts, state_of

FLAGS = {
    "recommends_for_oov_items": bool,
    "needs_content": bool,
    "needs_text": bool,
    "needs_base_model": bool,
    "learns_by_gradient": bool,
    "personalised": bool,
    "paper": str,
}
"""Facts that a model's class may state, and their types."""


@check("construction")
def declares_its_input_type(subject: Subject) -> None:
    """The class says its ``input_type`` with RecBole's enumeration, or its options a ``loss_type`` that decides it."""
    declared = getattr(subject.model_class, "input_type", None)
    if declared is not None:
        require(isinstance(declared, InputType), f"input_type is {declared!r}, not a member of InputType")
    else:
        require(bool(subject.new_config()["loss_type"]), "there is no input_type, and no default of loss_type")


@check("construction")
def flags_have_their_types(subject: Subject) -> None:
    """What the class states of itself (``recommends_for_oov_items``, ``needs_content``, …) is True, False, or text."""
    for name, kind in FLAGS.items():
        value = getattr(subject.model_class, name, kind())
        require(isinstance(value, kind), f"{name} is {value!r}, not {'text' if kind is str else 'True or False'}")


@check("construction", after=["declares_its_input_type"])
def constructs(subject: Subject) -> None:
    """The model is made from a configuration and a training set, as RecBole makes it."""
    require(isinstance(subject.experiment.model, AbstractRecommender), "it is no recommender of RecBole's")


@check("construction", after=["constructs"])
def construction_keeps_config(subject: Subject) -> None:
    """Making the model changes no option: other models and the checkpoint read the same configuration."""
    config = subject.new_config()
    before = copy.deepcopy(config.final_config_dict)
    subject.build(config=config)
    after = config.final_config_dict
    changed = [key for key in sorted(before.keys() | after.keys()) if before.get(key) != after.get(key)]
    require(not changed, f"options changed: {', '.join(changed)}")


@check("construction", after=["constructs"])
def construction_keeps_data(subject: Subject) -> None:
    """Making the model changes no column of the training set, which its trainer reads afterwards."""
    _, _, loaded, made = fresh_data(subject)
    changed = [name for name in sorted(loaded.keys() | made.keys()) if loaded.get(name) != made.get(name)]
    require(not changed, f"columns changed: {', '.join(changed)}")


@check("construction", after=["constructs"])
def construction_is_seeded(subject: Subject) -> None:
    """Two models made with the same seed have the same parameters and buffers, bit for bit."""
    names = different(state_of(subject.build()[0]), state_of(subject.build()[0]))
    require(not names, f"they differ in {', '.join(names)}")


@check("construction", after=["construction_is_seeded"])
def seeds_differ(subject: Subject) -> None:
    """Two models made with different seeds differ in what is drawn at random; a seed pinned inside hides the spread."""
    one, other = subject.build()[0], subject.build(OTHER_SEED)[0]
    drawn = [name for name, p in one.named_parameters() if p.requires_grad and p.numel() > 1 and p.detach().std() > 0]
    if not drawn:
        raise NotApplicable("no parameter is drawn at random")
    require(any(name in drawn for name in different(state_of(one), state_of(other))), "they are the same")


@check("construction", after=["constructs"])
def parameters_are_registered(subject: Subject) -> None:
    """Parameters and layers in lists and dictionaries are registered, so that they are trained, moved and saved."""
    model = subject.experiment.model
    known = {id(parameter) for parameter in model.parameters()}

    def unknown(part: Any) -> bool:
        parameters = [part] if isinstance(part, nn.Parameter) else part.parameters()
        return any(id(parameter) not in known for parameter in parameters)

    lost = [name for name, part in plain_parts(model) if unknown(part)]
    require(not lost, f"not registered: {', '.join(lost)}; use ModuleList, ModuleDict or ParameterList")


def fresh_data(subject: Subject) -> tuple[Any, Any, dict[str, str], dict[str, str]]:
    """A model made from freshly loaded data.

    Returns:
        Its trainer, the data, and fingerprints of the training set before and after the model was made.
    """

    def make() -> tuple[Any, Any, dict[str, str], dict[str, str]]:
        config = subject.new_config()
        train, valid, _ = subject.new_data(config)
        before = fingerprint(train._dataset)
        _, trainer = subject.build(config=config, data=train._dataset)
        return trainer, (train, valid), before, fingerprint(train._dataset)

    made: tuple[Any, Any, dict[str, str], dict[str, str]] = subject.part("fresh data", make)
    return made
