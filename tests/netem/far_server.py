"""A server for the far side: a line with a number is answered by that many bytes, one by EOF."""

from __future__ import annotations

import socketserver
import sys
from contextlib import suppress


class Answer(socketserver.StreamRequestHandler):
    def handle(self) -> None:
        with suppress(ConnectionError):
            for line in self.rfile:
                self.wfile.write(bytes(int(line)))


class Server(socketserver.ThreadingTCPServer):
    daemon_threads = True


if __name__ == "__main__":
    with Server((sys.argv[1], 0), Answer) as server:
        print(server.server_address[1], flush=True)
        server.serve_forever()
