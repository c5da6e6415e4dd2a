"""The three stages of USIM: base model, generator, imagination."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from logging import getLogger
from typing import Any

import torch
from recbole.utils import init_seed
from torch import Tensor

from recbole_oov.compat import load_checkpoint
from recbole_oov.data.item_loader import ItemLoader
from recbole_oov.evaluation.dot_product import dot_product_ndcg
from recbole_oov.evaluation.groups import group_of
from recbole_oov.model.imagination import STOP_RULES, Potential, Sequences, StopRule, Targets, UserSpace
from recbole_oov.model.imagination_direct import DirectLearner, Expected
from recbole_oov.model.imagination_ppo import RecPPO, Step, rollout
from recbole_oov.trainer.cold_start import ColdStartTrainer, Stage, result_table


@dataclass
class Tried:
    """What a policy was worth in one epoch of trying out.

    Attributes:
        length: Mean number of steps, the one that ends a sequence included.
        reward: Mean of a sequence.
        parts: Mean by which a sequence brought items nearer, by part of the reward.
        ended: Share of the sequences that ended before the last step.
    """

    length: float
    reward: float
    parts: list[float]
    ended: float

    @classmethod
    def of(cls, rollouts: list[list[Step]], n_sequences: int) -> Tried:
        """A summary of sequences."""
        steps = [step for own in rollouts for step in own]
        rows = sum(len(step.rows) for step in steps)
        return cls(
            rows / n_sequences,
            float(sum(step.reward.sum() for step in steps)) / n_sequences,
            (torch.stack([step.parts.sum(dim=0) for step in steps]).sum(dim=0) / n_sequences).tolist(),
            sum(int((step.action == step.candidates.shape[1]).sum()) for step in steps) / n_sequences,
        )

    @classmethod
    def of_expected(cls, found: Expected) -> Tried:
        """A summary of what was differentiated instead of tried out."""
        means = (float(value.mean()) for value in (found.length, found.gain, found.ended))
        length, gain, ended = means
        return cls(length, gain, found.parts.mean(dim=0).tolist(), ended)


Lesson = Callable[[Tensor, Targets, Potential], Tried]
"""Lets the policy learn from some items: where they start, where they should end, and how far that is."""


def lessons_of(model: Any, learning: str, users: UserSpace, draw: torch.Generator) -> Lesson:
    """How the policy of a :class:`recbole_oov.model.usim.USIM` learns.

    Args:
        model: The model.
        learning: ``ppo``, or ``direct`` for :mod:`recbole_oov.model.imagination_direct`.
        users: All users.
        draw: The only source of randomness.
    """
    settings = model.settings
    if learning == "direct":
        learner = DirectLearner(model.policy, settings)
        return lambda start, targets, potential: Tried.of_expected(
            learner.learn(start, targets, potential, users, draw)
        )
    ppo = RecPPO(model.policy, model.critic, settings)

    def tried(start: Tensor, targets: Targets, potential: Potential) -> Tried:
        rollouts = [
            rollout(start, targets, potential, model.policy, users, settings, draw) for _ in range(settings.rollouts)
        ]
        ppo.learn(rollouts, targets, users, draw)
        return Tried.of(rollouts, len(start) * len(rollouts))

    return tried


Ending = tuple[StopRule, int]
"""A stop rule, and the number of steps at which it ends at the latest."""


@dataclass
class Outcome:
    """What validation said of a policy with one way to end sequences.

    Attributes:
        metric: ``valid_metric``.
        score: Its value.
        result: All metrics.
        ending: The stop rule and the number of steps.
        state: Policy, critic and stop rule, for ``load_state_dict``.
    """

    metric: str
    score: float
    result: dict[str, float]
    ending: Ending
    state: dict[str, Tensor]

    def __str__(self) -> str:
        rule, steps = self.ending
        how = f"{steps} steps" if rule == "fixed" else f"stop rule {rule}, at most {steps} steps"
        return f"{how}, {self.metric} {self.score:.4f}"


class USIMTrainer(ColdStartTrainer):
    """Trains base model and generator as :class:`ColdStartTrainer` does, then the policy, while both stay as they are.

    The third stage is stopped by ``valid_metric``, of OOV items by default, like the second. After each epoch
    validation also chooses when sequences end, among the stop rules and numbers of steps that the options leave open;
    where no sequence of users does better than none, none are imagined, and the log says so. The test part is never
    looked at.
    """

    def fit(
        self,
        train_data: Any,
        valid_data: Any = None,
        verbose: bool = True,
        saved: bool = True,
        show_progress: bool = False,
        callback_fn: Any = None,
    ) -> Any:
        """Train all stages. Arguments and result as RecBole's; ``epochs`` and ``callback_fn`` are of the generator.

        With ``saved`` each stage starts from the best epoch of the one before, otherwise from the last.
        """
        super().fit(train_data, valid_data, verbose, saved, show_progress, callback_fn)
        if saved:
            best = load_checkpoint(self.saved_model_file, self.config["device"])
            self.model.load_state_dict(best["state_dict"])
        if self.config["calibrate_lengths"] and valid_data:
            with self.stage("lengths", self.config["model"], verbose=verbose) as stage:
                stage.valid_result = self._calibrate(valid_data, verbose=verbose)
        with self.stage("imagination", self.config["model"], verbose=verbose) as stage:
            self._imagination(stage, valid_data, verbose=verbose, show_progress=show_progress)
        if saved:
            self._save_checkpoint(self.epochs - 1, verbose=verbose)
        return self.best_valid_score, self.best_valid_result

    def _calibrate(self, valid_data: Any, *, verbose: bool) -> dict[str, float]:
        """Choose how long generated embeddings are: what orders OOV items among themselves first, then the rest."""
        metric, config = str(self.valid_metric), self.config
        found: dict[tuple[float, float], dict[str, float]] = {}

        def score(power: float, factor: float, name: str) -> float:
            self.model.calibrate(power, factor)
            found[power, factor] = dict(self.evaluate(valid_data, load_best_model=False))
            return (1 if self.valid_metric_bigger else -1) * found[power, factor][name]

        power = max(config["length_powers"], key=lambda power: score(power, 1.0, metric))
        overall = metric.removeprefix(f"{group_of(metric)}_")
        factor = max(config["length_factors"], key=lambda factor: score(power, factor, overall))
        self.model.calibrate(power, factor)
        self._log(f"lengths: power {power:g} and factor {factor:g} are best on validation", verbose)
        return found[power, factor]

    def _imagination(self, stage: Stage, valid_data: Any, *, verbose: bool, show_progress: bool) -> None:
        """Train the policy, and leave the model with what was best."""
        config, model = self.config, self.model
        init_seed(config["seed"], config["reproducibility"])
        model.learns_to_imagine(True)
        draw = torch.Generator(device=self.device).manual_seed(config["seed"])
        loader = ItemLoader(
            model.iv_items, item_field=model.ITEM_ID, batch_size=config["imagination_batch_size"], seed=config["seed"]
        )
        learn = lessons_of(model, config["imagination_learning"], model.user_space(), draw)
        best: Outcome | None = None
        if valid_data:
            before = self._outcome(("fixed", 0), valid_data, show_progress)
            self._log(f"before, {before}:\n{result_table(before.result)}", verbose)
            best = before if config["stop_rule"] is None else None
        since = 0
        while stage.epochs < config["imagination_epochs"] and since < config["imagination_patience"]:
            self._log(f"imagination epoch {stage.epochs}: {self._learned(learn, loader, draw)}", verbose)
            stage.epochs += 1
            if not valid_data:
                continue
            found = self._outcome(self._ending(valid_data), valid_data, show_progress)
            self._log(f"  best on validation: {found}", verbose)
            sign = 1 if self.valid_metric_bigger else -1
            better = best is None or sign * found.score > sign * best.score
            best, since = (found, 0) if better else (best, since + 1)
        model.learns_to_imagine(False)
        if best is None:
            model.stop_by(config["stop_rule"] or "threshold", self._at_most())
            return
        model.load_state_dict(best.state, strict=False)
        self.best_valid_score, self.best_valid_result = best.score, best.result
        stage.valid_result = dict(best.result)
        self._log(f"chosen on validation: {best}", verbose)
        if best.ending[1] == 0:
            getLogger().warning("imagination: no sequence of users was better than none; items stay as generated")

    def _outcome(self, ending: Ending, valid_data: Any, show_progress: bool) -> Outcome:
        """The policy as it is, with one way to end sequences, on validation."""
        self.model.stop_by(*ending)
        score, result = self._valid_epoch(valid_data, show_progress=show_progress)
        parts = ("policy.", "critic.", "stopping")
        state = {name: value.clone() for name, value in self.model.state_dict().items() if name.startswith(parts)}
        return Outcome(self.config["valid_metric"], score, dict(result), ending, state)

    def _ending(self, valid_data: Any) -> Ending:
        """The ending that is best on validation: of those that the options leave open, by NDCG among OOV items."""
        model, endings = self.model, list(self._endings())
        rows = valid_data._dataset.inter_feat
        users, items = rows[model.USER_ID].to(self.device), rows[model.ITEM_ID].to(self.device)
        of_oov = model.oov[items]
        if len(endings) == 1 or not of_oov.any():
            return endings[-1]
        column = model.oov.cumsum(0) - 1
        positives = torch.stack([users[of_oov], column[items[of_oov]]], dim=1)
        sequences = self._sequences()
        k = min(max(self.config["topk"]), int(model.oov.sum()))

        def ndcg(ending: Ending) -> float:
            ends = sequences.ends(sequences.lengths(*ending))
            return dot_product_ndcg(model.base_users, ends, positives, k)

        return max(endings, key=ndcg)

    def _sequences(self) -> Sequences:
        """What is imagined for OOV items."""
        sequences: Sequences = self.model.sequences(self.model.starts(self.model.content[self.model.oov]))
        return sequences

    def _at_most(self) -> int:
        given: int | None = self.config["stop_steps"]
        return self.config["imagination_steps"] if given is None else given

    def _endings(self) -> Iterator[Ending]:
        """The ways to end a sequence that the options leave open, shorter ones first; none twice."""
        rules = STOP_RULES if self.config["stop_rule"] is None else (self.config["stop_rule"],)
        sequences = self._sequences()
        seen: list[Tensor] = []
        for rule in rules:
            exact = rule != "fixed" or self.config["stop_steps"] is not None
            for steps in [self._at_most()] if exact else range(1, self._at_most() + 1):
                lengths = sequences.lengths(rule, steps)
                if not any(torch.equal(lengths, other) for other in seen):
                    yield rule, steps
                seen.append(lengths)

    def _learned(self, learn: Lesson, loader: ItemLoader, draw: torch.Generator) -> str:
        """Let the policy learn from one pass over the training items, and say how it went."""
        model = self.model
        users, found, sizes = model.user_space(), [], []
        model.train()
        for batch in loader:
            items = batch[model.ITEM_ID]
            found.append(learn(*model.lesson(items, users, draw)))
            sizes.append(len(items))
        model.eval()
        share = [size / sum(sizes) for size in sizes]

        def mean(values: list[float]) -> float:
            return sum(value * weight for value, weight in zip(values, share, strict=True))

        parts = [mean(list(part)) for part in zip(*(tried.parts for tried in found), strict=True)]
        of_parts = " + ".join(f"{value:.4f}" for value in parts)
        return (
            f"reward {mean([t.reward for t in found]):.4f} a sequence ({of_parts} before the price), "
            f"{mean([t.length for t in found]):.2f} steps, {mean([t.ended for t in found]):.0%} ended by the policy"
        )
