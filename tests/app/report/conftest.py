"""Run folders in the rooms' own file formats, made up but shaped like real ones: groups of related domains, noise,
stages that learn, one that forgets, and names that try to break the page."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import select
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
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


@pytest.fixture(scope="session")
def synthetic_run(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """`synthetic_run(k, **options)` -> a run folder of k domains, made once."""
    made: dict[tuple, Path] = {}

    def build(k: int, **options: object) -> Path:
        key = (k, *sorted(options.items()))
        if key not in made:
            made[key] = make_run(tmp_path_factory.mktemp(f"run{k}") / "run", k, **options)
        return made[key]

    return build


@pytest.fixture(scope="session")
def synthetic_relations():
    return make_relations


@pytest.fixture(scope="session")
def synthetic_plan():
    return make_plan


@pytest.fixture(scope="session")
def unpack() -> Callable[[dict], np.ndarray]:
    """The inverse of `_frame.pack`, written from the description of the format as the page's script reads it."""

    def read(packed: dict) -> np.ndarray:
        if "bits" in packed:
            bits = np.frombuffer(base64.b64decode(packed["bits"]), dtype=np.uint8)
            count = packed["rows"] * (packed["rows"] + 1) // 2 if packed["sym"] else packed["rows"] * packed["cols"]
            values = np.unpackbits(bits, bitorder="little")[:count].astype(float)
        else:
            steps = np.frombuffer(base64.b64decode(packed["d"]), dtype="<u2")
            values = np.where(
                steps == 65535, np.nan, packed["lo"] + steps * (((packed["hi"] - packed["lo"]) or 1) / 65534)
            )
        if not packed["sym"]:
            return values.reshape(packed["rows"], packed["cols"])
        full = np.full((packed["rows"],) * 2, np.nan)
        rows, columns = np.triu_indices(packed["rows"])
        full[rows, columns] = full[columns, rows] = values
        return full

    return read


@pytest.fixture(scope="session")
def hostile_name() -> str:
    return HOSTILE


LAUNCH = (
    # Chromium speaks over file descriptors 3 and 4; they are moved there without a fork hook, which threads forbid.
    "import fcntl, os, sys; r, w = (fcntl.fcntl(int(f), fcntl.F_DUPFD, 20) for f in sys.argv[1:3]);"
    "os.dup2(r, 3); os.dup2(w, 4); os.execv(sys.argv[3], sys.argv[3:])"
)
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
    "--hide-scrollbars",
    "--force-color-profile=srgb",
    "--remote-debugging-pipe",
    "about:blank",
]


class Browser:
    """Headless Chromium over its debugging pipe: no driver, no socket, no package."""

    def __init__(self, binary: str, profile: Path) -> None:
        to_child, mine_out = os.pipe()
        mine_in, from_child = os.pipe()
        self.process = subprocess.Popen(
            [
                sys.executable,
                "-c",
                LAUNCH,
                str(to_child),
                str(from_child),
                binary,
                f"--user-data-dir={profile}",
                *FLAGS,
            ],
            pass_fds=(to_child, from_child),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(to_child)
        os.close(from_child)
        self.read_end, self.write_end = mine_in, mine_out
        self.buffer, self.count, self.session = b"", 0, None
        self.events: list[dict] = []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def _receive(self, seconds: float) -> dict:
        deadline = time.monotonic() + seconds
        while b"\0" not in self.buffer:
            ready, _, _ = select.select([self.read_end], [], [], max(0.0, deadline - time.monotonic()))
            if not ready:
                raise TimeoutError(f"chromium said nothing for {seconds} s")
            chunk = os.read(self.read_end, 1 << 20)
            if not chunk:
                raise ConnectionError("chromium closed its pipe")
            self.buffer += chunk
        message, _, self.buffer = self.buffer.partition(b"\0")
        return json.loads(message)

    def call(self, method: str, **parameters: object) -> dict:
        self.count += 1
        message = {"id": self.count, "method": method, "params": parameters}
        if self.session:
            message["sessionId"] = self.session
        data = json.dumps(message).encode() + b"\0"
        while data:
            data = data[os.write(self.write_end, data) :]
        while True:
            answer = self._receive(60)
            if answer.get("id") == self.count:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']}")
                return answer.get("result", {})
            self.events.append(answer)

    def open(
        self, path: Path, *, width: int = 1280, height: int = 900, dark: bool = False, touch: bool = False
    ) -> None:
        self.events.clear()
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=touch)
        self.call(
            "Emulation.setEmulatedMedia",
            features=[{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}],
        )
        self.call("Page.navigate", url=path.resolve().as_uri())
        deadline = time.monotonic() + 30
        while not self.js("document.documentElement?.dataset.ready === 'yes' && document.readyState === 'complete'"):
            assert time.monotonic() < deadline, f"the page never got ready: {self.problems()}"
            time.sleep(0.05)
        # Charts are painted by a resize observer: after two frames they are there.
        self.js("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")

    def js(self, expression: str) -> object:
        answer = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in answer:
            raise AssertionError(answer["exceptionDetails"])
        return answer["result"].get("value")

    def move(self, x: float, y: float) -> None:
        self.call("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)

    def click(self, selector: str) -> None:
        self.js(
            f"document.querySelector({json.dumps(selector)}).scrollIntoView({{block: 'center', behavior: 'instant'}})"
        )
        box = f"document.querySelector({json.dumps(selector)}).getBoundingClientRect()"
        x, y = self.js(f"(() => {{ const b = {box}; return [b.x + b.width / 2, b.y + b.height / 2]; }})()")
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def press(self, key: str) -> None:
        for kind in ("keyDown", "keyUp"):
            self.call("Input.dispatchKeyEvent", type=kind, key=key, code=key)

    def problems(self) -> list[str]:
        """Console errors and warnings, exceptions, refused loads and dialogs since the page was opened."""
        found = []
        for event in self.events:
            method, values = event.get("method"), event.get("params", {})
            if method == "Runtime.exceptionThrown":
                found.append(json.dumps(values["exceptionDetails"])[:400])
            elif method == "Runtime.consoleAPICalled" and values["type"] in ("error", "warning", "assert"):
                found.append(json.dumps(values["args"])[:400])
            elif method == "Log.entryAdded" and values["entry"]["level"] in ("error", "warning"):
                found.append(values["entry"]["text"])
            elif method == "Page.javascriptDialogOpening":
                found.append(f"dialog: {values['message']}")
        return found

    def requests(self) -> list[str]:
        """Addresses asked for since the page was opened, the page's own and data: aside."""
        urls = [e["params"]["request"]["url"] for e in self.events if e.get("method") == "Network.requestWillBeSent"]
        return [url for url in urls if not url.startswith("data:")][1:]

    def shoot(self, path: Path, *, full: bool = True) -> None:
        shot = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=full)
        path.write_bytes(base64.b64decode(shot["data"]))

    def close(self) -> None:
        with contextlib.suppress(Exception):
            self.session = None
            self.call("Browser.close")
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait(10)
        os.close(self.read_end)
        os.close(self.write_end)


def find_chromium() -> str | None:
    if os.name != "posix":  # file descriptors 3 and 4 cannot be handed on elsewhere
        return None
    names = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
    return os.environ.get("KINFOLD_CHROMIUM") or next((found for name in names if (found := shutil.which(name))), None)


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    binary = find_chromium()
    if binary is None:
        pytest.skip("no chromium on this machine; install it (apt-get install chromium) or name it in KINFOLD_CHROMIUM")
    session = Browser(binary, tmp_path_factory.mktemp("profile"))
    yield session
    session.close()
