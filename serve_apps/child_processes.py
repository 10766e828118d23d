"""Processes that a replica starts, and that must not outlive it."""

from __future__ import annotations

import subprocess

import psutil


def end_children_with_this_process() -> subprocess.Popen[bytes]:
    """Start a shell that ends the children of this process when it has died, however it did.

    vLLM's processes would outlive a replica that is killed, and keep its memory and its GPU. The shell waits for the
    end of a pipe that only this process can write to.
    """
    children = " ".join(str(child.pid) for child in psutil.Process().children(recursive=True))
    command = ["sh", "-c", f"trap '' TERM; read _; kill -9 {children}"]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.DEVNULL, start_new_session=True)
