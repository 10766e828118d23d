"""`fer promote --if` and what may be at its endpoint."""

from __future__ import annotations

import socket
import threading

import pytest

from fer.errors import UserError
from jobs.promote import Config, fetch_comparison


def test_an_endpoint_that_does_not_speak_http_is_a_user_error() -> None:
    def greet(server: socket.socket) -> None:
        connection, _ = server.accept()
        with connection:
            connection.recv(4096)
            connection.sendall(b"SSH-2.0-OpenSSH_9.2\r\n")

    with socket.create_server(("127.0.0.1", 0)) as server:
        threading.Thread(target=greet, args=(server,), daemon=True).start()
        endpoint = f"http://127.0.0.1:{server.getsockname()[1]}"
        config = Config(name="face", rule="agreement >= 0.95", endpoint=endpoint)
        with pytest.raises(UserError, match="gives no comparison: SSH-2"):
            fetch_comparison(config)
