"""Servers on loopback: an origin that counts what it is asked, a folder of releases over TLS, a proxy."""

import contextlib
import http.server
import shutil
import socket
import ssl
import threading


class Server:
    """`answer` gets each request's handler."""

    def __init__(self, answer):
        class Answer(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                answer(self)

            do_CONNECT = do_GET

            def log_message(self, *_):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answer)
        # Clients that go away are nothing to tell of.
        self.server.handle_error = lambda *_: None
        self.port = self.server.server_port
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def stop(self):
        self.server.shutdown()
        self.server.server_close()


class Origin(Server):
    def __init__(self, body):
        self.body = body
        self.asked = 0
        super().__init__(self.answer)

    def answer(self, handler):
        self.asked += 1
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(self.body)))
        handler.send_header("Cache-Control", "max-age=86400")
        handler.end_headers()
        handler.wfile.write(self.body)


class Releases(Server):
    """Files over HTTPS, by their names whatever the folder. Who answers can be changed: `identity` is the path of a
    certificate and its key, PEM. Tells what was asked for, and how many clients did not believe the certificate."""

    def __init__(self, files, identity):
        self.serve(files)
        self.asked = []
        self.refused = 0
        self.identity = identity
        super().__init__(self.answer)
        self.server.finish_request = self.begin

    def serve(self, files):
        self.files = {path.name: path for path in files}

    def begin(self, connection, address):
        """On the thread of the connection."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.identity)
        try:
            connection = context.wrap_socket(connection, server_side=True)
        except (ssl.SSLError, OSError):
            self.refused += 1
            return
        self.server.RequestHandlerClass(connection, address, self.server)
        connection.close()

    def answer(self, handler):
        name = handler.path.rpartition("/")[2]
        self.asked.append(name)
        path = self.files.get(name)
        if not path:
            handler.send_error(404)
            return
        handler.send_response(200)
        handler.send_header("Content-Length", str(path.stat().st_size))
        handler.end_headers()
        with open(path, "rb") as file:
            shutil.copyfileobj(file, handler.wfile, 1 << 20)


class Proxy(Server):
    """Connects who asks for it (RFC 9110 §9.3.6) with ports of this machine's loopback, {HOST:PORT: ours}. Tells what
    it was asked for."""

    def __init__(self, routes):
        self.routes = routes
        self.asked = []
        super().__init__(self.answer)

    def answer(self, handler):
        self.asked.append(f"{handler.command} {handler.path}")
        port = self.routes.get(handler.path)
        if handler.command != "CONNECT" or not port:
            handler.send_error(403)
            return
        with socket.create_connection(("127.0.0.1", port)) as other:
            handler.send_response(200)
            handler.end_headers()
            back = threading.Thread(target=pump, args=(other, handler.connection), daemon=True)
            back.start()
            pump(handler.connection, other)
            back.join()
        handler.close_connection = True


def pump(source, target):
    """Until one of them has enough; the other is told."""
    with contextlib.suppress(OSError):
        while data := source.recv(1 << 16):
            target.sendall(data)
    for one, way in ((target, socket.SHUT_WR), (source, socket.SHUT_RD)):
        with contextlib.suppress(OSError):
            one.shutdown(way)


class Authority:
    """One that signs certificates, in a folder of a bench."""

    # A box whose clock is off must believe them too.
    DATES = ["-not_before", "20200101000000Z", "-not_after", "20400101000000Z"]

    def __init__(self, bench, name):
        self.bench = bench
        self.key, self.file = bench.work / f"{name}.key", bench.work / f"{name}.pem"
        self.request(name, self.key, self.file, ["-addext", "basicConstraints=critical,CA:TRUE"])

    def request(self, name, key, file, more):
        self.bench.tool("openssl", "req", "-quiet", "-x509", "-newkey", "rsa:2048", "-noenc", "-sha256", *self.DATES,
                        "-subj", f"/CN={name}", "-keyout", key, "-out", file, *more)  # fmt: skip

    def identity(self, name):
        """A certificate for `DNS:NAME` or `IP:ADDRESS`, and its key in the same file."""
        stem = self.file.with_suffix("")
        key, file = stem.with_name(f"{stem.name}-server.key"), stem.with_name(f"{stem.name}-server.pem")
        names = ["-addext", f"subjectAltName={name}", "-addext", "basicConstraints=critical,CA:FALSE"]
        self.request("releases", key, file, ["-CA", self.file, "-CAkey", self.key, *names])
        file.write_text(file.read_text() + key.read_text())
        return file
