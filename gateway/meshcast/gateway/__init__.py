"""The gateway: one address for the whole mesh, by routing encoded messages, composite answers and merged health."""

from .admin import AdminSettings
from .backends import Backend, Backends
from .endpoints import EndpointSource, StaticEndpoints
from .http.settings import HttpSettings
from .main import GatewayServer, main, serving
from .replica import Replica, State
from .routing import RoutedServices
from .service import GatewayServicer
from .settings import GatewaySettings, RouteSettings
from .wire import ReceiptFragment, read_string_field

__all__ = [
    # a process
    "main",
    "serving",
    "GatewayServer",
    "GatewaySettings",
    "AdminSettings",
    "HttpSettings",
    "RouteSettings",
    # where calls go
    "EndpointSource",
    "StaticEndpoints",
    "Backends",
    "Backend",
    "Replica",
    "State",
    # what answers them
    "RoutedServices",
    "GatewayServicer",
    # bytes
    "ReceiptFragment",
    "read_string_field",
]
