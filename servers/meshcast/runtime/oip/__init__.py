"""The Open Inference Protocol as a second door to the same models, queues and versions."""

from meshcast.runtime.oip.servicer import EXTENSIONS, OIP_SERVICE, OipServicer, add_oip

__all__ = ["EXTENSIONS", "OIP_SERVICE", "OipServicer", "add_oip"]
