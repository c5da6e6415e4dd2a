"""OOVLLMRec: a language-model recommender whose users and items are out-of-vocabulary tokens.

Reference:
    META ID, arXiv 2406.08477 (identifiers from meta-path walks, two new tokens each, a language model fine-tuned
    on prompts with them). What the paper says, what its code does and what is done here: ``docs/papers.md``.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from recbole.data.interaction import Interaction
from recbole.model.abstract_recommender import SequentialRecommender
from torch import Tensor, nn

from recbole_oov.data.content import item_content
from recbole_oov.data.histories import NEXT_ITEMS, Histories
from recbole_oov.data.oov_split import oov_mask
from recbole_oov.data.text import item_texts, missing_text_problem
from recbole_oov.errors import ConfigError, DataError
from recbole_oov.lm.backbone import TinySettings, add_oov_tokens, check_backbone, tiny_backbone, tiny_tokenizer
from recbole_oov.lm.beam import as_scores, beam_search
from recbole_oov.lm.explanation import TokenExplanation, explain_by_occlusion
from recbole_oov.lm.identifiers import fine_tokens, identifier_problems, make_vocabulary
from recbole_oov.lm.placement import Guess, Placement, placed
from recbole_oov.lm.prompts import Prompts, Template, load_prompts
from recbole_oov.lm.residual import as_vectors
from recbole_oov.lm.scoring import TokenTree, sibling_mask, sibling_positions, token_positions
from recbole_oov.lm.token_scores import token_scores, training_ratings
from recbole_oov.lm.vocabulary import OOVVocabulary, cluster_token, fine_token


class OOVLLMRec(SequentialRecommender):
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
    paper = "https://arxiv.org/abs/2406.08477"

    def __init__(self, config: Any, dataset: Any) -> None:
        super().__init__(config, dataset)
        check_backbone(config["backbone"])
        self.n_users = dataset.num(self.USER_ID)
        self.settings = TinySettings(
            hidden_size=config["hidden_size"],
            n_layers=config["n_layers"],
            n_heads=config["n_heads"],
            inner_size=config["inner_size"],
            dropout=config["dropout"],
        )
        self.rank_tokens = config["rank_tokens"]
        self.augmentation = float(config["augmentation"])
        self.item_augmentation = float(config["item_augmentation"])
        self.prompts = _prompts(config)
        histories = Histories.from_train(dataset)
        texts = item_texts(dataset, config["item_text_fields"])
        if self.prompts.item_text:
            problem = missing_text_problem(dataset, texts)
            if problem and config["data_checks"] != "warn":
                raise DataError(problem)
            if problem:
                self.logger.warning(problem)
        trained = [texts[item] for item in sorted(set(histories.items.tolist()))]
        self.word_tokenizer = tiny_tokenizer([*self.prompts.words, *trained], config["tokenizer_vocab_size"])
        self.n_words = len(self.word_tokenizer)
        self.text_ids = self._text_ids(texts, config["item_text_tokens"] if self.prompts.item_text else 0)
        self.words = {words: torch.tensor(self.word_tokenizer.encode(words)) for words in self.prompts.words}
        self.histories = histories
        self.decoding, self.n_beams = config["decoding"], config["n_beams"]
        self.placement: Placement | None = None
        vocabulary = make_vocabulary(config, dataset, histories)
        if config["oov_items"] != "reserved":
            vocabulary = self._place(config, dataset, vocabulary)
        self._set_vocabulary(vocabulary)

    @classmethod
    def config_problems(cls, config: Mapping[str, Any]) -> list[str]:
        """What in a configuration cannot work, before any data is loaded."""
        problems = identifier_problems(config)
        for check in (lambda: check_backbone(config["backbone"]), lambda: _prompts(config)):
            try:
                check()
            except ConfigError as error:
                problems += error.errors
        for key, allowed in _CHOICES.items():
            if config[key] not in allowed:
                problems.append(f"{key}: {config[key]!r} is not one of {', '.join(allowed)}")
        if config["hidden_size"] % config["n_heads"]:
            problems.append(f"n_heads: {config['n_heads']} does not divide hidden_size {config['hidden_size']}")
        by_content = config["oov_items"] in ("placed", "spread")
        if by_content and not config["item_augmentation"]:
            problems.append(
                f"item_augmentation: 0 leaves oov_items: {config['oov_items']} nothing that tells a cluster's new "
                f"items apart; give 1, or oov_items: reserved"
            )
        if by_content and (config["oov_tokens"] != "clustered" or config["item_vectors"] not in (None, "walks")):
            problems.append(
                f"oov_items: {config['oov_items']} maps content to walks and needs oov_tokens: clustered and "
                f"item_vectors: walks; change these, or give oov_items: reserved"
            )
        if config["oov_items"] == "spread" and config["decoding"] == "beam":
            problems.append(
                "decoding: beam ends in one cluster, and oov_items: spread has new items in all; give oov_items: placed"
            )
        if not isinstance(config["n_beams"], int) or config["n_beams"] < 1:
            problems.append(f"n_beams: {config['n_beams']!r} is not allowed; give a whole number, at least 1")
        return problems

    # --- set-up ---------------------------------------------------------------------------------------------------

    def _text_ids(self, texts: list[str], width: int) -> Tensor:
        """Token ids of every item's text, cut to ``width``, 0 where it is shorter. (n_items, width)"""
        ids = torch.zeros(self.n_items, width, dtype=torch.long)
        if width:
            for item, text in enumerate(texts):
                encoded = self.word_tokenizer.encode(text)[:width]
                ids[item, : len(encoded)] = torch.tensor(encoded, dtype=torch.long)
        return ids

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
        blocks = torch.cat([item_ids, self.text_ids], dim=1)
        blocks[0] = 0  # the padding item is no token at all
        self.register_buffer("item_blocks", blocks.to(self.device), persistent=False)
        self.register_buffer("user_tokens", user_ids.to(self.device), persistent=False)
        codes = None if fine.codes is None else (self.first_fine + fine.codes).to(self.device)
        self.register_buffer("code_tokens", codes, persistent=False)
        oov = None if self.placement is None else self.placement.oov
        self.tree = TokenTree(vocabulary.item_cluster.to(self.device), self.n_clusters, oov)
        prefix = max(self._prefix_length(template) for template in self.prompts.seen + self.prompts.unseen)
        self.backbone = tiny_backbone(
            self.settings,
            vocab_size=self.first_fine + fine.total,
            max_positions=prefix + (self.max_seq_length + 1) * blocks.shape[1] + 1,
        ).to(self.device)
        hidden, dim = self.settings.hidden_size, vocabulary.item_vectors.shape[1]
        self.augmentation_map = nn.Linear(vocabulary.centroids.shape[1], hidden, device=self.device)
        self.item_map_in = nn.Linear(dim, hidden, device=self.device)
        self.item_map_out = nn.Linear(dim, hidden, bias=False, device=self.device)

    def _prefix_length(self, template: Template) -> int:
        return sum(2 if piece == "{user}" else len(self.words[piece]) for piece in template.before)

    # --- tokens and their vectors ---------------------------------------------------------------------------------

    def _sequence(self, users: Tensor, items: Tensor, template: Template) -> tuple[Tensor, Tensor, Tensor]:
        """Token ids (B, T), their vectors (B, T, d), and which tokens are real (B, T), of prompts and histories."""
        # Ids are looked up, not indexed: indexing takes -1 for the last user or item.
        prefix = torch.cat(
            [
                F.embedding(users, self.user_tokens)
                if piece == "{user}"
                else self.words[piece].to(users.device).expand(len(users), -1)
                for piece in template.before
            ],
            dim=1,
        )
        blocks = F.embedding(items, self.item_blocks)
        tokens = torch.cat([prefix, blocks.flatten(1)], dim=1)
        real = torch.cat([torch.ones_like(prefix, dtype=torch.bool), (blocks != 0).flatten(1)], dim=1)
        vectors = F.embedding(tokens, self._table())
        extra = self._beside_last_token(items)
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
                fine = self._fine()
                extra = extra + (self.tree.with_means(fine) - fine)[items]
        if self.code_tokens is not None:
            of_codes = as_vectors(self._table(), F.embedding(items, self.code_tokens))
            extra = of_codes if extra is None else extra + of_codes
        return extra

    def _table(self) -> Tensor:
        """E[t] + α (W m_t + b) for cluster tokens, m_t the cluster's own centroid; E[t] for all others. (V, d)"""
        table: Tensor = self.backbone.get_input_embeddings().weight
        if not self.augmentation:
            return table
        extra = self.augmentation * self.augmentation_map(self.oov_centroids)
        first, end = self.first_cluster, self.first_fine
        return torch.cat([table[:first], table[first:end] + extra, table[end:]])

    def _leaves(self) -> Tensor:
        """Output vectors of all items: those of their fine tokens. (n_items, d)"""
        fine = self._fine()
        if self.placement is not None and not self.training:
            fine = self.tree.with_means(fine)
        if self.item_augmentation:
            fine = fine + self.item_augmentation * self.item_map_out(self.oov_item_vectors)
        return fine

    def _fine(self) -> Tensor:
        """Output vectors of all items' fine tokens, as they were learned; several are added up. (n_items, d)"""
        table: Tensor = self.backbone.get_input_embeddings().weight
        fine = table[self.item_blocks[:, 1]]
        return fine if self.code_tokens is None else fine + as_vectors(table, self.code_tokens)

    # --- learning -------------------------------------------------------------------------------------------------

    def calculate_loss(self, interaction: Interaction) -> Tensor:
        """Mean negative log-likelihood of the next items.

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
        # The last target's cluster token is needed as input: its state predicts the item.
        items = torch.cat([inputs, torch.zeros_like(inputs[:, :1])], dim=1)
        items[rows, lengths] = targets[rows, lengths - 1]
        seen = self.prompts.seen
        template = seen[int(torch.randint(len(seen), ()))] if self.training else seen[0]
        tokens, vectors, real = self._sequence(users, items, template)
        output = self.backbone(
            inputs_embeds=vectors,
            # Padding at the end needs no mask in a causal model; padding inside (short item texts) does.
            attention_mask=real if self.text_ids.shape[1] else None,
            position_ids=token_positions(real),
        )
        row, position = targets.nonzero(as_tuple=True)
        width = self.item_blocks.shape[1]
        start = tokens.shape[1] - items.shape[1] * width
        block_length = (self.item_blocks[inputs[row, position]] != 0).sum(dim=1)
        before = output.last_hidden_state[row, start + position * width + block_length - 1]
        at_cluster = output.last_hidden_state[row, start + (position + 1) * width]
        # The state before the item helps to tell which of the cluster's items it is: without it a small backbone
        # must first learn to look one token back from the cluster token before the last item counts at all.
        states = at_cluster + before
        nll = self.tree.nll(self._cluster_logits(before), states, self._leaves(), targets[row, position])
        return nll.mean()

    def _cluster_logits(self, states: Tensor) -> Tensor:
        return states @ self._table()[self.first_cluster : self.first_fine].T

    # --- scoring --------------------------------------------------------------------------------------------------

    def full_sort_predict(self, interaction: Interaction) -> Tensor:
        """Log-probability of every item as the next one. (B, n_items)

        Exact, or with ``decoding: beam`` that of the ``n_beams`` items which beam search finds, and the least finite
        number for all others.
        """
        self._calibrate()
        if self.decoding == "beam":
            return as_scores(*self._beams(interaction), self.n_items)
        return self._scores(self._branches(interaction))

    def _scores(self, states: tuple[Tensor, Tensor]) -> Tensor:
        """Exact scores of all items from what :meth:`_branches` gives. (B, n_items)"""
        scores = self.tree.log_probs(*states, self._leaves())
        if self.placement is not None and self.placement.spread:
            oov = self.placement.oov.nonzero().squeeze(1)
            scores = scores.index_copy(1, oov, self._weights(states, self.placement.of_items(oov)))
        return scores

    def _beams(self, interaction: Interaction) -> tuple[Tensor, Tensor]:
        """What beam search finds: scores and items. (B, n_beams) each"""

        def branches_of(clusters: Tensor) -> Tensor:
            return self._branches(interaction, clusters)[1]

        first, _ = self._branches(interaction, interaction[self.USER_ID].new_empty(len(interaction), 0))
        return beam_search(self.tree, first, branches_of, self._leaves(), self.n_beams)

    def _branches(self, interaction: Interaction, chosen: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Logits of the next cluster (B, K), and the states at all cluster tokens, or at chosen ones (B, C), had each
        come next (B, C, d).
        """
        users, items = interaction[self.USER_ID], interaction[self.ITEM_SEQ]
        items = items[:, : int(interaction[self.ITEM_SEQ_LEN].max())]
        _, vectors, real = self._sequence(users, items, self.prompts.seen[0])
        clusters = self._table()[self.first_cluster : self.first_fine]
        siblings = clusters.expand(len(users), -1, -1) if chosen is None else clusters[chosen]
        n_siblings = siblings.shape[1]
        output = self.backbone(
            inputs_embeds=torch.cat([vectors, siblings], dim=1),
            attention_mask=sibling_mask(real, n_siblings),
            position_ids=sibling_positions(real, n_siblings),
        )
        last = (real * torch.arange(real.shape[1], device=real.device)).argmax(dim=1)
        state: Tensor = output.last_hidden_state[torch.arange(len(users), device=users.device), last]
        branches = output.last_hidden_state[:, real.shape[1] :] + state[:, None]
        return self._cluster_logits(state), branches

    def predict(self, interaction: Interaction) -> Tensor:
        """Score of one given item a row, as of :meth:`full_sort_predict`. (B,)"""
        return self.full_sort_predict(interaction).gather(1, interaction[self.ITEM_ID][:, None]).squeeze(1)

    @torch.no_grad()
    def explain(self, interaction: Interaction, items: Tensor) -> TokenExplanation:
        """Why items are scored as they are after one user's history: exact scores, whatever ``decoding`` says.

        Args:
            interaction: One row. (1,)
            items: Item ids. (N,)
        """
        self._calibrate()
        length = int(interaction[self.ITEM_SEQ_LEN][0])
        history = interaction[self.ITEM_SEQ][0, :length]
        clusters = self.oov_item_cluster[items]

        def score(histories: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
            users = interaction[self.USER_ID].expand(len(histories))
            rows = Interaction({self.USER_ID: users, self.ITEM_SEQ: histories, self.ITEM_SEQ_LEN: lengths})
            logits, branches = self._branches(rows)
            of_clusters = self.tree.cluster_log_probs(logits)[:, clusters]
            return of_clusters, self._scores((logits, branches))[:, items] - of_clusters

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
        table = self._table()
        of_items = (table[self.item_blocks[items, 0]] + self._fine()[items]) / 2
        if self.item_augmentation:
            of_items = of_items + self.item_augmentation / 2 * self.item_map_in(self.oov_item_vectors[items])
        of_users = table[self.user_tokens[users]].mean(dim=1)
        ratings = training_ratings(train_dataset)[users.cpu().numpy()][:, items.cpu().numpy()]
        return token_scores(of_items, of_users, ratings).as_dict()

    # --- items without training interactions ----------------------------------------------------------------------

    @torch.no_grad()
    def score_new_items(self, users: Tensor, content: Tensor) -> Tensor:
        """Scores of items that are in no data set, beside those of :meth:`full_sort_predict`.

        Args:
            users: Internal ids; each is asked after all of their training items. (B,)
            content: As :func:`~recbole_oov.data.content.new_item_content` makes it. (N, content_dim)

        Returns:
            (B, N)
        """
        assert self.placement is not None
        self._calibrate()
        guess = self.placement(content)
        blocks = users.split(_USERS_AT_ONCE)
        return torch.cat([self._weights(self._branches(self._after_training(block)), guess) for block in blocks])

    def _after_training(self, users: Tensor) -> Interaction:
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

    # --- checkpoints ----------------------------------------------------------------------------------------------

    def load_state_dict(self, state_dict: Mapping[str, Any], *args: Any, **kwargs: Any) -> Any:
        """As torch's; the OOV vocabulary is the checkpoint's, even where this machine would have made another."""
        self._calibrated = False
        names = (field.name for field in fields(OOVVocabulary))
        saved = {name: state_dict[f"oov_{name}"].cpu() for name in names if f"oov_{name}" in state_dict}
        own = self.vocabulary.state()
        if own.keys() != saved.keys() or any(not torch.equal(saved[name], own[name].cpu()) for name in own):
            self._set_vocabulary(OOVVocabulary(**saved))
        return super().load_state_dict(state_dict, *args, **kwargs)


_CHOICES = {
    "rank_tokens": ("shared", "own"),
    "oov_items": ("reserved", "placed", "spread"),
    "decoding": ("exact", "beam"),
}
_CALIBRATION_USERS = 256
_USERS_AT_ONCE = 64


def _prompts(config: Any) -> Prompts:
    prompts = load_prompts(config["prompts"])
    return prompts if config["user_tokens"] else prompts.without_users()
