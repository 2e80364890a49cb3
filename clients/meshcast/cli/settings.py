"""What the command line reads from `meshcast.toml` and the environment, and where that leads: addresses and folders."""

import logging
import os
import re
import sys
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import platformdirs
import structlog

from meshcast.cli.problem import Problem
from meshcast.cli.state import StateFolder
from meshcast.gateway.settings import GatewaySettings
from meshcast.rpc import RpcSettings, TlsSettings, load

__all__ = [
    "CliSettings",
    "Connection",
    "UpSettings",
    "connect",
    "log_to_stderr",
    "read_settings",
    "repository_folder",
    "servers_setting",
    "state_folder",
]

DEFAULT_FILE = Path("meshcast.toml")
_URL = re.compile(r"(?:https?|grpcs?|tcp)://([^/?#]*)", re.IGNORECASE)  # dns:///… and the like are gRPC's own


@dataclass(frozen=True, slots=True, kw_only=True)
class UpSettings:
    """What `meshcast up` starts and how long it waits; the table `[up]`.

    Attributes:
        services: model services to start; empty means every one that is installed.
        backoff_s: seconds before the first restart of a process that ended; doubles with each.
        backoff_s_max: longest wait before a restart.
        liveness_s: seconds between two questions whether a process still answers.
        silent_max: unanswered questions in a row after which a process is taken for frozen and started again.
        drain_margin_s: seconds that a process gets beyond `rpc.drain_s` before it is ended.
    """

    services: tuple[str, ...] = ()
    backoff_s: float = 0.5
    backoff_s_max: float = 30.0
    liveness_s: float = 5.0
    silent_max: int = 6
    drain_margin_s: float = 5.0


@dataclass(frozen=True, kw_only=True)
class CliSettings:
    """The tables that the command line reads, and the file that they came from (None: none)."""

    path: Path | None
    rpc: RpcSettings
    tls: TlsSettings
    gateway: GatewaySettings
    up: UpSettings


@dataclass(frozen=True, kw_only=True)
class Connection:
    """Where a command sends its calls.

    Attributes:
        target: `host:port` or a gRPC target.
        tls: how to reach it by TLS; plaintext when it holds nothing.
    """

    target: str
    tls: TlsSettings


def read_settings(config: Path | None, environ: Mapping[str, str] = os.environ) -> CliSettings:
    """Reads and checks the settings.

    Args:
        config: the file; None takes ./meshcast.toml where there is one.
        environ: variables that win over the file.

    Raises:
        InvalidInput: the file is missing or wrong; names the key.
    """
    path = _settings_file(config)
    tables = {"rpc": RpcSettings, "tls": TlsSettings, "gateway": GatewaySettings, "up": UpSettings}
    return CliSettings(path=path, **load(tables, path=path, environ=environ))


def state_folder(state_dir: Path | None, config: Path | None, environ: Mapping[str, str] = os.environ) -> StateFolder:
    """The folder of this user's mesh: the one given, else `runtime.state_dir` of the settings, else the platform's.

    Args:
        state_dir: given by hand.
        config: settings file, as in `read_settings`.
        environ: variables that win over the file.
    """
    given = state_dir or _runtime_setting("state_dir", config, environ)
    return StateFolder(Path(given or platformdirs.user_state_dir("meshcast")).expanduser().absolute())


def repository_folder(state_dir: Path | None, config: Path | None, environ: Mapping[str, str] = os.environ) -> Path:
    """The user's model repository: `runtime.model_repository`, else `repository` in the state folder."""
    given = _runtime_setting("model_repository", config, environ)
    return (
        Path(given).expanduser().absolute() if given else state_folder(state_dir, config, environ).root / "repository"
    )


def connect(target: str | None, *, config: Path | None, state_dir: Path | None) -> Connection:
    """Where to send calls: the target given, else the gateway of the mesh that runs here, else the gateway's own port.

    Raises:
        InvalidInput: the settings are wrong.
        Problem: the target is no address.
    """
    log_to_stderr()
    settings = read_settings(config)
    if target is None:
        running = state_folder(state_dir, config).running()
        gateway = running.part("gateway") if running is not None else None
        target = gateway.address if gateway is not None else f"127.0.0.1:{settings.gateway.port}"
    elif url := _URL.match(target):
        host = url[1] if ":" in url[1] else f"{url[1]}:{settings.gateway.port}"
        raise Problem(f"--target {target!r} is a URL; gRPC wants host and port", way_out=f"--target {host}")
    elif ":" not in target:
        raise Problem(f"--target {target!r} names no port", way_out=f"--target {target}:{settings.gateway.port}")
    return Connection(target=target, tls=settings.tls)


def _settings_file(config: Path | None) -> Path | None:
    return config if config is not None else (DEFAULT_FILE if DEFAULT_FILE.is_file() else None)


def servers_setting(table: str, key: str, path: Path | None) -> str | None:
    """What a settings file says in a table that is the servers' own; None where it says nothing.

    They check it, and importing them here would cost more than this.
    """
    try:
        found = {} if path is None else tomllib.loads(path.read_text("utf-8")).get(table, {})
        return str(found[key]) if key in found else None
    except (OSError, ValueError, AttributeError, TypeError):
        return None  # read_settings says what is wrong with the file


def _runtime_setting(key: str, config: Path | None, environ: Mapping[str, str]) -> str:
    return (
        environ.get(f"MESHCAST_RUNTIME_{key.upper()}") or servers_setting("runtime", key, _settings_file(config)) or ""
    )


def log_to_stderr() -> None:
    """Keeps what the rooms below log out of a command's output: warnings and worse go to stderr."""
    structlog.configure(
        wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING),
        # Looked up at each line: whoever replaces sys.stderr, as a test does, gets it.
        logger_factory=lambda *_: structlog.PrintLogger(sys.stderr),
    )
