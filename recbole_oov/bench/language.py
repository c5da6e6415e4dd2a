"""Suites of the language-model side: exact scores beside transformers' beam search, and the memory of the head."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from recbole.data.interaction import Interaction
from torch import Tensor, nn
from transformers import GPT2LMHeadModel

from recbole_oov.bench.harness import Contest, Side, tensors_differ
from recbole_oov.bench.recbole_side import experiment
from recbole_oov.bench.suites import Setting
from recbole_oov.lm.scoring import TokenTree
from recbole_oov.testing import write_atomic

_TOP, _CLOSE = 10, 1e-3
"""How many items are asked for, and how far two log-probabilities of single precision may be apart."""


def exact_scoring(setting: Setting) -> Contest:
    """OOVLLMRec with its default sizes and random weights, over as many items as amazon-beauty has.

    The augmentations are off, so that the model is a plain language model to transformers but for one sum: the state
    before an item is added to the state at its cluster token. :class:`_Head` adds it there as well, at next to no
    cost. ``renormalize_logits`` makes a beam's probabilities those among the allowed tokens, as the tree's are.
    """
    n_items, n_cases = (60, 3) if setting.tiny else (12_101, 512)  # nearly what evaluation takes at a time
    mine = _made_up(setting, n_items)
    model = mine.model.eval()
    rows = mine.test_data.dataset.inter_feat[torch.arange(n_cases)]
    lengths = rows[model.ITEM_SEQ_LEN]
    assert int(lengths.min()) == int(lengths.max())  # generation gets no padding, which it would mask
    _, prompt = _prompt(model, rows)
    opponent = _generating(model)
    n_clusters = int((~model.tree.empty).sum())
    wide = _as_items(model, *_generated(opponent, model, prompt[:1], max(_TOP, n_clusters)))

    @torch.no_grad()
    def ours() -> tuple[Tensor, Tensor, Tensor]:
        scores = model.full_sort_predict(rows)
        return (*scores.topk(_TOP, dim=1), scores)

    def theirs() -> tuple[Tensor, Tensor]:
        return _as_items(model, *_generated(opponent, model, prompt, _TOP))

    def differences(a: tuple[Tensor, Tensor, Tensor], b: tuple[Tensor, Tensor]) -> list[str]:
        scores, (found, items) = a[2], b
        return [
            *tensors_differ([found], [scores.gather(1, items)], within=_CLOSE, what="log-probabilities of the beams"),
            *tensors_differ([found], [_within_beams(model, scores)], within=_CLOSE, what="best items of the beams"),
            *tensors_differ([wide[0][:, :_TOP]], [a[0][:1]], within=_CLOSE, what="best items of all clusters as beams"),
        ]

    return Contest(
        Side("exact scores", ours),
        Side("beam search", theirs),
        differences,
        note=f"{n_cases} histories of {int(lengths[0])} items, {n_clusters} clusters; the state before an item is "
        f"added to the one at its cluster on both sides, augmentations off",
    )


def _made_up(setting: Setting, n_items: int) -> Any:
    """OOVLLMRec on made-up histories of 20 items in which every item is learned from."""
    length = 12 if setting.tiny else 20
    n_users = -(-n_items // (length - 2)) + 40
    histories = {f"u{u}": [f"i{(u * (length - 2) + step) % n_items}" for step in range(length)] for u in range(n_users)}
    small = {"hidden_size": 16, "inner_size": 32, "n_clusters": 4} if setting.tiny else {}
    with tempfile.TemporaryDirectory() as folder:
        write_atomic(Path(folder), "made-up", histories, {f"i{i}": f"item {i}" for i in range(n_items)})
        return experiment(
            Setting(Path(folder), tiny=False),
            "OOVLLMRec",
            "made-up",
            **{"walks_per_node": 1, "walk_length": 10, "walk_epochs": 1, "walk_dim": 16, **small},
            augmentation=0.0,
            item_augmentation=0.0,
        )


def _prompt(model: Any, rows: Interaction) -> tuple[Tensor, Tensor]:
    """Which tokens are real, and their ids, without padding. (B, T) each"""
    length = int(rows[model.ITEM_SEQ_LEN][0])
    tokens, _, real = model._sequence(rows[model.USER_ID], rows[model.ITEM_SEQ][:, :length], model.prompts.seen[0])
    assert bool(real.all())
    return real, tokens


class _Head(nn.Module):
    """Logits of all tokens by the tied head; of the second token with the state that the first one came from added.

    Args:
        backbone: OOVLLMRec's, as transformers knows it.
    """

    def __init__(self, backbone: Any) -> None:
        super().__init__()
        self._table = backbone.get_input_embeddings()
        self._before: Tensor | None = None

    def forward(self, states: Tensor) -> Tensor:
        """(B, 1, d) -> (B, 1, V); called twice for each generation"""
        if self._before is None:
            self._before = states[:, -1:]  # of all beams of a prompt the same, so that no order has to be kept
        else:
            states, self._before = states + self._before, None
        logits: Tensor = states @ self._table.weight.T
        return logits


def _generating(model: Any) -> GPT2LMHeadModel:
    """OOVLLMRec's backbone as transformers generates with, with its cache."""
    backbone = model.backbone.language_model
    opponent = GPT2LMHeadModel(backbone.config)
    opponent.transformer, opponent.lm_head = backbone, _Head(backbone)
    opponent.eval()
    return opponent


def _generated(opponent: GPT2LMHeadModel, model: Any, prompt: Tensor, n_beams: int) -> tuple[Tensor, Tensor]:
    """Log-probabilities, best first, and the two tokens of the beams. (B, n_beams), (B, n_beams, 2)"""
    members = [row[row > 0] for row in model.tree.members]
    clusters = (~model.tree.empty).nonzero().squeeze(1)
    first = (model.first_cluster + clusters).tolist()
    second: dict[int, list[int]] = {
        model.first_cluster + c: model.item_blocks[members[c], 1].tolist() for c in clusters.tolist()
    }

    def allowed(_: int, tokens: Tensor) -> Sequence[int]:
        return first if len(tokens) == prompt.shape[1] else second[int(tokens[-1])]

    made = opponent.generate(
        prompt,
        attention_mask=torch.ones_like(prompt),
        prefix_allowed_tokens_fn=allowed,
        renormalize_logits=True,
        num_beams=n_beams,
        num_return_sequences=n_beams,
        max_new_tokens=2,
        length_penalty=0.0,
        do_sample=False,
        pad_token_id=0,
        use_cache=True,
        return_dict_in_generate=True,
        output_scores=True,
    )
    tokens = made.sequences[:, prompt.shape[1] :].view(len(prompt), n_beams, 2)
    return made.sequences_scores.view(len(prompt), n_beams), tokens


def _as_items(model: Any, log_probs: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
    """The items that pairs of tokens name. (B, N), (B, N, 2) -> (B, N) each"""
    n_tokens = model.backbone.language_model.config.vocab_size
    known = model.item_blocks[:, 0] * n_tokens + model.item_blocks[:, 1]
    order = known.argsort()
    wanted = tokens[..., 0] * n_tokens + tokens[..., 1]
    items = order[torch.searchsorted(known[order], wanted).clamp(max=len(known) - 1)]
    assert torch.equal(known[items], wanted)
    return log_probs, items


def _within_beams(model: Any, scores: Tensor) -> Tensor:
    """The scores that a search with ``_TOP`` beams has to find: the best of the most probable clusters. (B, _TOP)"""
    weights = scores[:, 1:].exp().clone()
    of_item = model.tree.item_cluster[1:]
    clusters = torch.zeros(len(scores), len(model.tree.members)).index_add(1, of_item, weights)
    kept = clusters.topk(min(_TOP, clusters.shape[1]), dim=1).indices
    inside = torch.zeros_like(clusters, dtype=torch.bool).scatter(1, kept, True)[:, of_item]
    return scores[:, 1:].masked_fill(~inside, -torch.inf).topk(_TOP, dim=1).values


def head_memory(setting: Setting) -> Contest:
    """Cross-entropy of the next items and its gradients, at the sizes of smollm2 and amazon-beauty.

    The other side computes logits of all words and OOV tokens and masks what may not come, in place.
    """
    n_words, width, n_items, n_targets = (300, 16, 60, 40) if setting.tiny else (49_152, 576, 12_101, 1024)
    n_clusters = 4 if setting.tiny else 32
    draw = torch.Generator().manual_seed(2020)
    item_cluster = torch.randint(n_clusters, (n_items + 1,), generator=draw)
    tree = TokenTree(item_cluster, n_clusters)
    words = 0.02 * torch.randn(n_words, width, generator=draw)
    n_new = n_clusters + int(tree.slot.max()) + 1
    new = (0.02 * torch.randn(n_new, width, generator=draw)).requires_grad_()
    before, at_cluster = (torch.randn(n_targets, width, generator=draw).requires_grad_() for _ in range(2))
    targets = torch.randint(1, n_items + 1, (n_targets,), generator=draw)

    def factorised() -> Tensor:
        leaves = F.embedding(n_clusters + tree.slot, new)
        return tree.nll(before @ new[:n_clusters].T, at_cluster, leaves, targets).mean()

    barred = torch.ones(n_clusters + 1, n_words + n_new, dtype=torch.bool)
    barred[item_cluster[1:], n_words + n_clusters + tree.slot[1:]] = False
    barred[n_clusters, n_words : n_words + n_clusters] = tree.empty

    def whole() -> Tensor:
        cluster, slot = item_cluster[targets], tree.slot[targets]
        first = _all_logits(before, words, new).masked_fill_(barred[n_clusters], -torch.inf)
        second = _all_logits(at_cluster, words, new).masked_fill_(barred[cluster], -torch.inf)
        return F.cross_entropy(first, n_words + cluster) + F.cross_entropy(second, n_words + n_clusters + slot)

    def gradients(loss: Any) -> list[Tensor]:
        return list(torch.autograd.grad(loss(), (new, before, at_cluster)))

    return Contest(
        Side("allowed tokens", lambda: gradients(factorised)),
        Side("all tokens", lambda: gradients(whole)),
        lambda a, b: tensors_differ(a, b, within=1e-5, what="gradients"),
        note=f"{n_targets:,} targets among {n_items:,} items, {n_words + n_new:,} tokens, {width} wide; the words' "
        f"rows are frozen, as with adapters",
    )


def _all_logits(states: Tensor, words: Tensor, new: Tensor) -> Tensor:
    """Logits of frozen and learned tokens. (N, d), (V, d), (W, d) -> (N, V + W)"""
    return torch.cat([states @ words.T, states @ new.T], dim=1)
