"""A protoc plugin that writes `*_pb2_grpc.py`: grpc_python lives inside grpcio-tools, with no plugin of its own.

Reads a CodeGeneratorRequest on standard input, hands the same descriptors to `grpc_tools.protoc --grpc_python_out`, and
returns the files that it wrote.
"""

import sys
import tempfile
from pathlib import Path

from google.protobuf.compiler.plugin_pb2 import CodeGeneratorRequest, CodeGeneratorResponse
from google.protobuf.descriptor_pb2 import FileDescriptorSet
from grpc_tools import protoc


def generate(request: CodeGeneratorRequest) -> CodeGeneratorResponse:
    """The gRPC stubs of the files that the request asks for; files without a service get none."""
    services = {file.name for file in request.proto_file if file.service}
    asked = [name for name in request.file_to_generate if name in services]
    response = CodeGeneratorResponse(supported_features=CodeGeneratorResponse.FEATURE_PROTO3_OPTIONAL)
    if not asked:
        return response
    with tempfile.TemporaryDirectory() as folder:
        descriptors = Path(folder, "request.binpb")
        descriptors.write_bytes(FileDescriptorSet(file=request.proto_file).SerializeToString())
        out = Path(folder, "out")
        out.mkdir()
        code = protoc.main(["protoc", f"--descriptor_set_in={descriptors}", f"--grpc_python_out={out}", *asked])
        if code:
            response.error = f"grpc_tools.protoc ended with {code}"
            return response
        for path in sorted(out.rglob("*.py")):
            response.file.add(name=path.relative_to(out).as_posix(), content=path.read_text())
    return response


if __name__ == "__main__":
    answer = generate(CodeGeneratorRequest.FromString(sys.stdin.buffer.read()))
    sys.stdout.buffer.write(answer.SerializeToString())
