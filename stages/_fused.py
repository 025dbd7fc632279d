"""A decoder's elementwise chains in one pass each, on CPUs: norms, gated activations, rotary positions with attention.

Layers are recognised by what they consist of, and each kind is tried on the layer itself before it is taken: where the
fused form does not give the layer's own answer (Gemma's norm, another activation, partial rotation), the layer stays
as it is. Only a layer's class changes; off the CPU, in other precisions and where a layer is called in another way
than in training on flat rows, it runs its own code.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from .._compile import have_compiler
from ._attention_cpu import rotated_attention

__all__ = ["arrays", "fuse", "share", "spread"]

_LEAST = 1 << 15  # numbers below which a second thread costs more than it does


def arrays(*tensors: Tensor) -> list[Any]:
    """NumPy views for the compiled loops; bf16 as uint16."""
    return [t.detach().view(torch.uint16).numpy() if t.dtype == torch.bfloat16 else t.detach().numpy() for t in tensors]


_pool: list[tuple[int, int, ThreadPoolExecutor]] = []


def _workers(threads: int) -> ThreadPoolExecutor:
    """Threads for the loops, made anew in a forked process, which inherits none."""
    here = (os.getpid(), threads)
    if not _pool or _pool[0][:2] != here:
        _pool[:] = [(*here, ThreadPoolExecutor(threads, thread_name_prefix="kinfold"))]
    return _pool[0][2]


def spread(loop: Callable[..., None], *arguments: Any, whole: Sequence[int] = ()) -> None:
    """Run a loop on PyTorch's number of threads, each with some of the rows; no result depends on the number.

    `whole` names the places of the arguments that every thread takes whole; the others are arrays of equally many rows.
    """
    rows, threads = len(arguments[0]), torch.get_num_threads()
    if threads == 1 or arguments[0].size < _LEAST:
        loop(*arguments)
        return
    cuts = [rows * place // threads for place in range(threads + 1)]
    jobs = []
    for start, stop in itertools.pairwise(cuts):
        own = [value if place in whole else value[start:stop] for place, value in enumerate(arguments)]
        jobs.append(_workers(threads).submit(loop, *own))
    for job in jobs:
        job.result()


def share(run: Callable[[Any], None], tasks: Any, numbers: int) -> None:
    """Give each thread every so many-th of `tasks`, rows of an array; together they touch so many `numbers`."""
    threads = min(torch.get_num_threads(), len(tasks))
    if threads == 1 or numbers < _LEAST:
        run(tasks)
        return
    for job in [_workers(threads).submit(run, tasks[place::threads].copy()) for place in range(threads)]:
        job.result()


def _takes(x: Tensor) -> bool:
    return (
        x.device.type in ("cpu", "meta")
        and x.dtype in (torch.float32, torch.bfloat16)
        and not torch.compiler.is_compiling()
        and not torch.is_autocast_enabled("cpu")
    )


class _Gate(torch.autograd.Function):
    """x·sigmoid(x)·y; only x and y are kept."""

    @staticmethod
    def forward(ctx: Any, gate: Tensor, up: Tensor) -> Tensor:
        gate, up = gate.contiguous(), up.contiguous()
        out = torch.empty_like(gate)
        if gate.device.type != "meta":
            from . import _kernels

            spread(_kernels.gate, *arrays(gate.view(-1), up.view(-1), out.view(-1)))
        ctx.save_for_backward(gate, up)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor]:
        gate, up = ctx.saved_tensors
        d_gate, d_up = torch.empty_like(gate), torch.empty_like(up)
        if gate.device.type != "meta":
            from . import _kernels

            flat = (t.view(-1) for t in (grads[0].contiguous(), gate, up, d_gate, d_up))
            spread(_kernels.gate_back, *arrays(*flat))
        return d_gate, d_up


class _Norm(torch.autograd.Function):
    """weight · x / rms(x) over the last dimension; the weight is frozen."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        x = x.contiguous()
        out = torch.empty_like(x)
        rows = x.numel() // x.shape[-1]
        scale = x.new_empty(rows, dtype=torch.float32)
        if x.device.type != "meta":
            from . import _kernels

            values, factor, result, kept = arrays(x.view(rows, -1), weight, out.view(rows, -1), scale)
            spread(_kernels.norm, values, factor, np.float32(eps), result, kept, whole=(1, 2))
        ctx.save_for_backward(x, weight, scale)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, scale = ctx.saved_tensors
        out = torch.empty_like(x)
        if x.device.type != "meta":
            from . import _kernels

            rows = scale.shape[0]
            grad = grads[0].contiguous().view(rows, -1)
            spread(_kernels.norm_back, *arrays(grad, x.view(rows, -1), weight, scale, out.view(rows, -1)), whole=(2,))
        return out, None, None


def _norm_forward(module: Any, x: Tensor) -> Tensor:
    if not _takes(x) or module.weight.requires_grad or module.weight.dtype != x.dtype:
        return module._own_forward(x)  # type: ignore[no-any-return]
    eps = module.variance_epsilon if hasattr(module, "variance_epsilon") else module.eps
    return _Norm.apply(x, module.weight, float(eps))  # type: ignore[no-untyped-call, no-any-return]


def _mlp_forward(module: Any, x: Tensor) -> Tensor:
    if not _takes(x):
        return module._own_forward(x)  # type: ignore[no-any-return]
    return module.down_proj(_Gate.apply(module.gate_proj(x), module.up_proj(x)))  # type: ignore[no-untyped-call, no-any-return]


def _attention_forward(
    module: Any,
    hidden_states: Tensor,
    position_embeddings: tuple[Tensor, Tensor] | None = None,
    attention_mask: Tensor | None = None,
    past_key_values: Any = None,
    **kwargs: Any,
) -> tuple[Tensor, Tensor | None]:
    flat = kwargs.get("flat")
    usual = flat is None or position_embeddings is None or past_key_values is not None or not _takes(hidden_states)
    if usual or (module.training and getattr(module, "attention_dropout", 0.0)):
        return module._own_forward(  # type: ignore[no-any-return]
            hidden_states,
            position_embeddings=position_embeddings,
            attention_mask=attention_mask,
            past_key_values=past_key_values,
            **kwargs,
        )
    assert flat is not None
    assert position_embeddings is not None
    n, dim = hidden_states.shape[1], module.head_dim
    parts = [layer(hidden_states).view(n, -1, dim) for layer in (module.q_proj, module.k_proj, module.v_proj)]
    for place, name in enumerate(("q_norm", "k_norm")):
        if hasattr(module, name):
            parts[place] = getattr(module, name)(parts[place])
    cos, sin = (part.reshape(n, dim) for part in position_embeddings)
    out = rotated_attention(parts[0], parts[1], parts[2], cos, sin, flat.lengths, module.scaling)
    return module.o_proj(out.view(1, n, -1)), None


_CLASSES: dict[type[nn.Module], type[nn.Module]] = {}


def _fused_class(cls: type[nn.Module], forward: Callable[..., Any]) -> type[nn.Module]:
    if cls not in _CLASSES:
        members = {"forward": forward, "_own_forward": cls.forward, "__doc__": f"{cls.__name__}, fused for CPUs."}
        _CLASSES[cls] = type(f"Fused{cls.__name__}", (cls,), members)
    return _CLASSES[cls]


def _draw(*shape: int, like: Tensor) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0)).to(like.dtype)


def _try_norm(module: Any, run: Callable[..., Any]) -> Tensor:
    result: Tensor = run(_draw(6, module.weight.shape[0], like=module.weight))
    return result


def _try_mlp(module: Any, run: Callable[..., Any]) -> Tensor:
    weight = module.gate_proj.weight
    result: Tensor = run(_draw(6, weight.shape[1], like=weight))
    return result


def _try_attention(module: Any, run: Callable[..., Any]) -> Tensor:
    from .attention import flat_layout

    weight, dim = module.q_proj.weight, module.head_dim
    turn = (_draw(1, 9, dim, like=weight), _draw(1, 9, dim, like=weight).flip(1))
    flat = flat_layout((4, 5))
    mask = torch.ones(1, 1, 1, 1)
    result: Tensor = run(
        hidden_states=_draw(1, 9, weight.shape[1], like=weight),
        position_embeddings=turn,
        attention_mask=mask,
        flat=flat,
    )[0]
    return result


def _kind(module: nn.Module) -> tuple[Callable[..., Any], Callable[..., Tensor]] | None:
    name = type(module).__name__
    own = {key for key, _ in module.named_parameters(recurse=False)}
    if (
        name.endswith("RMSNorm")
        and own == {"weight"}
        and (hasattr(module, "variance_epsilon") or hasattr(module, "eps"))
    ):
        return _norm_forward, _try_norm
    children = {key for key, _ in module.named_children()}
    if children == {"gate_proj", "up_proj", "down_proj", "act_fn"}:
        return _mlp_forward, _try_mlp
    return (_attention_forward, _try_attention) if _plain_attention(module, children) else None


_KNOWN = {
    "config",
    "layer_idx",
    "layer_type",
    "head_dim",
    "hidden_size",
    "num_heads",
    "num_key_value_heads",
    "num_key_value_groups",
    "scaling",
    "attention_dropout",
    "is_causal",
    "sliding_window",
    "rotary_fn",
}


def _plain_attention(module: Any, children: set[str]) -> bool:
    """Whether an attention layer holds nothing but what the fused form knows of.

    A trial on a few tokens does not show a window, a cap on large scores or dropout, so whatever is unknown is left.
    """
    wanted = {"q_proj", "k_proj", "v_proj", "o_proj"}
    own = {key for key in vars(module) if not key.startswith("_") and key != "training"}
    if not (wanted <= children <= wanted | {"q_norm", "k_norm"} and {"head_dim", "scaling"} <= own <= _KNOWN):
        return False
    if any(True for _ in module.parameters(recurse=False)) or getattr(module, "sliding_window", None) is not None:
        return False
    config = getattr(module, "config", None)
    hidden = ["clip_qkv", "attn_logit_softcapping"]
    hidden += [] if hasattr(module, "sliding_window") else ["sliding_window"]  # Mistral reads it from there
    return all(getattr(config, name, None) is None for name in hidden)


def fuse(model: nn.Module) -> int:
    """Let the layers of a decoder that fit run fused, in place; returns how many do.

    The model's attention must be the flat one already; without a compiler nothing is changed. Each attention layer is
    tried; of norms and activations one of each class, shape and set of plain attributes.
    """
    tried: dict[tuple[Any, ...], bool] = {}
    count = 0
    if not have_compiler():
        return 0
    for module in list(model.modules()):
        if hasattr(module, "_own_forward"):
            continue
        found = _kind(module)
        if found is None:
            continue
        forward, attempt = found
        shapes = tuple(tuple(p.shape) for p in module.parameters())
        plain = tuple(sorted((k, v) for k, v in vars(module).items() if isinstance(v, (int, float, str))))
        key = (type(module), shapes, plain, id(module) if forward is _attention_forward else None)
        if key not in tried:
            tried[key] = _agrees(module, forward, attempt)
        if tried[key]:
            module.__class__ = _fused_class(type(module), forward)
            count += 1
    return count


def _agrees(module: nn.Module, forward: Callable[..., Any], attempt: Callable[..., Tensor]) -> bool:
    own = type(module)
    weight = next(module.parameters())
    if weight.device.type == "meta":
        return True  # for memory estimates: the same classes were tried on the model itself
    if weight.device.type != "cpu" or weight.dtype not in (torch.float32, torch.bfloat16):
        return False
    try:
        with torch.no_grad():
            wanted = attempt(module, module.forward).double()
            module.__class__ = _fused_class(own, forward)
            got = attempt(module, module.forward).double()
    except Exception:  # whatever a layer or a compiler objects to, the layer's own way is there
        return False
    finally:
        module.__class__ = own
    bound = 1e-5 if weight.dtype == torch.float32 else 3e-2
    return bool(got.shape == wanted.shape and (got - wanted).norm() <= bound * wanted.norm())
