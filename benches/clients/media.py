"""What is sent: four seconds of each kind, encoded once, sent again and again at its own pace."""

import os
import subprocess
import threading
import time

from . import flv

VIDEO = ["-f", "lavfi", "-i", "testsrc2=size=320x180:rate=15"]
AUDIO = ["-f", "lavfi", "-i", "sine=frequency=440:beep_factor=4:sample_rate=44100"]
SECONDS = 4
X264 = ["-c:v", "libx264", "-preset", "veryfast", "-g", "15", "-pix_fmt", "yuv420p"]
X265 = ["-c:v", "libx265", "-preset", "ultrafast", "-x265-params", "log-level=error:keyint=15:bframes=2"]
SVT_AV1 = ["-c:v", "libsvtav1", "-preset", "12", "-g", "15", "-pix_fmt", "yuv420p"]
VPX_VP9 = ["-c:v", "libvpx-vp9", "-deadline", "realtime", "-cpu-used", "8", "-g", "15"]
AAC = ["-c:a", "aac", "-b:a", "96k"]

# Every keyframe begins a closed GOP, one a second.
KINDS = {
    "h264+aac": (VIDEO, X264 + ["-bf", "0"], AUDIO, AAC),
    "b-frames": (VIDEO, X264 + ["-bf", "2", "-b_strategy", "0"], AUDIO, AAC),
    "video": (VIDEO, X264 + ["-bf", "0"], [], []),
    "audio": ([], [], AUDIO, AAC),
    "hevc-12": (VIDEO, X265, AUDIO, AAC),
    "hevc": (VIDEO, X265, AUDIO, AAC),
    "av1": (VIDEO, SVT_AV1, AUDIO, AAC),
    "vp9": (VIDEO, VPX_VP9, AUDIO, AAC),
    "opus": (VIDEO, X264 + ["-bf", "0"], AUDIO, ["-c:a", "libopus", "-ar", "48000"]),
}


def make(ffmpeg, kind, directory):
    """Encodes a kind into an FLV file, and returns its path."""
    picture, picture_codec, sound, sound_codec = KINDS[kind]
    path = os.path.join(directory, kind + ".flv")
    command = [ffmpeg, "-nostdin", "-v", "error", "-y", *picture, *sound, "-t", str(SECONDS)]
    command += [*picture_codec, *sound_codec, "-flvflags", "no_duration_filesize+no_sequence_end", "-f", "flv", path]
    subprocess.run(command, check=True, env=os.environ | {"SVT_LOG": "1"})
    if kind == "hevc-12":
        with open(path, "rb") as file:
            tags = flv.legacy_hevc(flv.read(file.read()))
        with open(path, "wb") as file:
            file.write(flv.header(tags) + b"".join(map(flv.write, tags)))
    return path


class Pacer(threading.Thread):
    """Writes a file's tags into a publisher's standard input as time passes, over and over.

    It ends in front of a keyframe once it was asked to, so `sent` is exactly what the publisher got.
    """

    def __init__(self, path, pipe):
        super().__init__(daemon=True)
        with open(path, "rb") as file:
            tags = flv.read(file.read())
        self.headers = [tag for tag in tags if flv.is_header(tag)]
        self.media = [tag for tag in tags if not flv.is_header(tag)]
        self.pipe, self.tags, self.error = pipe, [], None
        self.asked, self.seconds = threading.Event(), 0.0

    def run(self):
        try:
            with self.pipe:
                self.pipe.write(flv.header(self.media) + b"".join(map(flv.write, self.headers)))
                self.pipe.flush()
                self.send_media()
        except OSError as error:
            self.error = error

    def send_media(self):
        start, shift = time.monotonic(), 0
        with_video = any(tag.kind == flv.VIDEO for tag in self.media)
        # The longer of the two tracks, and one frame.
        length = max(tag.timestamp for tag in self.media) + 70
        while True:
            for tag in self.media:
                begins = tag.kind == flv.VIDEO and flv.video(tag)[2] or not with_video
                if begins and self.asked.is_set():
                    return
                tag = tag._replace(timestamp=tag.timestamp + shift)
                self.seconds = tag.timestamp / 1000
                time.sleep(max(0, start + self.seconds - time.monotonic()))
                self.pipe.write(flv.write(tag))
                self.pipe.flush()
                self.tags.append(tag)
            shift += length

    def sent(self):
        return flv.frames(self.tags)

    def sent_headers(self):
        return flv.headers(self.headers)
