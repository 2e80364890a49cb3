"""Signature of the autoencoder: what its graph takes and gives, whichever reference a version was trained on."""

from pathlib import Path

from meshcast.runtime import ModelSpec, Signature, TensorSpec

__all__ = ["AUTOENCODER", "CODES", "COLUMNS_MAX", "REFERENCE_SHIPPED", "SIGNATURE"]

CODES = 8
"""Numbers that a row is squeezed into."""

COLUMNS_MAX = 1_024
"""Most columns of a row; of a wider reference the first ones count."""

SIGNATURE = Signature(
    inputs=(
        TensorSpec(
            name="row",
            shape=(-1,),
            multiple_of=8,
            length_max=COLUMNS_MAX,
            takes_nonfinite=True,
            description=(
                "the reference's columns in its order, as features.matrix gives them; NaN is null; a column that is "
                "missing at the end is 0"
            ),
        ),
    ),
    outputs=(
        TensorSpec(
            name="error",
            description=(
                "mean squared error of the row's reconstruction over its columns that are not null, in variances of "
                "the reference: 1 is what a guess of the reference's mean would get"
            ),
        ),
        TensorSpec(
            name="code",
            shape=(CODES,),
            description="what the row was squeezed into, each number of mean 0 and variance 1 over the reference",
        ),
    ),
    tolerance=1e-4,  # an error may be in the tens where a row is far out
    rows_max=256,
)

AUTOENCODER = ModelSpec(
    name="drift",
    model="meshcast.services.drift.model:AutoEncoder",
    signature=SIGNATURE,
    shipped=Path(__file__).parent / "repository",
)

REFERENCE_SHIPPED = Path(__file__).parent / "shipped" / "predictor.npz"
"""Rows behind version 1 of the autoencoder, as `tools/models.py` writes them: `columns`, `rows` and `held_out`."""
