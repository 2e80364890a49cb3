"""Example of the ranker's questions: made-up offers."""

import numpy as np

from acme.ranker.v1 import ranker_pb2 as pb
from acme_ranker.features import tensors
from acme_ranker.service import OFFERS_MAX, offers_of
from meshcast.runtime import ExampleCall, ServiceExample

__all__ = ["EXAMPLE"]


def _request(rows: int, seed: int) -> pb.RankOffersRequest:
    rng = np.random.default_rng(seed)
    prices, ratings, ages = rng.lognormal(3, 1, rows), rng.uniform(1, 5, rows), rng.integers(0, 90, rows)
    offers = [
        pb.Offer(price=price, rating=rating, age_days=age)
        for price, rating, age in zip(prices.tolist(), ratings.tolist(), ages.tolist(), strict=True)
    ]
    return pb.RankOffersRequest(offers=offers)


def _bad() -> pb.RankOffersRequest:
    request = _request(2, 0)
    request.offers[1].rating = 9
    return request


EXAMPLE = ServiceExample(
    single=ExampleCall(
        method="RankOffers",
        request=_request,
        tensors=lambda request: tensors(offers_of(request)),
        outputs=lambda answer: {"click": np.array(answer.clicks, dtype=np.float32)},
        bad=_bad,
        bad_field="offers[1].rating",
        rows_max=OFFERS_MAX,
    )
)
