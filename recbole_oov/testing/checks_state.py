"""Checks of a model's state: it survives a checkpoint, a copy, a pickle and a move, and no stale cache is scored."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import torch

from recbole_oov.testing.check import NotApplicable, check, require
from recbole_oov.testing.checks_learning import losses_of
from recbole_oov.testing.checks_scoring import pairs_of, require_same
from recbole_oov.testing.subject import OTHER_SEED, Subject
from recbole_oov.testing.tensors import TOLERANCE, Watch, different, plain_tensors, state_of


@check("state", after=["scoring_repeats", "evaluation_changes_no_state"])
def checkpoint_keeps_the_scores(subject: Subject) -> None:
    """A model made with another seed has the same parameters and the same scores once it has read the checkpoint."""
    trained = subject.trained
    trained.trainer._save_checkpoint(0, verbose=False)
    model, trainer = subject.build(OTHER_SEED)
    file = trained.trainer.saved_model_file
    trainer.evaluate(subject.experiment.test_data, load_best_model=True, model_file=file)
    names = [name for name in different(state_of(trained.model), state_of(model)) if name in model.state_dict()]
    require(not names, f"these differ: {', '.join(names[:5])}")
    # Some models sum over histories in an order of their own: no more than rounding may come of it.
    require_same(subject.score_all(model, subject.rows), subject.scores)


@check("state", after=["scoring_repeats"])
def deep_copy_keeps_the_scores(subject: Subject) -> None:
    """A deep copy has the same scores, and changing it leaves the model alone."""
    require(subject.trained.untouched is not None, "it cannot be copied after training")
    model = copy.deepcopy(subject.trained.model)
    require(torch.equal(subject.score_all(model, subject.rows), subject.scores), "the scores of the copy differ")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(-2).add_(1)
    again = subject.score_all(subject.trained.model, subject.rows)
    require(torch.equal(again, subject.scores), "changing the copy changes the model")


@check("state", after=["scoring_repeats"])
def pickle_keeps_the_scores(subject: Subject) -> None:
    """A model that was pickled and read again has the same scores: this is how it gets to another process."""
    data = pickle.dumps(subject.trained.model)
    model = pickle.loads(data)  # noqa: S301 - written in the line above
    require(torch.equal(subject.score_all(model, subject.rows), subject.scores), "the scores differ")


@check("state", after=["deep_copy_keeps_the_scores", "training_repeats"])
def scores_follow_training(subject: Subject) -> None:
    """Scores after a step are those of the new parameters, also when the model has scored before the step."""
    if not subject.learns:
        raise NotApplicable("the model is not trained by gradients")
    scores = []
    for scored_before in (True, False):
        model = copy.deepcopy(subject.trained.untouched)
        if scored_before:
            subject.score_all(model, subject.rows)
            subject.score_pairs(model, *pairs_of(subject))
        sum(losses_of(subject, model, subject.batch)).backward()  # type: ignore[union-attr]
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.grad is not None:
                    parameter.sub_(parameter.grad.to_dense() / (parameter.grad.to_dense().abs().max() + 1e-12))
        scores.append(subject.score_all(model, subject.rows))
    require_same(*scores)


@check("state", after=["scoring_repeats"])
def state_moves_with_the_model(subject: Subject) -> None:
    """``model.to(device)`` moves every tensor that is scored with: it is a parameter, a buffer, or moved when used."""
    model = subject.trained.model
    stray = plain_tensors(model)
    with Watch(stray) as watch:
        subject.score_all(model, subject.rows)
        subject.score_pairs(model, *pairs_of(subject))
    used = sorted({name.partition("[")[0] for name in watch.used})
    require(not used, f"left behind: {', '.join(used)}; use register_buffer")


@check("state", after=["scoring_repeats"])
def cuda_gives_the_same_scores(subject: Subject) -> None:
    """On a GPU the model trains a step and has the scores that it has on the CPU. Asks nothing where there is none."""
    if not torch.cuda.is_available():
        raise NotApplicable("there is no GPU here")
    config = copy.deepcopy(subject.config)
    config["device"], config["use_gpu"] = torch.device("cuda"), True
    model, _ = subject.build(config=config)
    losses_of(subject, model, copy.deepcopy(subject.batch).to(config["device"]))
    model.load_state_dict(subject.trained.model.state_dict())
    model.load_other_parameter(_moved(subject.trained.model.other_parameter(), config["device"]))
    model.eval()
    with torch.no_grad():
        scores = model.predict(subject.with_items(*pairs_of(subject)).to(config["device"])).cpu()
    on_cpu = subject.score_pairs(subject.trained.model, *pairs_of(subject))
    gap = float((scores - on_cpu).abs().max() / on_cpu.abs().max().clamp(min=1))
    # Ten times the tolerance on one device: kernels of a GPU sum in yet another order, and may use TF32.
    require(gap <= 10 * TOLERANCE, f"the largest difference is {gap:.3g}")


@check("state", after=["scoring_repeats", "scoring_changes_no_state"])
def evaluation_changes_no_state(subject: Subject) -> None:
    """The trainer's evaluation leaves parameters and buffers as they are and can be repeated."""
    trained = subject.trained
    before = state_of(trained.model)
    results = [dict(trained.trainer.evaluate(subject.experiment.test_data, load_best_model=False)) for _ in range(2)]
    changed = different(before, state_of(trained.model))
    require(not changed, f"changed: {', '.join(changed)}")
    require(results[0] == results[1], f"the metrics are {results[0]}, then {results[1]}")


def _moved(parameters: Any, device: torch.device) -> dict[str, Any]:
    found = dict(parameters or {})
    return {name: value.to(device) if isinstance(value, torch.Tensor) else value for name, value in found.items()}
