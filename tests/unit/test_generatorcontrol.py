"""Controls: what each does to an embedding, how its strength is chosen, and popularity in content clusters."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from cold import experiment, trained, write_tastes
from recbole.data.interaction import Interaction

from recbole_oov.errors import ConfigError
from recbole_oov.testing.tastes import taste_auc


def generated(model: Any) -> Any:
    return model.item_embeddings()[model.oov].detach()


def test_what_the_controls_do(workplace: Path) -> None:
    folder = write_tastes(workplace)
    models = {
        name: experiment("GeneratorControl", folder, control=name).model for name in ("scale", "mean_user", "norm")
    }
    plain = models["scale"].generate(models["scale"].content[models["scale"].oov]).detach()
    assert torch.equal(generated(models["scale"]), plain)
    models["scale"].set_strength(1.5)
    torch.testing.assert_close(generated(models["scale"]), 1.5 * plain)
    model = models["mean_user"]
    assert torch.equal(generated(model), plain)
    model.set_strength(2.0)
    torch.testing.assert_close(generated(model), plain + 2.0 * model.base_users[1:].mean(dim=0))
    model = models["norm"]
    ratio = generated(model) / plain
    torch.testing.assert_close(ratio, ratio[:1, :1].expand_as(ratio))
    torch.testing.assert_close(generated(model).norm(dim=1).mean(), model.base_items[model.iv_items].norm(dim=1).mean())


def test_the_strength_with_the_best_validation_over_all_items_is_kept(workplace: Path) -> None:
    folder = write_tastes(workplace)
    ready = trained("GeneratorControl", folder, saved=True, strengths=[0.0, 1.0, 4.0])
    trainer = ready.trainer
    assert trainer.overall_metric == "ndcg@5"
    best = max(trainer.scores, key=lambda strength: trainer.scores[strength])
    assert best != 0.0, "items without a score of their own are worth nothing"
    assert float(ready.model.strength) == best
    assert [stage.name for stage in trainer.stages] == ["base", "generator", "strength"]
    plain = trained("DeepMusic", folder, saved=True)
    own, other = (one.trainer.evaluate(one.test_data, load_best_model=True) for one in (ready, plain))
    assert own["oov_ndcg@5"] == other["oov_ndcg@5"], "a factor changes no order among OOV items"
    assert own["iv_ndcg@5"] == other["iv_ndcg@5"]
    assert trainer.evaluate(ready.valid_data, load_best_model=True)["ndcg@5"] == trainer.scores[best]


def test_controls_that_do_not_exist(workplace: Path) -> None:
    folder = write_tastes(workplace)
    with pytest.raises(ConfigError, match="control: 'shift' is not known; there are scale, mean_user, norm"):
        experiment("GeneratorControl", folder, control="shift")
    with pytest.raises(ConfigError, match="strengths"):
        experiment("GeneratorControl", folder, strengths=["one"])


def test_popularity_in_content_clusters(workplace: Path) -> None:
    ready = experiment("ContentClusterPop", write_tastes(workplace), n_content_clusters=2, embedding_size=None)
    model, train = ready.model, ready.train_data._dataset
    oov = np.flatnonzero(ready.train_data._dataset.oov_split.mask)
    assert taste_auc(model, train, oov) > 0.9
    counts = np.bincount(train.inter_feat["item_id"].numpy(), minlength=model.n_items)
    popularity = model.popularity.numpy() * counts.max()
    iv = np.flatnonzero(counts)
    np.testing.assert_allclose(popularity[iv], counts[iv], rtol=1e-5)
    cluster = model.cluster.numpy()
    for item in oov:
        assert popularity[item] == pytest.approx(counts[iv][cluster[iv] == cluster[item]].mean(), rel=1e-5)
    users, items = torch.arange(1, 11), torch.arange(1, 11)
    pairs = Interaction({"user_id": users, "item_id": items})
    assert torch.equal(model.predict(pairs), model.full_sort_predict(pairs)[torch.arange(10), items])
    with pytest.raises(ConfigError, match="n_content_clusters: 0"):
        experiment("ContentClusterPop", workplace, n_content_clusters=0, embedding_size=None)
