"""What a service keeps on disk: the stores that it uses, and no others."""

from pathlib import Path

import pytest

from meshcast.rpc import RpcSettings
from meshcast.runtime import RuntimeSettings, find_service
from meshcast.runtime.main import serving


@pytest.mark.parametrize(
    ("name", "logs_predictions", "stores"),
    [
        ("predictor", True, ["predictions/predictor.sqlite"]),
        ("predictor", False, []),
        ("forecaster", True, ["forecasts/forecaster.sqlite"]),
    ],
)
async def test_a_service_makes_the_files_that_it_uses(
    tmp_path: Path, name: str, logs_predictions: bool, stores: list[str]
) -> None:
    settings = RuntimeSettings(state_dir=tmp_path, choose_s=0.05, runs_max=1, log_predictions=logs_predictions)
    async with serving(find_service(name), settings, RpcSettings(port=0, metrics_port=0)):
        assert files(tmp_path) == stores


def files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*.sqlite"))
