"""A model in the words of Triton: its configuration, its metadata, and what a load may change of it."""

import json
from collections.abc import Iterable, Sequence

from google.protobuf import json_format

from meshcast.api.oip.v2 import grpc_service_pb2 as pb
from meshcast.api.oip.v2 import model_config_pb2
from meshcast.rpc.errors import InvalidInput
from meshcast.runtime.model import Model
from meshcast.runtime.oip.inference import PRIORITY_DEFAULT, PRIORITY_LEVELS
from meshcast.runtime.repository import VersionPolicy
from meshcast.runtime.signature import TensorSpec

__all__ = ["metadata", "model_config", "overriding_policy"]

_CONFIG_CHARS_MAX = 65_536  # parsed on the event loop; a whole configuration of ours takes 2,000

_PLATFORMS = {"onnxruntime": "onnxruntime_onnx", "openvino": "openvino_ir", "torch": "pytorch_torchscript"}


def model_config(
    model: Model, policy: VersionPolicy, *, backend: str, default_deadline_s: float
) -> model_config_pb2.ModelConfig:
    """The configuration that a model serves under, made from its signature.

    Args:
        model: the model.
        policy: the version policy in force.
        backend: that serves, as in `onnxruntime/cpu/f32`; empty when none does.
        default_deadline_s: budget of a request that sets none.
    """
    runtime = backend.partition("/")[0]
    config = model_config_pb2.ModelConfig(
        name=model.name,
        platform=_PLATFORMS.get(runtime, ""),
        backend=runtime,
        max_batch_size=model.batcher.rows_max,
        input=[_input(spec) for spec in model.signature.inputs],
        output=[_output(spec) for spec in model.signature.outputs],
    )
    if policy.all:
        config.version_policy.all.SetInParent()
    elif policy.specific:
        config.version_policy.specific.versions.extend(policy.specific)
    else:
        config.version_policy.latest.num_versions = policy.latest
    batching = config.dynamic_batching
    batching.priority_levels, batching.default_priority_level = PRIORITY_LEVELS, PRIORITY_DEFAULT
    queue = batching.default_queue_policy
    queue.timeout_action = model_config_pb2.ModelQueuePolicy.REJECT
    queue.default_timeout_microseconds = round(default_deadline_s * 1e6)
    queue.allow_timeout_override = True
    if backend:
        config.parameters["meshcast_backend"].string_value = backend
    return config


def metadata(model: Model, version: int) -> pb.ModelMetadataResponse:
    """Tensors and facts of a version; 0 is the live one.

    Raises:
        NotFound: the version is not loaded.
        NotReady: none is.
        Precondition: the model was unloaded.
    """
    about = model.describe(version)
    answer = pb.ModelMetadataResponse(
        name=model.name,
        versions=[str(version)] if version else list(map(str, about.loaded_versions)),
        platform=_PLATFORMS.get(about.backend.partition("/")[0], ""),
    )
    for specs, target in ((about.inputs, answer.inputs), (about.outputs, answer.outputs)):
        for spec in specs:
            target.add(name=spec.name, datatype=spec.datatype, shape=spec.shape)
    answer.properties.update(
        {
            "version": str(about.version),
            "backend": about.backend,
            "batch_rows_max": str(about.batch_rows_max),
            "tolerance": repr(about.tolerance),
            "exported_time": about.exported_time.ToJsonString(),
            "candidates": json.dumps(
                [
                    {"backend": one.backend, "accepted": one.accepted, "refusal": one.refusal}
                    | ({"parity_error": one.parity_error} if one.HasField("parity_error") else {})
                    for one in about.candidates
                ]
            ),
        }
    )
    answer.properties.update({f"metrics.{name}": repr(value) for name, value in about.metrics.items()})
    return answer


def overriding_policy(text: str, *, model: str, known: Sequence[model_config_pb2.ModelConfig]) -> VersionPolicy:
    """The version policy of a configuration that a load brings along as JSON.

    Nothing else of a configuration can be changed by a load: what it says beside must be what is known already, so that
    a caller never believes in a change that was passed over.

    Args:
        text: the configuration, as JSON.
        model: name of the model.
        known: configurations that the model has, stored and in force.

    Raises:
        InvalidInput: the text is no configuration, or asks for a change that a load cannot make.
    """
    if len(text) > _CONFIG_CHARS_MAX:
        raise InvalidInput(f"The configuration has {len(text)} characters, at most {_CONFIG_CHARS_MAX} are read.")
    try:
        if not text.lstrip().startswith("{"):  # the parser takes an empty list or null for an empty message
            raise ValueError("it is not a JSON object")
        config = json_format.Parse(text, model_config_pb2.ModelConfig())
    except (json_format.ParseError, RecursionError, ValueError) as error:
        why = f"is no model configuration as JSON: {str(error)[:200]}"
        raise InvalidInput(f"The parameter config {why}.", violations=[("parameters[config]", why)]) from error
    violations = [
        (f"parameters[config].{name}", "cannot be changed by a load; only version_policy can")
        for name in _changed(config, model, known)
    ]
    policy = VersionPolicy.of(config)
    if any(version < 1 for version in policy.specific):
        violations.append(("parameters[config].version_policy.specific.versions", "are whole numbers above 0"))
    if config.version_policy.WhichOneof("policy_choice") == "specific" and not policy.specific:
        violations.append(("parameters[config].version_policy.specific.versions", "names none"))
    if violations:
        raise InvalidInput(f"{violations[0][0]} {violations[0][1]}.", violations=violations)
    return policy


def _changed(
    config: model_config_pb2.ModelConfig, model: str, known: Iterable[model_config_pb2.ModelConfig]
) -> list[str]:
    """Fields that differ from every known configuration."""
    known = list(known)
    changed = []
    for field, value in config.ListFields():
        if field.name == "version_policy":
            continue
        if field.name == "name":
            same = value == model
        else:
            same = any(getattr(one, field.name) == value for one in known)
        if not same:
            changed.append(field.name)
    return changed


def _input(spec: TensorSpec) -> model_config_pb2.ModelInput:
    # `dims` leave the batch dimension out, so a scalar a row has none: the same shape as in metadata and answers.
    return model_config_pb2.ModelInput(name=spec.name, data_type=_data_type(spec), dims=spec.shape)


def _output(spec: TensorSpec) -> model_config_pb2.ModelOutput:
    return model_config_pb2.ModelOutput(name=spec.name, data_type=_data_type(spec), dims=spec.shape)


def _data_type(spec: TensorSpec) -> model_config_pb2.DataType.ValueType:
    return model_config_pb2.DataType.Value(f"TYPE_{spec.dtype}")
