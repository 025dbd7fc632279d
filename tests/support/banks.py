"""Small models of every kind, and banks filled with numbers; for tests of the bank."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from kinfold.stages.bank import LoraBank
from torch import nn
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    LlamaForSequenceClassification,
)

DOMAINS = ("law", "news", "code")
LENGTH = 7


def llama_config(hidden: int, **more: Any) -> LlamaConfig:
    """Two layers of two key heads for four query heads; vocabulary 61."""
    return LlamaConfig(
        **{
            "vocab_size": 61,
            "hidden_size": hidden,
            "intermediate_size": hidden * 3 // 2,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            **more,
        }
    )


def llama(hidden: int = 24) -> nn.Module:
    return LlamaForCausalLM(llama_config(hidden, attention_dropout=0.0))


def llama_classifier(hidden: int = 24) -> nn.Module:
    return LlamaForSequenceClassification(llama_config(hidden, num_key_value_heads=4, num_labels=3, pad_token_id=0))


def gpt2(hidden: int = 24) -> nn.Module:
    config = GPT2Config(
        vocab_size=61, n_embd=hidden, n_layer=2, n_head=4, n_positions=48, resid_pdrop=0, embd_pdrop=0, attn_pdrop=0
    )
    return GPT2LMHeadModel(config)


def bert(hidden: int = 24) -> nn.Module:
    config = BertConfig(
        vocab_size=61,
        hidden_size=hidden,
        intermediate_size=hidden * 3 // 2,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=48,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        num_labels=3,
    )
    return BertForSequenceClassification(config)


MODELS: dict[str, Callable[..., nn.Module]] = {
    "llama": llama,
    "llama_classifier": llama_classifier,
    "gpt2": gpt2,
    "bert": bert,
}


def fill(bank: LoraBank, seed: int = 0, size: float = 0.3) -> None:
    """Give every factor random numbers, B's included."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for _, parameter in bank.named_parameters():
            parameter.copy_(size * torch.randn(parameter.shape, generator=generator))
