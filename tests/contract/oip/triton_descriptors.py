"""Prints the descriptors of tritonclient as JSON. Run by the tests in tritonclient's own virtual environment."""

import json
import sys

from google.protobuf import descriptor_pb2, json_format
from tritonclient.grpc import model_config_pb2, service_pb2  # type: ignore[import-not-found]  # in its own environment


def main() -> None:
    """One FileDescriptorProto a file, by file name."""
    files = {}
    for module in (model_config_pb2, service_pb2):
        file = descriptor_pb2.FileDescriptorProto()
        module.DESCRIPTOR.CopyToProto(file)
        files[file.name] = json_format.MessageToDict(file, preserving_proto_field_name=True)
    json.dump(files, sys.stdout)


main()
