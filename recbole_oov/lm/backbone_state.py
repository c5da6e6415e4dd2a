"""What of a model on a backbone is spread over processes, and what is saved and loaded of it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

import torch
from recbole.model.abstract_recommender import AbstractRecommender
from torch import Tensor

from recbole_oov.errors import ConfigError
from recbole_oov.lm.backbone import Backbone
from recbole_oov.lm.backbone_maker import BackboneMaker
from recbole_oov.lm.prompts import Prompts
from recbole_oov.lm.sharding import shard_frozen
from recbole_oov.lm.vocabulary import OOVVocabulary


def words_fingerprint(tokenizer: Any, values: Mapping[str, Any]) -> Tensor:
    """Stands for the numbers that a tokenizer gives to words, and for the values that tasks choose among. (32,) uint8

    Neither is in a checkpoint: both are made anew of the training data.
    """
    return _digest([sorted(tokenizer.get_vocab().items()), sorted(values.items())])


def prompts_fingerprint(prompts: Sequence[Prompts], texts: Tensor) -> Tensor:
    """Stands for the templates that were trained with, and for the texts of items that they show. (32,) uint8

    Args:
        prompts: Of the next item and of each task. Templates under ``unseen`` may change: nothing was learned of them.
        texts: Tokens of the texts of training items; (N, 0) where none is shown.
    """
    seen = [[template.before, template.item_text, template.answer] for one in prompts for template in one.seen]
    return _digest([seen, texts.tolist()])


def _digest(what: Any) -> Tensor:
    text = json.dumps(what).encode(errors="surrogatepass")
    return torch.tensor(list(hashlib.sha256(text).digest()), dtype=torch.uint8)


class BackboneState(AbstractRecommender):
    """A recommender with a backbone and an OOV vocabulary: checkpoints hold what is trained, and that vocabulary."""

    backbone: Backbone
    maker: BackboneMaker
    vocabulary: OOVVocabulary
    _set_vocabulary: Any
    words_fingerprint: Tensor
    prompts_fingerprint: Tensor
    _calibrated: bool

    def shard(self, device: torch.device) -> None:
        """Keep a part of the backbone's frozen weights in each process of the run.

        Raises:
            ConfigError: torch or the backbone's architecture does not allow it.
        """
        shard_frozen(self.backbone.language_model, device)

    # --- checkpoints ----------------------------------------------------------------------------------------------

    def state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """As torch's; of a backbone whose weights are left as they are, only what is trained."""
        state = super().state_dict(*args, **kwargs)
        if self.backbone.frozen:
            for name in state.keys() - self._saved_names(state):
                del state[name]
        return state

    def _saved_names(self, state: Mapping[str, Any]) -> set[str]:
        trained = {f"backbone.{name}" for name, weights in self.backbone.named_parameters() if weights.requires_grad}
        return {name for name in state if not name.startswith("backbone.") or name in trained}

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """As torch's; the OOV vocabulary is the checkpoint's, even where this machine would have made another.

        Raises:
            ConfigError: The checkpoint's backbone is another one than that of this machine.
        """
        self._calibrated = False
        self._check_fingerprints(state_dict)
        own_prints = {"words_fingerprint": self.words_fingerprint, "prompts_fingerprint": self.prompts_fingerprint}
        state_dict = {**own_prints, **state_dict}  # of checkpoints that have none
        names = (field.name for field in fields(OOVVocabulary))
        saved = {name: state_dict[f"oov_{name}"].cpu() for name in names if f"oov_{name}" in state_dict}
        own = self.vocabulary.state()
        if own.keys() != saved.keys() or any(not torch.equal(saved[name], own[name].cpu()) for name in own):
            self._set_vocabulary(OOVVocabulary(**saved))
        if not self.backbone.frozen:
            return super().load_state_dict(state_dict, strict=strict, assign=assign)
        missing = sorted(self.state_dict().keys() - state_dict.keys())
        result = super().load_state_dict(state_dict, strict=False, assign=assign)
        if strict and (missing or result.unexpected_keys):
            raise RuntimeError(f"state_dict lacks {missing} and has, beside what is known, {result.unexpected_keys}")
        return result

    def _check_fingerprints(self, state_dict: Mapping[str, Any]) -> None:
        words = state_dict.get("words_fingerprint", self.words_fingerprint)
        if not torch.equal(words.cpu(), self.words_fingerprint.cpu()):
            raise ConfigError(
                "the checkpoint was trained with other words: the tokenizer is trained on the prompts, the titles of "
                "training items and what tasks ask for in training, and one of these has changed; put the earlier data "
                "and prompts back, or train again"
            )
        asked = state_dict.get("prompts_fingerprint", self.prompts_fingerprint)
        if not torch.equal(asked.cpu(), self.prompts_fingerprint.cpu()):
            raise ConfigError(
                "the checkpoint was trained with other prompts: a template under seen, or the text of a training item "
                "that one of them shows, has changed; put the earlier ones back, or train again"
            )
        own, saved = self.maker.fingerprint, state_dict.get("backbone_fingerprint")
        if own is None or saved is None or torch.equal(own, saved.cpu()):
            return
        if self.maker.earlier_fingerprint is not None and torch.equal(self.maker.earlier_fingerprint, saved.cpu()):
            self.logger.warning(
                f"backbone: {self.maker.name} has the configuration and the sizes that the checkpoint was trained on; "
                f"that the weights are the same cannot be told of a checkpoint of that version"
            )
            return
        raise ConfigError(
            f"backbone: {self.maker.name!r} is not the one that the checkpoint was trained on: its config.json or "
            f"its weights are others; put the earlier ones back"
        )
