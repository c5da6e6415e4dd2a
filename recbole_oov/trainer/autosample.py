"""Searching for a negative sampler, then training with it.

A search has two halves: probabilities over all samplers are learned while one model trains on their mixture
(``sampler.search``); the finalists are then trained one by one and compared on validation users that did not steer the
probabilities (``sampler.contest``). The baselines spend the same budget otherwise: ``random`` compares some samplers
drawn by lot, ``halving`` all of them by successive halving, ``mixture`` nothing. The budget is counted work
(``sampler.work``), so that no search is longer for having fewer but dearer epochs, and equal seeds find equal samplers.
``comparison`` is the second half alone, with all samplers as finalists: what the probabilities are worth.

The finalists start from weights that one of them has trained, and some keep a level that they never reach from the
beginning. So the final training is the last test: a sampler that ends it below what the trunk's sampler had in the
search is given up, and the trunk's is trained in its place.
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
from numpy.typing import NDArray
from recbole.data.interaction import Interaction
from recbole.trainer import Trainer
from torch import Tensor

from recbole_oov.errors import ConfigError
from recbole_oov.evaluation.groups import group_of
from recbole_oov.processes import from_all, from_first, share_of, sum_of_all
from recbole_oov.randomness import random_state, set_random_state
from recbole_oov.sampler.base_models import BaseModel, base_model_of, check_learns_from_negatives
from recbole_oov.sampler.choice import Sampler, get_sampler
from recbole_oov.sampler.contest import Contender, Values, halving_sizes, most_probable_of_the_best
from recbole_oov.sampler.drawing import Drawing, candidate_names, read_sampler, with_pool
from recbole_oov.sampler.mixture import Mixture, first_rows
from recbole_oov.sampler.pools import NegativePools
from recbole_oov.sampler.search import Architecture, Shares, Steering, gradient_products, hardest
from recbole_oov.sampler.work import dns_epoch
from recbole_oov.trainer.pool_sampling import PoolSamplingMixin, PositiveLoader, positive_loader
from recbole_oov.trainer.search_plot import save_plot
from recbole_oov.trainer.search_report import SearchReport, report_lines

Options = dict[str, Any]

_OF_THE_TRUNK = 0.25
"""The part of the comparison's budget that trains the weights from which the finalists start."""


class AutoSampleTrainer(PoolSamplingMixin, Trainer):
    """Trains AutoSample: search, then RecBole's loop with the sampler that was found.

    Attributes:
        search_report: What the last search did; None before it.
    """

    search_report: SearchReport | None = None
    _steering: Steering | None = None
    _selecting: NDArray[np.int64] | None = None
    _beginning: tuple[Options, Options, Any] | None = None

    def fit(
        self,
        train_data: Any,
        valid_data: Any = None,
        verbose: bool = True,
        saved: bool = True,
        show_progress: bool = False,
        callback_fn: Any = None,
    ) -> Any:
        """Search, then train. Arguments and result as RecBole's.

        Raises:
            ConfigError: There is no validation part to learn from, or the samplers do not fit the model or the data.
        """
        started, cpu_started = time.perf_counter(), time.process_time()
        resumed = getattr(self, "_pending", None)
        if resumed is not None:  # the search was done before the run was cut off
            report = self._take_up(resumed["sampling"]["search"], train_data, valid_data)
        else:
            self._note_beginning()
            report, weights = self.search(train_data, valid_data)
            self._begin_again(weights)
            report.seconds, report.cpu_seconds = time.perf_counter() - started, time.process_time() - cpu_started
        # Of a run that is continued, the clocks go on from where they stood.
        self._since = time.perf_counter() - report.final_seconds, time.process_time() - report.final_cpu_seconds
        if report.level is None:
            self._beginning = None
        rest = (train_data, valid_data, verbose, saved, show_progress, callback_fn)
        fitted = super().fit(*rest)
        if from_first(self.config, self._fell_short(report)):
            self._give_up(report)
            fitted = super().fit(*rest)
        self._read_clocks(report)
        report.final_epochs = len(self.train_loss_dict)
        self._show(report)
        return fitted

    def search(self, train_data: Any, valid_data: Any) -> tuple[SearchReport, Options | None]:
        """Find a sampler and make it the trainer's.

        Returns:
            What was done, and the weights the final training starts from; None for those at the beginning.
        """
        config = self.config
        if config["search"] != "mixture":
            self._check_validation(valid_data)
        self._know(train_data)
        samplers = self._samplers()
        report = SearchReport(config["search"], config["base_model"], candidate_names(samplers))
        self.search_report = report
        if report.kind == "mixture":
            report.chosen = "mixture"
            self._use(self._chosen(report, samplers))
            return report, None
        weights: Options | None = None
        begun = time.perf_counter()
        places = list(range(len(samplers)))
        unit = dns_epoch(len(train_data._dataset.inter_feat), config["pool"] or get_sampler("dns").pool)
        budget = config["search_budget"] * unit
        if self._has_trunk:  # refused now, not after the probabilities were learned
            self._pools.check(self._trunk(samplers)[1]["pool"], "trunk")
        if report.kind == "gradient":
            self._steer_by(valid_data)
            places, weights, spent = self._gradient_search(samplers, valid_data, budget // 2, report)
            report.gradient_work = spent / unit
            budget -= spent
        elif report.kind == "random":
            lots = np.random.default_rng(config["seed"]).permutation(len(samplers))
            places = sorted(lots[: config["finalists"]].tolist())
        report.gradient_seconds = time.perf_counter() - begun
        begun = time.perf_counter()
        winner, of_the_trunk, spent = self._compare(samplers, places, budget, weights, valid_data, report)
        report.comparison_work = spent / unit
        if (work := report.gradient_work + report.comparison_work) > 1.1 * config["search_budget"]:
            getLogger().warning(
                f"search_budget: {config['search_budget']}, but the search did the work of {work:.0f} epochs of dns: "
                f"each of its {len(places)} candidates takes an epoch in each round, and some are dear; raise it, or "
                f"name fewer samplers or smaller pools"
            )
        report.comparison_seconds = time.perf_counter() - begun
        report.chosen, report.winner, report.options = winner.drawing.sampler.name, winner.name, winner.options
        if of_the_trunk is not None and winner is not of_the_trunk:
            report.level = of_the_trunk.score
        self._use(self._chosen(report, samplers))
        return report, weights

    def ready(self, train_data: Any) -> None:
        """The search builds what draws the negatives. A run that will be continued has its first weights only now."""
        if self._beginning is None and getattr(self, "continue_from", None) is not None and self.drawing is None:
            self._note_beginning()

    def sampling_state(self) -> Options:
        """As of every trainer with a sampler, and what the search found."""
        state = super().sampling_state()
        if not state or self.search_report is None:
            return state
        self._read_clocks(self.search_report)
        return {**state, "search": self.search_report.as_dict()}

    # ---- the final training ----

    def _note_beginning(self) -> None:
        self._beginning = self._weights(), copy.deepcopy(self.optimizer.state_dict()), random_state()

    def _begin_again(self, weights: Options | None = None) -> None:
        """Leave nothing of what was trained before in the training that follows.

        Args:
            weights: Those to begin with; None for the first ones.
        """
        assert self._beginning is not None
        self._load_weights(weights if weights is not None else self._beginning[0])
        set_random_state(self._beginning[2])
        self._steering = None
        self.start_epoch, self.cur_step, self.best_valid_result = 0, 0, None
        self.best_valid_score = -np.inf if self.valid_metric_bigger else np.inf
        self.train_loss_dict: dict[int, Any] = {}

    def _valid_epoch(self, valid_data: Any, show_progress: bool = False) -> Any:
        evaluated = super()._valid_epoch(valid_data, show_progress)
        report = self.search_report
        if report is not None and report.level is not None:
            now = float(self._selection_values(None).mean())
            report.reached = now if report.reached is None else max(report.reached, now)
        return evaluated

    def _fell_short(self, report: SearchReport) -> bool:
        """Whether the winner is below what the trunk's sampler had in the comparison.

        Where it may not be trained for as many epochs as there, it is not known.
        """
        if report.level is None or report.reached is None:
            return False
        return self.epochs >= report.contender_epochs[report.winner] and report.reached < report.level

    def _give_up(self, report: SearchReport) -> None:
        """Begin anew with the trunk's sampler."""
        self._read_clocks(report)
        report.seconds += report.final_seconds
        report.cpu_seconds += report.final_cpu_seconds
        self._since = time.perf_counter(), time.process_time()
        samplers = self._samplers()
        place = self._trunk_place(samplers)
        assert place is not None  # there is no level without it
        report.given_up, report.given_up_epochs = report.winner, len(self.train_loss_dict)
        report.winner, report.level = report.samplers[place], None
        report.chosen, report.options = samplers[place][0].name, samplers[place][1]
        self._use(self._chosen(report, samplers))
        self._begin_again()
        self._beginning = None
        if (note := getattr(self, "trains_anew", None)) is not None:
            note()

    def _read_clocks(self, report: SearchReport) -> None:
        started, cpu_started = self._since
        report.final_seconds = time.perf_counter() - started
        report.final_cpu_seconds = time.process_time() - cpu_started

    # ---- the gradient search ----

    def _gradient_search(
        self, samplers: list[tuple[Sampler, Options]], valid_data: Any, budget: int, report: SearchReport
    ) -> tuple[list[int], Options | None, int]:
        """Learn the probabilities, for ``search_epochs`` or until another epoch would go beyond ``budget``.

        Returns:
            The finalists' places, the weights that ``initialisation`` asks for, and the work.
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
        kept: Options | None = None
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
                kept = self._weights()
            if config["initialisation"] == "warm" and (score := self._selection_score(valid_data)) > best:
                best, kept = score, self._weights()
        if config["initialisation"] == "rewind" and report.search_epochs < config["rewind_epoch"]:
            getLogger().warning(
                f"rewind_epoch: the budget was spent after epoch {report.search_epochs} of the search, and the weights "
                f"are those; raise search_budget"
            )
        return finalists(architecture.trajectory[-1], config["finalists"], self._trunk_place(samplers)), kept, spent

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

    # ---- the comparison ----

    def _compare(
        self,
        samplers: list[tuple[Sampler, Options]],
        places: list[int],
        budget: int,
        weights: Options | None,
        valid_data: Any,
        report: SearchReport,
    ) -> tuple[Contender, Contender | None, int]:
        """Train the samplers at ``places`` in rounds of equal shares of the budget, with as many epochs for each, and
        drop the worse half after each round. ``random`` and ``gradient`` have a single round. The baselines start each
        sampler from the beginning, the finalists start where the trunk ends.

        Returns:
            The winner, the one with the trunk's sampler where there is one, and the work.
        """
        assert self._beginning is not None
        start: Options = {
            "model": weights if weights is not None else self._beginning[0],
            "loader": None,
            "optimizer": None,
            "random": random_state(),
        }
        contenders, spent = [self._contender(report.samplers[at], *samplers[at], start) for at in places], 0
        if self._has_trunk:
            trunk = self._contender("trunk", *self._trunk(samplers), start)
            spent = self._advance(trunk, 1, None)
            spent += self._advance(trunk, int(_OF_THE_TRUNK * budget / spent) - 1, None)
            report.trunk_epochs = trunk.epochs
            for contender in contenders:
                contender.state, contender.epochs = trunk.state, trunk.epochs
        alive = list(contenders)
        sizes = [len(alive)] if report.kind in ("random", "gradient") else halving_sizes(len(alive))
        for n, size in enumerate(sizes):
            alive = sorted(alive, key=lambda contender: -contender.score)[:size]
            # An early round from a trunk may be rounded up: it counts most for how well they are told apart.
            early = self._has_trunk and n + 1 < len(sizes)
            spent += self._round(alive, (budget - spent) / (len(sizes) - n), valid_data, rounded_up=early)
        report.finalists = {contender.name: contender.score for contender in contenders}
        report.contender_epochs = {contender.name: contender.epochs for contender in contenders}
        trunk_place = self._trunk_place(samplers) if self._has_trunk else None
        of_the_trunk = contenders[places.index(trunk_place)] if trunk_place is not None else None
        if report.kind == "gradient":
            for at, contender in zip(places, contenders, strict=True):
                contender.p = report.trajectory[-1][at]
            return most_probable_of_the_best(contenders, of_the_trunk), of_the_trunk, spent
        return max(alive, key=lambda contender: contender.score), of_the_trunk, spent

    @property
    def _has_trunk(self) -> bool:
        """Whether those that are compared start from weights that they share."""
        return self.config["search"] in ("gradient", "comparison")

    def _trunk(self, samplers: list[tuple[Sampler, Options]]) -> tuple[Sampler, Options]:
        """The trunk's sampler: with the options of a candidate of that name, where only a name is given."""
        value = self.config["trunk"]
        at = self._trunk_place(samplers)
        trunk = samplers[at] if at is not None and isinstance(value, str) else self._read_trunk()
        if trunk[0].mixes and not self._base.has_vectors:
            raise ConfigError(
                f"trunk: {trunk[0].name} makes negatives that are no items, and the vectors of "
                f"{self.config['base_model']} are not known; choose a sampler of real items, such as dns"
            )
        return trunk

    def _trunk_place(self, samplers: list[tuple[Sampler, Options]]) -> int | None:
        """The trunk's sampler among the candidates: the one with its options, else the first of its name."""
        trunk, options = self._read_trunk()
        same = [at for at, (sampler, _) in enumerate(samplers) if sampler.name == trunk.name]
        equal = [at for at in same if samplers[at][1] == options]
        return next(iter(equal or same), None)

    def _read_trunk(self) -> tuple[Sampler, Options]:
        return read_sampler(with_pool(self.config["trunk"], self.config["pool"]))

    def _round(self, alive: list[Contender], budget: float, valid_data: Any, *, rounded_up: bool) -> int:
        """Train each contender for as many epochs as the budget has work for, at least one; returns the work."""
        spent, done, each = 0, 0, 0.0
        while True:
            left = (budget - spent) / each + (0.5 if rounded_up else 0.0) if done else 1
            # No more at a time than have been measured: the epochs of a sampler with a memory grow dearer.
            epochs = min(int(left), max(1, done))
            if epochs < 1:
                return spent
            work = sum(self._advance(contender, epochs, valid_data) for contender in alive)
            spent, done, each = spent + work, done + epochs, work / epochs

    def _contender(self, name: str, sampler: Sampler, options: Options, start: Options) -> Contender:
        drawing = Drawing(sampler, options, self._base, self._new_pools())
        return Contender(name, options, drawing, start, by_the_last=self._has_trunk)

    def _advance(self, contender: Contender, epochs: int, valid_data: Any) -> int:
        """Train a contender for some more epochs, and judge it on validation where there is any; returns the work."""
        if epochs < 1:
            return 0
        self._load_weights(contender.state["model"], contender.state["optimizer"])
        set_random_state(contender.state["random"])  # of dropout: no contender's depends on who else is trained
        self._use(contender.drawing)
        if contender.state["loader"] is not None:
            self._positives.generator.set_state(contender.state["loader"])  # type: ignore[union-attr]
        every, spent = max(1, int(self.config["eval_step"])), 0
        for at in range(1, epochs + 1):
            spent += self._work_of(lambda: self._train_once(contender.epochs, contender.drawing.loss))
            contender.epochs += 1
            if valid_data is not None and (contender.epochs % every == 0 or at == epochs):
                contender.judged(self._selection_values(valid_data))
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

    def _selection_score(self, valid_data: Any) -> float:
        """``valid_metric``, larger is better, over the validation users who did not steer."""
        return float(self._selection_values(valid_data).mean())

    def _selection_values(self, valid_data: Any | None) -> Values:
        """``valid_metric`` of each validation user who did not steer, larger is better; of all without steering.

        Args:
            valid_data: To evaluate on; None takes the evaluation before.
        """
        if valid_data is not None:
            self.evaluate(valid_data, load_best_model=False, show_progress=False)
        last: Any = getattr(self, "last_evaluation", None)
        if last is None:
            raise ConfigError(
                "AutoSample: build the trainer with recbole_oov.runner, whose evaluation tells users apart"
            )
        group = group_of(self.valid_metric)
        values: Values = last.per_user[group][self.valid_metric.removeprefix(f"{group}_")]
        if self._selecting is not None:
            values = values[np.isin(last.users[group], self._selecting)]
        if not len(values):
            raise ConfigError(
                f"search: {self.valid_metric} has a value for none of the users who select; give eval_args a split "
                f"with a larger validation part, or search: comparison, in which all of them select"
            )
        return values if self.valid_metric_bigger else -values

    # ---- parts ----

    def _know(self, train_data: Any) -> None:
        """Take what the training part and the base model give."""
        config, dataset = self.config, train_data._dataset
        device = config["device"]
        base = base_model_of(self.model.base, config)
        rows = Interaction(dict(dataset.inter_feat.interaction))
        check_learns_from_negatives(base, rows[torch.arange(min(64, len(rows)))].to(device))
        self._base: BaseModel = base
        self._pools = pools = NegativePools.from_train(dataset, device=device)
        # Every drawing has a generator of its own, so that none depends on what others drew.
        self._new_pools: Callable[[], NegativePools] = lambda: pools.again(config["seed"] + share_of(config)[0])
        self._new_loader: Callable[[], PositiveLoader] = lambda: positive_loader(config, rows, pairwise=base.pairwise)

    def _chosen(self, report: SearchReport, samplers: list[tuple[Sampler, Options]]) -> Any:
        if report.chosen == "mixture":
            return Mixture(samplers, self._base, self._new_pools())
        options = {"name": report.chosen, **report.options}
        return Drawing(*read_sampler(options), self._base, self._new_pools())

    def _steer_by(self, valid_data: Any) -> None:
        """Divide the validation users into those who steer the probabilities and those who select."""
        config, held = self.config, valid_data._dataset.inter_feat
        self._steering = Steering(
            held[self.model.USER_ID],
            held[self.model.ITEM_ID],
            self._pools.again(config["seed"]),
            batch_size=config["steering_batch_size"],
            pool_size=config["steering_pool"],
            seed=config["seed"],
        )
        self._selecting = self._steering.selecting_users.cpu().numpy()

    def _take_up(self, found: Options, train_data: Any, valid_data: Any) -> SearchReport:
        """Go on with what a search found before the run was cut off."""
        self._know(train_data)
        self.search_report = report = SearchReport(**found)
        if report.kind == "gradient" and report.level is not None:  # whose values it has to come up to
            self._steer_by(valid_data)
            self._steering = None
        self._use(self._chosen(report, self._samplers()))
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
                f"search: the validation part has rows of {len(users)} users, and a search needs at least two, one to "
                f"steer and one to select; give eval_args a split with a validation part, as in "
                f"{{split: {{RS: [0.8, 0.1, 0.1]}}}}"
            )

    def _use(self, drawing: Any) -> None:
        self.drawing, self._positives = drawing, self._new_loader()

    def _begin_epoch(self, epoch: int) -> Any:
        assert self.drawing is not None
        self.model.train()
        self.drawing.begin_epoch(epoch)
        return self._positives

    def _weights(self) -> Options:
        return copy.deepcopy(dict(self.model.state_dict()))

    def _load_weights(self, weights: Options, optimizer: Options | None = None) -> None:
        """Set the model's weights, and the optimiser's state; None for one that has not made a step."""
        self.model.load_state_dict(weights)
        # Not a new object: a run that is continued knows its optimiser by identity.
        assert self._beginning is not None
        self.optimizer.load_state_dict(copy.deepcopy(optimizer if optimizer is not None else self._beginning[1]))

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


def finalists(p: Sequence[float], n: int, always: int | None = None) -> list[int]:
    """The places of the n samplers to compare: those with the largest p, (K,), and ``always`` whatever its p.

    The criterion looks one step ahead: the sampler that the trunk was trained with is what it has to be better than.
    """
    order = sorted(range(len(p)), key=lambda at: (at != always, -p[at]))
    return sorted(order[:n])
