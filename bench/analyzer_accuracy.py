"""How well the content model tells what a text will do: beside TF-IDF with logistic regression, on the same rows.

Prints JSON. Learns from the posts of 57 public pages before 15 May 2016, the newest tenth of them to choose the epoch
and to calibrate, and is tested on those from 1 June on; then once more from 20,000 of the rows. Beside a gain of AUC
stands where 95 % of it lie over 200 draws of the test rows, the same for both methods. The recipe was chosen on older
posts and on those of the two weeks in between, never on the test rows. Without the data it says so and does nothing.

    python bench/analyzer_accuracy.py ../shared/data > accuracy.json
    python bench/analyzer_accuracy.py --short
"""

import argparse
import json
import math
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import redirect_stdout
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from page_texts import judged, missing, read_posts
from processes import machine

from meshcast.contents import Contents
from meshcast.runtime import calibration
from meshcast.runtime.export import export_model
from meshcast.services.analyzer import SIGNATURE, features
from meshcast.services.analyzer.baselines import tfidf_answers
from meshcast.services.analyzer.features import Tokenized
from meshcast.services.analyzer.model import OUTPUTS, ContentModel
from meshcast.services.analyzer.outcomes import Outcomes
from meshcast.services.analyzer.parts import Part, judge
from meshcast.services.analyzer.train import Progress, TrainSettings, answers, fit

_FEW_ROWS = 20_000
_ROWS_SHORT = 3_000
_VALIDATION_SHARE = 0.1
_GAIN_MIN, _ECE_MAX = 0.005, 0.03
_COST_ROWS = 2_048
_BATCH_ROWS = 64
_DRAWS = 200


def main() -> None:
    """Runs the benchmark and prints its JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", nargs="?", type=Path, default=Path("../shared/data"), help="folder with page_posts_*")
    parser.add_argument("--short", action="store_true", help="few rows and one epoch, to see that it runs")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    absent = missing(options.data)
    if absent:
        print(f"No {' and '.join(absent)} in {options.data}: nothing measured. Name the folder that has them.")
        return

    learn, test = judged(read_posts(options.data))
    settings = TrainSettings(seed=options.seed)
    if options.short:
        learn = learn.sample(_ROWS_SHORT, random_state=options.seed)
        settings = replace(settings, epochs=1, steps_min=1)
    report: dict[str, Any] = {
        "benchmark": "analyzer_accuracy",
        "short": options.short,
        "machine": machine(),
        "test_rows": len(test),
    }
    found, module = compared(learn, test, settings)
    report["all rows"] = found
    if not options.short:
        report["20,000 rows"] = compared(learn.sample(_FEW_ROWS, random_state=options.seed), test, settings)[0]
        report["targets"] = targets(found)
    report["cost"] = cost(module, test)
    print(json.dumps(report, indent=1, allow_nan=False))


def compared(learn: Any, test: Any, settings: TrainSettings) -> tuple[dict[str, Any], ContentModel]:
    """Scores of TF-IDF with logistic regression and of the content model, learnt from the same rows, and the latter."""
    clock = _Clock()
    known, asked = contents_of(learn), contents_of(test)
    last = learn["time"].quantile(1 - _VALIDATION_SHARE)
    older = np.flatnonzero(learn["time"] < last)
    newer = np.flatnonzero(learn["time"] >= last)
    target = part_of(test, len(learn) + np.arange(len(test)))
    plain_answers = tfidf_answers(known, learn[list(OUTPUTS)].to_numpy(dtype=np.bool_), asked)
    plain = judge(plain_answers, target)
    plain_cost = clock.lap()
    tokenized = Tokenized.joined([features.rows(known), features.rows(asked)])
    module, recipe = fit(
        tokenized,
        part_of(learn.iloc[older], older),
        part_of(learn.iloc[newer], newer),
        settings=settings,
        progress=_tell,
    )
    model_cost = clock.lap()
    model_answers = answers(module, tokenized, target)
    model = judge(model_answers, target)
    found = {
        "rows": len(learn),
        "TF-IDF and logistic regression": plain | plain_cost,
        "model": model | model_cost,
        "auc_gain": {name: (model[name]["auc"] or math.nan) - (plain[name]["auc"] or math.nan) for name in OUTPUTS},
        "auc_gain_95": gain_intervals(plain_answers, model_answers, target.labels),
        "recipe": recipe,
    }
    return found, module


def gain_intervals(plain: Any, model: Any, labels: Any) -> dict[str, list[float]]:
    """Where 95 % of the gains of AUC lie when the test rows are drawn anew, with replacement, for both methods at once.

    Args:
        plain, model: shape (n, 2), answers of either method.
        labels: shape (n, 2), bool.
    """
    rng = np.random.default_rng(0)
    gains = []
    for _ in range(_DRAWS):
        at = rng.integers(len(labels), size=len(labels))
        aucs = [
            [calibration.area_under_curve(said[at, k], labels[at, k]) for k in range(len(OUTPUTS))]
            for said in (plain, model)
        ]
        gains.append(np.subtract(aucs[1], aucs[0]))
    low, high = np.nanquantile(gains, [0.025, 0.975], axis=0)
    return {name: [float(low[k]), float(high[k])] for k, name in enumerate(OUTPUTS)}


def contents_of(frame: Any) -> Contents:
    """The posts' texts, and what is known of them before they are published."""
    return Contents.of(
        frame["text"].tolist(),
        title=frame["title"].tolist(),
        content_length=frame["content_length"].to_numpy(),
        has_media=frame["has_media"].to_numpy(),
        hour_of_day=frame["time"].dt.hour.to_numpy(),
    )


def part_of(frame: Any, row: Any) -> Part:
    """Rows of the frame as a part of the split; `row` are their positions among the contents."""
    outcomes = Outcomes(
        row=np.asarray(row, dtype=np.int64),
        channel=np.unique(frame["channel"].to_numpy(dtype=str), return_inverse=True)[1].astype(np.int64),
        published_unix_s=frame["time"].to_numpy(dtype="datetime64[s]").astype(np.int64),
        residual=frame["beyond"].to_numpy(dtype=np.float64),
    )
    return Part(
        row=outcomes.row,
        labels=frame[list(OUTPUTS)].to_numpy(dtype=np.bool_),
        ranks=outcomes.ranks().astype(np.float32),
        channel=outcomes.channel,
        published_unix_s=outcomes.published_unix_s,
    )


def targets(found: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """What was asked for, what came out, and whether that is enough."""
    told: dict[str, dict[str, Any]] = {}
    for name in OUTPUTS:
        gain, error = found["auc_gain"][name], found["model"][name]["ece"]
        told[f"{name}: gain of AUC"] = {"target": _GAIN_MIN, "measured": gain, "met": gain >= _GAIN_MIN}
        told[f"{name}: calibration error"] = {"target": _ECE_MAX, "measured": error, "met": error <= _ECE_MAX}
    return told


def cost(module: ContentModel, test: Any) -> dict[str, Any]:
    """Rows a second of one core: texts to tensors, and the exported graph on batches of 64 of one padded shape."""
    import onnxruntime

    contents = contents_of(test[:_COST_ROWS])
    tokenized = features.rows(contents)
    recorded = features.padded(tokenized, np.arange(min(256, len(tokenized))))
    # torch's exporter prints its progress; standard output is for the JSON alone
    with tempfile.TemporaryDirectory() as folder, redirect_stdout(sys.stderr):
        where = Path(folder)
        report = export_model(module, SIGNATURE, recorded=recorded, version_dir=where / "1", meta_dir=where / "meta")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        session = onnxruntime.InferenceSession(where / "1" / "model.onnx", options)
        batches = [group.arrays for group in features.groups(tokenized, _BATCH_ROWS)]
        rows = len(tokenized)
        return {
            "tensors_rows_s": round(rows / _best_s(lambda: features.rows(contents))),
            "onnxruntime_rows_s": round(rows / _best_s(lambda: [session.run(None, dict(batch)) for batch in batches])),
            "characters_a_row": round(float(tokenized.read_chars.mean()), 1),
            "onnx_bytes": (where / "1" / "model.onnx").stat().st_size,
            "parity": {proof.backend: proof.accepted for proof in report.evidence.proofs},
        }


class _Clock:
    def __init__(self) -> None:
        self._wall, self._cpu = time.perf_counter(), time.process_time()

    def lap(self) -> dict[str, float]:
        """Seconds since the last lap, and those of the processor, which others on the machine do not lengthen."""
        wall, cpu = time.perf_counter(), time.process_time()
        taken = {"seconds": round(wall - self._wall, 1), "cpu_seconds": round(cpu - self._cpu, 1)}
        self._wall, self._cpu = wall, cpu
        return taken


def _best_s(run: Callable[[], object]) -> float:
    best = math.inf
    for _ in range(7):
        started = time.process_time()
        run()
        best = min(best, time.process_time() - started)
    return best


def _tell(at: Progress) -> None:
    if at.validation_loss is not None:
        print(f"step {at.done}/{at.total}: validation loss {at.validation_loss:.5f}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
