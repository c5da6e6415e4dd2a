"""Pretrained backbones: how they are loaded, given OOV tokens and trained.

With ``lora`` only adapters and the rows of OOV tokens have gradients (peft: ``trainable_token_indices``); with ``full``
everything has. Weights are read as safetensors alone, and no code of a hub's is run.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM, AutoTokenizer, PreTrainedModel

from recbole_oov.config.rules import is_number
from recbole_oov.errors import ConfigError
from recbole_oov.lm.backbone import Backbone, EncoderDecoder, check_siblings
from recbole_oov.lm.backbone_files import TINY, PretrainedFiles
from recbole_oov.lm.token_init import TokenTexts, initial_rows

TRAINING = ("auto", "full", "lora")
DTYPES = ("auto", "float32", "bfloat16")
ATTENTION = ("auto", "sdpa", "eager")


@dataclass(frozen=True)
class PretrainedSettings:
    """How a pretrained backbone is loaded and what of it is trained; ``properties/model/OOVLLMRec.yaml`` explains."""

    training: str
    dtype: str
    attention: str
    gradient_checkpointing: bool
    lora_r: int
    lora_alpha: float
    lora_dropout: float
    lora_targets: str | list[str] | None

    @classmethod
    def of(cls, config: Any) -> PretrainedSettings:
        """The settings that a configuration asks for."""
        training = config["backbone_training"]
        if training == "auto":
            training = "full" if config["backbone"] == TINY else "lora"
        keys = ("dtype", "attention", "gradient_checkpointing", "lora_r", "lora_alpha", "lora_dropout", "lora_targets")
        return cls(training, *(config[key] for key in keys))

    def computes_in(self, device: torch.device, *, pretrained: bool) -> torch.dtype:
        """What the backbone computes with; ``auto`` is bfloat16 for pretrained ones on GPUs that have it."""
        if self.dtype == "auto":
            short = pretrained and device.type == "cuda" and torch.cuda.is_bf16_supported()
            return torch.bfloat16 if short else torch.float32
        return torch.bfloat16 if self.dtype == "bfloat16" else torch.float32

    def attends_by(self, dtype: torch.dtype, device: torch.device) -> str:
        """The attention of a pretrained backbone; ``auto`` leaves the choice to transformers but for one case."""
        if self.attention == "auto" and device.type == "cpu" and dtype == torch.bfloat16:
            # Gradients of torch's fused attention take many times as long on a CPU in bfloat16 as in float32.
            return "eager"
        return self.attention


def pretrained_problems(config: Mapping[str, Any]) -> list[str]:
    """What in a configuration cannot work, before any data is loaded."""
    problems = [
        f"{key}: {config[key]!r} is not one of {', '.join(allowed)}"
        for key, allowed in (("backbone_training", TRAINING), ("dtype", DTYPES), ("attention", ATTENTION))
        if config[key] not in allowed
    ]
    if config["backbone"] == TINY and config["backbone_training"] == "lora":
        problems.append(
            "backbone_training: lora keeps the weights that a backbone came with, but those of tiny are random; "
            "give full"
        )
    if not isinstance(config["lora_r"], int) or isinstance(config["lora_r"], bool) or config["lora_r"] < 1:
        problems.append(f"lora_r: {config['lora_r']!r} is not allowed; give a whole number, at least 1")
    if not is_number(config["lora_alpha"]) or config["lora_alpha"] <= 0:
        problems.append(f"lora_alpha: {config['lora_alpha']!r} is not allowed; give a number above 0")
    if not is_number(config["lora_dropout"]) or not 0 <= config["lora_dropout"] < 1:
        problems.append(f"lora_dropout: {config['lora_dropout']!r} is not allowed; give a number from 0 to below 1")
    targets = config["lora_targets"]
    names = [targets] if isinstance(targets, str) else targets
    if targets is not None and not (isinstance(names, list) and names and all(isinstance(n, str) and n for n in names)):
        problems.append(f"lora_targets: {targets!r} is not allowed; give names of layers, as [q_proj, v_proj], or ~")
    if config["shard_backbone"] is True and PretrainedSettings.of(config).training != "lora":
        problems.append(
            "shard_backbone: it is the frozen weights that are kept in parts, and backbone_training: full leaves none "
            "frozen; give lora, with a pretrained backbone"
        )
    if not isinstance(config["gradient_checkpointing"], bool):
        problems.append(f"gradient_checkpointing: {config['gradient_checkpointing']!r} is not True or False")
    return problems


def pretrained_tokenizer(name: str, files: PretrainedFiles) -> Any:
    """The tokenizer that a pretrained backbone was trained with.

    Raises:
        ConfigError: It cannot be read.
    """
    try:
        return AutoTokenizer.from_pretrained(str(files.folder), local_files_only=True, trust_remote_code=False)
    except Exception as error:  # what a tokenizer of any kind raises
        raise ConfigError(f"backbone: the tokenizer of {name} in {files.folder} cannot be read: {error}") from error


def pretrained_model(name: str, files: PretrainedFiles, *, dtype: torch.dtype, attention: str) -> PreTrainedModel:
    """A language model with its head, on the CPU.

    Args:
        name: What the user calls it, for messages.
        files: Where it is.
        dtype: Type of its weights.
        attention: ``auto`` leaves the choice to transformers.

    Raises:
        ConfigError: Its architecture is not one of language models, or its files cannot be read.
    """
    options: dict[str, Any] = {} if attention == "auto" else {"attn_implementation": attention}
    config = pretrained_config(name, files)
    auto = AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM
    try:
        model: PreTrainedModel = auto.from_pretrained(
            str(files.folder),
            config=config,
            dtype=dtype,
            use_safetensors=True,
            local_files_only=True,
            trust_remote_code=False,
            **options,
        )
    except Exception as error:  # an architecture without a head, a damaged file, an attention that it does not have, …
        raise _unreadable(name, files, error) from error
    return model


def pretrained_config(name: str, files: PretrainedFiles) -> Any:
    """The configuration of a pretrained backbone.

    Raises:
        ConfigError: Its architecture is not one of transformers'.
    """
    try:
        return AutoConfig.from_pretrained(str(files.folder), local_files_only=True, trust_remote_code=False)
    except Exception as error:  # an architecture that is not known, values of the wrong type, …
        raise _unreadable(name, files, error) from error


def _unreadable(name: str, files: PretrainedFiles, error: Exception) -> ConfigError:
    reason = str(error).strip().splitlines()[0] if str(error).strip() else ""
    return ConfigError(
        f"backbone: {name} in {files.folder} cannot be loaded as a language model ({type(error).__name__}: {reason})"
    )


def context_length(config: Any) -> int | None:
    """Positions that a model was made for; None where its configuration names no number.

    Of a model with a sliding window those that the window sees: beyond it a layer reads a part of the sequence, and
    what is scored in blocks would not be what was trained.
    """
    lengths = [getattr(config, key, None) for key in ("max_position_embeddings", "n_positions")]
    known = [next((length for length in lengths if isinstance(length, int) and length > 0), None)]
    known.append(getattr(config, "sliding_window", None) if getattr(config, "use_sliding_window", True) else None)
    return min((length for length in known if isinstance(length, int) and length > 0), default=None)


def check_context(name: str, context: int | None, needed: int, prefix: int, n_items: int, tokens_an_item: int) -> None:
    """Refuse histories that do not fit: they are not cut.

    Args:
        name: The backbone's, for the message.
        context: As :func:`context_length` says.
        needed: Positions of the prompt, the history and the item after it.
        prefix: Tokens of the prompt.
        n_items: Items of the longest history.
        tokens_an_item: Tokens of one of them.

    Raises:
        ConfigError: More positions are needed than there are; says how many items would fit.
    """
    if context is not None and needed > context:
        fits = (context - prefix - 1) // tokens_an_item - 1
        remedy = f"give at most {fits}" if fits > 0 else "not one item fits: choose shorter prompts"
        raise ConfigError(
            f"MAX_ITEM_LIST_LENGTH: {n_items} items of {tokens_an_item} tokens each and a prompt of {prefix} need "
            f"{needed} positions, and the backbone {name} has {context}; {remedy}"
        )


def resized(model: Any, n_words: int, n_oov: int) -> Any:
    """Give a model rows for OOV tokens behind its tokenizer's words.

    Some models have more rows than their tokenizer has words; OOV tokens take those first. A head whose weights are
    its own stays so.
    """
    if _untied_head(model) is not None:
        # transformers ties all T5 by their configuration and goes by the file's weights when it loads them; adding
        # rows ties again, by the configuration alone, and would write the input's rows over such a head.
        model.config.tie_word_embeddings = False
    rows = model.get_input_embeddings().weight.shape[0]
    if rows < n_words + n_oov:
        model.resize_token_embeddings(n_words + n_oov, mean_resizing=False)
    return model


@torch.no_grad()
def set_oov_rows(model: Any, n_words: int, rows: Tensor, heads: Tensor | None = None) -> None:
    """Write the rows of OOV tokens, of the input and of a head that is not tied to it.

    Args:
        model: Resized, without adapters.
        n_words: Id of the first OOV token.
        rows: (V, d)
        heads: Of the head; None for ``rows``. (V, d)
    """
    table = model.get_input_embeddings().weight
    table[n_words : n_words + len(rows)] = rows.to(table)
    head = _untied_head(model)
    if head is not None:
        head.weight[n_words : n_words + len(rows)] = (rows if heads is None else heads).to(head.weight)


def with_adapters(model: PreTrainedModel, n_words: int, n_oov: int, settings: PretrainedSettings) -> nn.Module:
    """The model with LoRA adapters; they and the rows of OOV tokens alone have gradients.

    Raises:
        ConfigError: There is no layer that ``lora_targets`` names, or peft has no default for the architecture.
    """
    from peft import LoraConfig, get_peft_model

    ids = list(range(n_words, n_words + n_oov))
    tables = [model.get_input_embeddings()]
    if (head := _untied_head(model)) is not None:
        tables.append(head)
    names = {id(module): name for name, module in model.named_modules()}
    try:
        lora = LoraConfig(
            r=settings.lora_r,
            lora_alpha=settings.lora_alpha,  # type: ignore[arg-type]  # a factor, which need not be whole
            lora_dropout=settings.lora_dropout,
            target_modules=settings.lora_targets,
            trainable_token_indices={names[id(table)]: ids for table in tables},
        )
        adapted: nn.Module = get_peft_model(model, lora)
    except ValueError as error:
        raise ConfigError(
            f"lora_targets: {settings.lora_targets!r} does not fit a {type(model).__name__} ({error}); name linear "
            f"layers, as [q_proj, v_proj], or all-linear"
        ) from error
    return adapted


def _untied_head(model: Any) -> Any:
    head = model.get_output_embeddings()
    if head is None or head.weight is model.get_input_embeddings().weight:
        return None
    return head


def pretrained_backbone(
    name: str,
    files: PretrainedFiles,
    settings: PretrainedSettings,
    *,
    n_words: int,
    token_init: str,
    n_oov: int,
    said: TokenTexts,
    device: torch.device,
) -> Backbone:
    """A pretrained language model, ready to read and predict OOV tokens.

    Args:
        name: What the user calls it, for messages.
        files: Where it is.
        settings: How it is loaded and trained.
        n_words: Ordinary tokens of its tokenizer.
        token_init: As of :func:`~recbole_oov.lm.token_init.initial_rows`.
        n_oov: OOV tokens.
        said: What they stand for.
        device: Where it goes.

    Raises:
        ConfigError: It cannot be loaded, or is of a kind whose scores would be wrong.
    """
    dtype, lora = settings.computes_in(device, pretrained=True), settings.training == "lora"
    # What is trained is kept in float32: in bfloat16 a small step of the optimizer would be rounded away.
    attention = settings.attends_by(dtype, device)
    loaded = pretrained_model(name, files, dtype=dtype if lora else torch.float32, attention=attention)
    model = resized(loaded, n_words, n_oov)
    rows = initial_rows(token_init, model.get_input_embeddings().weight[:n_words], n_oov, said)
    head = _untied_head(model)
    set_oov_rows(
        model, n_words, rows, None if head is None else initial_rows(token_init, head.weight[:n_words], n_oov, said)
    )
    kind = EncoderDecoder if model.config.is_encoder_decoder else Backbone
    backbone = kind(
        with_adapters(model, n_words, n_oov, settings) if lora else model,
        n_words,
        n_oov,
        dtype=dtype,
        gradient_checkpointing=settings.gradient_checkpointing,
    ).to(device)
    check_siblings(name, backbone)
    return backbone
