"""`meshcast probe`: one question to grpc.health.v1, for containers and scripts."""

import asyncio
from pathlib import Path

from meshcast.cli.problem import ExitCode, Problem, translate
from meshcast.cli.settings import connect
from meshcast.rpc import MeshError, ServingStatus
from meshcast.rpc import probe as ask

__all__ = ["probe"]


def probe(address: str, service: str, *, config: Path | None, state_dir: Path | None, timeout_s: float) -> None:
    """Prints the state of a health name.

    Raises:
        Problem: anything but SERVING, a server that cannot be reached included: a container runtime knows only 0 and 1.
    """
    connection = connect(address or None, config=config, state_dir=state_dir)
    try:
        status = asyncio.run(ask(connection.target, service, timeout_s=timeout_s, tls=connection.tls))
    except MeshError as error:
        problem = translate(error)
        problem.exit_code = ExitCode.REFUSED
        raise problem from error
    if status is not ServingStatus.SERVING:
        raise Problem(f"{connection.target}: {service or 'the server'} is {status.name}", exit_code=ExitCode.REFUSED)
    print(status.name)
