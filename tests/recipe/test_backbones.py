"""Whole runs on pretrained backbones: small checkpoints that are loaded, resumed and recommended from."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import language_models
import pytest
import torch
from test_resume import WALKS, assert_same, finish, interrupt

import recbole_oov
from recbole_oov.checkpoints import load
from recbole_oov.errors import ConfigError


@pytest.fixture
def options(data_path: Path, tmp_path: Path) -> dict[str, Any]:
    backbone = language_models.write(tmp_path / "backbone", "llama")
    small = {**WALKS, "MAX_ITEM_LIST_LENGTH": 8, "leak_guard": "off", "show_progress": False}
    run = {"model": "OOVLLMRec", "dataset": "circles", "data_path": str(data_path), "epochs": 3, "learning_rate": 0.01}
    return {**run, **small, "backbone": backbone}


def test_a_small_checkpoint_is_loaded_onto_its_backbone_and_recommends(options: dict[str, Any]) -> None:
    result = recbole_oov.run(config_dict=options, argv=[])
    assert result is not None
    saved = Path(result["model_file"])
    weights = load(saved)["state_dict"]
    names = {name for name in weights if name.startswith("backbone.")}
    assert names and all("lora_" in name or "trainable_tokens_delta" in name for name in names)
    _, model, _, _, _, test = recbole_oov.load(saved, log=False)
    rows = test.dataset.inter_feat[:5]
    scores = model.eval().full_sort_predict(rows)
    assert torch.equal(scores, recbole_oov.load(saved, log=False)[1].eval().full_sort_predict(rows))
    found = recbole_oov.recommend(saved, history=["i3", "i4", "i5"], k=3)
    assert len(found) == 3
    assert len(recbole_oov.recommend(saved, user="u1", k=2)) == 2

    elsewhere = Path(options["backbone"]).with_name("moved")
    shutil.move(options["backbone"], elsewhere)
    with pytest.raises(ConfigError, match=r"backbone: '.*backbone' is not known: .* is not there"):
        recbole_oov.load(saved, log=False)
    language_models.write(Path(options["backbone"]), "llama", rope_theta=77.0)
    with pytest.raises(ConfigError, match="is not the one that the checkpoint was trained on"):
        recbole_oov.load(saved, log=False)


def test_a_run_that_was_cut_off_goes_on_to_the_same_adapters(
    options: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = finish({**options, "checkpoint_dir": "whole"})
    assert any("lora_B" in name and value.abs().sum() > 0 for name, value in whole[0].items())
    interrupt({**options, "checkpoint_dir": "cut"}, 1, monkeypatch)
    assert_same(whole, finish({**options, "checkpoint_dir": "cut", "resume": True}))
