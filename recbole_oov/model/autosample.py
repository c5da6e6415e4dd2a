"""AutoSample: a base model, and the search for the negative sampler that suits it and the data.

AutoSample, arXiv 2311.03526. The paper has no public code; what of the search is a reconstruction is listed in
docs/papers.md. The model is the base model; how it is trained is in ``recbole_oov.trainer.autosample``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from recbole.data.interaction import Interaction
from recbole.model.abstract_recommender import GeneralRecommender
from recbole.utils import InputType
from torch import Tensor

from recbole_oov.config.sampling import PAIRWISE_REMEDY, base_model_class, one_negative, trains_its_own_way
from recbole_oov.errors import ConfigError
from recbole_oov.evaluation.item_blocks import BlockScorer
from recbole_oov.model.block_scorer import of_embeddings


class AutoSample(GeneralRecommender):
    """A general recommender of RecBole's, ``base_model``, trained with a sampler that is searched for.

    Args:
        config: RecBole's configuration, with the options of ``base_model`` among its own.
        dataset: The training data set.
    """

    input_type = InputType.PAIRWISE
    recommends_for_oov_items = False
    needs_content = False
    needs_text = False
    needs_base_model = True
    searches_samplers = True
    paper = "https://arxiv.org/abs/2311.03526"

    def __init__(self, config: Any, dataset: Any) -> None:
        super().__init__(config, dataset)
        self.base = base_model_class(config["base_model"])(config, dataset)

    @staticmethod
    def config_problems(values: Mapping[str, Any]) -> list[str]:
        """What in the configuration keeps the search from working."""
        from recbole_oov.sampler.contest import BUDGET_OF_COMPARISONS, halving_sizes
        from recbole_oov.sampler.drawing import candidate_names, read_sampler, with_pool

        problems = one_negative("model AutoSample", values)
        try:
            base = base_model_class(values.get("base_model"))
            if trains_its_own_way(base):
                problems.append(f"base_model: {base.__name__} needs a trainer of its own; {PAIRWISE_REMEDY}")
        except ConfigError as error:
            problems += error.errors
        if values["search"] not in (kinds := ("gradient", "lot", "halving", "random", "mixture")):
            problems.append(f"search: {values['search']!r} is not known; there are {', '.join(kinds)}")
        if values["initialisation"] not in ("scratch", "rewind", "warm"):
            problems.append(
                f"initialisation: {values['initialisation']!r} is not known; there are scratch, rewind, warm"
            )
        if values["initialisation"] != "scratch" and values["search"] != "gradient":
            problems.append(
                f"initialisation: {values['initialisation']} takes weights of search: gradient; use scratch"
            )
        if values["initialisation"] == "rewind" and values["rewind_epoch"] > values["search_epochs"]:
            problems.append(
                f"rewind_epoch: {values['rewind_epoch']} is after the last of search_epochs: {values['search_epochs']}"
            )
        candidates = []
        for sampler in values["samplers"]:
            try:
                candidates.append(read_sampler(with_pool(sampler, values["pool"])))
            except ConfigError as error:
                problems += [problem.replace("sampler", "samplers", 1) for problem in error.errors]
        try:
            read_sampler(with_pool(values["first"], values["pool"]))
        except ConfigError as error:
            problems += [problem.replace("sampler", "first", 1) for problem in error.errors]
        names = candidate_names(candidates)
        if len(values["samplers"]) < 2:
            problems.append(f"samplers: {values['samplers']} must be at least two")
        for name in sorted({name for name in names if names.count(name) > 1}):
            problems.append(f"samplers: {name} is named twice with the same options; name it once, or change an option")
        if values["steering_negatives"] > values["steering_pool"]:
            problems.append(
                f"steering_negatives: {values['steering_negatives']} is more than steering_pool, "
                f"{values['steering_pool']}, which they are taken from; lower it or raise steering_pool"
            )
        # Each of them is trained for an epoch at the least, in each round.
        least = {"halving": sum(halving_sizes(len(names))), "random": min(values["finalists"], len(names))}
        budget = BUDGET_OF_COMPARISONS if values["search_budget"] is None else values["search_budget"]
        if budget < least.get(values["search"], 0):
            problems.append(
                f"search_budget: {budget} is less than the {least[values['search']]} epochs that "
                f"search: {values['search']} takes with one for each comparison; raise it or name fewer samplers"
            )
        return problems

    def calculate_loss(self, interaction: Interaction) -> Tensor | tuple[Tensor, ...]:
        """The base model's loss."""
        loss: Tensor | tuple[Tensor, ...] = self.base.calculate_loss(interaction)
        return loss

    def predict(self, interaction: Interaction) -> Tensor:
        """The base model's scores of pairs. (B,)"""
        scores: Tensor = self.base.predict(interaction)
        return scores

    def full_sort_predict(self, interaction: Interaction) -> Tensor:
        """The base model's scores of all items. (B * n_items,)"""
        scores: Tensor = self.base.full_sort_predict(interaction)
        return scores

    def block_scorer(self) -> BlockScorer | None:
        """How evaluation scores some items at a time, if the base model scores by dot products."""
        return of_embeddings(self.base)

    def other_parameter(self) -> dict[str, Any]:
        """What the base model saves beside its parameters."""
        return dict(self.base.other_parameter())

    def load_other_parameter(self, para: dict[str, Any] | None) -> None:
        """Load what ``other_parameter`` gave."""
        self.base.load_other_parameter(para)
