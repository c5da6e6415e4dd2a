"""The backbone that a configuration names: its tokenizer first, then the model for given OOV tokens."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from recbole_oov.errors import ConfigError
from recbole_oov.lm.backbone import Backbone, TinySettings, tiny_backbone, tiny_tokenizer
from recbole_oov.lm.backbone_files import TINY, check_backbone, pretrained_files
from recbole_oov.lm.pretrained import (
    PretrainedSettings,
    check_context,
    context_length,
    pretrained_backbone,
    pretrained_config,
    pretrained_tokenizer,
    set_oov_rows,
)
from recbole_oov.lm.token_init import TokenTexts, initial_rows


class BackboneMaker:
    """Makes the backbone of a configuration; how many OOV tokens it needs may be told, and changed, later.

    Args:
        config: The configuration.
        texts: What a tokenizer of one's own is trained on; pretrained backbones bring theirs.
        writes: Whether texts are answered, which tokens must be put together to.

    Attributes:
        name: The option ``backbone``.
        tokenizer: Its tokenizer, without OOV tokens.
        n_words: Ordinary tokens; OOV tokens follow them.
        begin: Tokens that every sequence begins with. (n,) long
        end: The token that ends an answer.
        fingerprint: Tells a pretrained backbone from another, (32,) uint8; None for ``tiny``, which has no weights of
            its own.
        earlier_fingerprint: The one that earlier versions would have given it.

    Raises:
        ConfigError: There is no such backbone, or it cannot be read.
    """

    def __init__(self, config: Any, texts: Iterable[str], *, writes: bool = False) -> None:
        self.name = config["backbone"]
        check_backbone(self.name)
        self._token_init = config["token_init"]
        self._training = PretrainedSettings.of(config)
        self._files = None if self.name == TINY else pretrained_files(self.name)
        self.fingerprint: Tensor | None = None
        self.earlier_fingerprint: Tensor | None = None
        if self._files is None:
            keys = ("hidden_size", "n_layers", "n_heads", "inner_size", "dropout", "embedding_norm")
            self._size = TinySettings(*(config[key] for key in keys))
            self.tokenizer = tiny_tokenizer(texts, config["tokenizer_vocab_size"], writes=writes)
        else:
            self.tokenizer = pretrained_tokenizer(self.name, self._files)
            self.fingerprint = _digest(self._files.fingerprint)
            self.earlier_fingerprint = _digest(self._files.earlier)
        self.n_words = len(self.tokenizer)
        self.begin = torch.tensor([i for i in self.tokenizer.encode("") if i == self._first_token], dtype=torch.long)

        ends = (self.tokenizer.eos_token_id, self.tokenizer.pad_token_id)  # tiny has no other end than its padding
        self.end = int(next((token for token in ends if token is not None), 0))

    @property
    def _first_token(self) -> int | None:
        """What decoders of some kinds expect before everything else; encoders do not."""
        encodes = self._files is not None and pretrained_config(self.name, self._files).is_encoder_decoder
        return None if encodes else self.tokenizer.bos_token_id

    def encode(self, text: str) -> list[int]:
        """Ids of a text that stands inside a sequence, without tokens that begin or end one."""
        return self.encode_all([text])[0]

    def encode_all(self, texts: Sequence[str]) -> list[list[int]]:
        """:meth:`encode` of many texts at once."""
        if not texts:
            return []
        # Byte-level tokenizers tell a word that follows another by its blank; others make a token of it.
        plain, spaced = (
            self.tokenizer([f"{before}{text}" for text in texts], add_special_tokens=False)["input_ids"]
            for before in ("", " ")
        )
        return [two if len(two) <= len(one) else one for one, two in zip(plain, spaced, strict=True)]

    def decode(self, tokens: list[int]) -> str:
        """The text that ordinary tokens stand for."""
        return str(self.tokenizer.decode(tokens, skip_special_tokens=True)).strip()

    def make(
        self,
        n_oov: int,
        prefix: int,
        n_items: int,
        tokens_an_item: int,
        said: TokenTexts,
        device: torch.device,
        *,
        longest_prompt: int = 0,
    ) -> Backbone:
        """The backbone for given OOV tokens.

        Args:
            n_oov: OOV tokens.
            prefix: Tokens before a history.
            n_items: Items of the longest history.
            tokens_an_item: Tokens of an item.
            said: Texts that OOV tokens stand for.
            device: Where it goes.
            longest_prompt: Tokens of the longest prompt without a history, its answer included.

        Raises:
            ConfigError: It cannot be loaded, its context is too short, or its scores would be wrong.
        """
        needed = prefix + (n_items + 1) * tokens_an_item + 1
        settings = self._training
        if self._files is not None:
            kind = self._token_init if self._token_init != "auto" else "mean" if said.empty else "text"
            context = context_length(pretrained_config(self.name, self._files))
            check_context(self.name, context, needed, prefix, n_items, tokens_an_item)
            if context is not None and longest_prompt > context:
                raise ConfigError(
                    f"answer_tokens: a prompt and its answer need {longest_prompt} positions, and the backbone "
                    f"{self.name} has {context}; give fewer, or shorter prompts"
                )
            return pretrained_backbone(
                self.name,
                self._files,
                settings,
                n_words=self.n_words,
                token_init=kind,
                n_oov=n_oov,
                said=said,
                device=device,
            )
        model: Any = tiny_backbone(
            self._size, vocab_size=self.n_words + n_oov, max_positions=max(needed, longest_prompt)
        )
        if self._token_init != "auto":
            table = model.get_input_embeddings().weight[: self.n_words]
            set_oov_rows(model, self.n_words, initial_rows(self._token_init, table, n_oov, said))
        return Backbone(
            model,
            self.n_words,
            n_oov,
            dtype=settings.computes_in(device, pretrained=False),
            gradient_checkpointing=settings.gradient_checkpointing,
            embedding_norm=self._size.embedding_norm,
        ).to(device)


def _digest(digits: str) -> Tensor:
    return torch.tensor(list(bytes.fromhex(digits)), dtype=torch.uint8)
