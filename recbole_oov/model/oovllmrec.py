"""OOVLLMRec: a language-model recommender whose users and items are out-of-vocabulary tokens.

Reference:
    META ID, arXiv 2406.08477 (identifiers from meta-path walks, two new tokens each, a language model fine-tuned
    on prompts with them). What the paper says, what its code does and what is done here: ``docs/papers.md``.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from recbole.data.interaction import Interaction
from recbole.model.abstract_recommender import SequentialRecommender
from recbole.utils import ModelType
from torch import Tensor, nn

from recbole_oov.data.answers import Answers, answers_of
from recbole_oov.data.content import item_content
from recbole_oov.data.excluded_history import check_repeats, had_before
from recbole_oov.data.histories import NEXT_ITEMS, Histories
from recbole_oov.data.oov_split import oov_mask
from recbole_oov.data.text import item_texts, missing_text_problem
from recbole_oov.errors import ConfigError, DataError
from recbole_oov.evaluation.item_blocks import Blocks, BlockScorer
from recbole_oov.lm.backbone import EncoderDecoder, add_oov_tokens
from recbole_oov.lm.backbone_maker import BackboneMaker
from recbole_oov.lm.backbone_state import BackboneState, prompts_fingerprint, words_fingerprint
from recbole_oov.lm.beam import as_scores, beam_search
from recbole_oov.lm.explanation import TokenExplanation, explain_by_occlusion
from recbole_oov.lm.identifiers import fine_tokens, make_vocabulary
from recbole_oov.lm.item_text import first_texts, text_tokens
from recbole_oov.lm.options import history_prompts, option_problems, task_columns, task_prompts
from recbole_oov.lm.placement import Guess, Placement, placed
from recbole_oov.lm.prompts import ITEM, Prompts, Template
from recbole_oov.lm.residual import as_vectors
from recbole_oov.lm.scoring import TokenTree, token_positions
from recbole_oov.lm.tasks import NumberTask, Task, Words, task_of
from recbole_oov.lm.token_init import texts_of
from recbole_oov.lm.token_scores import token_scores, training_ratings
from recbole_oov.lm.vocabulary import OOVVocabulary, cluster_token, fine_token


class OOVLLMRec(BackboneState, SequentialRecommender):
    """Names every user and item by a cluster token and a rank token, and lets a language model continue histories.

    A history is one causal sequence: the prompt's words, the user's two tokens, then two tokens an item. The state
    before an item predicts its cluster; it and the state at the cluster token predict which of the cluster's items it
    is. All positions are learned in one pass. To score, all clusters are appended to the history as siblings that do
    not see each other, so that one pass gives the exact log-probability of every item.

    Configuration keys are explained in ``properties/model/OOVLLMRec.yaml``.
    """

    recommends_for_oov_items = False
    recommends_for_histories = True  # with the padding user's tokens, those of the cluster of users without training
    needs_content = False
    needs_text = False
    needs_base_model = False
    gives_log_probabilities = True
    excludes_history = False
    """Whether items of the history cannot come next; what has no such attribute: ``model/extended.py``."""
    paper = "https://arxiv.org/abs/2406.08477"

    def __init__(self, config: Any, dataset: Any) -> None:
        super().__init__(config, dataset)
        self.n_users = dataset.num(self.USER_ID)
        self._kept_leaves: Tensor | None = None
        self._kept_heads: Tensor | None = None
        self.rank_tokens = config["rank_tokens"]
        self.augmentation = float(config["augmentation"])
        self.item_augmentation = float(config["item_augmentation"])
        self.item_softmax = float(config["item_softmax"])
        self.excludes_history = config["history_items"] == "excluded"
        self.prompts, of_tasks = history_prompts(config), task_prompts(config)
        everything = (self.prompts, *of_tasks.values())
        self.question = getattr(self.prompts, config["eval_prompts"])[0]
        histories = Histories.from_train(dataset)
        texts = item_texts(dataset, config["item_text_fields"])
        shows_text = any(prompts.item_text or prompts.asks_item_text for prompts in everything)
        if shows_text:
            problem = missing_text_problem(dataset, texts)
            if problem and config["data_checks"] != "warn":
                raise DataError(problem)
            if problem:
                self.logger.warning(problem)
        trained = sorted(set(histories.items.tolist()))
        self.register_buffer("trained_items", torch.tensor(trained, device=self.device), persistent=False)
        columns = list(dict.fromkeys(column for prompts in everything for column in prompts.columns))
        known = answers_of(dataset, columns, with_first=True)
        words = [words for prompts in everything for words in prompts.words]
        said = (text for column in columns for text in known.texts(column))
        self.maker = BackboneMaker(config, [*words, *(texts[item] for item in trained), *said], writes=bool(columns))
        self.word_tokenizer, self.n_words = self.maker.tokenizer, self.maker.n_words
        text_ids, text_real = text_tokens(texts, self.maker, config["item_text_tokens"] * shows_text)
        self.register_buffer("text_ids", text_ids.to(self.device), persistent=False)
        self.register_buffer("text_real", text_real.to(self.device), persistent=False)
        self.trained_texts = first_texts(texts, trained, self.maker, config["token_init"])
        self.words = {text: torch.tensor(self.maker.encode(text), dtype=torch.long) for text in words}
        self._set_tasks(config, of_tasks, known)
        values = {name: task.values.tolist() for name, task in self.tasks.items() if isinstance(task, NumberTask)}
        self.register_buffer("words_fingerprint", words_fingerprint(self.word_tokenizer, values))
        self.register_buffer("prompts_fingerprint", prompts_fingerprint(everything, text_ids[trained]))
        self.histories = histories
        longer = int((np.diff(histories.offsets) > self.max_seq_length).sum())
        if longer:
            self.logger.warning(
                f"MAX_ITEM_LIST_LENGTH: {longer} of {len(histories)} users have more than {self.max_seq_length} "
                f"training items; rankings read the newest {self.max_seq_length} of them"
            )
        if self.excludes_history:
            check_repeats(config, histories)
        self.decoding, self.n_beams = config["decoding"], config["n_beams"]
        self.placement: Placement | None = None
        vocabulary = make_vocabulary(config, dataset, histories)
        if config["oov_items"] != "reserved":
            vocabulary = self._place(config, dataset, vocabulary)
        self._set_vocabulary(vocabulary)

    @classmethod
    def config_problems(cls, config: Mapping[str, Any]) -> list[str]:
        """What in a configuration cannot work, before any data is loaded."""
        problems = option_problems(config)
        if cls.type == ModelType.SEQUENTIAL and config["history_order"] == "random":
            problems.append(
                "history_order: random is for splits at random; a sequential data set is split by time: take "
                "OOVLLMRecGeneral, or time"
            )
        return problems

    @classmethod
    def interaction_columns(cls, config: Mapping[str, Any]) -> dict[str, tuple[str, str]]:
        """Columns of ``.inter`` that the tasks read or ask for, by name: why, and of which type they must be."""
        return task_columns(config)

    # --- set-up ---------------------------------------------------------------------------------------------------

    def _set_tasks(self, config: Any, prompts: Mapping[str, Prompts], known: Answers) -> None:
        """What is learned beside the next item, and what items are ranked by."""
        self.answer_tokens, self.task_rows = config["answer_tokens"], config["task_rows"]
        self.task_weight, self.rank_by = float(config["task_weight"]), config["rank_by"]
        questions = {name: getattr(task, config["eval_prompts"])[0] for name, task in prompts.items()}
        direct = [name for name, task in prompts.items() if task.answer == ITEM]
        self.direct: Prompts | None = prompts[direct[0]] if direct else None
        self.direct_question: Template | None = questions[direct[0]] if direct else None
        self.tasks: dict[str, Task] = {
            name: task_of(name, task, questions[name], known, self.maker, self.answer_tokens)
            for name, task in prompts.items()
            if name not in direct
        }
        self.recommends_for_histories = self.recommends_for_histories and self.rank_by == "sequential"

    def _place(self, config: Any, dataset: Any, vocabulary: OOVVocabulary) -> OOVVocabulary:
        """Give items without training interactions a place by their content."""
        oov = torch.from_numpy(oov_mask(dataset))
        content = item_content(config, dataset)
        placement = Placement(content, vocabulary, oov, spread=config["oov_items"] == "spread")
        self.logger.info(
            f"{int(oov.sum())} items without training interactions are placed by their content, which explains "
            f"{placement.explained:.1%} of what training items' walk vectors differ in"
        )
        vocabulary = placed(vocabulary, placement)
        self.placement = placement.to(self.device)
        self.recommends_for_oov_items = self.recommends_new_items = self.needs_content = True
        self._calibrated = False
        return vocabulary

    def _set_vocabulary(self, vocabulary: OOVVocabulary) -> None:
        """Build every part whose shape follows from the OOV vocabulary."""
        for name, tensor in vocabulary.state().items():
            self.register_buffer(f"oov_{name}", tensor.to(self.device))
        self.vocabulary = vocabulary
        self.n_clusters = vocabulary.n_clusters
        fine = fine_tokens(vocabulary, own=self.rank_tokens == "own")
        self.first_cluster = self.n_words
        self.first_fine = self.n_words + self.n_clusters
        self.tokenizer = copy.deepcopy(self.word_tokenizer)
        add_oov_tokens(self.tokenizer, vocabulary.names(fine.total))
        item_ids = torch.stack([self.first_cluster + vocabulary.item_cluster, self.first_fine + fine.items], dim=1)
        user_ids = torch.stack([self.first_cluster + vocabulary.user_cluster, self.first_fine + fine.users], dim=1)
        beside = slice(None) if self.prompts.item_text else slice(0)  # in histories; other prompts may show it as well
        blocks = torch.cat([item_ids, self.text_ids[:, beside].cpu()], dim=1)
        real = torch.cat([torch.ones_like(item_ids, dtype=torch.bool), self.text_real[:, beside].cpu()], dim=1)
        blocks[0], real[0] = 0, False  # the padding item is no token at all
        self.register_buffer("item_blocks", blocks.to(self.device), persistent=False)
        self.register_buffer("item_real", real.to(self.device), persistent=False)
        self.register_buffer("user_tokens", user_ids.to(self.device), persistent=False)
        codes = None if fine.codes is None else (self.first_fine + fine.codes).to(self.device)
        self.register_buffer("code_tokens", codes, persistent=False)
        oov = None if self.placement is None else self.placement.oov
        self.tree = TokenTree(vocabulary.item_cluster.to(self.device), self.n_clusters, oov)
        prefix = max(self._prefix_length(template) for template in self.prompts.all)
        if not all(self._prefix_length(template) for template in self.prompts.all):
            raise ConfigError(
                "prompts: a template has nothing before {history}, so that nothing could be read for a user without "
                "one; put words or {user} before it"
            )
        own = fine.items if self.rank_tokens == "own" else None
        said = texts_of(self.trained_texts, vocabulary.item_cluster, self.n_clusters, own)
        n_oov = self.n_clusters + fine.total
        self.backbone = self.maker.make(
            n_oov,
            prefix,
            self.max_seq_length,
            blocks.shape[1],
            said,
            self.device,
            longest_prompt=self._longest_prompt(),
        )
        self.register_buffer("backbone_fingerprint", self.maker.fingerprint)
        hidden, dim = self.backbone.hidden_size, vocabulary.item_vectors.shape[1]
        self.augmentation_map = nn.Linear(vocabulary.centroids.shape[1], hidden, device=self.device)
        self.item_map_in = nn.Linear(dim, hidden, device=self.device)
        self.item_map_out = nn.Linear(dim, hidden, bias=False, device=self.device)

    def _prefix_length(self, template: Template) -> int:
        widths = {"{user}": 2, "{item}": 2, "{item:text}": self.text_ids.shape[1]}
        widths |= {f"{{{column}}}": self.answer_tokens for column in template.columns}
        lengths = (widths[piece] if piece in widths else len(self.words[piece]) for piece in template.before)
        return len(self.maker.begin) + sum(lengths)

    def _longest_prompt(self) -> int:
        """Of those without a history: tokens, with those of the answer."""
        answers = [(task.prompts, task.longest_answer) for task in self.tasks.values()]
        answers += [] if self.direct is None else [(self.direct, 2)]
        return max((self._prefix_length(one) + answer for prompts, answer in answers for one in prompts.all), default=0)

    # --- tokens and their vectors ---------------------------------------------------------------------------------

    def _pieces(
        self, template: Template, users: Tensor, items: Tensor | None = None, read: Mapping[str, Words] | None = None
    ) -> tuple[Tensor, Tensor, int | None]:
        """Token ids (B, T) of what stands before an answer, which are real (B, T), and where an item's last token is.

        Args:
            template: What to say.
            users: (B,)
            items: The items that are asked about. (B,)
            read: By column of the interactions what is read of it.
        """
        n, device = len(users), users.device

        def of(piece: str) -> Words:
            # Ids are looked up, not indexed: indexing takes -1 for the last user or item.
            if piece == "{item:text}":
                assert items is not None
                return F.embedding(items, self.text_ids), self.text_real[items]
            if piece == "{user}":
                ids = F.embedding(users, self.user_tokens)
            elif piece == "{item}":
                assert items is not None
                ids = F.embedding(items, self.item_blocks)[:, :2]
            elif piece in self.words:
                ids = self.words[piece].to(device).expand(n, -1)
            else:
                assert read is not None
                return read[piece[1:-1]]
            return ids, torch.ones_like(ids, dtype=torch.bool)

        begin = self.maker.begin.to(device).expand(n, -1)
        words = [(begin, torch.ones_like(begin, dtype=torch.bool)), *map(of, template.before)]
        place = None
        if "{item}" in template.before:
            place = sum(ids.shape[1] for ids, _ in words[: 2 + template.before.index("{item}")]) - 1
        return torch.cat([ids for ids, _ in words], dim=1), torch.cat([real for _, real in words], dim=1), place

    def asked(
        self, template: Template, users: Tensor, items: Tensor, read: Mapping[str, Words]
    ) -> tuple[Tensor, Tensor]:
        """Vectors (B, T, d) of a prompt about users and items (B,), and which of its tokens are real (B, T)."""
        tokens, real, place = self._pieces(template, users, items, read)
        vectors = self._vectors(tokens)
        extra = self._beside_last_token(items)
        if place is not None and extra is not None:
            vectors = vectors + F.pad(extra[:, None], (0, 0, place, tokens.shape[1] - place - 1))
        return vectors, real

    def _sequence(self, users: Tensor, items: Tensor, template: Template) -> tuple[Tensor, Tensor, Tensor]:
        """Token ids (B, T), their vectors (B, T, d), and which tokens are real (B, T), of prompts and histories."""
        prefix, said, _ = self._pieces(template, users)
        blocks = F.embedding(items, self.item_blocks)
        tokens = torch.cat([prefix, blocks.flatten(1)], dim=1)
        real = torch.cat([said, self.item_real[items].flatten(1)], dim=1)
        vectors = self._vectors(tokens)
        extra = self._beside_last_token(items) if items.shape[1] else None
        if extra is not None:
            start, width = prefix.shape[1], blocks.shape[2]
            history = vectors[:, start:].unflatten(1, (items.shape[1], width))
            history = torch.cat([history[:, :, :1], history[:, :, 1:2] + extra[:, :, None], history[:, :, 2:]], dim=2)
            vectors = torch.cat([vectors[:, :start], history.flatten(1, 2)], dim=1)
        return tokens, vectors, real

    def _beside_last_token(self, items: Tensor) -> Tensor | None:
        """What is read at the last token of items besides its own vector; None for nothing. (B, L) -> (B, L, d)"""
        extra: Tensor | None = None
        if self.item_augmentation:
            extra = self.item_augmentation * self.item_map_in(self.oov_item_vectors[items])
            if self.placement is not None and not self.training:
                fine = self._of_items(self._oov_table(self.backbone.oov_inputs()))
                extra = extra + (self.tree.with_means(fine) - fine)[items]
        if self.code_tokens is not None:
            of_codes = self._of_codes(self._oov_table(self.backbone.oov_inputs()), items)
            extra = of_codes if extra is None else extra + of_codes
        return extra

    def _vectors(self, tokens: Tensor) -> Tensor:
        """Input vectors of any tokens. (B, T) -> (B, T, d)"""
        is_oov = tokens >= self.first_cluster
        words = self.backbone.word_inputs(tokens.masked_fill(is_oov, 0))
        oov = self._oov_table(self.backbone.oov_inputs())
        return torch.where(is_oov[..., None], F.embedding((tokens - self.first_cluster).clamp(min=0), oov), words)

    def _oov_table(self, rows: Tensor) -> Tensor:
        """E[t] + α (W m_t + b) for cluster tokens, m_t the cluster's own centroid; E[t] for fine ones.

        Args:
            rows: E: what the backbone reads OOV tokens by, or predicts them by. (V, d)

        Returns:
            (V, d), clusters first.
        """
        if not self.augmentation:
            return rows
        extra = self.augmentation * self.augmentation_map(self.oov_centroids)
        return torch.cat([rows[: self.n_clusters] + extra, rows[self.n_clusters :]])

    def _of_items(self, rows: Tensor) -> Tensor:
        """Of the rows of OOV tokens those of items' fine tokens. (V, d) -> (n_items, d)"""
        return rows[(self.item_blocks[:, 1] - self.first_cluster).clamp(min=0)]

    def _of_codes(self, rows: Tensor, items: Tensor) -> Tensor:
        """Of the rows of OOV tokens the sums of items' residual codes. (V, d), (..., ) -> (..., d)"""
        return as_vectors(rows, F.embedding(items, self.code_tokens) - self.first_cluster)

    def _leaves(self) -> Tensor:
        """Output vectors of all items: those of their fine tokens. (n_items, d)"""
        if self._kept_leaves is not None:
            return self._kept_leaves
        leaves = self._make_leaves()
        if self.tree.keeps and not (self.training or torch.is_grad_enabled()):
            self._kept_leaves = leaves
        return leaves

    @contextmanager
    def keeping_vectors(self) -> Iterator[None]:
        """While it lasts, scoring makes items' output vectors once: no weight may change meanwhile."""
        self.tree.keeps = True
        try:
            yield
        finally:
            self._kept_leaves = self._kept_heads = None
            self.tree.forget()

    def _make_leaves(self) -> Tensor:
        fine = self._fine()
        if self.placement is not None and not self.training:
            fine = self.tree.with_means(fine)
        if self.item_augmentation:
            fine = fine + self.item_augmentation * self.item_map_out(self.oov_item_vectors)
        return fine

    def _fine(self) -> Tensor:
        """Output vectors of all items' fine tokens, as they were learned; several are added up. (n_items, d)"""
        rows = self.backbone.oov_heads()
        fine = self._of_items(rows)
        return (
            fine if self.code_tokens is None else fine + self._of_codes(rows, torch.arange(len(fine)).to(fine.device))
        )

    # --- learning -------------------------------------------------------------------------------------------------

    def calculate_loss(self, interaction: Interaction) -> Tensor:
        """Mean negative log-likelihood of the next items, and of what other tasks ask for.

        Takes history windows, in which every position has a target (``next_items``), and RecBole's own rows, in
        which the last one has.
        """
        users, inputs, lengths = (interaction[field] for field in (self.USER_ID, self.ITEM_SEQ, self.ITEM_SEQ_LEN))
        rows = torch.arange(len(users), device=users.device)
        if NEXT_ITEMS in interaction:
            targets = interaction[NEXT_ITEMS]
        else:
            targets = torch.zeros_like(inputs)
            targets[rows, lengths - 1] = interaction[self.POS_ITEM_ID]
        excluded = had_before(inputs, targets) if self.excludes_history else None
        # The last target's cluster token is needed as input: its state predicts the item.
        items = torch.cat([inputs, torch.zeros_like(inputs[:, :1])], dim=1)
        items[rows, lengths] = targets[rows, lengths - 1]
        seen = self.prompts.seen
        template = seen[int(torch.randint(len(seen), ()))] if self.training else self.question
        states = self._decoded if isinstance(self.backbone, EncoderDecoder) else self._read
        before, at_cluster, wanted = states(users, items, lengths, targets, template)
        # The state before the item helps to tell which of the cluster's items it is: without it a small backbone
        # must first learn to look one token back from the cluster token before the last item counts at all.
        logits, leaves = self._cluster_logits(before), self._leaves()
        loss = self.tree.nll(logits, at_cluster + before, leaves, wanted, excluded).mean()
        if self.item_softmax:
            loss = loss + self.item_softmax * self._item_nll(before, leaves, wanted, excluded).mean()
        others = [task.loss(self, self.task_rows, users.device) for task in self.tasks.values()]
        if self.direct is not None:
            others.append(self._direct_loss(users, targets))
        return loss + self.task_weight * sum(others)

    def _item_nll(self, before: Tensor, leaves: Tensor, wanted: Tensor, excluded: Tensor | None = None) -> Tensor:
        """Negative log-likelihood of items in one softmax over all of them, by what is known before the cluster token.

        In the tree an item is told from those of its own cluster alone. Here it is from all others as well, as in
        SASRec, and the state before it learns to name items and not only clusters.

        Args:
            before: States before the items. (N, d)
            leaves: Output vector of every item. (n_items, d)
            wanted: Item ids. (N,)
            excluded: Items that cannot come next, 0 for none. (N, H)

        Returns:
            (N,)
        """
        logits = self._item_logits(before, self._item_heads(leaves, self.trained_items), self.trained_items, excluded)
        return F.cross_entropy(logits, torch.searchsorted(self.trained_items, wanted), reduction="none")

    def _item_heads(self, leaves: Tensor, items: Tensor) -> Tensor:
        """Output vectors of items (M,) in the softmax over all of them. (M, d)"""
        # An item's logit is its cluster's and its own; added as vectors they take no tables of N by items.
        return F.embedding(items, leaves) + F.embedding(self.oov_item_cluster[items], self._cluster_heads())

    def _item_logits(self, before: Tensor, heads: Tensor, items: Tensor, excluded: Tensor | None) -> Tensor:
        """Logits of items, ascending ids (M,), by their vectors (M, d); the rest as above. (N, M)"""
        logits = before @ heads.T
        if excluded is not None:
            place = torch.searchsorted(items, excluded).clamp(max=len(items) - 1)
            row, column = (items[place] == excluded).nonzero(as_tuple=True)
            logits[row, place[row, column]] = torch.finfo(logits.dtype).min
        return logits

    def _direct_loss(self, users: Tensor, targets: Tensor) -> Tensor:
        """The same targets, asked for without a history: all of a user's are siblings behind one prompt."""
        assert self.direct is not None and self.direct_question is not None
        seen = self.direct.seen
        template = seen[int(torch.randint(len(seen), ()))] if self.training else self.direct_question
        _, vectors, real = self._sequence(users, targets[:, :0], template)
        clusters = self._oov_table(self.backbone.oov_inputs())[self.oov_item_cluster[targets]]
        state, branches = self.backbone.branches(vectors, real, clusters)
        row, position = targets.nonzero(as_tuple=True)
        before, wanted = state[row], targets[row, position]
        logits = self._cluster_logits(before)
        return self.tree.nll(logits, branches[row, position] + before, self._leaves(), wanted).mean()

    def _read(
        self, users: Tensor, items: Tensor, lengths: Tensor, targets: Tensor, template: Template
    ) -> tuple[Tensor, Tensor, Tensor]:
        """All targets of histories that are read once, as one causal sequence.

        Args:
            users: (B,)
            items: Histories, and behind each its last target. (B, L + 1)
            lengths: Of the histories. (B,)
            targets: The item after each of a history, 0 where it is none to learn from. (B, L)
            template: The words around them.

        Returns:
            Of N targets the states before them (N, d) and at their cluster tokens (N, d), and the items (N,).
        """
        tokens, vectors, real = self._sequence(users, items, template)
        # Padding at the end needs no mask in a causal model; padding inside (short item texts) does.
        hidden = self.backbone.states(vectors, token_positions(real), real if self.item_blocks.shape[1] > 2 else None)
        row, position = targets.nonzero(as_tuple=True)
        width = self.item_blocks.shape[1]
        start = tokens.shape[1] - items.shape[1] * width
        block_length = self.item_real[items[row, position]].sum(dim=1)
        before = hidden[row, start + position * width + block_length - 1]
        return before, hidden[row, start + (position + 1) * width], targets[row, position]

    def _decoded(
        self, users: Tensor, items: Tensor, lengths: Tensor, targets: Tensor, template: Template
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The same for an encoder, which reads all of what it is given at once: no target may be in it.

        Each target has a row of its own: the encoder reads the prompt and the history before it, the decoder its
        cluster token. That is what scoring asks for.
        """
        assert isinstance(self.backbone, EncoderDecoder)
        row, position = targets.nonzero(as_tuple=True)
        wanted = targets[row, position]
        place = torch.arange(items.shape[1], device=items.device)
        history = items[row].masked_fill(place > position[:, None], 0)[:, : int(position.max()) + 1]
        _, vectors, real = self._sequence(users[row], history, template)
        clusters = self._oov_table(self.backbone.oov_inputs())[self.oov_item_cluster[wanted]]
        before, branches = self.backbone.branches(vectors, real, clusters[:, None])
        return before, branches[:, 0], wanted

    def _cluster_logits(self, states: Tensor) -> Tensor:
        return states @ self._cluster_heads().T

    def _cluster_heads(self) -> Tensor:
        """Output vectors of cluster tokens. (K, d)"""
        return self._oov_table(self.backbone.oov_heads())[: self.n_clusters]

    # --- scoring --------------------------------------------------------------------------------------------------

    def full_sort_predict(self, interaction: Interaction) -> Tensor:
        """Log-probability of every item as the next one. (B, n_items)

        Exact, or with ``decoding: beam`` that of the ``n_beams`` items which beam search finds, and the least finite
        number for all others; with ``decoding: softmax`` that of the softmax over all trained items, and the least
        finite number for items without training interactions.
        """
        self._calibrate()
        if self.decoding == "beam":
            return as_scores(*self._beams(interaction), self.n_items)
        if self.decoding == "softmax":
            return self._softmax_scores(self._state(interaction), self._excluded(interaction))
        return self._scores(self._branches(interaction), self._excluded(interaction))

    def _scores(self, states: tuple[Tensor, Tensor], excluded: Tensor | None) -> Tensor:
        """Exact scores of all items from what :meth:`_branches` and :meth:`_excluded` give. (B, n_items)"""
        scores = self.tree.log_probs(*states, self._leaves(), excluded)
        if self.placement is not None and self.placement.spread:
            oov = self.placement.oov.nonzero().squeeze(1)
            scores = scores.index_copy(1, oov, self._weights(states, self.placement.of_items(oov)))
        return scores

    def _softmax_scores(self, state: Tensor, excluded: Tensor | None) -> Tensor:
        """Log-probabilities in the softmax over all trained items after states (B, d). (B, n_items)"""
        heads = self._kept_heads
        if heads is None:
            heads = self._item_heads(self._leaves(), self.trained_items)
            if self.tree.keeps and not (self.training or torch.is_grad_enabled()):
                self._kept_heads = heads
        log_probs = self._item_logits(state, heads, self.trained_items, excluded).log_softmax(dim=1)
        scores = log_probs.new_full((len(state), self.n_items), torch.finfo(log_probs.dtype).min)
        return scores.index_copy_(1, self.trained_items, log_probs)

    def block_scorer(self) -> BlockScorer | None:
        """How evaluation scores some items at a time, where a row of all scores would not fit its memory.

        Beams do not need it, and placed items, of which there are few, are not scored so.
        """
        if self.decoding == "softmax":
            return self._softmax_blocks
        return None if self.decoding == "beam" or self.placement is not None else self._score_blocks

    def _softmax_blocks(self, interaction: Interaction, size: int) -> Blocks:
        """:meth:`_softmax_scores`, so many items at a time at most, each scored twice: the denominator comes first."""
        state, excluded, leaves = self._state(interaction), self._excluded(interaction), self._leaves()
        parts = self.trained_items.split(size)

        def logits_of(part: Tensor) -> Tensor:
            return self._item_logits(state, self._item_heads(leaves, part), part, excluded)

        total = torch.stack([logits_of(part).logsumexp(dim=1) for part in parts]).logsumexp(dim=0)[:, None]
        for part in parts:
            yield part, logits_of(part) - total
        for part in self._untrained().split(size):
            yield part, state.new_full((len(state), len(part)), torch.finfo(state.dtype).min)

    def _untrained(self) -> Tensor:
        """Items without training interactions, ascending."""
        known = torch.zeros(self.n_items, dtype=torch.bool, device=self.trained_items.device)
        known[0] = known[self.trained_items] = True
        return (~known).nonzero().squeeze(1)

    def _score_blocks(self, interaction: Interaction, size: int) -> Blocks:
        return self.tree.log_prob_blocks(
            *self._branches(interaction), self._leaves(), size, self._excluded(interaction)
        )

    def _beams(self, interaction: Interaction) -> tuple[Tensor, Tensor]:
        """What beam search finds: scores and items. (B, n_beams) each"""
        vectors, real, clusters = self._asked(interaction)
        state, go_on = self.backbone.read(vectors, real)

        def branches_of(chosen: Tensor) -> Tensor:
            return go_on(clusters[chosen]) + state[:, None]

        logits, excluded = self._cluster_logits(state), self._excluded(interaction)
        return beam_search(self.tree, logits, branches_of, self._leaves(), self.n_beams, excluded)

    def _excluded(self, interaction: Interaction) -> Tensor | None:
        """Items that cannot come next: those of the history that is read, if ``history_items`` says so. (B, L)"""
        if not self.excludes_history:
            return None
        items: Tensor = self._asked_after(interaction)[self.ITEM_SEQ]
        return items

    def _branches(self, interaction: Interaction) -> tuple[Tensor, Tensor]:
        """Logits of the next cluster (B, K), and the states at all cluster tokens, had each come next (B, K, d)."""
        vectors, real, clusters = self._asked(interaction)
        state, branches = self.backbone.branches(vectors, real, clusters.expand(len(vectors), -1, -1))
        return self._cluster_logits(state), branches + state[:, None]

    def _state(self, interaction: Interaction) -> Tensor:
        """What is known before the next item. (B, d)"""
        vectors, real, _ = self._asked(interaction)
        state, _ = self.backbone.read(vectors, real)
        return state

    def _asked(self, interaction: Interaction) -> tuple[Tensor, Tensor, Tensor]:
        """What is read before an item: vectors (B, T, d), which are real (B, T); and those of clusters (K, d)."""
        interaction = self._asked_after(interaction)
        users, items = interaction[self.USER_ID], interaction[self.ITEM_SEQ]
        question, items = self.question, items[:, : int(interaction[self.ITEM_SEQ_LEN].max())]
        if self.rank_by == "direct":
            assert self.direct_question is not None
            question, items = self.direct_question, items[:, :0]
        _, vectors, real = self._sequence(users, items, question)
        return vectors, real, self._oov_table(self.backbone.oov_inputs())[: self.n_clusters]

    def predict(self, interaction: Interaction) -> Tensor:
        """Score of one given item a row, as of :meth:`full_sort_predict`. (B,)"""
        return self.full_sort_predict(interaction).gather(1, interaction[self.ITEM_ID][:, None]).squeeze(1)

    @torch.no_grad()
    def explain(self, interaction: Interaction, items: Tensor) -> TokenExplanation:
        """Why items are scored as they are after one user's history: exact scores, for ``decoding: beam`` as well.

        Args:
            interaction: One row. (1,)
            items: Item ids. (N,)
        """
        self._calibrate()
        interaction = self._asked_after(interaction)
        length = int(interaction[self.ITEM_SEQ_LEN][0])
        history = interaction[self.ITEM_SEQ][0, :length]
        clusters, of_history = self.oov_item_cluster[items], self._excluded(interaction)

        def score(histories: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
            users = interaction[self.USER_ID].expand(len(histories))
            rows = Interaction({self.USER_ID: users, self.ITEM_SEQ: histories, self.ITEM_SEQ_LEN: lengths})
            # What is left out is not read, but comes no nearer to being recommended: else it would be a new rival.
            excluded = None if of_history is None else of_history.expand(len(histories), -1)
            if self.decoding == "softmax":
                scores = self._softmax_scores(self._state(rows), excluded)
                whole = [scores[:, self.oov_item_cluster == cluster].logsumexp(dim=1) for cluster in clusters]
                return torch.stack(whole, dim=1), scores[:, items] - torch.stack(whole, dim=1)
            logits, branches = self._branches(rows)
            of_clusters = self.tree.cluster_log_probs(logits, excluded)[:, clusters]
            return of_clusters, self._scores((logits, branches), excluded)[:, items] - of_clusters

        return explain_by_occlusion(history, self.oov_item_cluster[history], score)

    def item_tokens(self, item: int) -> tuple[str, str]:
        """The two tokens that name an item; residual codes stand before the last one."""
        cluster, last = self.item_blocks[item, :2].tolist()
        codes = [] if self.code_tokens is None else self.code_tokens[item].tolist()
        fine = [fine_token(token - self.first_fine) for token in (*codes, last)]
        return cluster_token(cluster - self.first_cluster), "".join(fine)

    @torch.no_grad()
    def diagnostics(self, train_dataset: Any) -> dict[str, float]:
        """Diversity and memorisation of the identifiers as the backbone reads them, from training interactions alone.

        Args:
            train_dataset: The training part of the data set.

        Returns:
            The values of :class:`~recbole_oov.lm.token_scores.TokenScores` by name.
        """
        items = torch.from_numpy(np.unique(self.histories.items)).to(self.device)
        users = torch.from_numpy(self.histories.user_ids).to(self.device)
        of_items = self._vectors(self.item_blocks[items, :2]).mean(dim=1)
        if self.code_tokens is not None:
            of_items = of_items + self._of_codes(self._oov_table(self.backbone.oov_inputs()), items) / 2
        if self.item_augmentation:
            of_items = of_items + self.item_augmentation / 2 * self.item_map_in(self.oov_item_vectors[items])
        of_users = self._vectors(self.user_tokens[users]).mean(dim=1)
        ratings = training_ratings(train_dataset)[users.cpu().numpy()][:, items.cpu().numpy()]
        return token_scores(of_items, of_users, ratings).as_dict()

    # --- items without training interactions ----------------------------------------------------------------------

    @torch.no_grad()
    def score_new_items(self, users: Tensor, content: Tensor) -> Tensor:
        """Scores of items that are in no data set, beside those of :meth:`full_sort_predict`.

        Args:
            users: Internal ids; each is asked after the newest of their training items. (B,)
            content: As :func:`~recbole_oov.data.content.new_item_content` makes it. (N, content_dim)

        Returns:
            (B, N)
        """
        assert self.placement is not None
        self._calibrate()
        guess = self.placement(content)
        blocks = users.split(_USERS_AT_ONCE)
        return torch.cat([self._weights(self._branches(self._after_training(block)), guess) for block in blocks])

    def _asked_after(self, interaction: Interaction) -> Interaction:
        """Rows with the histories after which they ask."""
        return interaction

    def _after_training(self, users: Tensor) -> Interaction:
        """Rows that ask after the newest ``MAX_ITEM_LIST_LENGTH`` training items of users."""
        items, lengths = self.histories.newest(users, self.max_seq_length)
        return Interaction({self.USER_ID: users, self.ITEM_SEQ: items, self.ITEM_SEQ_LEN: lengths})

    def _weights(self, states: tuple[Tensor, Tensor], guess: Guess) -> Tensor:
        """Scores of items of which content alone is known, from what :meth:`_branches` gives. (B, N)"""
        assert self.placement is not None
        tokens = self.tree.cluster_means(self._fine())
        own = self.item_augmentation * self.item_map_out(guess.vectors)
        if guess.log_shares is not None:
            return self.tree.log_mixtures(*states, self._leaves(), tokens, own, guess.log_shares)
        clusters = self.placement.clusters(guess.vectors, self.oov_centroids, self.oov_item_cluster)
        return self.tree.log_weights(*states, self._leaves(), tokens[clusters] + own, clusters)

    @torch.no_grad()
    def _calibrate(self) -> None:
        """Let an item that is placed weigh on average as much as one that was learned.

        Training items are scored as if they were new, after training histories, each placed by what the other
        training items say of its content; the offset is what brings the sum of their weights to 1, which the sum of
        their probabilities is. Nothing held out is read, nor any item that is placed.
        """
        if self.placement is None or self._calibrated or self.training:
            return
        self._calibrated, self.tree.offset = True, 0.0
        guess = self.placement.of_items(self.placement.learned)
        known = torch.from_numpy(self.histories.user_ids).to(self.device)
        some = known[torch.linspace(0, len(known) - 1, min(len(known), _CALIBRATION_USERS)).long()]
        total = 0.0
        for block in some.split(_USERS_AT_ONCE):
            total += float(self._weights(self._branches(self._after_training(block)), guess).double().exp().sum())
        self.tree.offset = -math.log(max(total / len(some), 1e-30))

    def train(self, mode: bool = True) -> OOVLLMRec:
        """As torch's; what scoring has kept is computed anew when it is asked for."""
        self._calibrated = False
        super().train(mode)
        return self


_CALIBRATION_USERS = 256
_USERS_AT_ONCE = 64
