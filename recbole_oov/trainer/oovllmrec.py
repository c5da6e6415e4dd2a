"""OOVLLMRec's trainer: RecBole's loop over windows of histories, and how well tasks beside the next item are done."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import torch
from recbole.trainer import Trainer
from recbole.utils import set_color
from tqdm import tqdm

from recbole_oov.data.answers import Answers, answers_of
from recbole_oov.errors import ConfigError
from recbole_oov.evaluation.answers import (
    TaskResults,
    missing_text_metrics,
    number_controls,
    number_metrics,
    text_controls,
    text_metrics,
)
from recbole_oov.lm.tasks import NumberTask, Task, TextTask
from recbole_oov.trainer.all_positions import AllPositionMixin
from recbole_oov.trainer.evaluation import EvaluationMixin

_OTHER_RANKING = {"sequential": "direct", "direct": "sequential"}
_ASKED_AT_ONCE = 128


class OOVLLMRecTrainer(AllPositionMixin, EvaluationMixin, Trainer):
    """Trains OOVLLMRec, whose tasks are measured after training.

    Attributes:
        tokens_read: Tokens that the backbone has read in training, in this process; padding that is computed counts.
        reading_seconds: What that took.
    """

    tokens_read = 0
    reading_seconds = 0.0

    def fit(self, *args: Any, **kwargs: Any) -> Any:
        """As RecBole's.

        Raises:
            ConfigError: What is written could not be measured in the end.
        """
        writes = any(isinstance(task, TextTask) for task in self.model.tasks.values())
        if writes and (missing := missing_text_metrics()):
            raise ConfigError(
                f"tasks: what is written is measured with {' and '.join(missing)}, which is not installed; "
                f'pip install "recbole-oov[generation]"'
            )
        return super().fit(*args, **kwargs)

    def _train_epoch(self, train_data: Any, epoch_idx: int, loss_func: Any = None, show_progress: bool = False) -> Any:
        backbone = self.model.backbone
        began, before = time.perf_counter(), backbone.tokens_read
        loss = super()._train_epoch(train_data, epoch_idx, loss_func, show_progress)
        self.reading_seconds += time.perf_counter() - began
        self.tokens_read += backbone.tokens_read - before
        return loss

    def task_results(self, eval_data: Any, show_progress: bool = False) -> TaskResults:
        """How well the model does, on a held-out part, what it learned beside what it ranks by.

        Args:
            eval_data: The loader of validation or test.
            show_progress: As RecBole's.

        Returns:
            By task, by who answers (the model, and controls that need none), metrics by name; of ranking RecBole's.
            A task is left out of which the part says nothing.
        """
        with self.averaged():
            return self._task_results(eval_data, show_progress)

    def _task_results(self, eval_data: Any, show_progress: bool) -> TaskResults:
        model, name = self.model, self.config["model"]
        results: TaskResults = {}
        if model.direct is not None:
            ranked_by, other = model.rank_by, _OTHER_RANKING[model.rank_by]
            model.rank_by, model._calibrated = other, False  # placed items weigh by what they are ranked by
            masks = self.config["mask_history"]
            try:
                results[other] = {}
                for masked in (masks, True) if other == "direct" and eval_data.is_sequential else (masks,):
                    # Without a history nothing says that what the user has had is not to come again.
                    self.config["mask_history"] = masked
                    metrics = self.evaluate(eval_data, load_best_model=False, show_progress=show_progress)
                    who = f"{name}, history masked" if masked else name
                    results[other][who] = {metric: float(value) for metric, value in metrics.items()}
            finally:
                model.rank_by, self.config["mask_history"] = ranked_by, masks
                model._calibrated = False
        model.eval()
        for task in model.tasks.values():
            asked = answers_of(eval_data._dataset, task.prompts.columns).that_say(task.column)
            if len(asked):
                results[task.name] = self._answers(task, asked, show_progress)
        return results

    def _answers(self, task: Task, asked: Answers, show_progress: bool) -> dict[str, dict[str, float]]:
        starts = range(0, len(asked), _ASKED_AT_ONCE)
        parts = [asked.rows(np.arange(at, min(at + _ASKED_AT_ONCE, len(asked)))) for at in starts]
        shown = tqdm(parts, total=len(parts), ncols=100, desc=set_color(task.name, "pink"), disable=not show_progress)
        name, model, column = self.config["model"], self.model, task.column
        if isinstance(task, NumberTask):
            numbers = {name: np.concatenate([task.predict(model, part, self.device) for part in shown])}
            numbers |= number_controls(task.known, asked, column)
            true = np.asarray(asked.columns[column])
            return {who: number_metrics(predicted, true) for who, predicted in numbers.items()}
        assert isinstance(task, TextTask)
        if n_longer := task.n_longer(asked):
            most = self.config["answer_tokens"]
            self.logger.warning(
                f"answer_tokens: {n_longer} of {len(asked)} held-out texts in the column {column} are longer than "
                f"{most} tokens; perplexity is of the first {most}, and what is written ends there"
            )
        texts, nll = {name: list[str]()}, list[torch.Tensor]()
        for part in shown:
            texts[name] += task.write(model, part, self.device)
            nll.append(task.answer_nll(model, part, self.device).double())
        texts |= text_controls(task.known, asked, column)
        results = {who: text_metrics(written, asked.texts(column)) for who, written in texts.items()}
        results[name]["perplexity"] = float(torch.cat(nll).mean().exp())
        return results
