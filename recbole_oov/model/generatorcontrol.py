"""GeneratorControl: DeepMusic's embeddings changed by one number; what a gain over DeepMusic is to be held against."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from recbole_oov.config.rules import is_number
from recbole_oov.model.deepmusic import DeepMusic

CONTROLS = ("scale", "mean_user", "norm")


class GeneratorControl(DeepMusic):
    r"""Controls for methods that move generated embeddings: what a change without any knowledge of items is worth.

    Regressed embeddings are shorter than learned ones, so that OOV items come late in a ranking of all items. With
    :math:`G(c)` as of :class:`DeepMusic` an OOV item gets, by ``control``:

    - ``scale``: :math:`s\, G(c)`
    - ``mean_user``: :math:`G(c) + s\, \bar e`, with :math:`\bar e` the mean embedding of users with training rows
    - ``norm``: :math:`G(c) \cdot \overline{\lVert e_i \rVert}_{iv} / \overline{\lVert G(c_i) \rVert}_{oov}`:
      as long as IV items on average

    The strength s is the one of ``strengths`` with the best ``valid_metric`` in validation, taken over all items;
    ``norm`` has none. Neither ``scale`` nor ``norm`` can change the order among OOV items, ``mean_user`` hardly does.
    """

    paper = ""

    def __init__(self, config: Any, dataset: Any) -> None:
        super().__init__(config, dataset)
        self.control: str = config["control"]
        self.register_buffer("strength", torch.tensor(_neutral(self.control), device=self.device))
        trained = torch.zeros(self.n_users, dtype=torch.bool)
        trained[dataset.inter_feat[dataset.uid_field]] = True
        self.register_buffer("trained_users", trained.to(self.device), persistent=False)
        self.strength: Tensor
        self.trained_users: Tensor

    @classmethod
    def config_problems(cls, config: Mapping[str, Any]) -> list[str]:
        """What in a configuration cannot work, before any data is loaded."""
        problems = super().config_problems(config)
        if config["control"] not in CONTROLS:
            problems.append(f"control: {config['control']!r} is not known; there are {', '.join(CONTROLS)}")
        strengths = config["strengths"]
        if not isinstance(strengths, list | tuple) or not strengths or not all(map(is_number, strengths)):
            problems.append(f"strengths: {strengths!r} is not allowed; give a list of numbers to choose from")
        return problems

    @property
    def has_strength(self) -> bool:
        """Whether there is a strength to choose."""
        return self.control != "norm"

    @torch.no_grad()
    def set_strength(self, strength: float) -> None:
        """Use another strength from now on."""
        self.strength.fill_(strength)
        self.forget_tables()

    def new_item_embeddings(self, content: Tensor) -> Tensor:
        """(N, content_dim) -> (N, d)"""
        return self._controlled(self.generate(content))

    def _controlled(self, generated: Tensor) -> Tensor:
        """(N, d) -> (N, d)"""
        if self.control == "scale":
            return self.strength * generated
        if self.control == "mean_user":
            return generated + self.strength * self.base_users[self.trained_users].mean(dim=0)
        if not self.oov.any():
            return generated
        learned = self.base_items[self.iv_items].norm(dim=1).mean()
        matched: Tensor = (
            generated * learned / self.generate(self.content[self.oov]).norm(dim=1).mean().clamp_min(1e-12)
        )
        return matched

    def item_embeddings(self) -> Tensor:
        """(n_items, d)"""
        return self.with_base_items(self._controlled(self.generate(self.content[self.oov])))


def _neutral(control: str) -> float:
    return 1.0 if control == "scale" else 0.0
