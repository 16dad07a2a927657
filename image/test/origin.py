"""An origin on loopback that counts what it is asked."""

import http.server
import threading


class Origin:
    def __init__(self, body):
        self.body = body
        self.asked = 0
        origin = self

        class Answer(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                origin.asked += 1
                self.send_response(200)
                self.send_header("Content-Length", str(len(origin.body)))
                self.send_header("Cache-Control", "max-age=86400")
                self.end_headers()
                self.wfile.write(origin.body)

            def log_message(self, *_):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answer)
        self.port = self.server.server_port
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def stop(self):
        self.server.shutdown()
        self.server.server_close()
