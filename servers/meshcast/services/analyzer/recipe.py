"""Recipe of the content model: what a training may be told, with the values of the one that ships."""

from dataclasses import dataclass

__all__ = ["TrainSettings"]


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainSettings:
    """How a content model is trained; the defaults are the recipe of the shipped one.

    Attributes:
        train_before_unix_s: rows published before it train; None takes the first `train_share` of the rows.
        validate_before_unix_s: rows from there up to it validate; None takes the next `validate_share`.
        test_before_unix_s: rows up to it are the test part; None takes all that are left.
        train_share: share of rows that train, oldest first.
        validate_share: share of rows that choose the epoch and calibrate.
        rows_min: fewest training rows; the two other parts need a tenth of it.
        buckets: of the bag's tables, a power of two; 0 takes what fits the rows.
        penalty_above: of the squared weights of the bag's words, for being above the median; 0 takes what validates
            best. What else is in the bag pays a multiple of it, see `bag`.
        penalty_viral: the same for being viral.
        folds: parts in time that a bag answers without having seen them.
        width: of a token's embedding.
        epochs: passes over the training rows; more where they are few, until `steps_min` steps are done.
        steps_min: fewest optimiser steps.
        patience: epochs without a better validation loss after which training stops.
        batch_rows: rows of a step.
        learning_rate: highest learning rate, of one cosine cycle.
        weight_decay: decoupled weight decay.
        dropout: share of units left out.
        token_dropout: share of tokens left out.
        averaging: decay of the moving average of the weights, which is what is kept.
        settle_s: age from which outcomes are settled, in seconds.
        threads: torch threads.
        seed: of everything random.
    """

    train_before_unix_s: int | None = None
    validate_before_unix_s: int | None = None
    test_before_unix_s: int | None = None
    train_share: float = 0.7
    validate_share: float = 0.12
    rows_min: int = 500
    buckets: int = 0
    penalty_above: float = 0.0
    penalty_viral: float = 0.0
    folds: int = 3
    width: int = 64
    epochs: int = 2
    steps_min: int = 400
    patience: int = 2
    batch_rows: int = 128
    learning_rate: float = 1e-3
    weight_decay: float = 1e-2
    dropout: float = 0.4
    token_dropout: float = 0.2
    averaging: float = 0.995
    settle_s: int = 86_400
    threads: int = 1
    seed: int = 0
