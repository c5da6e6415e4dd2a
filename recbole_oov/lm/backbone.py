"""The language models under the LLM recommenders, and their tokenizers."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
from transformers import GPT2Config, GPT2Model, PreTrainedModel, PreTrainedTokenizerFast

from recbole_oov.errors import ConfigError

PRESETS = ("tiny",)
"""Backbones that need no download."""

_PAD, _UNKNOWN = "[PAD]", "[UNK]"


@dataclass(frozen=True)
class TinySettings:
    """Size of the ``tiny`` backbone: GPT-2's architecture with random weights."""

    hidden_size: int
    n_layers: int
    n_heads: int
    inner_size: int
    dropout: float


def check_backbone(name: Any) -> None:
    """Refuse a backbone that is not there, before anything is loaded.

    Raises:
        ConfigError: Names what was asked for and the presets.
    """
    if name not in PRESETS:
        raise ConfigError(f"backbone: {name!r} is not known; the backbones of this version are: {', '.join(PRESETS)}")


def tiny_backbone(settings: TinySettings, *, vocab_size: int, max_positions: int) -> PreTrainedModel:
    """A small decoder-only transformer with random weights (drawn from torch's global generator)."""
    config = GPT2Config(
        vocab_size=vocab_size,
        n_positions=max_positions,
        n_embd=settings.hidden_size,
        n_layer=settings.n_layers,
        n_head=settings.n_heads,
        n_inner=settings.inner_size,
        activation_function="gelu_pytorch_tanh",  # GPT-2's function, as one fused kernel
        resid_pdrop=settings.dropout,
        embd_pdrop=settings.dropout,
        attn_pdrop=0.0,  # dropout of attention weights would rule out torch's fused attention
        bos_token_id=None,
        eos_token_id=None,
        use_cache=False,
    )
    model: PreTrainedModel = GPT2Model(config)
    return model


def tiny_tokenizer(texts: Iterable[str], vocab_size: int) -> PreTrainedTokenizerFast:
    """Train a byte-pair tokenizer on the given texts alone.

    Args:
        texts: Item texts of the training items and the words of the prompts.
        vocab_size: Upper bound of the ordinary vocabulary.

    Returns:
        A tokenizer to which OOV tokens can be added.
    """
    tokenizer = Tokenizer(models.BPE(unk_token=_UNKNOWN))
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    trainer = trainers.BpeTrainer(vocab_size=vocab_size, special_tokens=[_PAD, _UNKNOWN], show_progress=False)
    tokenizer.train_from_iterator(texts, trainer=trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token=_PAD, unk_token=_UNKNOWN)


def add_oov_tokens(tokenizer: PreTrainedTokenizerFast, names: list[str]) -> int:
    """Add OOV tokens behind the ordinary vocabulary, in the given order.

    Returns:
        The id of the first one; the others follow it.

    Raises:
        ConfigError: The tokenizer has one of them already.
    """
    first = len(tokenizer)
    added = tokenizer.add_tokens(names)
    if added != len(names):
        words = tokenizer.get_vocab()
        known = next(name for name in names if words[name] < first)
        raise ConfigError(f"backbone: its tokenizer already has the token {known!r}, which names a cluster or a rank")
    return first
