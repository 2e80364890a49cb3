"""What the analyzer costs to run: streams of texts of mixed length and embeddings beside the models themselves.

Prints JSON. Texts are made up of frequent words, of lognormal lengths (median 20 words), from a fixed seed.
*In-process* is the same session on the same tensors in the same padded runs in this process, one run at a time on one
thread, in turns with the service; the load shares the machine with the service. What turning texts into tensors costs
is a line of its own. For the embedder 64 single texts are in flight, and its in-process runs are those that 64 texts in
flight allow: texts are taken 64 at a time, and those of like length run together.

    python bench/analyzer_service.py --repository out/embedder --out analyzer_service.json
    python bench/analyzer_service.py --short
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from processes import machine, model_service
from services import CHUNK_ROWS, called, memory_mib, start_s, streamed
from sessions import open_session, rows_per_second

from meshcast.api.analyzer.v1 import analyzer_pb2 as pb
from meshcast.api.analyzer.v1 import analyzer_pb2_grpc as pb_grpc
from meshcast.contents import Contents, pack_contents
from meshcast.rpc import channel as open_channel
from meshcast.rpc import run
from meshcast.runtime import Arrays, Repository
from meshcast.services.analyzer import SERVICE
from meshcast.services.analyzer import features as content_features
from meshcast.services.analyzer.embedder import tokens as embedder_tokens
from meshcast.services.analyzer.embedder.signature import TOKENS_MAX

EMBEDDER = "embedder"
IN_FLIGHT = 64
TEXTS = 512
WORDS_MEDIAN, WORDS_SPREAD, WORDS_MAX = 20, 0.9, 400
BUILT = Path(__file__).resolve().parents[1] / "out" / "embedder"
STEP_S_MIN = 0.1


def made_up_texts(count: int, seed: int) -> list[str]:
    """Texts of the embedder's own words, frequent ones more often, so that words are as long as in English."""
    words = [
        word
        for word in embedder_tokens.WORDS_FILE.read_text("utf-8").split("\n")
        if word.isalpha() and word.isascii() and len(word) > 1
    ]
    rng = np.random.default_rng(seed)
    lengths = np.clip(rng.lognormal(np.log(WORDS_MEDIAN), WORDS_SPREAD, count).astype(int), 1, WORDS_MAX)
    shares = 1 / (1 + np.arange(len(words)))  # Zipf's law: the vocabulary stands in the order of frequency
    picks = rng.choice(len(words), int(lengths.sum()), p=shares / shares.sum())
    parts = np.split(picks, np.cumsum(lengths)[:-1])
    return [" ".join(words[pick] for pick in part.tolist()).capitalize() + "." for part in parts]


def us_each(step: Callable[[], Any], rows: int, seconds: float) -> float:
    """Microseconds a row of a step over so many rows that is repeated for a while."""
    times, end = 0, time.perf_counter() + max(seconds, STEP_S_MIN)
    start = time.perf_counter()
    while time.perf_counter() < end:
        step()
        times += 1
    return 1e6 * (time.perf_counter() - start) / (times * rows)


async def content(arguments: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Figures of the content model: start, memory, and a stream of chunks beside the session itself."""
    shipped = SERVICE.shipped
    assert shipped is not None
    settings = settings_of(arguments, folder / "none")
    cold = await start_s(SERVICE, folder, settings)
    warm = [await start_s(SERVICE, folder, settings) for _ in range(arguments.rounds)]
    contents = Contents.of(made_up_texts(CHUNK_ROWS, 5))
    rows_max = SERVICE.signature.rows_max
    runs = [arrays for _, arrays in content_features.groups(content_features.rows(contents), rows_max)]
    async with (
        model_service(SERVICE.name, SERVICE.service_name, folder, settings) as running,
        open_channel(running.target) as channel,
    ):
        memory = {"after_start": round(memory_mib(running))}
        stub: Any = pb_grpc.AnalyzerServiceStub(channel)
        singles = [pb.AnalyzeContentRequest(content=pb.Content(text=text)) for text in contents.text]
        answer = await stub.AnalyzeContent(singles[0])
        session = open_session(shipped, SERVICE.name, answer.receipt.backend, answer.receipt.model_version)
        chunk = pb.AnalyzeContentStreamRequest(contents=pack_contents(contents))
        await called(stub.AnalyzeContent, singles, arguments.seconds / 4)  # warm-up
        await streamed(stub.AnalyzeContentStream, chunk, arguments.seconds / 4)
        alone: list[float] = []
        streams: list[float] = []
        latencies: list[list[float]] = []
        explained: list[list[float]] = []
        reasons = [pb.DetectViralPotentialRequest(content=single.content) for single in singles]
        for _ in range(arguments.rounds):
            alone.append(rows_per_second(session, runs, arguments.seconds))
            streams.append(await streamed(stub.AnalyzeContentStream, chunk, arguments.seconds))
            alone.append(rows_per_second(session, runs, arguments.seconds))
            latencies.append(await called(stub.AnalyzeContent, singles, arguments.seconds))
            explained.append(await called(stub.DetectViralPotential, reasons, arguments.seconds, callers=1))
        memory["after_streams"] = round(memory_mib(running))
        session.close()
    base = statistics.median(alone)
    return {
        "backend": answer.receipt.backend,
        "start_s": {"first": round(cold, 2), "warm": round(statistics.median(warm), 2)},
        "rss_mib": memory,
        "texts_to_tensors_us": round(
            us_each(lambda: content_features.rows(contents), CHUNK_ROWS, arguments.seconds), 1
        ),
        "in_process_rows_per_s": round(base),
        "stream_rows_per_s": round(statistics.median(streams)),
        "stream_to_in_process": round(statistics.median(streams) / base, 3),
        "single_calls_at_8": latency_of(latencies, arguments.seconds),
        "explained_at_1": latency_of(explained, arguments.seconds),
    }


async def embedder(arguments: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Figures of the embedder: start and memory with it, and sentences a second beside the session itself."""
    settings = settings_of(arguments, arguments.repository)
    cold = await start_s(SERVICE, folder, settings)
    warm = [await start_s(SERVICE, folder, settings) for _ in range(arguments.rounds)]
    texts = made_up_texts(TEXTS, 6)
    tokenized = embedder_tokens.tokenize(texts)
    runs = in_flight_runs(tokenized.tokens)
    async with (
        model_service(SERVICE.name, SERVICE.service_name, folder, settings) as running,
        open_channel(running.target) as channel,
    ):
        memory = {"after_start": round(memory_mib(running))}
        stub: Any = pb_grpc.AnalyzerServiceStub(channel)
        singles = [pb.EmbedTextsRequest(texts=[text]) for text in texts]
        many = [pb.EmbedTextsRequest(texts=texts[at : at + IN_FLIGHT]) for at in range(0, TEXTS, IN_FLIGHT)]
        answer = await stub.EmbedTexts(singles[0])
        session = open_session(arguments.repository, EMBEDDER, answer.receipt.backend, answer.receipt.model_version)
        await called(stub.EmbedTexts, singles, arguments.seconds / 4, callers=IN_FLIGHT)  # warm-up
        alone: list[float] = []
        latencies: list[list[float]] = []
        batched: list[list[float]] = []
        for _ in range(arguments.rounds):
            alone.append(rows_per_second(session, runs, arguments.seconds))
            latencies.append(await called(stub.EmbedTexts, singles, arguments.seconds, callers=IN_FLIGHT))
            alone.append(rows_per_second(session, runs, arguments.seconds))
            batched.append(await called(stub.EmbedTexts, many, arguments.seconds, callers=2))
        memory["after_calls"] = round(memory_mib(running))
        session.close()
    base = statistics.median(alone)
    single = latency_of(latencies, arguments.seconds)
    of_64 = latency_of(batched, arguments.seconds)
    return {
        "backend": answer.receipt.backend,
        "start_s": {"first": round(cold, 2), "warm": round(statistics.median(warm), 2)},
        "rss_mib": memory,
        "texts": {"count": TEXTS, "tokens_median": int(np.median([len(row) for row in tokenized.tokens]))},
        "texts_to_tensors_us": round(us_each(lambda: embedder_tokens.tokenize(texts), TEXTS, arguments.seconds), 1),
        "padding_share": padding(tokenized.tokens),
        "in_process_sentences_per_s": round(base, 1),
        "single_texts_at_64": single,
        "single_texts_at_64_to_in_process": round(single["per_s"] / base, 3),
        "calls_of_64_at_2": of_64,
        "calls_of_64_at_2_to_in_process": round(IN_FLIGHT * of_64["per_s"] / base, 3),
    }


def in_flight_runs(tokens: Sequence[NDArray[np.int32]]) -> list[Arrays]:
    """The padded runs of texts of which 64 wait at a time."""
    return [
        group.arrays
        for first in range(0, len(tokens), IN_FLIGHT)
        for group in embedder_tokens.group(tokens[first : first + IN_FLIGHT])
    ]


def padding(tokens: Sequence[NDArray[np.int32]]) -> dict[str, float]:
    """Shares of what is computed for nothing: as it is, and by two plainer ways."""
    real = sum(map(len, tokens))
    ours = sum(group.arrays["tokens"].size for group in embedder_tokens.group(tokens))
    waiting = [tokens[first : first + IN_FLIGHT] for first in range(0, len(tokens), IN_FLIGHT)]
    longest = sum(len(part) * max(map(len, part)) for part in waiting)
    return {
        "to_multiples_of_16": round(1 - real / ours, 3),
        "to_the_longest_of_64": round(1 - real / longest, 3),
        "to_256": round(1 - real / (TOKENS_MAX * len(tokens)), 3),
    }


def latency_of(rounds: Sequence[Sequence[float]], seconds: float) -> dict[str, float]:
    """Calls a second and latencies, each the median of the rounds."""
    return {
        "per_s": round(statistics.median(len(one) for one in rounds) / seconds, 1),
        "p50_ms": round(statistics.median(float(np.percentile(one, 50)) for one in rounds), 2),
        "p99_ms": round(statistics.median(float(np.percentile(one, 99)) for one in rounds), 2),
    }


def settings_of(arguments: argparse.Namespace, repository: Path) -> dict[str, str]:
    """Variables of a service with one run at a time on one thread."""
    return {
        "MESHCAST_RUNTIME_RUNS_MAX": "1",
        "MESHCAST_RUNTIME_THREADS_PER_RUN": "1",
        "MESHCAST_RUNTIME_BACKEND": arguments.backend,
        "MESHCAST_RUNTIME_MODEL_REPOSITORY": str(repository),
    }


def measured(arguments: argparse.Namespace) -> list[str]:
    """The sections that can run here."""
    if arguments.section:
        return [arguments.section]
    return ["content", "embedder"] if Repository(arguments.repository).versions(EMBEDDER) else ["content"]


async def main() -> None:
    """Runs the benchmark and prints its JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--section", choices=("content", "embedder"), help="only this one")
    parser.add_argument("--repository", type=Path, default=BUILT, help="where the embedder is built (out/embedder)")
    parser.add_argument("--rounds", type=int, default=5, help="rounds; medians of them are printed (default: 5)")
    parser.add_argument("--seconds", type=float, default=2.0, help="seconds of each figure in a round (default: 2)")
    parser.add_argument("--backend", default="auto", help="back-end (default: auto, the fastest of the host)")
    parser.add_argument("--short", action="store_true", help="one short round, to see that it runs")
    parser.add_argument("--out", type=Path, help="file to write the JSON to as well")
    arguments = parser.parse_args()
    if arguments.short:
        arguments.rounds, arguments.seconds = 1, 0.3
    found: dict[str, Any] = {}
    for name in measured(arguments):
        with tempfile.TemporaryDirectory(prefix=f"meshcast-{name}-") as folder:
            found[name] = await {"content": content, "embedder": embedder}[name](arguments, Path(folder))
    if "embedder" not in found and not arguments.section:
        found["embedder"] = f"not built: meshcast models build embedder --repository {arguments.repository}"
    result = json.dumps(
        {"bench": "analyzer_service", "machine": machine(), "rounds": arguments.rounds, **found}, indent=2
    )
    if arguments.out:
        arguments.out.write_text(result + "\n", encoding="utf-8")
    print(result)


if __name__ == "__main__":
    run(main())
