"""OOVLLMRec: a language-model recommender whose users and items are out-of-vocabulary tokens.

Reference:
    META ID, arXiv 2406.08477 (identifiers from meta-path walks, two new tokens each, a language model fine-tuned
    on prompts with them). What the paper says, what its code does and what is done here: ``docs/papers.md``.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from recbole.data.interaction import Interaction
from recbole.model.abstract_recommender import SequentialRecommender
from torch import Tensor, nn

from recbole_oov.data.histories import NEXT_ITEMS, Histories
from recbole_oov.data.text import item_texts, missing_text_problem
from recbole_oov.errors import ConfigError, DataError
from recbole_oov.lm.backbone import TinySettings, add_oov_tokens, check_backbone, tiny_backbone, tiny_tokenizer
from recbole_oov.lm.prompts import Template, load_prompts
from recbole_oov.lm.scoring import TokenTree, sibling_mask, sibling_positions, token_positions
from recbole_oov.lm.vocabulary import OOVVocabulary, WalkSettings, clustered, shuffled


class OOVLLMRec(SequentialRecommender):
    """Names every user and item by a cluster token and a rank token, and lets a language model continue histories.

    A history is one causal sequence: the prompt's words, the user's two tokens, then two tokens an item. The state
    before an item predicts its cluster; it and the state at the cluster token predict which of the cluster's items it
    is. All positions are learned in one pass. To score, all clusters are appended to the history as siblings that do
    not see each other, so that one pass gives the exact log-probability of every item.

    Configuration keys are explained in ``properties/model/OOVLLMRec.yaml``.
    """

    recommends_for_oov_items = False
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
        self.prompts = load_prompts(config["prompts"])
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
        self._set_vocabulary(_make_vocabulary(config, histories))

    @classmethod
    def config_problems(cls, config: Mapping[str, Any]) -> list[str]:
        """What in a configuration cannot work, before any data is loaded."""
        problems = []
        for check in (lambda: check_backbone(config["backbone"]), lambda: load_prompts(config["prompts"])):
            try:
                check()
            except ConfigError as error:
                problems += error.errors
        for key, allowed in (("rank_tokens", ("shared", "own")), ("oov_tokens", ("clustered", "random"))):
            if config[key] not in allowed:
                problems.append(f"{key}: {config[key]!r} is not one of {', '.join(allowed)}")
        if config["hidden_size"] % config["n_heads"]:
            problems.append(f"n_heads: {config['n_heads']} does not divide hidden_size {config['hidden_size']}")
        for key in ("n_clusters", "walks_per_node", "walk_length", "walk_window", "walk_dim", "walk_epochs"):
            if not isinstance(config[key], int) or config[key] < 1:
                problems.append(f"{key}: {config[key]!r} is not allowed; give a whole number, at least 1")
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

    def _set_vocabulary(self, vocabulary: OOVVocabulary) -> None:
        """Build every part whose shape follows from the OOV vocabulary."""
        for name, tensor in vocabulary.state().items():
            self.register_buffer(f"oov_{name}", tensor.to(self.device))
        self.vocabulary = vocabulary
        self.n_clusters = vocabulary.n_clusters
        if self.rank_tokens == "own":
            item_fine, user_fine = torch.arange(self.n_items), self.n_items + torch.arange(self.n_users)
            n_fine = self.n_items + self.n_users
        else:
            item_fine, user_fine, n_fine = vocabulary.item_rank, vocabulary.user_rank, vocabulary.n_ranks
        self.first_cluster = self.n_words
        self.first_fine = self.n_words + self.n_clusters
        self.tokenizer = copy.deepcopy(self.word_tokenizer)
        add_oov_tokens(self.tokenizer, vocabulary.names(n_fine))
        item_ids = torch.stack([self.first_cluster + vocabulary.item_cluster, self.first_fine + item_fine], dim=1)
        user_ids = torch.stack([self.first_cluster + vocabulary.user_cluster, self.first_fine + user_fine], dim=1)
        blocks = torch.cat([item_ids, self.text_ids], dim=1)
        blocks[0] = 0  # the padding item is no token at all
        self.register_buffer("item_blocks", blocks.to(self.device), persistent=False)
        self.register_buffer("user_tokens", user_ids.to(self.device), persistent=False)
        self.tree = TokenTree(vocabulary.item_cluster.to(self.device), self.n_clusters)
        prefix = max(self._prefix_length(template) for template in self.prompts.seen + self.prompts.unseen)
        self.backbone = tiny_backbone(
            self.settings,
            vocab_size=self.first_fine + n_fine,
            max_positions=prefix + (self.max_seq_length + 1) * blocks.shape[1] + 1,
        ).to(self.device)
        dim, hidden = vocabulary.centroids.shape[1], self.settings.hidden_size
        self.augmentation_map = nn.Linear(dim, hidden, device=self.device)
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
        if self.item_augmentation:
            extra = self.item_augmentation * self.item_map_in(self.oov_item_vectors[items])
            start, width = prefix.shape[1], blocks.shape[2]
            history = vectors[:, start:].unflatten(1, (items.shape[1], width))
            history = torch.cat([history[:, :, :1], history[:, :, 1:2] + extra[:, :, None], history[:, :, 2:]], dim=2)
            vectors = torch.cat([vectors[:, :start], history.flatten(1, 2)], dim=1)
        return tokens, vectors, real

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
        fine: Tensor = self.backbone.get_input_embeddings().weight[self.item_blocks[:, 1]]
        if self.item_augmentation:
            fine = fine + self.item_augmentation * self.item_map_out(self.oov_item_vectors)
        return fine

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
        """Exact log-probability of every item as the next one. (B, n_items)"""
        users, items = interaction[self.USER_ID], interaction[self.ITEM_SEQ]
        items = items[:, : int(interaction[self.ITEM_SEQ_LEN].max())]
        _, vectors, real = self._sequence(users, items, self.prompts.seen[0])
        k = self.n_clusters
        clusters = self._table()[self.first_cluster : self.first_fine]
        output = self.backbone(
            inputs_embeds=torch.cat([vectors, clusters.expand(len(users), -1, -1)], dim=1),
            attention_mask=sibling_mask(real, k),
            position_ids=sibling_positions(real, k),
        )
        last = (real * torch.arange(real.shape[1], device=real.device)).argmax(dim=1)
        state: Tensor = output.last_hidden_state[torch.arange(len(users), device=users.device), last]
        branches = output.last_hidden_state[:, -k:] + state[:, None]
        return self.tree.log_probs(self._cluster_logits(state), branches, self._leaves())

    def predict(self, interaction: Interaction) -> Tensor:
        """Exact log-probability of one given item a row. (B,)"""
        return self.full_sort_predict(interaction).gather(1, interaction[self.ITEM_ID][:, None]).squeeze(1)

    # --- checkpoints ----------------------------------------------------------------------------------------------

    def load_state_dict(self, state_dict: Mapping[str, Any], *args: Any, **kwargs: Any) -> Any:
        """As torch's; the OOV vocabulary is the checkpoint's, even where this machine would have made another."""
        saved = {name: state_dict[f"oov_{name}"].cpu() for name in self.vocabulary.state()}
        if any(not torch.equal(saved[name], tensor.cpu()) for name, tensor in self.vocabulary.state().items()):
            self._set_vocabulary(OOVVocabulary(**saved))
        return super().load_state_dict(state_dict, *args, **kwargs)


def _make_vocabulary(config: Any, histories: Histories) -> OOVVocabulary:
    seed = config["seed"]
    vocabulary = clustered(
        histories,
        n_clusters=config["n_clusters"],
        walk=WalkSettings.of(config),
        seed=seed,
        show_progress=bool(config["show_progress"]),
    )
    return shuffled(vocabulary, histories, seed=seed) if config["oov_tokens"] == "random" else vocabulary
