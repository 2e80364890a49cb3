"""Baselines: what a request alone says without a model, for the gateway to answer with where no model can be asked.

Each module is an entry of the group `meshcast.baselines`: a mapping from the path of a unary method to a function that
takes an encoded request and returns an encoded response, or None where the request gives no baseline. Any distribution
may bring entries for services of its own.

- A request that the service would refuse gives None, so that the caller sees the service's own error; so does one that
  asks for a version of the model, as a baseline is none.
- `receipt.model` is `baseline/<service>`, and `receipt.notes` say what the answer rests on. There is no prediction id:
  a baseline is not stored and cannot be read back.
- The predictor and the forecaster have one. A text alone says nothing without a model, and drift needs rows that the
  gateway does not have: the analyzer and drift have none.
"""

from meshcast.baselines.forecaster import forecast_growth
from meshcast.baselines.predictor import predict_engagement

__all__ = ["forecast_growth", "predict_engagement"]
