"""The language models under the LLM recommenders, and their tokenizers.

A recommender gives a backbone vectors and gets states; the backbone's own head over its whole vocabulary is never
called: most positions emit OOV tokens alone. Pretrained ones are loaded by ``lm/pretrained.py``.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Generator, Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from logging import getLogger
from typing import Any

import torch
import torch.nn.functional as F
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from torch import Tensor, nn
from transformers import DynamicCache, GPT2Config, GPT2Model, PreTrainedModel, PreTrainedTokenizerFast

from recbole_oov.errors import ConfigError
from recbole_oov.lm.scoring import branches_mask, prefix_mask, sibling_mask, sibling_positions, token_positions

_PAD, _UNKNOWN = "[PAD]", "[UNK]"
_ADAPTER = "default"  # peft's own name for the only one
_TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 0.1}
"""How far states may lie from what they should be, relative to the largest number in them."""


@dataclass(frozen=True)
class TinySettings:
    """Size of the ``tiny`` backbone: GPT-2's architecture with random weights."""

    hidden_size: int
    n_layers: int
    n_heads: int
    inner_size: int
    dropout: float
    embedding_norm: bool = False


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


def tiny_tokenizer(texts: Iterable[str], vocab_size: int, *, writes: bool = False) -> PreTrainedTokenizerFast:
    """Train a byte-pair tokenizer on the given texts alone.

    Args:
        texts: Item texts of the training items and the words of the prompts.
        vocab_size: Upper bound of the ordinary vocabulary.
        writes: Whether tokens are to be put together to text again, so that they must tell where a word begins.

    Returns:
        A tokenizer to which OOV tokens can be added.
    """
    tokenizer = Tokenizer(models.BPE(unk_token=_UNKNOWN))
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    if writes:
        # Not by a prefix of what goes on: which ids such tokens get is left to chance (tokenizers 0.22).
        spaces = pre_tokenizers.Metaspace(prepend_scheme="always")
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence([spaces, pre_tokenizers.Punctuation()])
        tokenizer.decoder = decoders.Metaspace(prepend_scheme="always")
    trainer = trainers.BpeTrainer(vocab_size=vocab_size, special_tokens=[_PAD, _UNKNOWN], show_progress=False)
    tokenizer.train_from_iterator(texts, trainer=trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token=_PAD, unk_token=_UNKNOWN)


def add_oov_tokens(tokenizer: Any, names: list[str]) -> int:
    """Add OOV tokens behind the ordinary vocabulary, in the given order.

    Returns:
        The id of the first one; the others follow it.

    Raises:
        ConfigError: The tokenizer has one of them already.
    """
    first, words = len(tokenizer), tokenizer.get_vocab()
    if known := next((name for name in names if name in words), None):
        raise ConfigError(f"backbone: its tokenizer already has the token {known!r}, which names a cluster or a rank")
    tokenizer.add_tokens(names)
    return first


class Backbone(nn.Module):
    """A language model as a recommender uses it: vectors in, states out, no logits over its vocabulary.

    Args:
        model: The language model, resized; with its adapters where it has some.
        n_words: Ordinary tokens, which OOV tokens follow.
        n_oov: OOV tokens.
        dtype: What it computes with. Weights in float32 compute in bfloat16 by autocast.
        gradient_checkpointing: Whether to compute activations again in the backward pass instead of keeping them.
        embedding_norm: Whether what is read is normalised first, before positions are added.

    Attributes:
        model: As given.
        hidden_size: Width d of vectors and states.
        tokens_read: How many tokens it has read, padding included.
    """

    encodes_history = False
    """Whether the history is read by an encoder, and items are read and predicted by a decoder."""

    def __init__(
        self,
        model: nn.Module,
        n_words: int,
        n_oov: int,
        *,
        dtype: torch.dtype = torch.float32,
        gradient_checkpointing: bool = False,
        embedding_norm: bool = False,
    ) -> None:
        super().__init__()
        self.model = model
        self.n_words, self.n_oov, self.dtype = n_words, n_oov, dtype
        self.tokens_read = 0
        self.hidden_size = int(self._input_table().shape[1])
        self.embedding_norm = nn.LayerNorm(self.hidden_size) if embedding_norm else nn.Identity()
        if gradient_checkpointing:
            lm = self.language_model  # newer versions of transformers have another name for it
            enable = getattr(lm, "activation_checkpointing_enable", None) or lm.gradient_checkpointing_enable
            enable({"use_reentrant": False})

    @property
    def language_model(self) -> Any:
        """The model of transformers', with adapters in it or without."""
        model: Any = self.model
        return model.get_base_model() if hasattr(model, "get_base_model") else model

    @property
    def frozen(self) -> bool:
        """Whether the weights that it came with are left as they are."""
        return self.model is not self.language_model

    # --- vectors of tokens ----------------------------------------------------------------------------------------

    def word_inputs(self, ids: Tensor) -> Tensor:
        """Input vectors of ordinary tokens; a table in half precision is not copied whole for them. (…) -> (…, d)"""
        return self._scaled(F.embedding(ids, self._input_table()[: self.n_words]))

    def oov_inputs(self) -> Tensor:
        """Input vectors of OOV tokens. (n_oov, d)"""
        return self._scaled(self._oov_rows(self.language_model.get_input_embeddings()))

    def oov_heads(self) -> Tensor:
        """Output vectors of OOV tokens: the input rows, or those of a head that is not tied to them. (n_oov, d)"""
        head = self.language_model.get_output_embeddings()
        if head is None or self._tied:
            return self._oov_rows(self.language_model.get_input_embeddings())
        return self._oov_rows(head)

    def word_heads(self, ids: Tensor | None = None) -> Tensor:
        """Output vectors of ordinary tokens, for what is answered in words: of all, or of some. (n, d)"""
        head = self.language_model.get_output_embeddings()
        table: Tensor = self._input_table() if head is None else _base_layer(head).weight
        heads = table[: self.n_words]
        return heads.float() if ids is None else heads[ids].float()

    @property
    def _tied(self) -> bool:
        head, embedding = self.language_model.get_output_embeddings(), self.language_model.get_input_embeddings()
        return _base_layer(head).weight is _base_layer(embedding).weight

    def _input_table(self) -> Tensor:
        table: Tensor = _base_layer(self.language_model.get_input_embeddings()).weight
        return table

    def _oov_rows(self, layer: Any) -> Tensor:
        rows: Tensor
        if hasattr(layer, "token_adapter"):
            rows = layer.token_adapter.trainable_tokens_delta[_ADAPTER]
        else:
            rows = layer.weight[self.n_words : self.n_words + self.n_oov]
        return rows.float()

    def _scaled(self, rows: Tensor) -> Tensor:
        """As the embedding layer gives them: Gemma and BART multiply them by a constant."""
        scale = getattr(_base_layer(self.language_model.get_input_embeddings()), "embed_scale", None)
        return rows.float() if scale is None else rows.float() * scale

    # --- states ---------------------------------------------------------------------------------------------------

    def states(self, vectors: Tensor, positions: Tensor, mask: Tensor | None, past: Any = None) -> Tensor:
        """States at all positions of a causal sequence.

        Args:
            vectors: (B, T, d)
            positions: Position ids. (B, T)
            mask: True where a token is real (B, T), or where a query may attend to a key, those of ``past`` included
                (B, 1, T, P + T); None where padding stands at the end alone.
            past: Keys and values of P tokens before, to which these are added; a cache of transformers'.

        Returns:
            (B, T, d) float32
        """
        self.tokens_read += vectors.shape[0] * vectors.shape[1]
        with self._precision(vectors):
            output = self._body(
                inputs_embeds=self.embedding_norm(vectors).to(self._weights_dtype),
                attention_mask=self._as_attention(mask, vectors),
                position_ids=positions,
                use_cache=past is not None,
                **{self._cache_argument: past},
            )
        states: Tensor = output.last_hidden_state
        return states.float()

    def branches(self, vectors: Tensor, real: Tensor, siblings: Tensor) -> tuple[Tensor, Tensor]:
        """The state after a history, and the states at tokens that might come next, each as if it came alone.

        Args:
            vectors: The history. (B, T, d)
            real: Which of its tokens are real. (B, T) bool
            siblings: Vectors of the tokens. (B, C, d)

        Returns:
            (B, d) and (B, C, d)
        """
        n = siblings.shape[1]
        if torch.is_grad_enabled():  # in one pass: gradient checkpointing has no cache
            hidden = self.states(
                torch.cat([vectors, siblings], dim=1),
                torch.cat([token_positions(real), sibling_positions(real, n)], dim=1),
                branches_mask(real, n),
            )
            return _last(hidden, real), hidden[:, vectors.shape[1] :]
        state, go_on = self.read(vectors, real)
        return state, go_on(siblings)

    def read(self, vectors: Tensor, real: Tensor) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
        """The state after a history, which is read once, without gradients, whatever might come next.

        Args:
            vectors: The history. (B, T, d)
            real: Which of its tokens are real. (B, T) bool

        Returns:
            (B, d), and what gives the states at tokens that might come next, each as if it came alone; to be called
            once, with their vectors (B, C, d) -> (B, C, d).
        """
        past = DynamicCache()
        hidden = self.states(vectors, token_positions(real), None if bool(real.all()) else prefix_mask(real), past)

        def go_on(siblings: Tensor) -> Tensor:
            n = siblings.shape[1]
            return self.states(siblings, sibling_positions(real, n), sibling_mask(real, n), past)

        return _last(hidden, real), go_on

    def following(self, vectors: Tensor, real: Tensor, words: Tensor) -> Tensor:
        """The state after a prompt, and after each of the words that follow it.

        Args:
            vectors: The prompt. (B, T, d)
            real: Which of its tokens are real. (B, T) bool
            words: Vectors of words, padding at the end alone. (B, A, d)

        Returns:
            (B, A + 1, d)
        """
        known = torch.cat([real, real.new_ones(words.shape[:2])], dim=1)
        hidden = self.states(torch.cat([vectors, words], dim=1), token_positions(known), prefix_mask(known))
        return torch.cat([_last(hidden, real)[:, None], hidden[:, real.shape[1] :]], dim=1)

    def reader(self, vectors: Tensor, real: Tensor) -> Generator[Tensor, Tensor, None]:
        """Reads a prompt, then word after word: gives the state after all of it, and is sent the next word's vectors.

        Args:
            vectors: The prompt. (B, T, d)
            real: Which of its tokens are real. (B, T) bool

        Yields:
            (B, d), for which vectors (B, d) are sent.
        """
        past = DynamicCache()
        state = _last(self.states(vectors, token_positions(real), prefix_mask(real), past), real)
        while True:
            word = yield state
            place = real.sum(dim=1, keepdim=True)
            real = torch.cat([real, real.new_ones(len(real), 1)], dim=1)
            state = self.states(word[:, None], place, real[:, None, None], past)[:, 0]

    @property
    def _body(self) -> Any:
        """The model without its head."""
        return self.language_model.base_model

    @property
    def _cache_argument(self) -> str:
        """The name that this version of transformers, and this model, have for what was read before."""
        return "cache" if "cache" in inspect.signature(self._body.forward).parameters else "past_key_values"

    @property
    def _weights_dtype(self) -> torch.dtype:
        return self._input_table().dtype

    def _precision(self, like: Tensor) -> AbstractContextManager[Any]:
        if self.dtype == self._weights_dtype:
            return nullcontext()
        return torch.autocast(like.device.type, dtype=self.dtype)

    def _as_attention(self, mask: Tensor | None, vectors: Tensor) -> Tensor | None:
        """As transformers wants it: 4-D masks are passed on to the attention, and the eager one adds them."""
        if mask is None or mask.dim() == 2 or self._takes_bool:
            return mask
        added = torch.zeros(mask.shape, dtype=self._weights_dtype, device=vectors.device)
        return added.masked_fill(~mask, torch.finfo(added.dtype).min)

    @property
    def _takes_bool(self) -> bool:
        return bool(self.language_model.config._attn_implementation == "sdpa")


def _last(states: Tensor, real: Tensor) -> Tensor:
    """The state at the last real token of each row; states beyond the given tokens do not count. -> (B, d)"""
    last = (real * torch.arange(real.shape[1], device=real.device)).argmax(dim=1)
    return states[torch.arange(len(last), device=last.device), last]


def _base_layer(layer: Any) -> Any:
    return layer.token_adapter.get_base_layer() if hasattr(layer, "token_adapter") else layer


class EncoderDecoder(Backbone):
    """A backbone of T5's kind: its encoder reads the prompt and the history, its decoder reads and predicts items.

    Relative positions are those of the sequence, which no argument changes. So each of several tokens that might come
    next stands behind a start token of its own, which it alone sees: what it reads is what it would read alone.
    """

    encodes_history = True

    @property
    def start(self) -> Tensor:
        """The vector that the decoder begins with. (d,)"""
        start = self.language_model.config.decoder_start_token_id
        return self.word_inputs(torch.tensor(start, device=self._input_table().device))

    def encoded(self, vectors: Tensor, real: Tensor) -> tuple[Tensor, Tensor]:
        """What the encoder makes of a sequence. Padding inside it, which would count as distance, goes to the end.

        Args:
            vectors: (B, T, d)
            real: Which tokens are real. (B, T) bool

        Returns:
            States (B, T, d), and which of them are of real tokens (B, T).
        """
        order = (~real).to(torch.int8).argsort(dim=1, stable=True)
        real = real.gather(1, order)
        vectors = vectors.gather(1, order[..., None].expand_as(vectors))
        encoder = self.language_model.get_encoder()
        self.tokens_read += vectors.shape[0] * vectors.shape[1]
        with self._precision(vectors):
            output = encoder(inputs_embeds=vectors.to(self._weights_dtype), attention_mask=real)
        states: Tensor = output.last_hidden_state
        return states, real

    def decoded(self, vectors: Tensor, encoded: tuple[Tensor, Tensor], mask: Tensor | None) -> Tensor:
        """States of the decoder.

        Args:
            vectors: Begin with :attr:`start`. (B, T, d)
            encoded: As of :meth:`encoded`.
            mask: True where a query may attend to a key (B, 1, T, T); None for all that stand before.

        Returns:
            (B, T, d) float32
        """
        memory, real = encoded
        self.tokens_read += vectors.shape[0] * vectors.shape[1]
        with self._precision(vectors):
            output = self.language_model.get_decoder()(
                inputs_embeds=vectors.to(self._weights_dtype),
                attention_mask=self._as_attention(mask, vectors),
                encoder_hidden_states=memory,
                encoder_attention_mask=real,
                use_cache=False,
            )
        states: Tensor = output.last_hidden_state
        return states.float() * (self.hidden_size**-0.5 if self._scales_states else 1.0)

    def branches(self, vectors: Tensor, real: Tensor, siblings: Tensor) -> tuple[Tensor, Tensor]:
        batch, n = siblings.shape[:2]
        start = self.start.expand(batch, 1, -1)
        pairs = torch.stack([start.expand(-1, n, -1), siblings], dim=2).flatten(1, 2)
        # Which start token each position belongs to: 0; 1, 1; 2, 2; …
        block = (torch.arange(1 + 2 * n, device=siblings.device) + 1) // 2
        mask = (block[:, None] == block[None]).tril().expand(batch, 1, -1, -1)
        hidden = self.decoded(torch.cat([start, pairs], dim=1), self.encoded(vectors, real), mask)
        return hidden[:, 0], hidden[:, 2::2]

    def read(self, vectors: Tensor, real: Tensor) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
        encoded, start = self.encoded(vectors, real), self.start.expand(len(vectors), 1, -1)

        def go_on(siblings: Tensor) -> Tensor:
            n = siblings.shape[1]
            pairs = torch.stack([start.expand(-1, n, -1), siblings], dim=2).flatten(1, 2)
            block = torch.arange(2 * n, device=siblings.device) // 2
            mask = (block[:, None] == block[None]).tril().expand(len(siblings), 1, -1, -1)
            return self.decoded(pairs, encoded, mask)[:, 1::2]

        return self.decoded(start, encoded, None)[:, 0], go_on

    def following(self, vectors: Tensor, real: Tensor, words: Tensor) -> Tensor:
        start = self.start.expand(len(words), 1, -1)
        return self.decoded(torch.cat([start, words], dim=1), self.encoded(vectors, real), None)

    def reader(self, vectors: Tensor, real: Tensor) -> Generator[Tensor, Tensor, None]:
        encoded, read = self.encoded(vectors, real), self.start.expand(len(vectors), 1, -1)
        while True:
            word = yield self.decoded(read, encoded, None)[:, -1]
            read = torch.cat([read, word[:, None]], dim=1)

    @property
    def _scales_states(self) -> bool:
        """T5 does so before a head that is tied, or was when it was trained."""
        config = self.language_model.config
        if "t5" not in config.model_type:
            return False
        return bool(getattr(config, "scale_decoder_outputs", config.tie_word_embeddings))


@torch.no_grad()
def check_siblings(name: str, backbone: Backbone) -> None:
    """Refuse a backbone in which tokens that might come next see each other, or stand at other places than alone.

    Exact scores in one pass need an architecture that takes vectors, position ids and any attention mask. Models that
    read the past in another way (recurrent ones, biases by distance in the sequence) do not; nothing tells them apart
    but trying.

    Raises:
        ConfigError: They do, or the model cannot be called so.
    """
    mode = backbone.training
    backbone.eval()
    device = next(backbone.model.parameters()).device
    some = backbone.word_inputs(torch.linspace(0, backbone.n_words - 1, 8).long().to(device))
    history, siblings = some[:5].expand(2, -1, -1), some[5:].expand(2, -1, -1)
    real = torch.tensor([[True, True, False, True, True], [True, True, True, False, False]], device=device)
    try:
        state, together = backbone.branches(history, real, siblings)
        alone = [
            torch.cat([part.flatten(0, -2) for part in backbone.branches(row[kept][None], kept[kept][None], one)])
            for row, kept in zip(history, real, strict=True)
            for one in siblings[:1].split(1, dim=1)
        ]
    except Exception as error:  # an architecture that was never meant for this may raise anything
        raise ConfigError(
            f"backbone: {name} ({type(backbone.language_model).__name__}) cannot be called with vectors, positions and "
            f"a mask of its own ({type(error).__name__}: {error}); Llama, Qwen, Mistral, GPT-2 and T5 can"
        ) from error
    finally:
        backbone.train(mode)
    expected = torch.stack(alone).unflatten(0, siblings.shape[:2])
    found = torch.stack([state[:, None].expand_as(together), together], dim=2)
    apart = (found - expected).abs().max() / expected.abs().max().clamp_min(1e-12)
    getLogger(__name__).debug("%s: scored together, states differ by %.1e from alone", name, apart)
    if not apart < _TOLERANCE[backbone.dtype]:
        raise ConfigError(
            f"backbone: {name} ({type(backbone.language_model).__name__}) gives tokens that might come next other "
            f"states side by side than alone (by {apart:.1e} of the largest), so that its scores would be wrong; "
            f"Llama, Qwen, Mistral, GPT-2 and T5 do not"
        )
