"""What predicts transfer? A transfer matrix from short real trainings, and every cheap measure beside it.

python benchmarks/results_transfer.py reviews     (the encoder, labels)
python benchmarks/results_transfer.py prose       (the demo's base model, next tokens)
python benchmarks/results_transfer.py demo        (the same model, the demo's texts)

Row i of the matrix is trained on domain i alone and tested on held-out texts of every domain; two training seeds. Kept
are the matrices; correlations, their intervals and permutation tests are made when the page is written.
"""

from __future__ import annotations

import argparse
import contextlib
import time
from typing import Any

import numpy as np
from _results import ENCODER, SMALL, Base, corpora_of, keep, stamp
from _results_shelf import plain as as_json
from _results_shelf import settled
from kinfold.corpora import Corpora
from kinfold.metrics import MeasureSettings, Relations, measure
from kinfold.metrics.affinity import agreement_of
from kinfold.metrics.gradients import affinity_from_halves, sketch

SEEDS = (0, 1)
LABELLED = ("class_mean_cosine", "probe_transfer", "proxy_a_distance")
MEASURES = (
    "js",
    "js_plugin",
    "jaccard",
    "ruzicka",
    "cosine",
    "cosine_centred",
    "mmd2",
    "synergy",
    "synergy_centred",
    "discrepancy",
)
PROBES: dict[str, dict[str, Any]] = {
    "reviews": {"samples": 110, "probe_documents": 77, "probe_steps": 40, "max_length": 48},
    "prose": {"samples": 60, "probe_documents": 40, "probe_steps": 20, "max_length": 128},
    "demo": {"samples": 60, "probe_documents": 40, "probe_steps": 20, "max_length": 128},
}


COMMON: dict[str, Any] = {"bootstrap": 0, "permutations": 0, "affinity_documents": 100, "gradient_warmup": 30}


def base_of(name: str) -> Base:
    """The base model of a set."""
    return ENCODER if name == "reviews" else SMALL


def asked_of(name: str) -> dict[str, Any]:
    """What a matrix is made of."""
    names = (*MEASURES, *(LABELLED if name == "reviews" else ("proxy_a_distance", "gradient_affinity")))
    return {
        **COMMON,
        **PROBES[name],
        "measures": names,
        "seeds": SEEDS,
        "texts": corpora_of(name).fingerprints,
        "base": base_of(name).identity,
    }


def _matrices(relations: Relations, mark: str = "") -> dict[str, Any]:
    return {f"{name}{mark}": np.round(relations.matrix(name), 6).tolist() for name in relations.names}


def _class_gradients(corpora: Corpora, model: str, *, documents: int, warmup: int, seed: int) -> dict[str, Any]:
    """Gradient affinity of a classifier's LoRA after a warm-up on all domains together (its head is random before)."""
    from kinfold.metrics._lora import ClassProbe

    probe = ClassProbe(model, max_length=48, device="auto", classes=2)
    halves: list[list[Any]] = []
    pooled: list[Any] = []
    for domain in corpora.planned:
        records = domain.sample(2 * documents, "train", seed=seed)
        rows = probe.rows([r.plain for r in records], [int(str(r.label)) for r in records])
        halves.append([rows[:documents:2], rows[1:documents:2]])
        pooled += rows[documents:]
    probe.fresh(seed)
    if warmup:
        probe.train(pooled, steps=warmup, batch=8, lr=5e-4, seed=seed)
    found = np.zeros((2, len(halves), 8192))
    for i, sides in enumerate(halves):
        for side, rows in enumerate(sides):
            probe.model.zero_grad(set_to_none=True)
            for start in range(0, len(rows), 16):
                batch = rows[start : start + 16]
                (probe.loss(batch) * (len(batch) / len(rows))).backward()
            for number, (name, parameter) in enumerate(probe.parameters()):
                if "lora_" in name and parameter.grad is not None:
                    found[side, i] += sketch(parameter.grad.float().flatten().numpy(), 8192, number)
    parts = []
    for half in found:
        inner = half @ half.T
        parts.append(inner / np.sqrt(np.diagonal(inner))[:, None])
    return {
        "matrix": np.round(affinity_from_halves(found[0], found[1]), 8).tolist(),
        "agreement": agreement_of(parts[0], parts[1], symmetric=False, least=0.5),
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("set", choices=tuple(PROBES))
    options = parser.parse_args()
    study = f"transfer-{options.set}"
    asked_for = asked_of(options.set)
    if settled(study, "transfer", asked_for):
        return
    corpora = corpora_of(options.set)
    labelled = options.set == "reviews"
    model = str(base_of(options.set).folder)
    start, busy = time.perf_counter(), time.process_time()
    common = {**COMMON, "model": model, "measures": asked_for["measures"]}
    runs, relations = [], None
    # bf16 products on a processor that has them: a third of the time; AUC moves in the third digit.
    import torch

    # Without its cache: within one long context it would keep the casts of weights that training has changed since.
    autocast = torch.autocast("cpu", torch.bfloat16, cache_enabled=False) if labelled else contextlib.nullcontext()
    with autocast:
        for seed in SEEDS:
            # The second seed only repeats the trainings, on another sample: how well does the truth agree with itself?
            asked = common if relations is None else common | {"measures": ("js",)}
            settings = MeasureSettings(
                validate="probe",
                probe_domains=16,
                embedder=model if labelled else "model",
                max_windows=2,
                **asked,
                **PROBES[options.set],
            )
            found = measure(corpora, tokenizer=model, settings=settings, seed=seed)
            runs.append(found)
            relations = relations or found
        assert relations is not None
        matrices = _matrices(relations, " (model's embedding)")
        agreement = dict(relations.agreement)
        plain = measure(
            corpora, tokenizer=model, settings=MeasureSettings(**(common | {"samples": 110, "measures": MEASURES}))
        )
        matrices |= _matrices(plain)
        if labelled:
            # Two forms: with a head that knows nothing yet, and after a warm-up on all domains.
            for steps in (0, 40):
                gradient = _class_gradients(corpora, model, documents=40, warmup=steps, seed=0)
                name = f"gradient affinity, {'after a warm-up' if steps else 'new head'}"
                matrices[name], agreement[name] = gradient["matrix"], gradient["agreement"]
    value = {
        "set": options.set,
        "model": model.rsplit("/", 1)[-1] if not labelled else "all-MiniLM-L6-v2",
        "domains": list(relations.domains),
        "settings": {key: value for key, value in common.items() if key != "model"} | PROBES[options.set],
        "seeds": list(SEEDS),
        "kind": (runs[0].validation or {})["kind"],
        "unit": (runs[0].validation or {})["unit"],
        "transfer": [(run.validation or {})["transfer"] for run in runs],
        "matrices": matrices,
        "agreement": agreement,
        "wall_seconds": time.perf_counter() - start,
        "cpu_seconds": time.process_time() - busy,
        "asked": as_json(asked_for),
        "made": stamp(),
    }
    print(keep(study, "transfer", value))


if __name__ == "__main__":
    main()
