"""Training GeneratorControl: as DeepMusic, then its strength is chosen in validation."""

from __future__ import annotations

from logging import getLogger
from typing import Any

from recbole_oov.compat import load_checkpoint
from recbole_oov.evaluation.groups import group_of
from recbole_oov.trainer.cold_start import ColdStartTrainer


class GeneratorControlTrainer(ColdStartTrainer):
    """Two stages, then a third that tries the strengths one by one.

    Where nothing is saved or validated, nothing is chosen, and the embeddings stay as generated.

    Attributes:
        scores: The validation score of each strength.
    """

    def __init__(self, config: Any, model: Any) -> None:
        super().__init__(config, model)
        self.scores: dict[float, float] = {}

    def fit(
        self,
        train_data: Any,
        valid_data: Any = None,
        verbose: bool = True,
        saved: bool = True,
        show_progress: bool = False,
        callback_fn: Any = None,
    ) -> Any:
        """Arguments and result as RecBole's; the validation result is that of the chosen strength."""
        fitted = super().fit(train_data, valid_data, verbose, saved, show_progress, callback_fn)
        if not saved or not valid_data or not self.model.has_strength:
            return fitted
        with self.stage("strength", self.model.control, verbose=verbose) as stage:
            stage.valid_result = self.best_valid_result = self._choose(valid_data)
            if verbose:
                tried = ", ".join(f"{strength:g}: {score:.4f}" for strength, score in self.scores.items())
                getLogger().info(f"{self.overall_metric} by strength: {tried}; {float(self.model.strength):g} is used")
            self._save_checkpoint(len(self.train_loss_dict) - 1, verbose=verbose)
        self.best_valid_score = self.best_valid_result[self.valid_metric]
        return self.best_valid_score, self.best_valid_result

    @property
    def overall_metric(self) -> str:
        """``valid_metric`` over all items: a strength changes little among OOV items."""
        return str(self.valid_metric).removeprefix(f"{group_of(self.valid_metric)}_")

    def _choose(self, valid_data: Any) -> dict[str, float]:
        """Give the generator that validated best the strength that validates best; returns its result."""
        self.model.load_state_dict(load_checkpoint(self.saved_model_file, self.device)["state_dict"])
        results = {}
        for strength in self.config["strengths"]:
            self.model.set_strength(strength)
            results[strength] = dict(self.evaluate(valid_data, load_best_model=False))
        sign = 1 if self.valid_metric_bigger else -1
        self.scores = {strength: result[self.overall_metric] for strength, result in results.items()}
        best = max(self.scores, key=lambda strength: sign * self.scores[strength])
        self.model.set_strength(best)
        return results[best]
