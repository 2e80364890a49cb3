"""gRPC as the mesh speaks it: errors, deadlines, channels, health and the server around every service."""

from . import quiet as quiet  # first: it comes before grpc
from .call import Call, Observer, current_call
from .channel import ChannelSettings, channel
from .deadline import Deadline
from .ending import end_call, finished, wait_ended
from .errors import (
    AlreadyExists,
    Cancelled,
    Conflict,
    CorruptData,
    DeadlineExceeded,
    Internal,
    InvalidInput,
    MeshError,
    NotFound,
    NotReady,
    Overloaded,
    Precondition,
    Unimplemented,
    Violation,
)
from .health import Health, ServingStatus, probe
from .ids import prediction_id, row_id
from .interceptor import ServerInterceptor
from .load_meter import LoadMeter, Work
from .logs import setup_logs
from .loop import run
from .metrics import Metrics, MetricsServer, serve_metrics
from .orca import LoadReport
from .reflection import Descriptions
from .sending import send, sending
from .server import PortInUse, Registrar, Server
from .settings import LogSettings, RpcSettings, TracingSettings, load
from .status import FirstStatus, from_item, from_rpc_error, from_status, mesh_errors, to_item, to_status
from .tls import TlsSettings, channel_credentials, server_credentials
from .tracing import Tracing, setup_tracing

__all__ = [
    # errors
    "MeshError",
    "InvalidInput",
    "NotFound",
    "AlreadyExists",
    "Conflict",
    "NotReady",
    "Overloaded",
    "Precondition",
    "DeadlineExceeded",
    "Cancelled",
    "Unimplemented",
    "CorruptData",
    "Internal",
    "PortInUse",
    "Violation",
    "to_status",
    "from_status",
    "to_item",
    "from_item",
    "from_rpc_error",
    "mesh_errors",
    "FirstStatus",
    # calls
    "Deadline",
    "Call",
    "current_call",
    "send",
    "sending",
    "end_call",
    "wait_ended",
    "finished",
    "prediction_id",
    "row_id",
    "channel",
    "ChannelSettings",
    # health
    "Health",
    "ServingStatus",
    "probe",
    # a process
    "Server",
    "Registrar",
    "ServerInterceptor",
    "Observer",
    "Descriptions",
    "Metrics",
    "MetricsServer",
    "serve_metrics",
    "LoadMeter",
    "LoadReport",
    "Work",
    "setup_logs",
    "setup_tracing",
    "Tracing",
    "run",
    # settings
    "load",
    "RpcSettings",
    "TlsSettings",
    "LogSettings",
    "TracingSettings",
    "channel_credentials",
    "server_credentials",
]
