"""What options add to a model's class, whatever the model: ``history_items: excluded`` and ``rules_weight``."""

from __future__ import annotations

from typing import Any

from recbole_oov.model.excluded_history import ExcludedHistoryMixin
from recbole_oov.model.rules_mixture import RulesMixtureMixin


def extended(model_class: type, config: Any) -> type:
    """The class, or one of the same name with what the configuration adds to it."""
    added: list[type] = []
    if config["rules_weight"]:
        added.append(RulesMixtureMixin)  # the outermost: it mixes what is left after items were struck out
    if config["history_items"] == "excluded" and not hasattr(model_class, "excludes_history"):
        added.append(ExcludedHistoryMixin)
    if not added:
        return model_class
    return type(model_class.__name__, (*added, model_class), {"__module__": model_class.__module__})


def extended_as_saved(config: Any, model: Any, train_data: Any) -> Any:
    """A model that RecBole's own function loaded, with what its configuration adds to it."""
    model_class = extended(type(model), config)
    if model_class is type(model):
        return model
    whole: Any = model_class(config, train_data._dataset).to(config["device"])
    whole.load_state_dict(model.state_dict())
    return whole
