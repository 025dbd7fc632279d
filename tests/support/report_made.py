"""Run folders in the rooms' own file formats, made up but shaped like real ones: groups of related domains, noise,
stages that learn, one that forgets, and names that try to break the page."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import yaml

HOSTILE = "<img src=x onerror=alert(1)>"
WORDS = [
    "contracts",
    "statutes",
    "patents",
    "tax",
    "rulings",
    "case",
    "law",
    "recipes",
    "baking",
    "gardening",
    "travel",
    "hiking",
    "cycling",
    "football",
    "chess",
    "poetry",
    "drama",
    "novels",
    "essays",
    "letters",
    "astronomy",
    "physics",
    "chemistry",
    "biology",
    "medicine",
    "nursing",
    "pharmacy",
    "dentistry",
    "python",
    "rust",
    "kernel",
    "networks",
    "databases",
    "compilers",
    "statistics",
    "geometry",
    "algebra",
    "news",
    "finance",
    "sport",
    "weather",
    "politics",
    "film",
    "music",
    "reviews",
    "radio",
    "toys",
    "games",
    "tools",
    "kitchen",
    "camera",
    "phones",
    "laptops",
    "harbour",
    "shipping",
    "railways",
    "aviation",
    "energy",
    "mining",
    "forestry",
    "fishing",
]


def make_names(k: int) -> list[str]:
    names = [HOSTILE, *WORDS[: k - 1]]
    if k >= 16:
        names[5] = "a rather long domain name with spaces and more"
        names[7] = "price_$5_and_$6 & </script><script>alert(2)</script>"
        names[9] = "日本語の文書"
    return sorted(names)


def make_relations(k: int, seed: int = 0):
    from kinfold.metrics import Relations

    rng = np.random.default_rng(seed)
    groups = np.arange(k) % max(2, k // 4)
    centres = rng.normal(size=(groups.max() + 1, 4)) * 1.4
    spots = centres[groups] + rng.normal(size=(k, 4)) * 0.5
    far = np.sqrt(((spots[:, None] - spots[None]) ** 2).sum(-1))
    js = 1 - np.exp(-far / 6)
    js = np.where(rng.random((k, k)) < 0.04, js * 0.02, js)
    js = np.triu(js, 1) + np.triu(js, 1).T

    def noisy(matrix: np.ndarray, scale: float) -> np.ndarray:
        noise = np.triu(rng.normal(size=(k, k)) * scale, 1)
        return matrix + noise + noise.T

    cosine = np.exp(-far / 3) * 1.4 - 0.4
    np.fill_diagonal(cosine, 1.0)
    matrices = {
        "js": np.clip(js, 0, 1),
        "js_plugin": np.clip(js + 0.05 * (1 - np.eye(k)), 0, 1),
        "jaccard": np.clip(noisy(0.75 * np.exp(-far / 4), 0.02), 0, 1),
        "cosine": np.clip(0.8 + 0.2 * cosine, -1, 1),
        "cosine_centred": np.clip(noisy(cosine, 0.03), -1, 1),
        "mmd2": noisy(0.3 * (1 - np.exp(-(far**2) / 30)), 0.003) * (1 - np.eye(k)),
    }
    matrices["synergy"] = (matrices["jaccard"] + matrices["cosine"]) / 2
    spread = {name: 0.02 + 0.06 * np.abs(value) for name, value in matrices.items()}
    return Relations(
        domains=tuple(make_names(k)),
        matrices=matrices,
        low={name: value - spread[name] for name, value in matrices.items()},
        high={name: value + spread[name] for name, value in matrices.items()},
        floors={"js": np.full((k, k), 0.06), "mmd2": np.full((k, k), 0.012), "jaccard": np.full((k, k), 0.66)},
        tokens=rng.integers(20_000, 900_000, k),
        documents=rng.integers(60, 4000, k),
        characters=rng.integers(100_000, 4_000_000, k),
        fingerprints={"corpora": {name: f"{i:032x}" for i, name in enumerate(make_names(k))}, "tokenizer": "ab" * 16},
        settings={"embedder": "lsa", "bootstrap": 200, "tokens": None},
        agreement={},
        validation={
            "kind": "language model",
            "unit": "share of own gain in loss",
            "domains": list(make_names(k)),
            "transfer": (1 - js).tolist(),
            "best": "js",
            "advice": "on this data plan with plan.discrepancy: js (ρ 0.71).",
            "measures": {
                "js": {"rho": 0.71, "low": 0.4, "high": 0.9, "p": 0.002, "better": ["mmd2"]},
                "mmd2": {"rho": 0.1, "low": -0.2, "high": 0.4, "p": 0.61, "better": []},
            },
            "reliability": 0.86,
            "warnings": [],
        },
        seed=seed,
        warnings=("Domain chess has 61 documents: its intervals are wide; bring more text.",),
    )


def make_plan(relations, seed: int = 0):
    from kinfold.partition import Plan

    rng = np.random.default_rng(seed + 1)
    k, names = len(relations.domains), list(relations.domains)

    def ranks(matrix: np.ndarray) -> np.ndarray:
        rows, columns = np.triu_indices(k, 1)
        out = np.zeros((k, k))
        order = matrix[rows, columns].argsort().argsort() / max(1, len(rows) - 1)
        out[rows, columns] = out[columns, rows] = order
        return out

    d, s = ranks(relations.matrix("js")), ranks(relations.matrix("synergy"))
    gain = s - d
    n = max(2, k // 5)
    seeds = list(range(n))
    stage_of = [int(np.argmax([gain[i, t] if i != t else 9 for t in seeds])) for i in range(k)]
    stages = [tuple(names[i] for i in range(k) if stage_of[i] == t) for t in range(n)]
    stages = [stage for stage in stages if stage]
    where = {name: t for t, stage in enumerate(stages) for name in stage}
    label = np.array([where[name] for name in names])
    same = label[:, None] == label[None]
    objective = float(np.triu(gain * same, 1).sum())
    together = np.clip(np.where(same, 0.9, 0.06) + rng.normal(size=(k, k)) * 0.1, 0, 1)
    together = np.triu(together, 1) + np.triu(together, 1).T + np.eye(k)
    explain = {}
    for i, name in enumerate(names):
        sums = [gain[i, [j for j in range(k) if label[j] == t and j != i]].sum() for t in range(len(stages))]
        here = sums[label[i]]
        other = max((t for t in range(len(stages)) if t != label[i]), key=lambda t: sums[t])
        explain[name] = {
            "stage": int(label[i]),
            "gain": float(here),
            "best_other": other,
            "best_other_gain": float(sums[other]),
            "margin": float(here - sums[other]),
            "binding": ["tokens budget"] if i % 5 == 0 else [],
        }
    tokens = {name: float(value) for name, value in zip(names, relations.tokens, strict=True)}
    most = max(sum(tokens[name] for name in stage) for stage in stages)
    peers = [
        ("kinfold", 0.0),
        ("annealing", 0.0),
        ("average linkage", 0.08),
        ("single linkage", 0.3),
        ("random", 0.9),
        ("one stage", 1.4),
    ]
    return Plan(
        stages=tuple(stages),
        domains=tuple(names),
        objective=objective,
        bound=objective * 1.012 if k > 20 else objective,
        gap=0.012 if k > 20 else 0.0,
        status="feasible" if k > 20 else "optimal",
        gain=gain,
        discrepancy=d,
        synergy=s,
        sizes={"tokens": tokens},
        budget={"tokens": most * 1.08},
        settings={"lam": 1.0, "kappa": 0.0, "scale": "rank", "discrepancy": "js", "synergy": "synergy"},
        seed=seed,
        fingerprints={"relations": relations.digest},
        solvers=tuple(
            {
                "name": name,
                "objective": objective - loss * abs(objective),
                "gap": None,
                "seconds": 0.01 + loss,
                "stages": len(stages),
            }
            for name, loss in peers
        ),
        order={
            "affinity": rng.random((len(stages),) * 2).round(3).tolist(),
            "score": 2.31,
            "method": "optimal",
            "exact": True,
            "rivals": {"reverse": 1.9, "random": 1.2},
        },
        confidence={"co_assignment": together.tolist(), "fragile": names[1:3], "replicates": 100},
        phase={
            "lam": [0.25, 0.5, 1.0, 2.0],
            "budget": [1e5, 3e5, 1e6, 3e6],
            "resource": "tokens",
            "n_stages": [[None, None, n + 1, n], [k, k - 1, n, n], [k, n + 1, n, 2], [k, n, n, 1]],
        },
        explain=explain,
        theory={
            "terms": {"plan": {"stages": 3.0, "discrepancy": 1.234}, "all_in_one": {"stages": 1.0, "discrepancy": 4.5}},
            "corollary": {"premise_pairs": 42, "held": 40, "note": "This one is constrained."},
        },
        warnings=("The tokens budget binds in stage 2.",),
        seconds=1.7,
    )


def make_run(folder: Path, k: int, seed: int = 0, *, steps: int = 120, evaluated: bool = True, relations=True) -> Path:
    rng = np.random.default_rng(seed + 2)
    folder.mkdir(parents=True, exist_ok=True)
    found = make_relations(k, seed)
    plan = make_plan(found, seed)
    plan.save(folder / "plan.json")
    if relations:
        found.save(folder)
    names, stages = list(plan.domains), [list(stage) for stage in plan.stages]
    manifest = {
        "version": 1,
        "state": "finished" if evaluated else "running",
        "seed": seed,
        "model": "tiny",
        "domains": names,
        "stages": stages,
        "fingerprints": {"model": "cd" * 16},
        "settings": {},
    }
    (folder / "run.json").write_text(json.dumps(manifest))
    (folder / "config.yaml").write_text(
        yaml.safe_dump({"train": {"lr": 2e-4, "lora": {"rank": 8}}, "model": "tiny <b>bold</b>"})
    )
    (folder / "environment.json").write_text(
        json.dumps({"versions": {"torch": "2.8", "kinfold": "0.1.0"}, "cpus": 2, "platform": "Linux"})
    )
    start = {name: 4.5 + rng.random() for name in names}
    fall = {name: 0.15 + 0.7 * rng.random() for name in names}
    with (folder / "metrics.jsonl").open("w") as log, (folder / "timings.jsonl").open("w") as clock:
        tokens = 0
        for t, stage in enumerate(stages):
            for step in range(steps):
                progress = step / steps
                loss = {
                    name: start[name] - fall[name] * (1 - np.exp(-4 * progress)) + rng.normal() * 0.05 for name in stage
                }
                tokens += int(rng.integers(3800, 4200))
                parts = {
                    "task": float(np.mean(list(loss.values()))),
                    "ssl": 5.5 - progress + rng.normal() * 0.05,
                    "align": 0.05 * np.exp(-progress),
                }
                row = {
                    "stage": t,
                    "step": step,
                    "tokens": tokens,
                    "lr": 2e-4 * (1 - progress),
                    "loss": parts["task"] + 0.1 * parts["ssl"],
                    "parts": parts,
                    "weights": {"task": 1.0, "ssl": 0.1, "align": 0.1 + 0.05 * progress},
                    "per_domain": loss,
                    "grad_norm": 1 + rng.random(),
                }
                log.write(json.dumps(row) + "\n")
                clock.write(
                    json.dumps(
                        {"stage": t, "step": step, "seconds": 0.4 + 0.1 * rng.random(), "memory": 2**30 + 2**20 * step}
                    )
                    + "\n"
                )
    if evaluated:
        write_evaluation(folder, names, stages, start, fall, rng)
    return folder


def write_evaluation(folder: Path, names, stages, start, fall, rng) -> None:
    k = len(names)
    effect = {name: -fall[name] * 0.6 for name in names}
    effect[names[-1]] = 0.12
    if k > 3:
        effect[names[2]] = 0.004

    def cell(loss: float) -> dict[str, float]:
        return {
            "loss": loss,
            "low": loss - 0.1,
            "high": loss + 0.1,
            "perplexity": float(np.exp(loss)),
            "tokens": 9000,
            "documents": 80,
        }

    where = {name: t for t, stage in enumerate(stages) for name in stage}

    def after_stage(name: str, t: int) -> float:
        if where[name] > t:
            return start[name] + 0.1 * effect[name]
        return start[name] + effect[name] * (1 - 0.12 * (t - where[name]))

    after = [{name: after_stage(name, t) for name in names} for t in range(len(stages))]
    wide = {name: 0.03 + 0.04 * rng.random() for name in names}

    def change(mean: float, name: str) -> dict[str, float]:
        return {"mean": mean, "low": mean - wide[name], "high": mean + wide[name]}

    mmd = np.abs(rng.normal(size=(k, k))) * 0.1
    mmd = np.triu(mmd, 1) + np.triu(mmd, 1).T
    evaluation = {
        "version": 1,
        "split": "test",
        "metric": "loss",
        "task": "lm",
        "domains": names,
        "stages": stages,
        "before": {name: cell(start[name]) for name in names},
        "snapshot": {name: cell(after[where[name]][name]) for name in names},
        "final": {name: cell(after[-1][name]) for name in names},
        "change": {
            name: {"snapshot": change(effect[name], name), "final": change(after[-1][name] - start[name], name)}
            for name in names
        },
        "after_stage": after,
        "forgetting": {
            "matrix": [[row[name] for name in names] for row in after],
            "backward_transfer": -0.02,
            "forward_transfer": 0.04,
        },
        "general": {"before": cell(4.2), "after": cell(4.31)},
        "alignment": {"mmd2_before": mmd.tolist(), "mmd2_after": (mmd * 0.6).tolist()},
        "h_score": {"before": 0.71, "after": 0.78},
    }
    (folder / "evaluation.json").write_text(json.dumps(evaluation))
