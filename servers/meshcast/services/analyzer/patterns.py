"""Content patterns: what many texts are about, and what goes with a better or worse outcome.

    patterns = analyze(rows)
    patterns.topics[0].words, [claim.text for claim in patterns.claims]

Topics and everything else that is compared come from the texts and the times alone; outcomes are looked at last, and
once. A claim is an association: posts that have something did better than others, not because of it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from meshcast.contents import UNKNOWN_DAY, UNKNOWN_HOUR, UNKNOWN_TIME, ContentRows
from meshcast.rpc.errors import Cancelled
from meshcast.services.analyzer.claims import CLUSTERS_MIN, ROWS_MIN, Design, Finding, design_of, findings
from meshcast.services.analyzer.comparisons import ClaimKind, Comparison, comparisons
from meshcast.services.analyzer.topics import Topic, Topics, Tree, find_topics, topics_count

__all__ = [
    "ERROR_RATE",
    "ERROR_RATE_MAX",
    "ROWS",
    "TOPICS",
    "Claim",
    "ClaimKind",
    "Patterns",
    "Topic",
    "analyze",
    "judge",
]

Mask = NDArray[np.bool_]

ROWS = (20, 10_000)
"""Fewest and most rows of an analysis."""
TOPICS = (2, 64)
"""Fewest and most topics that can be asked for."""
ERROR_RATE = 0.05
"""Share of reports that may claim anything where nothing has an effect, where nobody says."""
ERROR_RATE_MAX = 0.2

_DAY_S = 86_400
_SEED = 0
_EXAMPLES = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """One comparison of rows that have something with rows that have it not."""

    kind: ClaimKind
    """What it is about."""
    subject: str
    """What exactly, as in `topic 3` or `has a link`."""
    text: str
    """The claim for a person, one sentence."""
    topic: int | None
    """Number of the topic, for a claim about one."""
    effect: float
    """Difference in standard deviations of the outcome within its channel and time, on the normal scale."""
    lower: float
    """Lower end of its 95 % confidence interval, taken by itself: claims are picked from many comparisons, so the
    effects of the most striking ones tend to be smaller than they look, and fewer than 95 % of intervals hold."""
    upper: float
    """Upper end of the same."""
    effect_in_unit: float
    """The same difference in the outcome's own unit."""
    rows_with: int
    """Compared rows that have it."""
    rows_without: int
    """Compared rows that have it not."""
    p_value: float
    """Probability of so large a difference by chance."""
    p_corrected: float
    """The same after correction for every comparison of the report."""
    examples: tuple[int, ...]
    """Rows that have it and did best (worst, of a negative effect), 0-based positions, at most 5."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Patterns:
    """What many texts are about, and what works."""

    topics: tuple[Topic, ...]
    """Largest first."""
    row_topics: NDArray[np.int64]
    """Shape (n,), number of each row's topic."""
    claims: tuple[Claim, ...]
    """What can be told from chance at the error rate, strongest evidence first."""
    others: tuple[Claim, ...]
    """What was compared as well, strongest evidence first."""
    notes: tuple[str, ...]
    """What could not be found out and why, one sentence each."""


def analyze(
    rows: ContentRows,
    *,
    embeddings: NDArray[np.float32] | None = None,
    topics_max: int = 0,
    error_rate: float = ERROR_RATE,
    stop: Callable[[], bool] = lambda: False,
) -> Patterns:
    """What texts with outcomes are about, and what works; the same rows get the same answer.

    Args:
        rows: `ROWS` of them, in any order.
        embeddings: shape (n, d), float32, one vector a row; None: topics are found by the words of the texts.
        topics_max: most topics, one of `TOPICS`; 0: as many as `topics_count` says.
        error_rate: share of reports that may claim anything where nothing has an effect, up to `ERROR_RATE_MAX`.
        stop: asked between steps; True gives the analysis up.

    The arguments are taken as sound: `pattern_question` refuses those of a request that are out of their range.

    Raises:
        Cancelled: `stop` said so.
    """

    def check() -> None:
        if stop():
            raise Cancelled("the analysis of patterns was stopped")

    contents = rows.contents
    count = topics_max or topics_count(len(rows))
    tree = find_topics(contents.text, contents.title, embeddings, count=count, seed=_SEED, check=check)
    return judge(rows, tree, comparisons(rows, tree, check), error_rate=error_rate, check=check)


def judge(
    rows: ContentRows,
    tree: Tree,
    compared: Sequence[Comparison],
    *,
    error_rate: float,
    check: Callable[[], None] = lambda: None,
) -> Patterns:
    """Which comparisons can be told from chance, and the topics that the evidence is clearest for.

    Every branch of the tree is compared and corrected for. Where one can be told from chance, it is a topic, unless a
    branch that overlaps with it is clearer; what is left of the tree is told by its single clusters.

    Args:
        rows: n of them, with the outcomes.
        tree: of their topics.
        compared: what is compared, as `comparisons` has it.
        error_rate: as `analyze` has it.
        check: called between steps; raises to give up.
    """
    dated = rows.published_unix_s != UNKNOWN_TIME
    time = np.where(dated, rows.published_unix_s, np.nan).astype(np.float64)
    channel = np.unique(rows.channel, return_inverse=True)[1]
    design = design_of(rows.outcome, channel, np.floor(time / _DAY_S), time)
    if design is None:
        found = tree.cut([])
        note = "Nothing was compared: no channel has two posts with known outcomes that differ."
        return Patterns(topics=found.topics, row_topics=found.row_topics, claims=(), others=(), notes=(note,))
    if not design.by_day:  # weeks repeat, so a weekday cannot be told from a few days that were good or bad
        compared = [one for one in compared if one.kind != "weekday"]
    results = findings(
        design,
        [one.has_it for one in compared],
        [one.branch is not None for one in compared],
        error_rate=error_rate,
        seed=_SEED,
        check=check,
    )
    pairs = [(one, result) for one, result in zip(compared, results, strict=True) if result is not None]
    pairs.sort(key=lambda pair: (pair[1].p_corrected, pair[1].p_value, -abs(pair[1].statistic)))
    found = tree.cut(
        [one.branch for one, result in pairs if one.branch is not None and result.p_corrected <= error_rate]
    )
    channels = len(np.unique(channel))
    claims: list[Claim] = []
    others: list[Claim] = []
    for one, result in pairs:
        if one.branch is not None and one.branch not in found.branches:
            continue
        claimed = result.p_corrected <= error_rate
        claim = _claim(_named(one, found), result, design, claimed=claimed, channels=channels)
        (claims if claimed else others).append(claim)
    return Patterns(
        topics=found.topics,
        row_topics=found.row_topics,
        claims=tuple(claims),
        others=tuple(others),
        notes=tuple(_notes(rows, design, dated, compared=len(pairs))),
    )


@dataclass(frozen=True, slots=True)
class _Named:
    """A comparison as it is told."""

    compared: Comparison
    subject: str
    posts: str
    topic: int | None


def _named(one: Comparison, found: Topics) -> _Named:
    if one.branch is None:
        return _Named(one, one.subject, one.posts, None)
    topic = found.branches.index(one.branch)
    words = found.topics[topic].words[:3]
    return _Named(one, f"topic {topic}", f"about {', '.join(words)}" if words else f"of topic {topic}", topic)


def _claim(one: _Named, result: Finding, design: Design, *, claimed: bool, channels: int) -> Claim:
    """A comparison and what came of it, in words and figures."""
    better = "better" if result.effect > 0 else "worse"
    others = "the others of their channel" if channels > 1 else "the others"
    start = f"Posts {one.posts} do {abs(result.effect):.2f} standard deviations {better} than {others}"
    if not claimed:
        start += ", which may be chance after so many comparisons"
    total = result.rows_with + result.rows_without
    interval = f"95 % interval of this comparison alone {result.lower:+.2f} to {result.upper:+.2f}"
    having = np.flatnonzero(one.compared.has_it[design.rows])
    best = having[np.argsort(-np.sign(result.effect) * design.score[having], kind="stable")[:_EXAMPLES]]
    in_unit = result.effect * design.unit
    return Claim(
        kind=one.compared.kind,
        subject=one.subject,
        text=f"{start} ({interval}; {result.rows_with:,} of {total:,} posts).",
        topic=one.topic,
        effect=result.effect,
        lower=result.lower,
        upper=result.upper,
        effect_in_unit=float(np.clip(in_unit, -np.finfo(np.float64).max, np.finfo(np.float64).max)),
        rows_with=result.rows_with,
        rows_without=result.rows_without,
        p_value=result.p_value,
        p_corrected=result.p_corrected,
        examples=tuple(design.rows[best].tolist()),
    )


def _notes(rows: ContentRows, design: Design, dated: Mask, *, compared: int) -> list[str]:
    """What could not be found out, and what was assumed instead."""
    known = int(np.isfinite(rows.outcome).sum())
    notes = []
    if known < len(rows):
        notes.append(f"{len(rows) - known:,} of {len(rows):,} posts have no outcome; they only help to find topics.")
    if left := known - len(design.rows):
        of = "channel and day" if design.within_days else "channel"
        notes.append(f"{left:,} posts are compared with nothing: no other outcome of their {of} differs from theirs.")
    if compared == 0:
        notes.append(
            f"Nothing was compared: it takes {ROWS_MIN} posts that have something and {ROWS_MIN} that have not."
        )
    undated, days = int((~dated).sum()), len(np.unique(rows.published_unix_s[dated] // _DAY_S))
    if not dated.any():
        notes.append(
            "No time of publication is known, so trends over time are not taken out and posts count as independent."
        )
    elif days == 1:
        notes.append("All known times are of one day, so posts count as independent.")
    elif design.within_days:
        notes.append(
            f"The posts are of fewer than {CLUSTERS_MIN} days, so each is compared with others of its channel and day "
            f"alone; posts over {CLUSTERS_MIN} days or more tell more."
        )
    if dated.any() and undated:
        notes.append(f"{undated:,} posts have no time of publication; {_of_undated(design, dated)}.")
    if not design.by_day and (rows.day_of_week != UNKNOWN_DAY).any():
        notes.append(f"Days of the week were not compared: that takes known times over {CLUSTERS_MIN} days or more.")
    for what, unknown in (
        ("hour", rows.contents.hour_of_day == UNKNOWN_HOUR),
        ("day of the week", rows.day_of_week == UNKNOWN_DAY),
    ):
        if unknown.all():
            notes.append(f"Nothing is said of the {what}: none is known.")
        elif unknown.any():
            notes.append(f"{int(unknown.sum()):,} posts have no {what}; they count among those of other times.")
    return notes


def _of_undated(design: Design, dated: Mask) -> str:
    """What was done with posts of unknown time, beside others whose time is known."""
    if design.by_day:
        return "they are compared with each other, and taken to share days as often as the others do"
    if dated[design.rows].all():
        return "they are compared with nothing, since nobody knows of which of so few days they are"
    return "they are compared with each other and count as independent"
