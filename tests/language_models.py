"""Small language models of several architectures, with random weights, as folders that ``backbone`` can name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
    T5Config,
    T5ForConditionalGeneration,
)

TEXTS = [f"Story {i} of the sea, has chosen ! user history" for i in range(30)]
_BYTES = pre_tokenizers.ByteLevel.alphabet()
_SIZE: dict[str, Any] = {
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 128,
    # Large, so that what stands where, and who sees whom, moves states by more than rounding does.
    "initializer_range": 0.4,
}


def tokenizer(*more: str) -> PreTrainedTokenizerFast:
    """A byte-level tokenizer, as GPT-2's and SmolLM2's, whose first id is a real word."""
    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    inner.train_from_iterator(
        TEXTS,
        trainers.BpeTrainer(vocab_size=300, show_progress=False, initial_alphabet=_BYTES),
    )
    made = PreTrainedTokenizerFast(tokenizer_object=inner)
    made.add_tokens(["<eos>", *more])
    made.eos_token = made.pad_token = "<eos>"
    return made


def write(folder: Path, kind: str, *more_tokens: str, **changes: Any) -> str:
    """Save a model of one kind with its tokenizer.

    Args:
        folder: Where.
        kind: ``llama``, ``llama-untied``, ``qwen2`` (untied, with more rows than words), ``gpt2``, ``t5``, ``t5-gated``
            (untied and gated, as T5 1.1 and Flan-T5 are).
        more_tokens: Tokens that the tokenizer has besides.
        changes: Of the model's configuration.

    Returns:
        The folder, as a backbone's name.
    """
    words = tokenizer(*more_tokens)
    n = len(words)
    end = words.eos_token_id
    ids = {"bos_token_id": None, "eos_token_id": end, "pad_token_id": end}
    torch.manual_seed(0)
    if kind in ("llama", "llama-untied"):
        tied = kind == "llama"
        model: Any = LlamaForCausalLM(
            LlamaConfig(**{**_SIZE, "vocab_size": n, "tie_word_embeddings": tied, **ids, **changes})
        )
    elif kind == "qwen2":
        model = Qwen2ForCausalLM(
            Qwen2Config(**{**_SIZE, "vocab_size": n + 7, "tie_word_embeddings": False, **ids, **changes})
        )
    elif kind == "gpt2":
        size = {"n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 128, "initializer_range": 0.4}
        model = GPT2LMHeadModel(GPT2Config(**{**size, "vocab_size": n, **ids, **changes}))
    else:
        size = {"d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 2, "num_heads": 2, "initializer_factor": 1.0}
        ids["decoder_start_token_id"] = end
        if kind == "t5-gated":
            size |= {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False}
        model = T5ForConditionalGeneration(T5Config(**{**size, "vocab_size": n, **ids, **changes}))
        if kind == "t5-gated":  # transformers ties all heads of T5 but those whose weights are others in the file
            model.lm_head.weight = torch.nn.Parameter(torch.randn_like(model.lm_head.weight))
        for block in (model.encoder.block[0], model.decoder.block[0]):  # else hardly larger than rounding
            torch.nn.init.normal_(block.layer[0].SelfAttention.relative_attention_bias.weight, std=1.0)
    model.save_pretrained(folder)
    words.save_pretrained(folder)
    return str(folder)
