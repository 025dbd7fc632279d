"""The encoder's lower layers computed once per text: studies train adapters on its upper layers only.

A run of a study sees the same texts again and again, and what lies below the lowest adapter never changes. Keeping
those states cuts a run to a third or less. The states are those of the same model in the same precision; a text padded
otherwise, in another batch, would give the same up to rounding.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

LAYERS = 6
_LINEAR = (
    "attention.self.query",
    "attention.self.key",
    "attention.self.value",
    "attention.output.dense",
    "intermediate.dense",
    "output.dense",
)


def targets(lower: int) -> tuple[str, ...]:
    """The layers that carry adapters: all linear ones above the first `lower` blocks, and the pooler."""
    return (
        *(f"encoder.layer.{layer}.{name}" for layer in range(lower, LAYERS) for name in _LINEAR),
        "pooler.dense",
    )


@contextmanager
def lower_layers_kept(lower: int) -> Iterator[dict[bytes, Any]]:
    """Within it, every BERT of six layers keeps the states after block number `lower` by the text's token ids.

    One model and one precision at a time: the ids alone are the key.
    """
    import torch
    from transformers.models.bert import modeling_bert

    kept: dict[bytes, Any] = {}
    asked: list[tuple[Any, Any]] = []
    model_forward, encoder_forward = modeling_bert.BertModel.forward, modeling_bert.BertEncoder.forward

    def noting(self: Any, input_ids: Any = None, attention_mask: Any = None, **more: Any) -> Any:
        asked.append((input_ids, attention_mask))
        try:
            return model_forward(self, input_ids=input_ids, attention_mask=attention_mask, **more)
        finally:
            asked.pop()

    def encode(self: Any, hidden_states: Any, attention_mask: Any = None, **more: Any) -> Any:
        ids, mask = asked[-1]
        if ids is None or len(self.layer) != LAYERS:
            return encoder_forward(self, hidden_states, attention_mask=attention_mask, **more)
        lengths = [ids.shape[1]] * len(ids) if mask is None else mask.sum(dim=1).tolist()
        keys = [ids[row, :length].numpy().tobytes() for row, length in enumerate(lengths)]
        missing = [row for row, key in enumerate(keys) if key not in kept]
        if missing:
            with torch.no_grad():
                states = hidden_states[missing]
                part = None if attention_mask is None else attention_mask[missing]
                for layer in self.layer[:lower]:
                    states = layer(states, part)
                for place, row in enumerate(missing):
                    kept[keys[row]] = states[place, : lengths[row]].clone()
        with torch.no_grad():
            upper = torch.zeros_like(hidden_states)
            for row, key in enumerate(keys):
                upper[row, : lengths[row]] = kept[key]
        for layer in self.layer[lower:]:
            upper = layer(upper, attention_mask)
        return modeling_bert.BaseModelOutputWithPastAndCrossAttentions(last_hidden_state=upper)

    modeling_bert.BertModel.forward = noting
    modeling_bert.BertEncoder.forward = encode
    try:
        yield kept
    finally:
        modeling_bert.BertModel.forward = model_forward
        modeling_bert.BertEncoder.forward = encoder_forward
