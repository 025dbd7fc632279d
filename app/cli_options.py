"""The command line's options: the common ones every command takes, and those that set one value of the configuration.

A setting's flag takes its help and default from the settings dataclass it sets, so the two cannot drift apart.
"""

from __future__ import annotations

import csv
import functools
import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, TypeVar, get_args

import typer

from ..errors import ConfigError
from .config import Flag, Resolved, field_info, resolve
from .session import Failure, Session, running, terminated_as_interrupt

__all__ = ["FLAGS", "Common", "command", "flags", "groups", "numbers", "pairs", "setting", "stage_range", "words"]

FLAGS: dict[str, tuple[str, str]] = {
    # parameter name: (path in the configuration, flag)
    "seed": ("seed", "--seed"),
    "model": ("model", "--model"),
    "tokenizer": ("tokenizer", "--tokenizer"),
    "corpora": ("corpora.path", "--corpora"),
    "strict": ("corpora.strict", "--strict"),
    "limit": ("corpora.limit", "--limit"),
    "embedder": ("measure.embedder", "--embedder"),
    "measures": ("measure.measures", "--measures"),
    "samples": ("measure.samples", "--samples"),
    "tokens": ("measure.tokens", "--tokens"),
    "draws": ("measure.bootstrap", "--bootstrap"),
    "permutations": ("measure.permutations", "--permutations"),
    "lam": ("plan.lam", "--lambda"),
    "kappa": ("plan.kappa", "--kappa"),
    "scale": ("plan.scale", "--scale"),
    "discrepancy": ("plan.discrepancy", "--discrepancy"),
    "synergy": ("plan.synergy", "--synergy"),
    "stages": ("plan.stages", "--stages"),
    "budget": ("plan.budget", "--budget"),
    "minimum": ("plan.minimum", "--minimum"),
    "must_link": ("plan.must_link", "--must-link"),
    "cannot_link": ("plan.cannot_link", "--cannot-link"),
    "pin": ("plan.pin", "--pin"),
    "method": ("plan.method", "--method"),
    "order": ("plan.order", "--order"),
    "time_limit": ("plan.time_limit", "--time-limit"),
    "workers": ("plan.workers", "--workers"),
    "task": ("train.task", "--task"),
    "adapters": ("train.adapters", "--adapters"),
    "rank": ("train.lora.rank", "--rank"),
    "epochs": ("train.epochs", "--epochs"),
    "documents": ("train.documents", "--documents"),
    "max_steps": ("train.max_steps", "--max-steps"),
    "tokens_per_stage": ("train.tokens_per_stage", "--tokens-per-stage"),
    "batch_tokens": ("train.batch_tokens", "--batch-tokens"),
    "max_length": ("train.max_length", "--max-length"),
    "lr": ("train.lr", "--lr"),
    "replan": ("train.replan", "--replan"),
    "ssl_weight": ("train.ssl_weight", "--ssl-weight"),
    "align_weight": ("train.align_weight", "--align-weight"),
    "kl_weight": ("train.kl_weight", "--kl-weight"),
    "precision": ("train.precision", "--precision"),
    "device": ("train.device", "--device"),
    "checkpoint_every": ("train.checkpoint_every", "--checkpoint-every"),
    "methods": ("compare.methods", "--methods"),
    "seeds": ("compare.seeds", "--seeds"),
    "rounds": ("compare.draws", "--draws"),
    "ablate": ("compare.ablate", "--ablate"),
    "equal": ("compare.equal", "--equal"),
    "serving": ("compare.serving", "--serving"),
    "grid_ssl": ("compare.grid_ssl", "--grid-ssl"),
    "grid_align": ("compare.grid_align", "--grid-align"),
    "token_noise": ("compare.token_noise", "--token-noise"),
    "label_noise": ("compare.label_noise", "--label-noise"),
    "imbalance": ("compare.imbalance", "--imbalance"),
    "jobs": ("compare.jobs", "--jobs"),
    "keep_runs": ("compare.keep_runs", "--keep-runs"),
    "split": ("train.evaluate_split", "--split"),
    "eval_documents": ("train.eval_documents", "--documents"),
    "eval_generate": ("train.eval_generate", "--generate"),
}


def plain_help(text: str) -> str:
    r"""`text` with square brackets kept as they are where Typer reads Rich markup.

    >>> plain_help("a share in [0, 1) or [bold]")
    'a share in [0, 1) or \\[bold]'
    """
    return re.sub(r"\[(?=[a-z#/@])", r"\\[", text)


def setting(
    name: str, *extra: str, text: str = "", example: str = "", metavar: str | None = None, default: str = ""
) -> Any:
    """The Typer option of the setting that `FLAGS` lists under `name`; help and default come from its dataclass."""
    path, flag = FLAGS[name]
    info = field_info(path.split("."))
    text = text or str(info.metadata.get("help", path))
    if example:
        text = f"{text.partition(', e.g. ')[0]}, e.g. {example}"
    default = default or _default_text(info)
    if default:
        text += f" (default {default})"
    return typer.Option(
        flag, *extra, help=plain_help(text), show_default=False, metavar=metavar, rich_help_panel="Settings"
    )


def _default_text(info: Any) -> str:
    value = info.default
    if value is None or not isinstance(value, (str, int, float, bool)):
        return ""
    return str(value).lower() if isinstance(value, bool) else f"{value:g}" if isinstance(value, float) else str(value)


def flags(values: Mapping[str, Any]) -> list[Flag]:
    """The given ones (not None, not empty) among a command's parameters, as configuration flags."""
    found = []
    for name, (path, flag) in FLAGS.items():
        value = values.get(name)
        if value is None or (isinstance(value, (list, dict, tuple)) and not value):
            continue
        found.append(Flag(tuple(path.split(".")), str(value) if isinstance(value, Path) else value, flag))
    return found


def pairs(items: Sequence[str] | None, flag: str, kind: Callable[[str], Any] = float) -> dict[str, Any]:
    """`["tokens=2e6"]` as a mapping.

    Raises
    ------
    ConfigError
        When an item is not NAME=NUMBER.
    """
    result: dict[str, Any] = {}
    for item in items or ():
        name, equals, value = item.rpartition("=")
        try:
            if not (equals and name):
                raise ValueError
            result[name.strip()] = kind(value)
        except ValueError:
            example = "wiki=1" if kind is int else "gpu_memory=16e9" if "gpu_memory" in name else "tokens=2e6"
            raise ConfigError(f"{flag} {item}: must look like NAME=NUMBER, for example {flag} {example}.") from None
    return result


def groups(items: Sequence[str] | None, flag: str) -> list[list[str]] | None:
    """`["a,b", "c,d"]` as lists of domain names; a name that holds a comma stands in double quotes, as in CSV.

    >>> groups(["law, news", '"acme, inc.",news'], "--must-link")
    [['law', 'news'], ['acme, inc.', 'news']]

    Raises
    ------
    ConfigError
        When an item names fewer than two.
    """
    result = []
    for item in items or ():
        rows = csv.reader([" ".join(item.splitlines())], skipinitialspace=True)
        names = [name.strip() for row in rows for name in row if name.strip()]
        if len(names) < 2:
            raise ConfigError(f"{flag} {item}: must name two or more domains with commas, for example {flag} a,b.")
        result.append(names)
    return result or None


def words(text: str | None) -> list[str] | None:
    """`a,b` as a list of words.

    >>> words("a, b,"), words(None)
    (['a', 'b'], None)
    """
    return None if text is None else [part.strip() for part in text.split(",") if part.strip()]


N = TypeVar("N", int, float)


def numbers(text: str | None, flag: str, kind: type[N]) -> list[N] | None:
    """`0,1,2` as numbers of a kind.

    Raises
    ------
    ConfigError
        When a part is no such number.
    """
    try:
        return None if text is None else [kind(part) for part in words(text) or ()]
    except ValueError:
        what = "whole numbers" if kind is int else "numbers"
        raise ConfigError(f"{flag} {text}: must be {what} with commas, for example {flag} 0,1.") from None


def stage_range(text: str | None) -> str | int | list[int] | None:
    """`3` exactly, `2:5` a range, or one of the words.

    Raises
    ------
    ConfigError
        When `text` is neither.
    """
    if text is None:
        return None
    if text.strip().casefold() in ("fewest", "free"):
        return text.strip().casefold()
    match = re.fullmatch(r"\s*(\d+)\s*(?:(?::|-|\.\.)\s*(\d+)\s*)?", text)
    if match is None:
        raise ConfigError(f"--stages {text}: must be fewest, free, a number such as 3, or a range such as 2:5.")
    low, high = match.group(1), match.group(2)
    return int(low) if high is None else [int(low), int(high)]


class Common:
    """The options every command takes, as given."""

    def __init__(self, session: Session, config: Path | None, sets: Sequence[str], seed: int | None) -> None:
        self.session, self.config, self.sets, self.seed = session, config, list(sets), seed
        self.progress = session.progress

    def resolve(self, values: Mapping[str, Any], extra: Sequence[Flag] = ()) -> Resolved:
        """The configuration from defaults < --config < the command's flags < --set."""
        return resolve(self.config, [*flags({"seed": self.seed, **values}), *extra], self.sets)


_PANEL = "Common options"
_COMMON: dict[str, tuple[Any, Any]] = {
    "config": (
        Annotated[
            Path | None,
            typer.Option(
                "--config",
                "-c",
                metavar="FILE",
                help="YAML file of settings (see kinfold init).",
                rich_help_panel=_PANEL,
            ),
        ],
        None,
    ),
    "sets": (
        Annotated[
            list[str],
            typer.Option(
                "--set",
                metavar="A.B=C",
                help="Set one value, over everything else; repeatable.",
                rich_help_panel=_PANEL,
                show_default=False,
            ),
        ],
        [],
    ),
    "seed": (
        Annotated[
            int | None,
            typer.Option("--seed", help="The one seed of everything random (default 0).", rich_help_panel=_PANEL),
        ],
        None,
    ),
    "as_json": (
        Annotated[
            bool, typer.Option("--json", help="Print one JSON object on standard output.", rich_help_panel=_PANEL)
        ],
        False,
    ),
    "quiet": (
        Annotated[bool, typer.Option("--quiet", "-q", help="Say nothing but errors.", rich_help_panel=_PANEL)],
        False,
    ),
    "debug": (
        Annotated[
            bool, typer.Option("--debug", help="Show tracebacks and third-party notices.", rich_help_panel=_PANEL)
        ],
        False,
    ),
}


def _without_value(annotation: Any) -> None:
    """A switch takes no value: the help shows none beside it, whatever Typer's version makes of its type."""
    kind, *infos = get_args(annotation)
    if bool in (kind, *get_args(kind)):
        for info in infos:
            if info.metavar is None:
                info.metavar = ""


def command(app: typer.Typer, name: str | None = None) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Register a command whose first parameter is a :class:`Common`; Typer sees the common options instead of it."""

    def register(body: Callable[..., None]) -> Callable[..., None]:
        own = list(inspect.signature(body, eval_str=True).parameters.values())[1:]
        shared = [
            inspect.Parameter(key, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)
            for key, (annotation, default) in _COMMON.items()
        ]
        parameters = [item.replace(kind=inspect.Parameter.KEYWORD_ONLY) for item in own] + shared
        for item in parameters:
            _without_value(item.annotation)

        @functools.wraps(body)
        def run(**values: Any) -> None:
            common = {key: values.pop(key) for key in _COMMON}
            try:
                with (
                    terminated_as_interrupt(),
                    running(as_json=common["as_json"], quiet=common["quiet"], debug=common["debug"]) as session,
                ):
                    body(Common(session, common["config"], common["sets"], common["seed"]), **values)
            except Failure as failure:
                raise typer.Exit(failure.exit_code) from None

        run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        run.__annotations__ = {item.name: item.annotation for item in parameters}
        del run.__wrapped__  # Typer would look through it
        app.command(name, help=plain_help(inspect.cleandoc(body.__doc__ or "")))(run)
        return run

    return register
