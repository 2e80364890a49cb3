"""The `meshcast` command: one process a service on this machine, and everything a person or a script asks of a mesh."""

import sys
from collections.abc import Sequence

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command line and ends the process with its exit code.

    Exit codes: 0 done, 1 the mesh said no, 2 bad usage or input, 3 the mesh cannot be reached, 4 an extra is missing,
    5 drift was found, 130 interrupted.

    Args:
        arguments: the words after `meshcast`; None takes those of the process.
    """
    from meshcast.cli.app import Invocation, app

    invocation = Invocation()
    try:
        app(args=arguments, prog_name="meshcast", obj=invocation)
    except KeyboardInterrupt:
        sys.exit(130)
    except Exception as error:
        if invocation.debug:
            raise
        from meshcast.cli.problem import report

        sys.exit(report(error))
