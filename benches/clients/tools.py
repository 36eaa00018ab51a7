"""Programs: our own, built; ffmpeg 9, from PyPI; a screen for OBS."""

import glob
import os
import subprocess
import sys

REQUIREMENTS = os.path.join(os.path.dirname(os.path.abspath(__file__)), "requirements.txt")


def find(root, build):
    """{name: path}; builds and installs what is missing, or ends with what to do."""
    target = os.environ.get("CARGO_TARGET_DIR", os.path.join(root, "target"))
    if build:
        command = ["cargo", "build", "--quiet", "--locked", "--workspace", "--bins", "--examples"]
        subprocess.run(command, cwd=root, check=True)
    debug = os.path.join(target, "debug")
    return {
        "firstmile": os.path.join(debug, "firstmile"),
        "own-publish": os.path.join(debug, "examples", "publish"),
        "own-play": os.path.join(debug, "examples", "play"),
        "ffmpeg9": ffmpeg9(os.path.join(target, "tools", "imageio-ffmpeg")),
    }


def ffmpeg9(directory):
    pattern = os.path.join(directory, "imageio_ffmpeg", "binaries", "ffmpeg-linux-*-v9*")
    if not glob.glob(pattern):
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"]
        pip += ["--root-user-action", "ignore", "--require-hashes", "--only-binary", ":all:"]
        pip += ["--upgrade", "--target", directory, "-r", REQUIREMENTS]
        if subprocess.run(pip).returncode or not glob.glob(pattern):
            sys.exit("ffmpeg 9 could not be installed with pip (python3-pip): see above. It comes from PyPI, imageio-ffmpeg.")
    return glob.glob(pattern)[0]


class Screen:
    """An X server without a screen, on a display number that it chooses."""

    def __init__(self):
        reader, writer = os.pipe()
        command = ["Xvfb", "-displayfd", str(writer), "-screen", "0", "1024x768x24", "-nolisten", "tcp"]
        try:
            self.process = subprocess.Popen(
                command, pass_fds=[writer], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
            )
        except FileNotFoundError:
            sys.exit("OBS needs Xvfb (xvfb)")
        os.close(writer)
        with os.fdopen(reader) as pipe:
            number = pipe.readline().strip()
        if not number:
            sys.exit("Xvfb did not start")
        self.display = ":" + number

    def close(self):
        self.process.terminate()
        self.process.wait()
