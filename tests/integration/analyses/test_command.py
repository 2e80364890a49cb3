"""`meshcast analyze` against a real server: reports, files, pages, refusals."""

import asyncio
import csv
import io
import json
import shutil
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest

from meshcast.api.analyzer.v1 import analyzer_pb2 as pb
from meshcast.cli.analyze import analyze
from meshcast.cli.analyze_input import Details, Encoding
from meshcast.cli.problem import ExitCode, Problem, translate
from meshcast.rpc import MeshError, Overloaded

Run = Callable[..., Any]

BROWSERS = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome")
TAGS = {
    *("html", "head", "meta", "title", "style", "body", "main", "section", "h1", "h2", "p", "div", "bdi", "mark", "br"),
    *("table", "caption", "thead", "tbody", "tr", "th", "td", "figure", "picture", "source", "img", "figcaption"),
    *("details", "summary"),
}
ATTACK = (
    "<script>document.title='taken'</script><img src=x onerror=\"document.title='taken'\"> & \"quotes\" won won won cup"
)
CLAIM = pb.Claim(
    kind=pb.CLAIM_KIND_TOPIC,
    subject="topic 1",
    text="Texts about rain do worse.",
    topic=1,
    effect=-0.31,
    lower=-0.45,
    upper=-0.17,
    rows_with=300,
    rows_without=900,
    p_value=1e-5,
    p_corrected=2e-4,
    examples=[1],
)


@pytest.fixture
def run(target: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Run:
    """Runs the command; it has a loop of its own, so it gets a thread of its own. Gives what it printed."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "100")

    async def run(file: Path | str | None = None, **options: Any) -> str:
        capsys.readouterr()
        defaults: dict[str, Any] = {
            "text": None,
            "details": Details(),
            "question": "viral",
            "spans": 5,
            "encoding": Encoding(),
            "patterns": True,
            "topics_max": 0,
            "html": None,
            "out": None,
            "target": target,
            "config": None,
            "state_dir": tmp_path / "state",
            "timeout_s": 20.0,
            "as_json": False,
        }
        name = None if file is None else str(file)
        await asyncio.to_thread(lambda: analyze(name, **{**defaults, **options}))
        return capsys.readouterr().out

    return run


def write(path: Path, rows: Sequence[dict[str, object]]) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


@pytest.fixture
def posts(tmp_path: Path) -> Path:
    """A file of 400 posts of two channels, every four hours, whose outcomes follow the model's probabilities."""
    rng = np.random.default_rng(0)
    rows: list[dict[str, object]] = []
    for row in range(400):
        words = rng.choice(["won", "cup", "rain", "day", "tea #tag"], 4)
        text = " ".join(words) + f" {row}"
        luck = float(rng.normal())
        reactions = max(0, round(np.exp(4 + 0.8 * text.count("won") - 0.8 * text.count("rain") + luck)))
        hour = 4 * row % 24
        rows.append(
            {
                "text": text,
                "channel": "ab"[row % 2],
                "published_at": f"2016-{3 + row // 168:02}-{1 + row // 6 % 28:02}T{hour:02}:00:00-05:00",
                "reactions": reactions,
                "kind": "photo",
            }
        )
    rows[7]["text"] = ATTACK
    rows[9]["text"] = " "
    return write(tmp_path / "posts.csv", rows)


async def test_one_text_is_told_with_its_spans(run: Run, kit: Any) -> None:
    printed = await run(text="We won the cup! rain 🎉 https://x.org", details=Details(title="cup", hour_of_day=7))
    assert "in the channel's top tenth" in printed
    assert "▲ +" in printed and "▼ -" in printed, "effects have a direction without colours"
    assert "links: https://x.org" in printed and "emoji: 🎉" in printed
    assert "language" not in printed, "what is not known is not said"
    assert "…" not in printed, "a column was cut"
    document = json.loads(await run(text="We won", as_json=True, question="above_median", spans=1))
    assert document["probability"] == pytest.approx(kit.probability(1.0) ** 0.5, abs=1e-6)
    (span,) = document["spans"]
    assert (span["text"], span["field"], span["start"], span["end"]) == ("won", "text", 3, 6)
    assert document["features"]["language"] == {"code": "en", "confidence": 0.9}


async def test_a_text_comes_from_a_file_or_from_standard_input(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "draft.txt").write_text("We won\nthe cup", encoding="utf-16")
    document = json.loads(await run(tmp_path / "draft.txt", encoding=Encoding(name="utf-16"), as_json=True))
    assert (document["source"], document["features"]["characters"]) == ("draft.txt", 14)
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO("\ufeffrain ☔".encode())))
    document = json.loads(await run("-", as_json=True))
    assert (document["source"], document["features"]["characters"]) == ("standard input", 6)


async def test_what_steers_a_terminal_is_shown_and_not_sent(run: Run) -> None:
    printed = await run(text="won \x1b[31mred \x9b31m \u202eright \x00 \r end")
    assert "\x1b" not in printed and "\x9b" not in printed and "\u202e" not in printed and "\x00" not in printed
    assert "␛[31mred" in printed


async def test_a_file_is_judged_and_what_works_is_told(run: Run, posts: Path, analyzer: Any, kit: Any) -> None:
    analyzer.claims = [CLAIM]
    printed = await run(posts, out=posts.with_name("judged.csv"))
    for said in (
        "399 texts of posts.csv",
        "Most likely to go viral",
        "topic 1: rain, дождь",
        "-0.45 to -0.17",
        "grey: cannot be told from chance",
        "Topics, found by words",
        "languages of 399 texts: en 100%",
        "most frequent hashtags: #tag (",
        "note: rows without text and title, which are left out: 1",
        "content version 1 on arithmetic",
        "rows written to",
    ):
        assert said in " ".join(printed.split()), said
    with posts.with_name("judged.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 399
    assert rows[7]["text"] == ATTACK
    assert (rows[9]["row"], rows[8]["row"]) == ("11", "9"), "rows are numbered as in the file"
    wanted = kit.probability(kit.log_odds(rows[0]["text"]))
    assert float(rows[0]["viral"]) == pytest.approx(wanted, rel=1e-6)
    assert rows[0]["topic"] == str(int("rain" in rows[0]["text"]))


async def test_the_report_is_printed_for_programs(run: Run, posts: Path, analyzer: Any) -> None:
    analyzer.claims = [CLAIM]
    document = json.loads(await run(posts, as_json=True))
    assert len(document["rows"]) == 399
    above = document["calibration"]["above_median"]
    assert above["rows"] > 300 and len(above["bins"]) >= 10
    assert above["auc"] > 0.6, "outcomes follow the words that the model counts"
    assert document["calibration"]["viral"]["base_rate"] == pytest.approx(0.1, abs=0.01)
    assert document["patterns"]["claims"][0]["examples"] == [2], "examples are rows of the file"
    assert document["features"]["share"]["a hashtag"] > 0
    assert document["notes"][0] == "rows without text and title, which are left out: 1"


async def test_nothing_is_claimed_where_nothing_can_be(run: Run, posts: Path, tmp_path: Path) -> None:
    assert "Nothing can be told from chance: of what was compared (1 in all)" in " ".join((await run(posts)).split())
    bare = write(tmp_path / "bare.csv", [{"text": f"day {row}"} for row in range(30)])
    printed = " ".join((await run(bare)).split())
    assert "The file holds no outcomes" in printed
    assert "How the probabilities held up" not in printed
    short = write(tmp_path / "short.csv", [{"text": "day"}] * 5)
    printed = " ".join((await run(short)).split())
    assert "what works: 20 rows are needed, there are 5" in printed
    assert "What works" not in await run(posts, patterns=False)


async def test_a_part_that_fails_takes_no_other_away(run: Run, posts: Path, analyzer: Any) -> None:
    analyzer.fails = {
        "AnalyzeContentPatterns": Overloaded("one analysis is under way", retry_after_s=1.0),
        "ExtractContentFeatures": Overloaded("too much"),
    }
    printed = " ".join((await run(posts)).split())
    assert "note: not found out: what works (one analysis is under way)" in printed
    assert "note: not found out: what is in the texts (too much)" in printed
    assert "Most likely to go viral" in printed
    assert "not found out: what is in it" in " ".join((await run(text="won")).split())


async def test_rows_that_are_refused_are_told_beside_the_others(run: Run, tmp_path: Path, analyzer: Any) -> None:
    # A file is held to the rules of the contract, so the servicer refuses by itself.
    file = write(tmp_path / "some.csv", [{"text": "won"}, {"text": "cup"}, {"text": "rain"}])
    analyzer.refused_rows = {1}
    with pytest.raises(Problem) as caught:
        await run(file, out=tmp_path / "out.jsonl")
    assert caught.value.message == "1 of 3 rows were refused"
    assert caught.value.exit_code is ExitCode.REFUSED
    assert caught.value.details == ("row 2: is empty: a text or a title is required",)
    rows = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [row["viral"] is None for row in rows] == [False, True, False]


async def test_many_long_texts_are_cut_for_patterns_and_told_so(run: Run, tmp_path: Path, analyzer: Any) -> None:
    file = write(tmp_path / "long.csv", [{"text": "won " + "ж" * 60_000} for _ in range(40)])
    printed = " ".join((await run(file)).split())
    assert "what works was looked for in the first 8,000 characters of each text" in printed
    (request,) = analyzer.patterns
    assert request.ByteSize() < 4 * 1024 * 1024
    assert {row.content.content_length for row in request.rows} == {60_004}


async def test_many_long_names_of_channels_leave_room_for_patterns(run: Run, tmp_path: Path, analyzer: Any) -> None:
    rows: list[dict[str, object]] = [
        {"text": f"day {row} " + "x" * 260, "channel": f"{row % 5}" + "ж" * 149} for row in range(10_000)
    ]
    printed = " ".join((await run(write(tmp_path / "names.csv", rows))).split())
    assert "what works was looked for in the first" in printed
    wide: list[dict[str, object]] = [
        {"text": "ж" * 70, "title": "日" * 70, "channel": f"{row % 5}" + "日" * 250} for row in range(10_000)
    ]
    printed = " ".join((await run(write(tmp_path / "wide.csv", wide))).split())
    assert "what works was looked for in the first 60 characters of each text" in printed
    assert "rows, spread over the file evenly" in printed
    assert "not found out" not in printed
    assert 3_000 < len(analyzer.patterns[1].rows) < 10_000
    assert all(2_500_000 < request.ByteSize() < 4 * 1024 * 1024 for request in analyzer.patterns)


@pytest.mark.parametrize("hangs", ["AnalyzeContentPatterns", "ExtractContentFeatures"])
async def test_what_was_judged_in_time_is_told_and_written(run: Run, posts: Path, analyzer: Any, hangs: str) -> None:
    analyzer.hangs = {hangs}
    printed = " ".join((await run(posts, out=posts.with_name("judged.csv"), timeout_s=2.0)).split())
    assert "Most likely to go viral" in printed
    assert "(not answered within 2 s; --timeout gives more time)" in printed
    with posts.with_name("judged.csv").open(newline="", encoding="utf-8") as file:
        assert len(list(csv.DictReader(file))) == 399


async def test_rows_that_were_not_judged_in_time_are_told_beside_the_others(
    run: Run, posts: Path, analyzer: Any
) -> None:
    analyzer.hangs = {"AnalyzeContentStream"}
    with pytest.raises(Problem) as caught:
        await run(posts, out=posts.with_name("judged.jsonl"), timeout_s=1.0)
    assert caught.value.message == "271 of 399 rows were refused"
    assert caught.value.details == ("row 130 and 270 more: not answered within 1 s; --timeout gives more time",)
    rows = [json.loads(line) for line in posts.with_name("judged.jsonl").read_text().splitlines()]
    assert [row["viral"] is None for row in rows] == [False] * 128 + [True] * 271


async def test_versions_are_told_where_a_model_is_replaced_meanwhile(run: Run, posts: Path, analyzer: Any) -> None:
    analyzer.swap_at = 2
    told = json.loads(await run(posts, as_json=True))
    assert [row["model_version"] for row in told["rows"]] == [1] * 256 + [2] * 143
    assert "rows by the version that judged them: 1 (256), 2 (143)" in " ".join(told["notes"])


async def test_texts_of_strangers_are_printed_as_they_are(run: Run, tmp_path: Path) -> None:
    file = write(tmp_path / "odd.csv", [{"text": "Score :100: and :warning: [bold]x[/bold] \\"}] * 3)
    assert "Score :100: and :warning: [bold]x[/bold] \\ " in await run(file)
    (tmp_path / "windows.txt").write_bytes(b"We won\r\nthe cup\r\n")
    assert "␍" not in await run(tmp_path / "windows.txt")


def texts_of(root: ElementTree.Element) -> str:
    return " ".join("".join(root.itertext()).split())


def strictly(page: Path) -> ElementTree.Element:
    """A page as a strict parser reads it, once seen to hold nothing that loads or runs."""
    source = page.read_text(encoding="utf-8")
    assert source.startswith("<!DOCTYPE html>\n")
    root = ElementTree.fromstring(source)
    assert {one.tag for one in root.iter()} <= TAGS
    for one in root.iter():
        for name, value in one.attrib.items():
            assert not name.startswith("on") and name not in ("href", "style", "action"), name
            if name in ("src", "srcset"):
                assert value.startswith("data:image/svg+xml;base64,"), value[:80]
    assert root.find("head/title") is not None and root.get("lang") == "en"
    assert [one.tag for one in root.iter() if one.tag == "h1"] == ["h1"]
    for image in root.iter("img"):
        assert image.get("alt")
    for table in root.iter("table"):
        assert table.find("caption") is not None
        widths = {len(row) for row in table.iter("tr")}
        assert len(widths) == 1, widths
    assert all(heading.text for heading in root.iter("th")), "a heading is empty"
    for figure in root.iter("figure"):
        assert figure.find("figcaption/details/div/table") is not None, "each picture has its numbers beside it"
    return root


async def test_the_page_of_a_file_is_strict_self_contained_and_safe(run: Run, posts: Path, analyzer: Any) -> None:
    pytest.importorskip("matplotlib")
    analyzer.claims = [CLAIM]
    page = posts.with_name("report.html")
    assert "page written to" in await run(posts, html=page)
    root = strictly(page)
    assert len(list(root.iter("img"))) == 5, "spread, reliability, effects, topics, hours"
    said = texts_of(root)
    for words in (ATTACK, "Texts about rain do worse.", "How the probabilities held up", "When"):
        assert words in said, words
    assert "<b>cup</b>" in said, "a topic's words are text"
    assert page.stat().st_size < 3_000_000


async def test_the_page_of_a_text_marks_its_spans(run: Run, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    page = tmp_path / "text.html"
    await run(text=f"{ATTACK} rain مرحبا \u202e\x00\x1b", html=page)
    root = strictly(page)
    marks = {"".join(one.itertext()): one.get("class") for one in root.iter("mark")}
    assert marks["won"] == "up" and marks["cup"] == "up" and marks["rain"] == "down"
    assert ATTACK in texts_of(root)
    assert not set("\u202e\x00\x1b") & set(page.read_text(encoding="utf-8"))


@pytest.fixture
def browser() -> str:
    """A real browser without a window."""
    found = next((path for name in BROWSERS if (path := shutil.which(name))), None)
    if found is None:
        pytest.skip(f"no browser here: apt-get install {BROWSERS[0]}")
    return found


def seen(browser: str, page: Path, folder: Path, *options: str) -> str:
    """What a browser makes of a page."""
    command = [browser, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={folder / 'profile'}"]
    done = subprocess.run([*command, *options, page.as_uri()], capture_output=True, timeout=60, check=True)
    return done.stdout.decode()


async def test_a_real_browser_shows_the_page_in_light_and_dark_and_runs_nothing(
    run: Run, posts: Path, tmp_path: Path, browser: str, analyzer: Any
) -> None:
    image = pytest.importorskip("matplotlib.image")
    analyzer.claims = [CLAIM]
    page = tmp_path / "report.html"
    await run(posts, html=page)
    dom = await asyncio.to_thread(seen, browser, page, tmp_path, "--dump-dom")
    assert "&lt;script&gt;document.title" in dom
    assert "<title>posts.csv: what its texts will do, and what works</title>" in dom
    grounds = []
    for scheme in ("1", "0"):  # light, dark
        shot = tmp_path / f"{scheme}.png"
        options = (f"--screenshot={shot}", "--window-size=1000,700", f"--blink-settings=preferredColorScheme={scheme}")
        await asyncio.to_thread(seen, browser, page, tmp_path, *options)
        pixels = image.imread(shot)[..., :3]
        grounds.append(float(pixels[5, 5].mean()))
        blue = (pixels[..., 2] > 0.5) & (pixels[..., 2] - pixels[..., 0] > 0.4)
        assert blue.sum() > 1_000, "the first picture is drawn"
    assert grounds[0] > 0.9 and grounds[1] < 0.2


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({}, "nothing to analyze"),
        ({"file": "posts.csv", "text": "x"}, "both a FILE and --text are given"),
        ({"file": "posts.xlsx"}, "the kind of file is not known"),
        ({"file": "none.csv"}, "there is no such file"),
        ({"file": "posts.csv", "details": Details(title="x")}, "belong to one text"),
        ({"file": "posts.csv", "html": Path("out.pdf")}, "unknown kind of page"),
        ({"file": "posts.csv", "html": Path("nowhere/out.html")}, "there is no folder nowhere"),
        ({"file": "posts.csv", "out": Path("out.txt")}, "unknown kind of file"),
        ({"file": "posts.csv", "topics_max": 1}, "from 2 to 64"),
        ({"file": "posts.csv", "timeout_s": 1e-6}, "not answered within 1e-06 s"),
        ({"text": "x", "out": Path("out.csv")}, "writes the rows of a file"),
        ({"text": "x", "question": "likes"}, "--question likes: is not known"),
        ({"text": " \n"}, "text holds no text"),
        ({"text": "ж" * 600_000}, "1,200,000 bytes of UTF-8, at most 1,048,576"),
        ({"file": "huge.txt"}, "huge.txt: more than 4,194,304 bytes, at most 1,048,576 are taken"),
        ({"text": "x", "encoding": Encoding(name="klingon")}, "--encoding klingon: is not known"),
        *(
            ({"text": "x", "encoding": Encoding(name=name)}, "is no encoding of texts")
            for name in ("base64", "undefined", "idna", "punycode", "unicode_escape", "utf-7", "rot13")
        ),
        ({"text": "x\udcff"}, "--text holds bytes that are not UTF-8"),
        ({"text": "x", "details": Details(title="\udcff")}, "--title holds bytes that are not UTF-8"),
    ],
)
async def test_what_is_wrong_with_a_command_is_said(run: Run, posts: Path, options: dict[str, Any], said: str) -> None:
    posts.with_name("huge.txt").write_text("ж" * 3_000_000, "utf-8")
    if options.get("encoding"):
        options = {"file": "posts.csv", "encoding": options["encoding"]}
    with pytest.raises(Problem) as caught:
        await run(**options)
    assert said in caught.value.message
    assert caught.value.exit_code is ExitCode.USAGE


async def test_bytes_that_are_no_text_are_placed_with_the_way_out(run: Run, tmp_path: Path) -> None:
    (tmp_path / "bad.csv").write_bytes(b"text\nfine\nwon \xe9t\xe9\n")
    with pytest.raises(Problem) as caught:
        await run(tmp_path / "bad.csv")
    assert caught.value.message == "bad.csv, line 3, byte 5: is not UTF-8; save the file as UTF-8"
    assert "--encoding latin-1" in caught.value.way_out and "--replace-invalid" in caught.value.way_out
    assert "won été" in await run(tmp_path / "bad.csv", encoding=Encoding(name="latin-1"))
    assert "won \ufffdt\ufffd" in await run(tmp_path / "bad.csv", encoding=Encoding(replace_invalid=True))
    assert "a\ufffd" in await run(text="won", details=Details(title="a\udcff"), encoding=Encoding(replace_invalid=True))
    (tmp_path / "bad.jsonl").write_text('{"text": "fine"}\n{"text": "won \\ud800"}\n')
    with pytest.raises(Problem, match=r"row 2 \(line 2\), column 'text': character 4 is a lone surrogate") as caught:
        await run(tmp_path / "bad.jsonl")
    assert caught.value.way_out == "--replace-invalid takes what is none as U+FFFD"
    assert "won \ufffd" in await run(tmp_path / "bad.jsonl", encoding=Encoding(replace_invalid=True))


async def test_a_mesh_that_cannot_be_reached_says_how_to_start_one(run: Run, posts: Path) -> None:
    with pytest.raises(MeshError) as caught:
        await run(posts, target="127.0.0.1:1")
    problem = translate(caught.value)
    assert problem.exit_code is ExitCode.UNREACHABLE
    assert "meshcast up" in problem.way_out
