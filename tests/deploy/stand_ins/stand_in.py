"""In the place of a program that no package brings: it takes what is sent to port 4318, and says so in its log."""

import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Handler(BaseHTTPRequestHandler):
    """Answers each POST as a collector does."""

    def do_POST(self) -> None:
        """Say how much came, and to which path."""
        body = self.rfile.read(int(self.headers["content-length"]))
        sys.stdout.write(f"received {len(body)} bytes at {self.path}\n")
        sys.stdout.flush()
        self.send_response(200)
        self.send_header("content-length", "0")
        self.end_headers()


if __name__ == "__main__":
    for argument in sys.argv[1:]:
        with open(argument.partition("=")[2]) as mounted:
            sys.stdout.write(f"{len(mounted.read())} characters of configuration\n")
    ThreadingHTTPServer(("0.0.0.0", 4318), Handler).serve_forever()
