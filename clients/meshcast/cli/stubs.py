"""`meshcast stubs`: Python stubs of a contract that lives outside of this distribution."""

import importlib
import pkgutil
import sys
import tempfile
from pathlib import Path

from google.protobuf.descriptor import FileDescriptor
from google.protobuf.descriptor_pb2 import FileDescriptorSet
from rich.console import Console

import meshcast.api.type.v1 as shared
from meshcast.cli.problem import Problem

__all__ = ["stubs"]


def stubs(folder: Path, *, out: Path) -> None:
    """Generates messages, stubs and their types for every `.proto` below a folder, and prints what it wrote.

    What contracts share (`meshcast/api/type/v1`) need not lie there: its descriptors come from the stubs that are
    installed, so that they fit.

    Args:
        folder: root of the `.proto` files; imports are relative to it.
        out: root of the stubs; made where it is missing. Stubs of contracts that are gone stay.

    Raises:
        Problem: there is no contract, or protoc refuses one; it has printed why.
        ModuleNotFoundError: the extra `stubs` is not installed.
    """
    import grpc_tools
    import mypy_protobuf  # noqa: F401  # its plugins are asked for by path below
    from grpc_tools import protoc

    contracts = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.proto"))
    if not contracts:
        raise Problem(f"{folder}: no .proto file lies there")
    out.mkdir(parents=True, exist_ok=True)
    bin_dir = Path(sys.executable).parent
    with tempfile.TemporaryDirectory() as temporary:
        descriptors = Path(temporary, "shared.binpb")
        descriptors.write_bytes(_shared().SerializeToString())
        code = protoc.main(
            [
                "protoc",
                f"-I{folder}",
                f"-I{Path(grpc_tools.__file__).parent / '_proto'}",
                f"--descriptor_set_in={descriptors}",
                f"--python_out={out}",
                f"--grpc_python_out={out}",
                *(f"--plugin={name}={bin_dir / name}" for name in ("protoc-gen-mypy", "protoc-gen-mypy_grpc")),
                f"--mypy_out=quiet:{out}",
                f"--mypy_grpc_out=quiet,only_async:{out}",
                *contracts,
            ]
        )
    if code:
        raise Problem("protoc refused the contracts; see above")
    for contract in contracts:
        Console().print(f"[green]generated[/] {out / contract.removesuffix('.proto')}_pb2.py", highlight=False)


def _shared() -> FileDescriptorSet:
    """Descriptors of the shared types and of what they import, imports first."""
    found = FileDescriptorSet()
    seen: set[str] = set()

    def add(file: FileDescriptor) -> None:
        if file.name in seen:
            return
        seen.add(file.name)
        for imported in file.dependencies:
            add(imported)
        found.file.add().ParseFromString(file.serialized_pb)

    for module in pkgutil.iter_modules(shared.__path__, f"{shared.__name__}."):
        if module.name.endswith("_pb2"):
            add(importlib.import_module(module.name).DESCRIPTOR)
    return found
