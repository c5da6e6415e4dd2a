"""Every model of the plugin passes every check."""

from __future__ import annotations

from typing import Any

import pytest

from recbole_oov import registry
from recbole_oov.testing import Check, Subject, checks_for

WALKS = {"n_clusters": 2, "walks_per_node": 5, "walk_length": 10, "walk_epochs": 1, "walk_dim": 16}
OPTIONS: dict[str, dict[str, Any]] = {
    "OOVLLMRec": {**WALKS, "hidden_size": 16, "inner_size": 32, "tokenizer_vocab_size": 200, "epochs": 20},
    "ClusterPop": WALKS,
    "AutoSample": {
        "samplers": ["uniform", "dns"],
        "search_budget": 16,
        "search_epochs": 2,
        "finalists": 2,
        "epochs": 20,
    },
}
"""What makes a model small, where the options of all will not do."""

SKIP: dict[str, dict[str, str]] = {
    "ClusterPop": {"known_answer_is_found": "a control: it knows a user's circle, and not the last item"},
}
SKIP_ON_A_BASE_MODEL = {"validation_rows_change_nothing": "its base model is selected on validation rows"}
"""For models that take the embeddings of a trained base model."""

SUBJECTS: dict[str, Subject] = {}


def subject_of(name: str) -> Subject:
    if name not in SUBJECTS:
        SUBJECTS.clear()  # one model's data and weights at a time
        SUBJECTS[name] = Subject(registry.get_model(name), OPTIONS.get(name))
    return SUBJECTS[name]


def skipped(name: str) -> dict[str, str]:
    model = registry.get_model(name)
    on_a_base_model = getattr(model, "needs_base_model", False) and getattr(model, "recommends_for_oov_items", False)
    return {**SKIP.get(name, {}), **(SKIP_ON_A_BASE_MODEL if on_a_base_model else {})}


def cases() -> list[Any]:
    return [
        pytest.param(name, check, id=f"{name}-{check.name}")
        for name in registry.plugin_model_names()
        for check in checks_for(registry.get_model(name), skip=skipped(name))
    ]


@pytest.mark.parametrize(("name", "check"), cases())
def test_conformance(name: str, check: Check) -> None:
    check(subject_of(name))


@pytest.mark.parametrize("name", SKIP)
def test_what_is_skipped_would_fail(name: str) -> None:
    for check in checks_for(registry.get_model(name)):
        if check.name in SKIP[name]:
            with pytest.raises(AssertionError):
                check(subject_of(name))
