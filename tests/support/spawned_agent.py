"""An agent process for the launcher's tests: says hello on a Unix socket, then does what it is told there.

The test sees the end of the connection when the last process that holds it has ended, this one's children included.
Usage: spawned_agent.py SOCKET [stubborn]
"""

import json
import os
import signal
import socket
import subprocess
import sys


def main() -> None:
    path, *flags = sys.argv[1:]
    if "stubborn" in flags:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    else:
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    connection = socket.socket(socket.AF_UNIX)
    connection.connect(path)
    hello = {"pid": os.getpid(), "env": dict(os.environ)}
    connection.sendall(json.dumps(hello).encode() + b"\n")
    for line in connection.makefile():
        verb, _, argument = line.strip().partition(" ")
        if verb == "exit":
            sys.exit(int(argument))
        elif verb == "print":
            sys.stdout.write(argument)
            sys.stdout.flush()
        elif verb == "child":
            ignoring = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(flush=True); signal.pause()"
            child = subprocess.Popen(
                [sys.executable, "-c", ignoring], pass_fds=[connection.fileno()], stdout=subprocess.PIPE
            )
            assert child.stdout is not None
            child.stdout.readline()
            connection.sendall(b"ready\n")


if __name__ == "__main__":
    main()
