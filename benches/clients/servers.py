"""A relay and a studio of the real binary, joined, and what the studio says of its feeds."""

import json
import os
import subprocess
import time
import urllib.request

PATIENCE = 60


def wait_until(what, condition, seconds=PATIENCE):
    """Polls until `condition()` is true and returns it; raises TimeoutError that says `what`."""
    deadline = time.monotonic() + seconds
    while True:
        found = condition()
        if found:
            return found
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited {seconds} s for {what}")
        time.sleep(0.05)


class Servers:
    """Relay and studio, in a directory of their own; `close` ends them."""

    def __init__(self, program, directory, secure):
        self.program, self.directory, self.processes = program, directory, []
        self.certificate = os.path.join(directory, "certificate.pem") if secure else None
        more = []
        config = "[limits]\nunauthenticated_per_ip = 1000\nfeeds_per_studio = 256\n"
        if secure:
            key = os.path.join(directory, "key.pem")
            subprocess.run(
                ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
                + ["-days", "2", "-keyout", key, "-out", self.certificate, "-subj", "/CN=localhost"]
                + ["-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"],
                check=True, capture_output=True,
            )
            config += f'[tls]\ncertificate = "{self.certificate}"\nkey = "{key}"\n'
            more = ["--rtmps", "127.0.0.1:0"]
        relay = self.start("relay", config, ["--secure", "127.0.0.1:0", "--public-host", "127.0.0.1"])
        studio = self.start("studio", config, ["--join", relay["join_link"], *more])
        self.http = studio["http"]
        self.doors = {("relay", "rtmp"): relay["rtmp"], ("studio", "rtmp"): studio["rtmp"]}
        if secure:
            # The relay has RTMPS on the port of its studios.
            self.doors |= {("relay", "rtmps"): relay["secure"], ("studio", "rtmps"): studio["rtmps"]}

    def start(self, role, config, arguments):
        data = os.path.join(self.directory, role)
        with open(data + ".toml", "w") as file:
            file.write(config)
        command = [self.program, role, "--config", data + ".toml", "--data", data, "--output", "json"]
        command += ["--rtmp", "127.0.0.1:0", "--http", "127.0.0.1:0", *arguments]
        with open(data + ".log", "w") as log:
            process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log, text=True)
        self.processes.append(process)
        line = process.stdout.readline()
        if not line:
            raise SystemExit(f"the {role} did not start:\n" + open(data + ".log").read())
        return json.loads(line)

    def add_feed(self, name):
        """Its stream key."""
        data = os.path.join(self.directory, "studio")
        command = [self.program, "feed", "add", name, "--data", data, "--output", "json"]
        answer = subprocess.run(command, check=True, capture_output=True, text=True)
        return json.loads(answer.stdout)["publish"][0]["key"]

    def remove_feed(self, name):
        """Ends its players."""
        data = os.path.join(self.directory, "studio")
        subprocess.run([self.program, "feed", "remove", name, "--data", data], check=True, capture_output=True)

    def url(self, node, transport, name):
        address = self.doors[node, transport]
        if transport == "rtmps":
            # The name in the certificate.
            address = "localhost:" + address.rsplit(":", 1)[1]
        return f"{transport}://{address}/live/{name}"

    def feed(self, name):
        with urllib.request.urlopen(f"http://{self.http}/api/v1/status", timeout=20) as answer:
            return next(feed for feed in json.load(answer)["feeds"] if feed["name"] == name)

    def log_of(self, name):
        lines = []
        for role in ("relay", "studio"):
            with open(os.path.join(self.directory, role + ".log")) as file:
                lines += [f"{role}: {line.rstrip()}" for line in file if name in line]
        return lines

    def close(self):
        for process in reversed(self.processes):
            process.terminate()
        for process in self.processes:
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
