"""Names become classes, in RecBole's own look-ups."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
from recbole.model.abstract_recommender import GeneralRecommender
from recbole.utils import InputType, ModelType, get_trainer
from recbole.utils import get_model as recbole_get_model

import recbole_oov
from recbole_oov import registry
from recbole_oov.errors import ConfigError


class FixtureModel(GeneralRecommender):
    input_type = InputType.PAIRWISE


class Bpr(GeneralRecommender):
    input_type = InputType.PAIRWISE


@pytest.fixture(autouse=True)
def _forget(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_entries", dict(registry._entries))


def test_recbole_finds_the_plugin_s_model_and_trainer() -> None:
    from recbole_oov.model.oovllmrec import OOVLLMRec
    from recbole_oov.trainer.oovllmrec import OOVLLMRecTrainer

    assert recbole_get_model("OOVLLMRec") is OOVLLMRec
    assert get_trainer(ModelType.SEQUENTIAL, "OOVLLMRec") is OOVLLMRecTrainer


def test_a_registered_model_is_found_listed_and_configured(tmp_path: Path) -> None:
    properties = tmp_path / "own.yaml"
    properties.write_text("embedding_size: 3\n", encoding="utf-8")
    assert recbole_oov.register(FixtureModel, properties=properties) is FixtureModel
    assert recbole_get_model("FixtureModel") is registry.get_model("FixtureModel") is FixtureModel
    assert "FixtureModel" in registry.model_names()
    assert properties in registry.properties_files("FixtureModel", "ml-100k")
    recbole_oov.register(FixtureModel)  # again: the same class may


def test_an_installed_package_joins_by_an_entry_point(monkeypatch: pytest.MonkeyPatch) -> None:
    good = SimpleNamespace(name="FixtureModel", value="package:FixtureModel", load=lambda: FixtureModel)
    bad = SimpleNamespace(name="Broken", value="package:Broken", load=lambda: 1 / 0)
    monkeypatch.setattr(registry.importlib.metadata, "entry_points", lambda *, group: [bad, good])
    registry.install()
    assert registry.get_model("FixtureModel") is FixtureModel
    assert registry.ENTRY_POINT_GROUP == "recbole_oov.models"


def test_unknown_models_bring_the_nearest_names() -> None:
    with pytest.raises(ConfigError, match="no model called 'LightGNC'; did you mean LightGCN"):
        registry.get_model("LightGNC")
    with pytest.raises(ConfigError, match="no model called 'oovllmrec'; did you mean OOVLLMRec"):
        registry.get_model("oovllmrec")


def test_models_that_cannot_be_registered_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is not a recommender class"):
        recbole_oov.register(dict)
    with pytest.raises(ConfigError, match="has a model called Bpr already"):
        recbole_oov.register(Bpr)
    with pytest.raises(ConfigError, match=r"does not exist: .*missing\.yaml"):
        recbole_oov.register(FixtureModel, properties=tmp_path / "missing.yaml")
    recbole_oov.register(FixtureModel)
    other = type("FixtureModel", (FixtureModel,), {"__module__": "elsewhere"})
    with pytest.raises(ConfigError, match="the name FixtureModel is taken by"):
        recbole_oov.register(other)


def test_every_recbole_model_is_listed() -> None:
    names = registry.model_names()
    assert {"BPR", "LightGCN", "SASRec", "BERT4Rec", "MultiVAE", "EASE", "DeepFM", "KGCN", "XGBoost"} <= set(names)
    assert len(names) > 90
