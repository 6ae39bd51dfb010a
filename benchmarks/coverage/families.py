"""The families: a small random-weight configuration of each, and how many attentions it has."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

LAYERS = 2
_WORDS = {"vocab_size": 500}
_SMALL = {
    **_WORDS,
    "hidden_size": 64,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 4,
    "intermediate_size": 128,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
_GROUPED = {**_SMALL, "num_key_value_heads": 2}
_HEAD = {"head_dim": 16}
_SEQ2SEQ = {
    **_WORDS,
    "d_model": 64,
    "encoder_layers": LAYERS,
    "decoder_layers": LAYERS,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 128,
    "decoder_ffn_dim": 128,
    "pad_token_id": 1,
}
_T5 = {**_WORDS, "d_model": 64, "d_kv": 16, "d_ff": 128, "num_layers": LAYERS, "num_heads": 4}
_VISION = {
    "hidden_size": 64,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 4,
    "intermediate_size": 128,
    "image_size": 32,
    "patch_size": 8,
}
_GPT2 = {**_WORDS, "n_embd": 64, "n_layer": LAYERS, "n_head": 4}


@dataclasses.dataclass(frozen=True)
class Family:
    """A kind of model.

    Attributes:
        name: what people call it.
        model_type: what ``transformers`` calls its configuration, or ``examples.paper_models`` its
            model.
        kind: ``encoder``, ``decoder``, ``decoder step`` (with past keys and values),
            ``encoder-decoder``, ``vision``, ``audio``, ``image and text``: what it is called with.
            ``own``: a model of ours, which brings its inputs. ``local windows``: Longformer's.
        sizes: fields of the configuration that differ from its defaults.
        attentions: softmax attentions in the model.
    """

    name: str
    model_type: str
    kind: str
    sizes: Mapping[str, Any]
    attentions: int = LAYERS


_CLIP = {
    "text_config": {**_SMALL, "max_position_embeddings": 64},
    "vision_config": _VISION,
}

_DECODERS: tuple[Family, ...] = (
    Family("GPT-2", "gpt2", "decoder", _GPT2),
    Family(
        "GPT-Neo",
        "gpt_neo",
        "decoder",
        {
            **_WORDS,
            "hidden_size": 64,
            "num_layers": LAYERS,
            "num_heads": 4,
            "attention_types": [[["global", "local"], 1]],
            "window_size": 8,
        },
    ),
    Family("GPT-J", "gptj", "decoder", {**_GPT2, "rotary_dim": 8}),
    Family("GPT-NeoX", "gpt_neox", "decoder", _SMALL),
    Family(
        "OPT",
        "opt",
        "decoder",
        {
            **_WORDS,
            "hidden_size": 64,
            "num_hidden_layers": LAYERS,
            "num_attention_heads": 4,
            "ffn_dim": 128,
            "word_embed_proj_dim": 64,
        },
    ),
    Family(
        "BLOOM", "bloom", "decoder", {**_WORDS, "hidden_size": 64, "n_layer": LAYERS, "n_head": 4}
    ),
    Family("Llama", "llama", "decoder", _GROUPED),
    Family("Mistral", "mistral", "decoder", {**_GROUPED, "sliding_window": 8}),
    Family("Qwen 2", "qwen2", "decoder", _GROUPED),
    Family("Qwen 3", "qwen3", "decoder", {**_GROUPED, **_HEAD}),
    Family("Gemma 2", "gemma2", "decoder", {**_GROUPED, **_HEAD}),
    Family("Gemma 3", "gemma3_text", "decoder", {**_GROUPED, **_HEAD}),
    Family("Phi-3", "phi3", "decoder", _GROUPED),
    Family("Falcon", "falcon", "decoder", _SMALL),
    Family("GLM", "glm", "decoder", {**_GROUPED, **_HEAD}),
    Family("Mixtral", "mixtral", "decoder", {**_GROUPED, "num_local_experts": 4}),
    Family(
        "Qwen 2 MoE",
        "qwen2_moe",
        "decoder",
        {
            **_GROUPED,
            "num_experts": 4,
            "moe_intermediate_size": 32,
            "shared_expert_intermediate_size": 64,
        },
    ),
)


def one_step(family: Family) -> Family:
    """The decoder as it runs after its prompt: one token, with past keys and values."""
    return dataclasses.replace(family, name=f"{family.name} with past", kind="decoder step")


FAMILIES: tuple[Family, ...] = (
    Family("BERT", "bert", "encoder", _SMALL),
    Family("RoBERTa", "roberta", "encoder", _SMALL),
    Family("XLM-R", "xlm-roberta", "encoder", _SMALL),
    Family(
        "DistilBERT",
        "distilbert",
        "encoder",
        {**_WORDS, "dim": 64, "n_layers": LAYERS, "n_heads": 4, "hidden_dim": 128},
    ),
    Family("ALBERT", "albert", "encoder", {**_SMALL, "embedding_size": 32}),
    Family("ELECTRA", "electra", "encoder", {**_SMALL, "embedding_size": 32}),
    Family("MPNet", "mpnet", "encoder", _SMALL),
    Family("CamemBERT", "camembert", "encoder", _SMALL),
    Family("ERNIE", "ernie", "encoder", _SMALL),
    Family(
        "DeBERTa v2",
        "deberta-v2",
        "encoder",
        {**_SMALL, "relative_attention": True, "pos_att_type": ["p2c", "c2p"]},
    ),
    Family(
        "ModernBERT",
        "modernbert",
        "encoder",
        {**_SMALL, "global_attn_every_n_layers": 2, "local_attention": 8},
    ),
    Family("NomicBERT", "nomic_bert", "encoder", _SMALL),
    Family("RoFormer", "roformer", "encoder", _SMALL),
    Family("EuroBERT", "eurobert", "encoder", _GROUPED),
    Family(
        "Longformer",
        "longformer",
        "local windows",
        {**_SMALL, "attention_window": [4] * LAYERS},
        0,
    ),
    Family("BigBird", "big_bird", "encoder", {**_SMALL, "attention_type": "original_full"}),
    Family(
        "Funnel",
        "funnel",
        "encoder",
        {**_WORDS, "d_model": 64, "n_head": 4, "d_head": 16, "d_inner": 128, "block_sizes": [1, 1]},
        2 * LAYERS,
    ),
    *_DECODERS,
    *(one_step(family) for family in _DECODERS),
    Family("T5", "t5", "encoder-decoder", _T5, 3 * LAYERS),
    Family("mT5", "mt5", "encoder-decoder", _T5, 3 * LAYERS),
    Family("BART", "bart", "encoder-decoder", _SEQ2SEQ, 3 * LAYERS),
    Family("mBART", "mbart", "encoder-decoder", _SEQ2SEQ, 3 * LAYERS),
    Family("Marian", "marian", "encoder-decoder", _SEQ2SEQ, 3 * LAYERS),
    Family("Pegasus", "pegasus", "encoder-decoder", _SEQ2SEQ, 3 * LAYERS),
    Family("M2M100", "m2m_100", "encoder-decoder", _SEQ2SEQ, 3 * LAYERS),
    Family(
        "Whisper",
        "whisper",
        "audio",
        {
            **_SEQ2SEQ,
            "pad_token_id": 0,
            "num_mel_bins": 16,
            "max_source_positions": 20,
            "max_target_positions": 32,
            "decoder_start_token_id": 1,
            "bos_token_id": 1,
            "eos_token_id": 2,
        },
        3 * LAYERS,
    ),
    Family("ViT", "vit", "vision", _VISION),
    Family("DeiT", "deit", "vision", _VISION),
    Family("BEiT", "beit", "vision", _VISION),
    Family(
        "Swin",
        "swin",
        "vision",
        {
            "image_size": 32,
            "patch_size": 4,
            "embed_dim": 32,
            "depths": [2, 2],
            "num_heads": [2, 4],
            "window_size": 4,
        },
        4,
    ),
    Family("CLIP", "clip", "image and text", {**_CLIP, "projection_dim": 32}, 2 * LAYERS),
    Family("BLIP", "blip", "image and text", {**_CLIP, "projection_dim": 32}, 2 * LAYERS),
    # Families that came after the patterns were written: they needed none of their own.
    Family(
        "ESM", "esm", "encoder", {**_SMALL, "mask_token_id": 4, "position_embedding_type": "rotary"}
    ),
    Family("GTE", "gte", "encoder", _SMALL),
    Family("StarCoder 2", "starcoder2", "decoder", _GROUPED),
    Family("OLMo 2", "olmo2", "decoder", _GROUPED),
    Family("DINOv2", "dinov2", "vision", _VISION),
    *(
        Family(name, model, "own", {}, attentions)
        for name, model, attentions in (
            ("nn.TransformerEncoder", "torch-encoder", LAYERS),
            ("nn.TransformerEncoder by id", "torch-encoder-of-ids", LAYERS),
            ("nn.TransformerEncoder causal", "torch-decoder", LAYERS),
            ("nn.MultiheadAttention", "torch-attention", LAYERS),
            ("TransNormerLLM", "transnormer", 0),
            ("Gated associative memory", "gated-associative-memory", 0),
            ("Primer", "primer", LAYERS),
            ("GTrXL", "gated-transformer-xl", LAYERS),
            ("Graphormer", "graphormer", LAYERS),
            ("Landmark attention", "landmark", 0),
            ("RxT memory decoder", "memory-decoder", 2 * LAYERS + 1),
            ("MemoryFormer", "memoryformer", LAYERS),
            ("Wide classifier", "wide-classifier", 1),
            ("LargeGT", "large-graph-transformer", LAYERS + 1),
            ("DSE bi-encoder", "bi-encoder", 2 * LAYERS),
            ("SEA", "split-encode-aggregate", LAYERS),
        )
    ),
)

SUBSET = ("BERT", "ModernBERT", "Llama", "T5", "ViT", "Graphormer", "GTrXL")
"""A family of each kind, small enough for every test run."""
