"""A headless Chromium that is told what to do over a pipe: the DevTools protocol, without a library."""

import fcntl
import json
import os
import select
import shutil
import subprocess
import tempfile
import time

PROGRAMS = ("chromium", "chromium-browser", "google-chrome")
PATIENCE = 60


def pipe():
    """The browser reads descriptor 3 and writes to 4: none of ours may have these numbers there."""
    ends = os.pipe()
    moved = [fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, 10) for end in ends]
    for end in ends:
        os.close(end)
    return moved


class Browser:
    """One browser with one page. Not for the open network: it runs without its sandbox, as root must."""

    def __init__(self, width=1400, height=900, nice=0):
        program = next((found for name in PROGRAMS if (found := shutil.which(name))), None)
        if program is None:
            raise SystemExit("no Chromium is installed: apt-get install chromium")
        self.home = tempfile.mkdtemp(prefix="firstmile-browser-")
        to_browser, self.to = pipe()
        self.come, from_browser = pipe()
        script = f"exec {program} \"$@\" 3<&{to_browser} 4>&{from_browser}"
        options = ["--headless=new", "--remote-debugging-pipe", "--no-sandbox", "--no-first-run", "--disable-gpu", "--mute-audio",
                   "--autoplay-policy=no-user-gesture-required", "--disable-dev-shm-usage", "--disable-background-networking",
                   f"--user-data-dir={self.home}", f"--window-size={width},{height}", "about:blank"]
        with open(os.path.join(self.home, "log"), "w") as log:
            self.process = subprocess.Popen(["nice", "-n", str(nice), "bash", "-c", script, "browser", *options], pass_fds=(to_browser, from_browser),
                                            stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        os.close(to_browser)
        os.close(from_browser)
        self.buffer, self.last, self.session, self.events = b"", 0, None, []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        self.call("Page.enable")

    def call(self, method, patience=PATIENCE, **params):
        """The result of a command; what happens meanwhile is put into `events`."""
        self.last += 1
        message = {"id": self.last, "method": method, "params": params}
        if self.session:
            message["sessionId"] = self.session
        text = json.dumps(message).encode() + b"\0"
        while text:
            text = text[os.write(self.to, text):]
        until = time.monotonic() + patience
        while True:
            answer = self.receive(until)
            if answer.get("id") == self.last:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']['message']}")
                return answer["result"]
            self.events.append(answer)

    def receive(self, until):
        while b"\0" not in self.buffer:
            ready, _, _ = select.select([self.come], [], [], max(0, until - time.monotonic()))
            data = os.read(self.come, 1 << 16) if ready else b""
            if not data:
                with open(os.path.join(self.home, "log"), errors="replace") as log:
                    raise RuntimeError("the browser does not answer: " + log.read()[-500:])
            self.buffer += data
        text, self.buffer = self.buffer.split(b"\0", 1)
        return json.loads(text)

    def wait_event(self, method, patience=PATIENCE):
        """The next event of that name; older ones are given first."""
        until = time.monotonic() + patience
        while True:
            for index, event in enumerate(self.events):
                if event.get("method") == method:
                    return self.events.pop(index)["params"]
            self.events.append(self.receive(until))

    def open(self, url):
        """Opens a page and waits until it is loaded."""
        self.events = [event for event in self.events if event.get("method") != "Page.loadEventFired"]
        self.call("Page.navigate", url=url)
        self.wait_event("Page.loadEventFired")

    def run(self, script):
        """What a script gives in the page; a promise is waited for."""
        result = self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in result:
            raise RuntimeError(result["exceptionDetails"].get("exception", {}).get("description", "the script failed"))
        return result["result"].get("value")

    def wait(self, what, script, patience=PATIENCE):
        """Waits until a script gives something true, and returns it."""
        until = time.monotonic() + patience
        while not (value := self.run(script)):
            if time.monotonic() > until:
                raise RuntimeError(f"{what} did not happen within {patience} s")
            time.sleep(0.1)
        return value

    def trace(self, seconds, categories="toplevel,devtools.timeline"):
        """What the browser did meanwhile: a list of trace events."""
        self.call("Tracing.start", transferMode="ReportEvents", traceConfig={"includedCategories": categories.split(",")})
        time.sleep(seconds)
        self.call("Tracing.end")
        self.wait_event("Tracing.tracingComplete")
        parts = [event for event in self.events if event.get("method") == "Tracing.dataCollected"]
        self.events = [event for event in self.events if event.get("method") != "Tracing.dataCollected"]
        return [entry for part in parts for entry in part["params"]["value"]]

    def close(self):
        self.process.kill()
        self.process.wait()
        os.close(self.to)
        os.close(self.come)
        shutil.rmtree(self.home, ignore_errors=True)
