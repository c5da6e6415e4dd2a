"""Checks of training: a sound loss, gradients that arrive, and a known answer that is found."""

from __future__ import annotations

import copy
from typing import Any

from recbole.utils import init_seed
from torch import Tensor

from recbole_oov.testing.check import NotApplicable, check, require
from recbole_oov.testing.checks_construction import fresh_data
from recbole_oov.testing.subject import Subject
from recbole_oov.testing.tensors import batch_copy, different, fingerprint, state_of

FALL = 0.98
"""The smallest loss of the later epochs over the first one's: sampled negatives make an epoch's loss noisy by about
1 %, learning the tiny data sets lowers it by half."""


@check("learning", after=["constructs"])
def loss_is_a_finite_number(subject: Subject) -> None:
    """``calculate_loss`` of a batch gives a finite number, or a tuple of such, that a gradient can be taken of."""
    parts = losses_of(subject, subject.build()[0], subject.batch)
    for loss in parts:
        require(isinstance(loss, Tensor) and loss.numel() == 1, f"it gives {_shown(loss)}")
        require(bool(loss.isfinite().all()), f"it gives {loss.item()}")
    if subject.learns:
        require(any(loss.requires_grad for loss in parts), "no gradient can be taken of it")


@check("learning", after=["loss_is_a_finite_number"])
def loss_keeps_its_batch(subject: Subject) -> None:
    """``calculate_loss`` changes no column of its batch."""
    batch = copy.deepcopy(subject.batch)
    before = batch_copy(batch)
    losses_of(subject, subject.build()[0], batch)
    changed = different(before, batch_copy(batch))
    require(not changed, f"changed: {', '.join(changed)}")


@check("learning", after=["gradients_are_finite"])
def loss_of_one_row(subject: Subject) -> None:
    """The last batch of an epoch may have a single row: its loss is finite and a gradient can be taken of it."""
    model, _ = subject.build()
    parts = losses_of(subject, model, subject.batch[:1])
    require(all(bool(loss.isfinite().all()) for loss in parts), f"the loss is {[loss.item() for loss in parts]}")
    if subject.learns:
        sum(parts).backward()  # type: ignore[union-attr]
        broken = [name for name, p in model.named_parameters() if p.grad is not None and not _finite(p.grad)]
        require(not broken, f"gradients that are not finite: {', '.join(broken)}")


@check("learning", after=["loss_is_a_finite_number"])
def one_step_changes_parameters(subject: Subject) -> None:
    """One step of the trainer's optimizer on one batch changes the model."""
    if not subject.learns:
        raise NotApplicable("the model is not trained by gradients")
    model, trainer = subject.build()
    before = state_of(model)
    sum(losses_of(subject, model, subject.batch)).backward()  # type: ignore[union-attr]
    trainer.optimizer.step()
    named = dict(model.named_parameters())
    require(any(name in named for name in different(before, state_of(model))), "all parameters are as before")


@check("learning", after=["loss_is_a_finite_number"])
def trains(subject: Subject) -> None:
    """The model's trainer runs all epochs on the tiny data set."""
    require(len(subject.trained.losses) > 0, "the trainer ran no epoch")


@check("learning", after=["trains"])
def training_keeps_data(subject: Subject) -> None:
    """Training changes no column of the training set."""
    trainer, data, _, made = fresh_data(subject)
    subject.fit(trainer, epochs=1, data=data)
    trained = fingerprint(data[0]._dataset)
    changed = [name for name in sorted(made.keys() | trained.keys()) if made.get(name) != trained.get(name)]
    require(not changed, f"columns changed: {', '.join(changed)}")


@check("learning", after=["trains", "one_step_changes_parameters"])
def gradient_reaches_every_parameter(subject: Subject) -> None:
    """Some gradient other than zero reaches every trainable parameter; one without is dead weight or a lost branch."""
    if not subject.learns:
        raise NotApplicable("the model is not trained by gradients")
    without = [name for name, reached in subject.trained.gradients.items() if not reached]
    require(not without, f"none reaches {', '.join(without)}")


@check("learning", after=["trains"])
def gradients_are_finite(subject: Subject) -> None:
    """No gradient of the whole training is NaN or infinite."""
    broken = sorted(set(subject.trained.broken_gradients))
    require(not broken, f"not finite at {', '.join(broken)}")


@check("learning", after=["trains", "one_step_changes_parameters"])
def loss_falls(subject: Subject) -> None:
    """The loss of a later epoch is lower than the first one's."""
    if not subject.learns:
        raise NotApplicable("the model is not trained by gradients")
    losses = subject.trained.losses
    require(len(losses) > 1, f"{len(losses)} epoch says nothing; set epochs to 2 or more")
    first, later = losses[0], min(losses[1:])
    # A loss may be negative: a fall is measured against its size.
    require(
        later < first - (1 - FALL) * abs(first), f"{first:.4g} in the first epoch, {later:.4g} in the best later one"
    )


@check("learning", after=["construction_is_seeded", "scoring_repeats"])
def training_repeats(subject: Subject) -> None:
    """Two short trainings with the same seed end in the same weights, bit for bit, and in the same metrics."""
    states, metrics = [], []
    for _ in range(2):
        model, trainer = subject.build()
        subject.fit(trainer, epochs=2)
        states.append(state_of(model))
        metrics.append(dict(trainer.evaluate(subject.experiment.test_data, load_best_model=False)))
    names = different(*states)
    require(not names, f"they differ in {', '.join(names[:5])}")
    require(metrics[0] == metrics[1], f"the metrics are {metrics[0]} and {metrics[1]}")


def losses_of(subject: Subject, model: Any, batch: Any) -> tuple[Tensor, ...]:
    """The loss of a batch in training mode, always as a tuple."""
    init_seed(subject.seed, True)  # models draw from all generators, some of them in train()
    model.train()
    loss = model.calculate_loss(batch)
    return loss if isinstance(loss, tuple) else (loss,)


def _finite(gradient: Tensor) -> bool:
    return bool((gradient.coalesce().values() if gradient.is_sparse else gradient).isfinite().all())


def _shown(value: Any) -> str:
    return f"a tensor of shape {tuple(value.shape)}" if isinstance(value, Tensor) else f"a {type(value).__name__}"
