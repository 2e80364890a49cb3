"""`meshcast analyze`: what a text will do and why, or what works in a file of them: printed, written, as a page."""

import asyncio
import json
from collections.abc import Awaitable
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from meshcast.cli.analyze_input import Details, Encoding, TextInput, given
from meshcast.cli.content_html import write_html
from meshcast.cli.content_print import print_report
from meshcast.cli.content_report import ContentReport, FeatureSummary, Judged, calibrations, clock, cut_note, summarize
from meshcast.cli.content_table import columns, document
from meshcast.cli.html_page import check_html
from meshcast.cli.problem import Problem
from meshcast.cli.settings import Connection, connect
from meshcast.cli.sink import open_sink
from meshcast.cli.text_report import TextReport, print_text_report
from meshcast.cli.text_report import document as text_document
from meshcast.client import ContentPatterns, MeshClient
from meshcast.contents import ContentRows, blank_rows
from meshcast.rpc import Deadline, DeadlineExceeded, MeshError

__all__ = ["analyze"]

T = TypeVar("T")

_CHUNK_ROWS = 128  # so that the bar moves a few times a second
_FEATURE_ROWS = 2_000  # texts that are looked into: more would not move a share by a percent
_PATTERN_ROWS_MIN, _PATTERN_ROWS_MAX = 20, 10_000  # of the contract
_PATTERN_BYTES = 4_000_000  # 4 MiB is the largest message
_AROUND_BYTES = 100  # of a row in it beside its texts and its channel
_CUTS = (8_000, 4_000, 2_000, 1_000, 500, 250, 120, 60)  # characters that texts are cut to until they fit


def analyze(
    file: str | None,
    *,
    text: str | None,
    details: Details,
    question: str,
    spans: int,
    encoding: Encoding,
    patterns: bool,
    topics_max: int,
    html: Path | None,
    out: Path | None,
    target: str | None,
    config: Path | None,
    state_dir: Path | None,
    timeout_s: float,
    as_json: bool,
) -> None:
    """Analyses one text or the rows of a file, prints and writes what was found out.

    Args:
        file: path of a file, or `-` for standard input; None where `text` is given.
        text: one text.
        details: of one text.
        question: which judgement of one text is explained, `viral` or `above_median`.
        spans: most spans to name, 1 to 32.
        encoding: of the file's bytes.
        patterns: whether to look for what works in a file.
        topics_max: most topics, 2 to 64; 0: the number follows from the rows.
        html: page to write; None for none.
        out: file for the rows; None for none.
        target: as in `connect`.
        config: as in `connect`.
        state_dir: as in `connect`.
        timeout_s: for the whole, in seconds.
        as_json: print JSON for programs.

    Raises:
        Problem: the file or an option is wrong, or rows were refused.
        MeshError: the mesh refused, or cannot be reached.
    """
    if question not in ("viral", "above_median"):
        raise Problem(f"--question {question}: is not known", way_out="--question viral, or --question above_median")
    if topics_max and not 2 <= topics_max <= 64:
        raise Problem(f"--topics {topics_max}: from 2 to 64 can be looked for")
    if html is not None:
        check_html(html)  # before anything is asked
    source = given(file, text, details, encoding)
    console = Console(stderr=as_json)
    if isinstance(source, TextInput):
        if out is not None:
            raise Problem("--out writes the rows of a file; one text has none", way_out="--json prints its report")
        connection = connect(target, config=config, state_dir=state_dir)
        told = asyncio.run(_one(connection, source, question, spans, _Time(timeout_s)))
        if as_json:
            print(json.dumps(text_document(told), indent=2, ensure_ascii=False))
        else:
            print_text_report(console, told)
        if html is not None:
            write_html(html, told)
            _say_written(console, "page", html)
        return
    sink = open_sink(out)
    connection = connect(target, config=config, state_dir=state_dir)
    assert file is not None
    asked = _Asked(Path(file).name, source, topics_max if patterns else None, _Time(timeout_s), console)
    report = asyncio.run(asked.report(connection))
    if sink is not None:
        with sink:
            sink.write(columns(report))  # at once: of a block without an outcome, Parquet could not tell its type
    if as_json:
        print(json.dumps(document(report), indent=2, ensure_ascii=False))
    else:
        print_report(console, report)
    if html is not None:
        write_html(html, report)
        _say_written(console, "page", html)
    if out is not None:
        _say_written(console, "rows", out)
    problem = report.refusal()
    if problem is not None:
        raise problem


def _say_written(console: Console, what: str, path: Path) -> None:
    console.print(f"{what} written to {path}", highlight=False, markup=False, soft_wrap=True)


class _Time:
    """The time of the whole.

    Args:
        seconds: from now.
    """

    def __init__(self, seconds: float) -> None:
        self.over = f"not answered within {seconds:g} s"
        self._deadline = Deadline.after(seconds)

    def left_s(self) -> float:
        """Seconds that are left, never none: the call itself says that its time is over."""
        return max(self._deadline.remaining_s(), 1e-3)

    def problem(self) -> Problem:
        """What to say where nothing was answered in it."""
        return Problem(self.over, way_out="--timeout gives more time")


async def _one(connection: Connection, given: TextInput, question: Any, spans: int, time: _Time) -> TextReport:
    notes: list[str] = []
    content = given.content
    async with MeshClient(connection.target, tls=connection.tls) as client:
        try:
            potential = await client.detect_viral_potential(
                content, question=question, spans_max=spans, timeout_s=time.left_s()
            )
        except DeadlineExceeded as error:
            raise time.problem() from error
        asked = client.extract_content_features([content], timeout_s=time.left_s())
        features = await _or_note(notes, "what is in it", asked, time)
        remarks = await _or_note(notes, "remarks", client.validate_content(content, timeout_s=time.left_s()), time)
    return TextReport(
        source=given.source,
        content=given.content,
        potential=potential,
        features=features[0] if features else None,
        remarks=remarks,
        notes=(*potential.receipt.notes, *notes),
    )


async def _or_note(notes: list[str], what: str, work: Awaitable[T], time: _Time) -> T | None:
    """What was found out, or None and a note of why not: a part that fails must not take the others away."""
    try:
        return await work
    except DeadlineExceeded:
        notes.append(f"not found out: {what} ({time.over}; --timeout gives more time)")
        return None
    except MeshError as error:
        notes.append(f"not found out: {what} ({error.message})")
        return None


class _Asked:
    """A file that is asked about."""

    def __init__(self, source: str, rows: ContentRows, topics_max: int | None, time: _Time, console: Console) -> None:
        is_blank = blank_rows(rows.contents)
        kept = np.flatnonzero(~is_blank)
        if not len(kept):
            raise Problem(f"{source}: no row holds a text or a title")
        self._source = source
        self._rows = rows if len(kept) == len(rows) else rows.take(kept)
        self._places = kept + 1
        self._topics_max = topics_max
        self._time = time
        self._console = console
        self._notes: list[str] = []
        if is_blank.any():
            self._notes.append(f"rows without text and title, which are left out: {int(is_blank.sum()):,}")

    async def report(self, connection: Connection) -> ContentReport:
        """Asks everything."""
        rows = self._rows
        bars = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        is_short = len(rows) <= _CHUNK_ROWS
        with Progress(*bars, console=self._console, disable=is_short, transient=True) as progress:
            async with MeshClient(connection.target, tls=connection.tls) as client:
                judged = await self._judged(client, progress)
                features = await self._features(client, progress)
                patterns, picked = await self._patterns(client, progress)
        told, note = calibrations(rows, judged)
        if note and not np.isnan(rows.outcome).all():
            self._notes.append(f"how the probabilities held up: {note}")
        return ContentReport(
            source=self._source,
            rows=rows,
            places=self._places,
            judged=judged,
            calibrations=told,
            patterns=patterns,
            pattern_rows=picked,
            features=features,
            clock=clock(rows),
            notes=tuple(self._notes),
        )

    async def _judged(self, client: MeshClient, progress: Progress) -> Judged:
        judged = Judged(rows=len(self._rows))
        bar = progress.add_task("judgements", total=len(self._rows))
        answers = client.analyze_contents(self._rows.contents, chunk_rows=_CHUNK_ROWS, timeout_s=self._time.left_s())
        try:
            async with aclosing(answers):
                async for chunk in answers:
                    judged.add(chunk)
                    progress.advance(bar, len(chunk))
        except DeadlineExceeded as error:
            if not judged.answered:
                raise self._time.problem() from error
            judged.end(f"{self._time.over}; --timeout gives more time")
        if len(judged.versions) > 1:
            told = ", ".join(f"{version} ({rows:,})" for version, rows in judged.versions.items())
            self._notes.append(f"the model was replaced meanwhile; rows by the version that judged them: {told}")
        if note := cut_note(self._rows.contents, judged):
            self._notes.append(note)
        return judged

    async def _features(self, client: MeshClient, progress: Progress) -> FeatureSummary | None:
        picked = _spread(np.arange(len(self._rows)), _FEATURE_ROWS)
        bar = progress.add_task("features", total=len(picked))
        asked = client.extract_content_features(self._rows.contents.take(picked), timeout_s=self._time.left_s())
        found = await _or_note(self._notes, "what is in the texts", asked, self._time)
        progress.update(bar, completed=len(picked))
        return None if found is None else summarize(found)

    async def _patterns(
        self, client: MeshClient, progress: Progress
    ) -> tuple[ContentPatterns | None, NDArray[np.int64]]:
        everything = np.arange(len(self._rows))
        if self._topics_max is None:
            return None, everything
        if len(everything) < _PATTERN_ROWS_MIN:
            self._notes.append(f"what works: {_PATTERN_ROWS_MIN} rows are needed, there are {len(everything)}")
            return None, everything
        picked, most = _fitting(self._rows, _spread(everything, _PATTERN_ROWS_MAX))
        if len(picked) < len(everything):
            self._notes.append(f"what works was looked for in {len(picked):,} rows, spread over the file evenly")
        if most is not None:
            self._notes.append(f"what works was looked for in the first {most:,} characters of each text")
        bar = progress.add_task("patterns", total=1)
        rows = _cut(self._rows.take(picked), most)
        asked = client.analyze_content_patterns(rows, topics_max=self._topics_max, timeout_s=self._time.left_s())
        found = await _or_note(self._notes, "what works", asked, self._time)
        progress.update(bar, completed=1)
        return found, picked


def _spread(rows: NDArray[np.int64], most: int) -> NDArray[np.int64]:
    """Rows that are spread over others evenly, at most so many."""
    if len(rows) <= most:
        return rows
    return rows[np.linspace(0, len(rows) - 1, most).round().astype(np.int64)]


def _fitting(rows: ContentRows, picked: NDArray[np.int64]) -> tuple[NDArray[np.int64], int | None]:
    """Which of the picked rows fit one message, and to how many characters their texts are cut for it; None: whole."""
    contents, places = rows.contents, picked.tolist()
    around = np.array([_AROUND_BYTES + len(name.encode()) for name in rows.channel[picked].tolist()])
    for most in (None, *_CUTS):
        texts = ((_head(contents.text[row], most), _head(contents.title[row], most)) for row in places)
        size = around + np.fromiter((len(text.encode()) + len(title.encode()) for text, title in texts), np.int64)
        if size.sum() <= _PATTERN_BYTES:
            break
    kept = np.arange(len(picked))
    while size[kept].sum() > _PATTERN_BYTES:
        kept = _spread(kept, len(kept) * 9 // 10)
    return picked[kept], most


def _cut(rows: ContentRows, most: int | None) -> ContentRows:
    """The rows with their texts and titles cut to so many characters."""
    contents = rows.contents
    cut = replace(
        contents,
        text=tuple([_head(text, most) for text in contents.text]),
        title=tuple([_head(title, most) for title in contents.title]),
    )
    return replace(rows, contents=cut)


def _head(text: str, most: int | None) -> str:
    """The beginning of a text, from its first character that is no white space where it is cut."""
    return text if most is None or len(text) <= most else text.lstrip()[:most]
