"""Tasks that are answered in words: the rating of an item, an explanation, a review (P5, arXiv 2203.13366; META ID).

A prompt says by OOV tokens who asks about which item; its last slot, a column of the interactions, is the answer. A
number is chosen among the values that training has, a text is written word by word.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from logging import getLogger
from typing import Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from recbole_oov.data.answers import Answers, written
from recbole_oov.errors import DataError
from recbole_oov.lm.backbone import Backbone
from recbole_oov.lm.backbone_maker import BackboneMaker
from recbole_oov.lm.prompts import Prompts, Template

Words = tuple[Tensor, Tensor]
"""Token ids (B, W), 0 where a row has fewer, and which of them are real (B, W)."""

_MOST_VALUES = 50
_LOGITS_AT_ONCE = 1 << 25
"""128 MiB of them."""


class Asker(Protocol):
    """The model behind the tasks."""

    backbone: Backbone

    def asked(
        self, template: Template, users: Tensor, items: Tensor, read: Mapping[str, Words]
    ) -> tuple[Tensor, Tensor]:
        """Vectors (B, T, d) of a prompt, and which of its tokens are real (B, T)."""


class Task(ABC):
    """One column of the interactions that prompts ask for.

    Args:
        name: What the user calls it.
        prompts: Its templates.
        question: The one of validation and test.
        known: Training interactions.
        maker: Encodes words.
        answer_tokens: The longest text, in tokens; longer ones are cut.

    Attributes:
        column: What is asked for.
        longest_answer: Its tokens that are read.
    """

    def __init__(
        self, name: str, prompts: Prompts, question: Template, known: Answers, maker: BackboneMaker, answer_tokens: int
    ) -> None:
        self.name, self.prompts, self.question, self.column = name, prompts, question, prompts.answer
        self.known = known.that_say(self.column)
        if len(self.known) == 0:
            raise DataError(
                f"tasks: no training interaction has anything in the column {self.column!r}, which {name} asks for"
            )
        self._maker, self._answer_tokens = maker, answer_tokens
        read = {column for template in prompts.all for column in template.columns}
        self._read = {column: self._known_texts(column) for column in sorted(read)}

    def loss(self, asker: Asker, n_rows: int, device: torch.device) -> Tensor:
        """Mean negative log-likelihood of the answers of some training interactions, drawn with replacement.

        Args:
            asker: The model.
            n_rows: How many.
            device: Where it computes.
        """
        at = torch.randint(len(self.known), (n_rows,))
        seen = self.prompts.seen
        template = seen[int(torch.randint(len(seen), ()))]
        read = {column: self._read[column].rows(at, device) for column in template.columns}
        users, items = (torch.from_numpy(ids)[at].to(device) for ids in (self.known.users, self.known.items))
        return self._nll(asker, *asker.asked(template, users, items, read), at)

    def asks(self, asker: Asker, rows: Answers, device: torch.device) -> tuple[Tensor, Tensor]:
        """The prompts of validation and test about given interactions: vectors (B, T, d), and what is real (B, T)."""
        read = {column: self._encoded(rows.texts(column)).rows(None, device) for column in self.question.columns}
        users, items = (torch.from_numpy(ids).to(device) for ids in (rows.users, rows.items))
        return asker.asked(self.question, users, items, read)

    def _encoded(self, texts: Sequence[str]) -> _Texts:
        return _Texts(self._maker.encode_all(texts), self._answer_tokens)

    def _known_texts(self, column: str) -> _Texts:
        texts, most = self._encoded(self.known.texts(column)), self._answer_tokens
        if texts.n_cut:
            getLogger(__name__).warning(
                "answer_tokens: %d texts in the column %s that %s learns from are longer than %d tokens, of which the "
                "first %d are read",
                *(texts.n_cut, column, self.name, most, most),
            )
        return texts

    @property
    @abstractmethod
    def longest_answer(self) -> int: ...

    @abstractmethod
    def _nll(self, asker: Asker, vectors: Tensor, real: Tensor, at: Tensor) -> Tensor:
        """Of the training interactions ``at``, after their prompts."""


class NumberTask(Task):
    """A number, out of the values that training has.

    Values are words, and a tree over their tokens gives each a probability: at each place those tokens alone are
    possible that go on with a value. What is predicted is the mean under these probabilities, which has the least
    squared error that they allow.
    """

    def __init__(
        self, name: str, prompts: Prompts, question: Template, known: Answers, maker: BackboneMaker, answer_tokens: int
    ) -> None:
        super().__init__(name, prompts, question, known, maker, answer_tokens)
        numbers = np.asarray(self.known.columns[self.column])
        values, index = np.unique(numbers, return_inverse=True)
        if len(values) > _MOST_VALUES:
            raise DataError(
                f"tasks: the column {self.column!r} has {len(values)} different values in training, and {name} chooses "
                f"among {_MOST_VALUES} at most; round them"
            )
        self.values, self._index = torch.from_numpy(values), torch.from_numpy(index.reshape(-1))
        texts = [written(value) for value in values]
        alike = next((text for at, text in enumerate(texts) if text in texts[:at]), None)
        if alike is not None:
            raise DataError(
                f"tasks: two values of the column {self.column!r} are both {alike} when they are written with six "
                f"digits; round them"
            )
        paths = [[*path, maker.end] for path in maker.encode_all(texts)]
        if len(set(map(tuple, paths))) < len(paths):
            raise DataError(
                f"tasks: the backbone's tokenizer writes different values of the column {self.column!r} alike, so that "
                f"{name} cannot tell them apart; choose another backbone, or round the values"
            )
        self.tree = ValueTree(paths)

    @property
    def longest_answer(self) -> int:
        return self.tree.n_steps

    def _nll(self, asker: Asker, vectors: Tensor, real: Tensor, at: Tensor) -> Tensor:
        chosen = self._index[at].to(vectors.device)
        return -self._log_probs(asker, vectors, real, chosen[:, None]).mean()

    def log_probs(self, asker: Asker, vectors: Tensor, real: Tensor) -> Tensor:
        """Log-probability of each value after prompts. (B, T, d), (B, T) -> (B, V)"""
        every = torch.arange(len(self.values), device=vectors.device)
        return self._log_probs(asker, vectors, real, every.expand(len(vectors), -1))

    def _log_probs(self, asker: Asker, vectors: Tensor, real: Tensor, chosen: Tensor) -> Tensor:
        """Of C values a row. (B, C) -> (B, C)"""
        backbone, (batch, n) = asker.backbone, chosen.shape
        tree = self.tree.to(vectors.device)
        if tree.n_steps == 1:  # values are told apart by their first token: no path but the root is read
            states = backbone.following(vectors, real, vectors[:, :0])[:, None].expand(-1, n, -1, -1)
        else:
            words = backbone.word_inputs(tree.paths[chosen, : tree.n_steps - 1].flatten(0, 1))
            vectors, real = vectors.repeat_interleave(n, dim=0), real.repeat_interleave(n, dim=0)
            states = backbone.following(vectors, real, words).unflatten(0, (batch, n))
        return tree.log_probs(states, backbone.word_heads(tree.used), chosen)

    @torch.no_grad()
    def predict(self, asker: Asker, rows: Answers, device: torch.device) -> np.ndarray:
        """Predictions for interactions. (N,)"""
        probabilities = self.log_probs(asker, *self.asks(asker, rows, device)).double().exp()
        predicted: np.ndarray = (probabilities @ self.values.to(device)).cpu().numpy()
        return predicted


class ValueTree:
    """The token paths of a few values, and which tokens can come next at each place.

    Args:
        paths: Tokens of each value; none is the beginning of another.

    Attributes:
        paths: (V, A), 0 behind shorter ones.
        n_steps: Places at which some value has a choice, from the first on; what comes later is certain.
        used: The tokens that the paths are made of. (n_used,)
    """

    def __init__(self, paths: Sequence[Sequence[int]]) -> None:
        nodes: dict[tuple[int, ...], set[int]] = {}
        for path in paths:
            for depth, token in enumerate(path):
                nodes.setdefault(tuple(path[:depth]), set()).add(token)
        self.n_steps = 1 + max((len(node) for node, children in nodes.items() if len(children) > 1), default=0)
        used = sorted({token for children in nodes.values() for token in children})
        number = {node: at for at, node in enumerate(nodes)}
        width = max(map(len, paths))
        self.paths = torch.zeros(len(paths), width, dtype=torch.long)
        self._node = torch.zeros(len(paths), self.n_steps, dtype=torch.long)
        self._child = torch.full((len(paths), self.n_steps), -1)
        for value, path in enumerate(paths):
            self.paths[value, : len(path)] = torch.tensor(path)
            for depth in range(min(len(path), self.n_steps)):
                self._node[value, depth] = number[tuple(path[:depth])]
                self._child[value, depth] = used.index(path[depth])
        self.used = torch.tensor(used)
        self._possible = torch.zeros(len(nodes), len(used), dtype=torch.bool)
        for node, children in nodes.items():
            self._possible[number[node], [used.index(token) for token in children]] = True

    def to(self, device: torch.device) -> ValueTree:
        """Itself, with its tensors on a device."""
        if self.paths.device != device:
            for name, value in vars(self).items():
                if isinstance(value, Tensor):
                    setattr(self, name, value.to(device))
        return self

    def log_probs(self, states: Tensor, heads: Tensor, chosen: Tensor) -> Tensor:
        """Log-probability of values.

        Args:
            states: At the places of each value's path. (B, C, n_steps, d)
            heads: Output vectors of ``used``. (n_used, d)
            chosen: Which values. (B, C)

        Returns:
            (B, C)
        """
        logits = states @ heads.T
        logits = logits.masked_fill(~self._possible[self._node[chosen]], -torch.inf)
        child = self._child[chosen]
        steps = logits.log_softmax(dim=-1).gather(-1, child.clamp(min=0)[..., None]).squeeze(-1)
        return steps.masked_fill(child < 0, 0.0).sum(dim=-1)


class TextTask(Task):
    """A text, learned with the cross-entropy of its tokens, written with the most probable token each time."""

    def __init__(
        self, name: str, prompts: Prompts, question: Template, known: Answers, maker: BackboneMaker, answer_tokens: int
    ) -> None:
        super().__init__(name, prompts, question, known, maker, answer_tokens)
        self._answers = self._known_texts(self.column)

    @property
    def longest_answer(self) -> int:
        return self._answer_tokens

    def _nll(self, asker: Asker, vectors: Tensor, real: Tensor, at: Tensor) -> Tensor:
        return self._token_nll(asker, vectors, real, self._answers, at).mean()

    def _token_nll(self, asker: Asker, vectors: Tensor, real: Tensor, answers: _Texts, at: Tensor | None) -> Tensor:
        """Negative log-likelihood of all tokens of some answers, or all. (N,)

        The token that ends a text is one of them, but of texts that were cut: they do not end there.
        """
        backbone, (ids, known) = asker.backbone, answers.rows(at, vectors.device)
        states = backbone.following(vectors, real, backbone.word_inputs(ids))
        lengths = known.sum(dim=1)
        targets = F.pad(ids, (0, 1)).scatter(1, lengths[:, None], self._maker.end)
        n_asked = lengths + answers.ends(at).to(lengths)
        asked = torch.arange(targets.shape[1], device=ids.device) < n_asked[:, None]
        return _nll_of_words(states[asked], backbone.word_heads(), targets[asked])

    def n_longer(self, rows: Answers) -> int:
        """How many answers are longer than what is read of them."""
        return self._encoded(rows.texts(self.column)).n_cut

    @torch.no_grad()
    def answer_nll(self, asker: Asker, rows: Answers, device: torch.device) -> Tensor:
        """Negative log-likelihood of interactions' answers, of the first ``answer_tokens`` tokens of each. (N,)"""
        return self._token_nll(asker, *self.asks(asker, rows, device), self._encoded(rows.texts(self.column)), None)

    @torch.no_grad()
    def write(self, asker: Asker, rows: Answers, device: torch.device) -> list[str]:
        """Answers about interactions: N texts, of ``answer_tokens`` tokens at most."""
        return self._written(asker.backbone, *self.asks(asker, rows, device))

    def _written(self, backbone: Backbone, vectors: Tensor, real: Tensor) -> list[str]:
        reader, heads = backbone.reader(vectors, real), backbone.word_heads()
        state, ended = next(reader), torch.zeros(len(vectors), dtype=torch.bool, device=vectors.device)
        tokens: list[Tensor] = []
        while len(tokens) < self._answer_tokens:
            token = (state @ heads.T).argmax(dim=1).masked_fill(ended, self._maker.end)
            ended |= token == self._maker.end
            tokens.append(token)
            if bool(ended.all()):
                break
            if len(tokens) < self._answer_tokens:
                state = reader.send(backbone.word_inputs(token))
        rows = torch.stack(tokens, dim=1).tolist()
        ends = (row.index(self._maker.end) if self._maker.end in row else len(row) for row in rows)
        return [self._maker.decode(row[:end]) for row, end in zip(rows, ends, strict=True)]


def task_of(
    name: str, prompts: Prompts, question: Template, known: Answers, maker: BackboneMaker, answer_tokens: int
) -> Task:
    """The task of a column, by what it holds. Arguments as of :class:`Task`.

    Raises:
        DataError: Nothing can be learned from the column.
    """
    kind = TextTask if isinstance(known.columns[prompts.answer], list) else NumberTask
    return kind(name, prompts, question, known, maker, answer_tokens)


class _Texts:
    """Tokens of many texts in one array."""

    def __init__(self, tokens: Sequence[Sequence[int]], most: int) -> None:
        self._whole = torch.tensor([len(text) <= most for text in tokens], dtype=torch.bool)
        lengths = [min(len(text), most) for text in tokens]
        self._flat = torch.tensor([token for text in tokens for token in text[:most]], dtype=torch.long)
        self._ends = torch.tensor(lengths, dtype=torch.long).cumsum(0)
        self._lengths = torch.tensor(lengths, dtype=torch.long)

    @property
    def n_cut(self) -> int:
        """How many texts were too long."""
        return len(self._whole) - int(self._whole.sum())

    def ends(self, at: Tensor | None) -> Tensor:
        """Which of some texts, or of all, are whole. (N,)"""
        return self._whole if at is None else self._whole[at]

    def rows(self, at: Tensor | None, device: torch.device) -> Words:
        """Some texts, or all."""
        at = torch.arange(len(self._lengths)) if at is None else at
        lengths = self._lengths[at]
        column = torch.arange(int(lengths.max()) if len(lengths) else 0)
        real = column < lengths[:, None]
        place = (self._ends[at] - lengths)[:, None] + column
        ids = torch.zeros_like(place)
        ids[real] = self._flat[place[real]]
        return ids.to(device), real.to(device)


def _nll_of_words(states: Tensor, heads: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropy over all words, in parts: logits over a large vocabulary are not kept for the backward pass."""
    at_once = max(1, _LOGITS_AT_ONCE // len(heads))
    if len(states) <= at_once:
        return _nll_at_once(states, heads, targets)
    blocks = zip(states.split(at_once), targets.split(at_once), strict=True)
    return torch.cat([checkpoint(_nll_at_once, block, heads, wanted, use_reentrant=False) for block, wanted in blocks])


def _nll_at_once(states: Tensor, heads: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(states @ heads.T, targets, reduction="none")
