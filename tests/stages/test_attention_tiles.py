"""Attention in tile registers against the formula in float64, and that no document sees its neighbours or threads."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch
from kinfold.stages import _attention_cpu, _attention_tiles, _fused
from kinfold.stages._attention_cpu import documents_attention, rotated_attention
from kinfold.stages._tiles import have_tiles
from torch import Tensor

pytestmark = pytest.mark.skipif(not have_tiles(), reason="needs a CPU with AMX and numba")
NAMES = ("output", "query", "key", "value")
RAGGED = (5, 33, 2, 1, 129, 40)


@pytest.fixture(autouse=True)
def _threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def draw(
    n: int, heads: int, key_heads: int, dim: int, dtype: torch.dtype, turned: bool
) -> tuple[list[Tensor], tuple[Tensor, Tensor]]:
    """q, k, v and the outputs' gradient, (N, heads, d); cos and sin, (N, d), whose halves differ."""
    generator = torch.Generator().manual_seed(n + dim)
    rows = [torch.randn(n, h, dim, generator=generator).to(dtype) for h in (heads, key_heads, key_heads, heads)]
    cos, sin = (torch.randn(n, dim, generator=generator).to(dtype) for _ in range(2))
    return rows, (cos, sin) if turned else (torch.ones(n, dim).to(dtype), torch.zeros(n, dim).to(dtype))


def rotated(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    a, b = x.chunk(2, -1)
    return x * cos[:, None] + torch.cat([-b, a], -1) * sin[:, None]


def formula(rows: list[Tensor], turn: tuple[Tensor, Tensor], lengths: tuple[int, ...], scale: float) -> list[Tensor]:
    """Outputs and gradients by autograd in float64."""
    q, k, v = (t.double().requires_grad_() for t in rows[:3])
    cos, sin = (t.double() for t in turn)
    groups = q.shape[1] // k.shape[1]
    heads = [
        rotated(q, cos, sin),
        rotated(k, cos, sin).repeat_interleave(groups, 1),
        v.repeat_interleave(groups, 1),
    ]
    parts = []
    for a, b, c in zip(*(torch.split(t.transpose(0, 1), list(lengths), 1) for t in heads), strict=True):
        scores = (a @ b.transpose(-1, -2)) * scale
        scores = scores.masked_fill(torch.ones(scores.shape[-2:]).triu(1).bool(), float("-inf"))
        parts.append(scores.softmax(-1) @ c)
    out = torch.cat(parts, 1).transpose(0, 1)
    out.backward(rows[3].double())  # type: ignore[no-untyped-call]
    return [out.detach(), *(t.grad for t in (q, k, v) if t.grad is not None)]


def ours(
    rows: list[Tensor], turn: tuple[Tensor, Tensor] | None, lengths: tuple[int, ...], scale: float
) -> list[Tensor]:
    q, k, v = (t.detach().clone().requires_grad_() for t in rows[:3])
    spoilt = [torch.full_like(t, float("nan")) for t in rows * 3]  # what is freed here is what results are written to
    del spoilt
    if turn is None:
        columns = [t.transpose(0, 1)[None] for t in (q, k, v)]
        out = documents_attention(columns[0], columns[1], columns[2], lengths, scale)
    else:
        out = rotated_attention(q, k, v, *turn, lengths, scale)
    out.backward(rows[3][None])  # type: ignore[no-untyped-call]
    return [out[0].detach(), *(t.grad for t in (q, k, v) if t.grad is not None)]


def errors(found: list[Tensor], wanted: list[Tensor]) -> list[float]:
    return [float((a.double() - b).norm() / b.norm()) for a, b in zip(found, wanted, strict=True)]


@pytest.mark.parametrize("turned", [True, False])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
@pytest.mark.parametrize(
    ("lengths", "heads", "key_heads", "dim"),
    [
        (RAGGED, 4, 2, 64),
        (RAGGED, 3, 3, 32),
        (RAGGED, 6, 1, 80),
        (RAGGED, 2, 2, 16),
        (RAGGED, 2, 1, 6),
        ((5,), 2, 1, 8),
        ((1, 1), 2, 1, 64),
        ((700, 128), 2, 1, 128),
    ],
)
def test_errors_are_no_larger_than_those_of_pytorchs_kernels(
    lengths: tuple[int, ...], heads: int, key_heads: int, dim: int, dtype: torch.dtype, turned: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    rows, turn = draw(sum(lengths), heads, key_heads, dim, dtype, turned)
    scale = dim**-0.5 / (2 if turned else 1)
    wanted = formula(rows, turn, lengths, scale)
    given = turn if turned else None
    found = errors(ours(rows, given, lengths, scale), wanted)
    monkeypatch.setattr(_attention_cpu, "have_compiler", lambda: False)
    peers = errors(ours(rows, given, lengths, scale), wanted)
    monkeypatch.undo()
    for name, error, peer in zip(NAMES, found, peers, strict=True):
        # In bf16 the last rounding is most of it; in fp32 both are a few roundings, whose luck differs.
        assert error <= (1.1 * peer if dtype == torch.bfloat16 else 1.5 * peer + 3e-8), name


def test_the_tiles_are_what_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[str] = []
    real = _attention_tiles._run

    def noted(name: str, rows: list[Tensor], turn: list[Tensor], *rest: object) -> None:
        ran.append(f"{name} {len(turn)}")
        real(name, rows, turn, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(_attention_tiles, "_run", noted)
    for dtype in (torch.bfloat16, torch.float32):
        for dim, within in ((32, 2), (48, 0)):
            ran.clear()
            rows, turn = draw(9, 2, 1, dim, dtype, True)
            ours(rows, turn, (4, 5), 0.2)
            assert ran == [f"forward {within}", f"backward {within}"]
    rows, turn = draw(9, 2, 1, 32, torch.bfloat16, True)
    exact = formula(rows, turn, (4, 5), 0.2)
    ran.clear()
    mixed = ours(rows, (turn[0].float(), turn[1].float()), (4, 5), 0.2)  # another precision: rotated before
    assert ran == ["forward 0", "backward 0"]
    assert max(errors(mixed, exact)) < 2e-2


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
def test_neither_threads_nor_neighbours_change_a_bit(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_fused, "_LEAST", 1)
    lengths = (40, 170, 3, 64)
    rows, turn = draw(sum(lengths), 4, 2, 64, dtype, True)
    found = []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        found.append(ours(rows, turn, lengths, 0.125))
    begin = 0
    for n in lengths:
        part = slice(begin, begin + n)
        alone = ours([t[part] for t in rows], (turn[0][part], turn[1][part]), (n,), 0.125)
        for result in found:
            for name, one, other in zip(NAMES, alone, result, strict=True):
                assert torch.equal(one, other[part]), name
        begin += n


def test_rows_of_a_wider_tensor_are_taken() -> None:
    rows, turn = draw(45, 2, 2, 32, torch.bfloat16, True)
    wide = torch.cat(rows[:3], -1)
    views = [*torch.split(wide, 32, -1), rows[3].transpose(0, 1).contiguous().transpose(0, 1)]
    assert not views[0].is_contiguous()
    assert all(map(torch.equal, ours(views, turn, (45,), 0.2), ours(rows, turn, (45,), 0.2)))
    assert all(map(torch.equal, ours(views, None, (45,), 0.2), ours(rows, None, (45,), 0.2)))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("place", range(4))
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
def test_what_is_not_finite_is_seen_where_it_belongs(dtype: torch.dtype, place: int, value: float) -> None:
    lengths = (20, 70, 20)
    rows, turn = draw(110, 2, 2, 64, dtype, True)
    clean = ours(rows, turn, lengths, 0.125)
    rows[place][60, 1, 5] = value  # token 40 of the second document
    found = ours(rows, turn, lengths, 0.125)
    if place < 3:
        assert not found[0][60, 1].isfinite().all()
    assert not all(t[20:90, 1].isfinite().all() for t in found[1:])
    for name, one, other in zip(NAMES, found, clean, strict=True):
        assert torch.equal(one[:20], other[:20]), name
        assert torch.equal(one[90:], other[90:]), name
        assert torch.equal(one[:, 0], other[:, 0]), name
    assert torch.equal(found[0][:52], clean[0][:52])  # rows of earlier blocks know nothing of a later token


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
def test_scores_far_apart_stay_finite(dtype: torch.dtype) -> None:
    rows, turn = draw(100, 2, 1, 32, dtype, False)
    rows = [rows[0] * 300, rows[1] * 300, rows[2], rows[3]]
    found, wanted = ours(rows, None, (60, 40), 1.0), formula(rows, turn, (60, 40), 1.0)
    assert all(t.isfinite().all() for t in found)
    assert errors(found, wanted)[0] < (1e-2 if dtype == torch.bfloat16 else 1e-3)
    zeros = ours([torch.zeros_like(t) for t in rows], None, (60, 40), 1.0)
    assert not any(t.any() for t in zeros)


@pytest.mark.parametrize("planes", [1, 3])
@pytest.mark.parametrize(("n", "dim", "key_heads"), [(1, 8, 1), (33, 64, 2), (130, 40, 1), (300, 96, 2)])
def test_the_scratch_is_as_large_as_said(n: int, dim: int, key_heads: int, planes: int) -> None:
    from kinfold.stages import _kernels_attention_tiles as kernels
    from kinfold.stages._fused import arrays
    from kinfold.stages._kernels_tiles import TILES

    dtype = torch.bfloat16 if planes == 1 else torch.float32
    rows, _ = draw(n, 2, key_heads, dim, dtype, False)
    out, total, results = torch.empty_like(rows[0]), torch.empty(2, n), [torch.empty_like(t) for t in rows[:3]]
    empty = torch.empty(0, dim, dtype=dtype)
    tasks = _attention_tiles.tasks_of((n,), key_heads)
    common = [*arrays(*rows[:3], empty, empty), np.float32(0.2), planes]
    for name, others in (("forward", ()), ("backward", (rows[3], *results))):
        room = getattr(kernels, f"{name}_room")(n, dim, planes)
        work = np.full(room + 4096, 77, dtype=np.uint8)
        getattr(kernels, name)(tasks, *common, work, TILES, *arrays(out, total, *others))
        assert (work[room:] == 77).all()
        # No more than what the addresses' rounding up leaves over is in vain.
        assert (work[:room] != 77).nonzero()[0].max() > room - 64 - 4096


def test_the_scratch_counts_in_memory_estimates() -> None:
    from kinfold.stages import _kernels_attention_tiles as kernels
    from kinfold.stages._meter import StorageMeter

    rows = [torch.empty(600, 2, 64, dtype=torch.bfloat16, device="meta") for _ in range(3)]
    with StorageMeter() as meter:
        _attention_tiles.forward(rows, (), (600,), 0.1)
    own = rows[0].numel() * 2 + 600 * 2 * 4
    assert meter.peak >= own + kernels.forward_room(600, 64, 1)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
def test_a_compiler_that_gives_wrong_answers_is_not_used(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    from kinfold.stages import _kernels_attention_tiles as kernels

    query = torch.empty(1, dtype=dtype)
    assert _attention_tiles.takes(query)
    for name, place in (("forward", 10), ("backward", 13), ("backward", 15)):
        real = getattr(kernels, name)

        def wrong(*arguments: object, real: Callable[..., None] = real, place: int = place) -> None:
            real(*arguments)
            arguments[place][1] = 0  # type: ignore[index]  # one token's row

        _attention_tiles._agrees.cache_clear()
        monkeypatch.setattr(kernels, name, wrong)
        assert not _attention_tiles.takes(query)
        monkeypatch.undo()
    _attention_tiles._agrees.cache_clear()
    monkeypatch.setattr(kernels, "forward", None)
    assert not _attention_tiles.takes(query)
    monkeypatch.undo()
    _attention_tiles._agrees.cache_clear()
    assert _attention_tiles.takes(query)
