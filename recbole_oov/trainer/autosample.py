"""Searching for a negative sampler, then training with it.

A search has two halves. Probabilities over all samplers are learned while one model trains on their mixture
(``sampler.search``). Then samplers are trained from the beginning while the budget lasts, a cheap one first, then the
most probable; one that stays behind is given up, and the best on validation is kept. Which of two close samplers ends
higher is seen at the end alone, and that training is the final one of the sampler that is kept. ``lot`` is the second
half alone, in an order drawn by lot after the first: what the probabilities are worth. The baselines spend the same
budget otherwise: ``random`` compares some samplers drawn by lot for equally many epochs, ``halving`` all of them by
successive halving, ``mixture`` nothing; what they find is trained. The budget is counted work (``sampler.work``), so
that no search is longer for having fewer but dearer epochs, and equal seeds find equal samplers.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Sequence
from logging import getLogger
from typing import Any

import numpy as np
import torch
from recbole.data.interaction import Interaction
from recbole.trainer import Trainer
from torch import Tensor

from recbole_oov.errors import ConfigError
from recbole_oov.processes import from_all, from_first, share_of, sum_of_all
from recbole_oov.randomness import random_state, set_random_state
from recbole_oov.sampler.base_models import BaseModel, base_model_of, check_learns_from_negatives
from recbole_oov.sampler.choice import Sampler, get_sampler
from recbole_oov.sampler.contest import BUDGET_OF_COMPARISONS, FOLLOW_THE_FIRST, Contender, halving_sizes
from recbole_oov.sampler.drawing import Drawing, candidate_names, read_sampler, with_pool
from recbole_oov.sampler.mixture import Mixture, first_rows
from recbole_oov.sampler.pools import NegativePools
from recbole_oov.sampler.search import Architecture, Shares, Steering, gradient_products, hardest
from recbole_oov.sampler.work import dns_epoch
from recbole_oov.trainer.pool_sampling import PoolSamplingMixin, PositiveLoader, positive_loader
from recbole_oov.trainer.search_plot import save_plot
from recbole_oov.trainer.search_report import SearchReport, Training, report_lines
from recbole_oov.trainer.several_trainings import SeveralTrainingsMixin

Options = dict[str, Any]

_RUNS = 2.5
"""How many trainings like the first one the search may be worth where no ``search_budget`` is given."""

_PATIENCE_BEHIND = 0.5
"""The share of ``stopping_step`` that a training has which is not ahead of the best one before it."""


class AutoSampleTrainer(SeveralTrainingsMixin, PoolSamplingMixin, Trainer):
    """Trains AutoSample: search, then RecBole's loop with each sampler of the line-up, of which the best is kept.

    Attributes:
        search_report: What the last search did; None before it.
    """

    search_report: SearchReport | None = None
    _steering: Steering | None = None
    _start: Options | None = None

    def fit(
        self,
        train_data: Any,
        valid_data: Any = None,
        verbose: bool = True,
        saved: bool = True,
        show_progress: bool = False,
        callback_fn: Any = None,
    ) -> Any:
        """Search, then train what was found. Arguments and result as RecBole's.

        Where more than one sampler is trained, epochs are counted from the beginning for each.

        Raises:
            ConfigError: There is no validation part to learn from, or the samplers do not fit the model or the data.
        """
        started, cpu_started = time.perf_counter(), time.process_time()
        resumed = getattr(self, "_pending", None)
        if resumed is not None:  # the search was done before the run was cut off
            report = self._take_up(resumed["sampling"], train_data)
        else:
            self.note_beginning()
            report = self.search(train_data, valid_data)
            self.begin_again(self._start)
            if len(report.line_up) == 1:
                self._beginning = self._start = None
            report.seconds, report.cpu_seconds = time.perf_counter() - started, time.process_time() - cpu_started
        self._start_clocks(report)
        while True:
            try:
                fitted: Any = super().fit(train_data, valid_data, verbose, saved, show_progress, callback_fn)
            except Exception:
                if self._set_aside is not None:  # one that breaks down takes nothing of what was good with it
                    self.bring_back(saved=saved)
                raise
            self._close(report)
            if not from_first(self.config, self._goes_on(report)):
                break
            if report.kept == len(report.trainings) - 1:
                self.set_aside(saved=saved)
            self._train_next(report)
        if report.kept < len(report.trainings) - 1:
            self.bring_back(saved=saved)
            self._name(report, report.trainings[report.kept].name)
            fitted = self.best_valid_score, self.best_valid_result
        if len(report.trainings) == 1 < len(report.line_up):  # with a budget that was given
            getLogger().warning(
                f"search_budget: {self.config['search_budget']}, but the probabilities and {report.winner} alone did "
                f"the work of {report.gradient_work + report.trainings[0].work:.0f} epochs of dns, and nothing was "
                f"trained beside it; raise search_budget to about {self._enough(report)}, or leave it out"
            )
        self._beginning = self._set_aside = self._start = None
        self._account(report)
        self._show(report)
        return fitted

    def search(self, train_data: Any, valid_data: Any) -> SearchReport:
        """Find out what to train, in which order, and get ready for the first."""
        config = self.config
        if config["search"] != "mixture":
            self._check_validation(valid_data)
        self._know(train_data)
        samplers = self._samplers()
        report = SearchReport(config["search"], config["base_model"], candidate_names(samplers))
        self.search_report = report
        if report.kind == "mixture":
            report.line_up = ["mixture"]
            self._name(report, "mixture")
            return report
        begun, places = time.perf_counter(), list(range(len(samplers)))
        budget = self._budget(report) * self._unit
        if report.kind in ("lot", "random"):
            lots = np.random.default_rng(config["seed"]).permutation(len(samplers)).tolist()
            places = lots if report.kind == "lot" else sorted(lots[: config["finalists"]])
        if report.kind == "gradient":
            self._steer_by(valid_data)
            places, spent = self._gradient_search(samplers, valid_data, budget / 2, report)
            report.gradient_work, self._steering = spent / self._unit, None
            report.gradient_seconds = time.perf_counter() - begun
        elif report.kind != "lot":
            places, spent = self._compare(samplers, places, budget, valid_data, report)
            report.comparison_work = spent / self._unit
            report.comparison_seconds = time.perf_counter() - begun
        if (work := report.gradient_work + report.comparison_work) > 1.1 * (limit := self._budget(report)):
            getLogger().warning(
                f"search_budget: {limit:g}, but the search did the work of {work:.0f} epochs of dns: "
                f"an epoch is the least that it does, and some samplers are dear; raise it, or name fewer samplers or "
                f"smaller pools"
            )
        several = report.kind in FOLLOW_THE_FIRST and self.eval_step > 0 and config["finalists"] > 1
        if several and (first := self._first(samplers)) is not None:
            places = [first, *(at for at in places if at != first)]
        report.line_up = [report.samplers[at] for at in places[: config["finalists"] if several else 1]]
        self._name(report, report.line_up[0])
        return report

    def ready(self, train_data: Any) -> None:
        """The search builds what draws the negatives. A run that will be continued has its first weights only now."""
        if self._beginning is None and getattr(self, "continue_from", None) is not None and self.drawing is None:
            self.note_beginning()

    def sampling_state(self) -> Options:
        """As of every trainer with a sampler, and what the search found."""
        state = super().sampling_state()
        if not state or self.search_report is None:
            return state
        self._read_clocks(self.search_report)
        # All processes have the same of these.
        own = share_of(self.config)[0] == 0
        kept = {"set_aside": self._set_aside if own else None, "start": self._start if own else None}
        return {**state, "search": self.search_report.as_dict(), **kept}

    # ---- training what was found ----

    def _name(self, report: SearchReport, name: str) -> None:
        """Make a candidate the sampler of the training that follows."""
        report.winner = report.chosen = name
        samplers = self._samplers()
        if name == "mixture":
            self._use(Mixture(samplers, self._base, self._new_pools()))
            return
        sampler, report.options = samplers[report.samplers.index(name)]
        report.chosen = sampler.name
        self._use(Drawing(sampler, report.options, self._base, self._new_pools()))

    def _train_next(self, report: SearchReport) -> None:
        """Begin anew with the next of the line-up."""
        self._name(report, report.line_up[len(report.trainings)])
        self.begin_again(self._start)
        self._start_clocks(report)
        if (note := getattr(self, "trains_anew", None)) is not None:
            note()

    def _train_epoch(self, *args: Any, **kwargs: Any) -> Any:
        before = self._base.work.total
        loss = super()._train_epoch(*args, **kwargs)
        assert self.search_report is not None and self.search_report.running is not None
        work = sum_of_all(self.config, torch.tensor([self._base.work.total - before]))[0]
        self.search_report.running.work += float(work) / self._unit
        return loss

    def _valid_epoch(self, *args: Any, **kwargs: Any) -> Any:
        score, result = super()._valid_epoch(*args, **kwargs)
        report = self.search_report
        assert report is not None and report.running is not None
        running = report.running
        running.waited += 1
        if running.score is None or not self._better(running.score, score):  # as RecBole counts
            running.score, running.waited = score, 0
        since, running.work_at_validation = running.work - running.work_at_validation, running.work
        if report.trainings and not self._better(running.score, (best := report.trainings[report.kept]).score):
            # Going on to the next validation would go beyond the budget.
            running.cut = self._spent(report) + since > self._budget(report)
            if running.cut or running.waited > self.stopping_step * _PATIENCE_BEHIND:
                getLogger().info(
                    f"[Search] {running.name} given up: {running.score:.4f} on validation, where {best.name} reached "
                    f"{best.score:.4f}" + (", and the budget is spent" if running.cut else "")
                )
                # RecBole's loop ends where the score is below the best for longer than this.
                self.cur_step = self.stopping_step
                self.best_valid_score = np.inf if self.valid_metric_bigger else -np.inf
        return score, result

    def _add_hparam_to_tensorboard(self, best_valid_result: Any) -> None:
        if math.isfinite(best_valid_result):  # not of one that was given up
            super()._add_hparam_to_tensorboard(best_valid_result)

    def _better(self, score: Any, than: Any) -> bool:
        return bool(score > than if self.valid_metric_bigger else score < than)

    def _spent(self, report: SearchReport) -> float:
        """The work of the search: all but that of the training that is best until now."""
        running = report.running.work if report.running is not None else 0.0
        others = sum(own.work for own in report.others) if report.trainings else 0.0
        return report.gradient_work + report.comparison_work + others + running

    def _close(self, report: SearchReport) -> None:
        """A training has ended."""
        self._read_clocks(report)
        assert report.running is not None
        done, report.running = report.running, None
        done.epochs = len(self.train_loss_dict)
        report.trainings.append(done)
        if len(report.trainings) > 1 and self._better(done.score, report.trainings[report.kept].score):
            report.kept = len(report.trainings) - 1

    def _goes_on(self, report: SearchReport) -> bool:
        """Whether there is another one to train, and the budget could bear that what is best until now was in vain."""
        at_most = self._spent(report) + report.trainings[report.kept].work
        return len(report.trainings) < len(report.line_up) and at_most <= self._budget(report)

    def _budget(self, report: SearchReport) -> float:
        """The work that the search may do, in epochs of dns; no end to it while it follows a first training to come."""
        if (given := self.config["search_budget"]) is not None:
            return float(given)
        if report.kind not in FOLLOW_THE_FIRST:
            return BUDGET_OF_COMPARISONS
        if not report.trainings:
            return math.inf
        first = report.trainings[0].work
        # However dear the probabilities were, one more can begin.
        return max(_RUNS * first, report.gradient_work + first)

    def _enough(self, report: SearchReport) -> int:
        """A budget for the trainings of some samplers, of as many epochs as the first one took."""
        return math.ceil(report.gradient_work + 2.5 * report.trainings[0].work)

    def _first(self, samplers: list[tuple[Sampler, Options]]) -> int | None:
        """The option ``first`` among the candidates: the one with its options, else the first of its name."""
        sampler, options = read_sampler(with_pool(self.config["first"], self.config["pool"]))
        same = [at for at, (other, _) in enumerate(samplers) if other.name == sampler.name]
        equal = [at for at in same if samplers[at][1] == options]
        return next(iter(equal or same), None)

    def _start_clocks(self, report: SearchReport) -> None:
        if report.running is None:
            report.running = Training(report.winner)
        # Of a run that is continued, the clocks go on from where they stood.
        running = report.running
        self._since = time.perf_counter() - running.seconds, time.process_time() - running.cpu_seconds

    def _read_clocks(self, report: SearchReport) -> None:
        if report.running is not None:
            started, cpu_started = self._since
            report.running.seconds = time.perf_counter() - started
            report.running.cpu_seconds = time.process_time() - cpu_started

    def _account(self, report: SearchReport) -> None:
        """The search has the time of all trainings but the one that is kept."""
        kept = report.trainings[report.kept]
        report.final_epochs, report.final_seconds = kept.epochs, kept.seconds
        report.final_cpu_seconds = kept.cpu_seconds
        report.seconds += sum(own.seconds for own in report.others)
        report.cpu_seconds += sum(own.cpu_seconds for own in report.others)

    # ---- the gradient search ----

    def _gradient_search(
        self, samplers: list[tuple[Sampler, Options]], valid_data: Any, budget: float, report: SearchReport
    ) -> tuple[list[int], int]:
        """Learn the probabilities, for ``search_epochs`` or until another epoch would go beyond ``budget``, and keep
        the weights that ``initialisation`` asks for.

        Returns:
            The places of the samplers, the most probable first, and the work.
        """
        config = self.config
        mixture = Mixture(samplers, self._base, self._new_pools())
        architecture = Architecture(
            len(samplers),
            config["search_epochs"],
            final_temperature=config["final_temperature"],
            learning_rate=config["alpha_learning_rate"],
            prune_below=config["prune_below"],
            patience=config["prune_patience"],
        )
        self._use(mixture)
        best, spent, dearest = -math.inf, 0, 0
        for epoch in range(config["search_epochs"]):
            if epoch and spent + dearest > budget:
                break
            mixture.weights = architecture.probabilities(epoch).detach()
            step = _AlphaSteps(self, mixture, architecture, epoch)
            work = self._work_of(lambda epoch=epoch, step=step: self._train_once(epoch, step.loss))  # type: ignore[misc]
            spent, dearest = spent + work, max(dearest, work)
            for at in architecture.end_epoch(epoch):
                report.dropped[report.samplers[at]] = epoch
            report.trajectory.append(architecture.trajectory[-1])
            report.search_epochs = epoch + 1
            for name, p in zip(report.samplers, architecture.trajectory[-1], strict=True):
                self.tensorboard.add_scalar(f"architecture/{name.replace(' ', '_')}", p, epoch)
            if config["initialisation"] == "rewind" and epoch + 1 <= config["rewind_epoch"]:
                self._start = self._weights()
            if config["initialisation"] == "warm" and (score := self._validation(valid_data)) > best:
                best, self._start = score, self._weights()
        if config["initialisation"] == "rewind" and report.search_epochs < config["rewind_epoch"]:
            getLogger().warning(
                f"rewind_epoch: the budget was spent after epoch {report.search_epochs} of the search, and the weights "
                f"are those; raise search_budget"
            )
        return most_probable_first(architecture.trajectory[-1]), spent

    def steer(self, interaction: Interaction, mixture: Mixture, candidates: Any) -> Tensor:
        """h_k / |g_k| of a training batch against a batch of steering rows. (K,)"""
        assert self._steering is not None
        valid, pool = self._steering.batch(self.model.USER_ID, self.model.ITEM_ID)
        negatives = hardest(self._base, valid[self.model.USER_ID], pool, self.config["steering_negatives"])
        n, rows = len(mixture.drawings), self.config["steering_batch_size"]
        some = Interaction({name: column[:rows] for name, column in interaction.interaction.items()})
        first = {at: first_rows(candidate, rows) for at, candidate in candidates.items()}
        products, lengths = gradient_products(self._base, some, first, valid, negatives, n, self._shares())
        return products / lengths.clamp_min(1e-12)

    def _shares(self) -> Shares:
        if self.config["single_spec"] or self._positives is None:
            return Shares()

        def gather(values: Tensor) -> Tensor:
            return torch.cat(from_all(self.config, values.detach().cpu())).to(values.device)

        return Shares(self._positives.part, gather)

    # ---- the baselines' comparison ----

    def _compare(
        self,
        samplers: list[tuple[Sampler, Options]],
        places: list[int],
        budget: float,
        valid_data: Any,
        report: SearchReport,
    ) -> tuple[list[int], int]:
        """Train the samplers at ``places`` from the beginning in rounds of equal shares of the budget, with as many
        epochs for each, and drop the worse half after each round. ``random`` has a single round.

        Returns:
            The places of those that are left, the best on validation first, and the work.
        """
        assert self._beginning is not None
        start: Options = {
            "model": self._beginning[0],
            "loader": None,
            "optimizer": None,
            "random": random_state(),
        }
        contenders, spent = [self._contender(report.samplers[at], *samplers[at], start) for at in places], 0
        alive = list(contenders)
        sizes = [len(alive)] if report.kind == "random" else halving_sizes(len(alive))
        for n, size in enumerate(sizes):
            alive = sorted(alive, key=lambda contender: -contender.score)[:size]
            spent += self._round(alive, (budget - spent) / (len(sizes) - n), valid_data)
        report.compared = {contender.name: contender.score for contender in contenders}
        report.contender_epochs = {contender.name: contender.epochs for contender in contenders}
        alive = sorted(alive, key=lambda contender: -contender.score)
        return [report.samplers.index(contender.name) for contender in alive], spent

    def _round(self, alive: list[Contender], budget: float, valid_data: Any) -> int:
        """Train each contender for as many epochs as the budget has work for, at least one; returns the work."""
        spent, done, each = 0, 0, 0.0
        while True:
            left = (budget - spent) / each if done else 1
            # No more at a time than have been measured: the epochs of a sampler with a memory grow dearer.
            epochs = min(int(left), max(1, done))
            if epochs < 1:
                return spent
            work = sum(self._advance(contender, epochs, valid_data) for contender in alive)
            spent, done, each = spent + work, done + epochs, work / epochs

    def _contender(self, name: str, sampler: Sampler, options: Options, start: Options) -> Contender:
        drawing = Drawing(sampler, options, self._base, self._new_pools())
        return Contender(name, drawing, start)

    def _advance(self, contender: Contender, epochs: int, valid_data: Any) -> int:
        """Train a contender for some more epochs, and judge it on validation; returns the work."""
        self._load_weights(contender.state["model"], contender.state["optimizer"])
        set_random_state(contender.state["random"])  # of dropout: no contender's depends on who else is trained
        self._use(contender.drawing)
        if contender.state["loader"] is not None:
            self._positives.generator.set_state(contender.state["loader"])  # type: ignore[union-attr]
        every, spent = max(1, int(self.config["eval_step"])), 0
        for at in range(1, epochs + 1):
            spent += self._work_of(lambda: self._train_once(contender.epochs, contender.drawing.loss))
            contender.epochs += 1
            if contender.epochs % every == 0 or at == epochs:
                contender.score = max(contender.score, self._validation(valid_data))
        contender.state = {
            "model": self._weights(),
            "optimizer": copy.deepcopy(self.optimizer.state_dict()),
            "loader": self._positives.generator.get_state(),  # type: ignore[union-attr]
            "random": random_state(),
        }
        return spent

    def _train_once(self, epoch: int, loss: Any) -> None:
        super(PoolSamplingMixin, self)._train_epoch(self._begin_epoch(epoch), epoch, loss)

    def _work_of(self, training: Callable[[], None]) -> int:
        """The work of some training, of all processes together."""
        before = self._base.work.total
        training()
        return int(sum_of_all(self.config, torch.tensor([self._base.work.total - before]))[0])

    def _validation(self, valid_data: Any) -> float:
        """``valid_metric``, larger is better."""
        score, _ = super()._valid_epoch(valid_data)
        return float(score if self.valid_metric_bigger else -score)

    # ---- parts ----

    def _know(self, train_data: Any) -> None:
        """Take what the training part and the base model give."""
        config, dataset = self.config, train_data._dataset
        device = config["device"]
        base = base_model_of(self.model.base, config)
        rows = Interaction(dict(dataset.inter_feat.interaction))
        check_learns_from_negatives(base, rows[torch.arange(min(64, len(rows)))].to(device))
        self._base: BaseModel = base
        self._unit = dns_epoch(len(rows), config["pool"] or get_sampler("dns").pool)
        self._pools = pools = NegativePools.from_train(dataset, device=device)
        # Every drawing has a generator of its own, so that none depends on what others drew.
        self._new_pools: Callable[[], NegativePools] = lambda: pools.again(config["seed"] + share_of(config)[0])
        self._new_loader: Callable[[], PositiveLoader] = lambda: positive_loader(config, rows, pairwise=base.pairwise)

    def _steer_by(self, valid_data: Any) -> None:
        """Take half of the validation users to steer the probabilities."""
        config, held = self.config, valid_data._dataset.inter_feat
        self._steering = Steering(
            held[self.model.USER_ID],
            held[self.model.ITEM_ID],
            self._pools.again(config["seed"]),
            batch_size=config["steering_batch_size"],
            pool_size=config["steering_pool"],
            seed=config["seed"],
        )

    def _take_up(self, found: Options, train_data: Any) -> SearchReport:
        """Go on with what a search found before the run was cut off."""
        self._know(train_data)
        self.search_report = report = SearchReport.of(found["search"])
        self._set_aside, self._start = (from_first(self.config, found[name]) for name in ("set_aside", "start"))
        self._name(report, report.winner)
        return report

    def _samplers(self) -> list[tuple[Sampler, Options]]:
        given = [read_sampler(with_pool(value, self.config["pool"])) for value in self.config["samplers"]]
        fit = [(sampler, options) for sampler, options in given if self._base.has_vectors or not sampler.mixes]
        if len(fit) < len(given):
            names = [sampler.name for sampler, _ in given if sampler.mixes]
            if len(fit) < 2:
                raise ConfigError(
                    f"samplers: {', '.join(names)} make negatives that are no items, and the vectors of "
                    f"{self.config['base_model']} are not known; name at least two others, such as uniform and dns"
                )
            getLogger().warning(f"search: {names} left out, the vectors of {self.config['base_model']} are not known")
        return fit

    def _check_validation(self, valid_data: Any) -> None:
        users = set() if not valid_data else set(valid_data._dataset.inter_feat[self.model.USER_ID].tolist())
        if len(users) < 2:
            raise ConfigError(
                f"search: the validation part has rows of {len(users)} users, and a search needs at least two, of "
                f"whom half steer; give eval_args a split with a validation part, as in "
                f"{{split: {{RS: [0.8, 0.1, 0.1]}}}}"
            )

    def _use(self, drawing: Any) -> None:
        self.drawing, self._positives = drawing, self._new_loader()

    def _begin_epoch(self, epoch: int) -> Any:
        assert self.drawing is not None
        self.model.train()
        self.drawing.begin_epoch(epoch)
        return self._positives

    def _show(self, report: SearchReport) -> None:
        if share_of(self.config)[0]:
            return
        logger = getLogger()
        for line in report_lines(report):
            logger.info(line)
        if report.trajectory:
            place = save_plot(report.trajectory, report.samplers, self.saved_model_file, self.tensorboard)
            logger.info(f"[Search] {place}")


class _AlphaSteps:
    """The loss of a search epoch: that of some samplers, drawn by p, or of all where the probabilities make a step."""

    def __init__(self, trainer: AutoSampleTrainer, mixture: Mixture, architecture: Architecture, epoch: int) -> None:
        self.trainer, self.mixture, self.architecture = trainer, mixture, architecture
        self.every, self.width = trainer.config["alpha_every"], trainer.config["search_width"]
        self.epoch, self._batch = epoch, 0

    def loss(self, interaction: Interaction) -> Tensor | tuple[Tensor, ...]:
        steer = self._batch % self.every == 0
        self._batch += 1
        base, mixture = self.trainer._base, self.mixture
        if not steer and not base.has_vectors:
            return mixture.loss(interaction)
        base.begin_step()
        candidates = mixture.candidates(interaction, None if steer else mixture.some(self.width))
        if steer:
            self.architecture.step(self.epoch, self.trainer.steer(interaction, mixture, candidates))
            mixture.weights = self.architecture.probabilities(self.epoch).detach()
        if not base.has_vectors:
            return mixture.loss(interaction)
        return mixture.mixed_loss(interaction, candidates)


def most_probable_first(p: Sequence[float]) -> list[int]:
    """The places of samplers by their probability; of equal ones the first comes first. (K,)"""
    return sorted(range(len(p)), key=lambda at: -p[at])
