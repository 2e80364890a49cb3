"""Quiet grpc: its C lines on stderr (connections lost, ports taken) are off unless GRPC_VERBOSITY asks for them.

grpc reads the variable once, when it is first imported, so this module comes before it: a process that wants to be
quiet imports `meshcast.rpc` before `grpc`. What matters of those lines reaches callers as errors.
"""

from __future__ import annotations

import os

os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
