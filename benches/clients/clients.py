"""The encoders and players: how each is started, what it can do, and how it is known to be done."""

import json
import os
import signal
import subprocess
import time

from . import compare, flv, obs

H264 = ("h264+aac", "b-frames", "video", "audio")
ENHANCED = ("hevc", "av1", "vp9", "opus")
ALL = H264 + ("hevc-12",) + ENHANCED
TLS = ("rtmp", "rtmps")


class Client:
    """One kind of client; `codecs` and `transports` are what it can do, `cannot` says why not more."""

    codecs, transports, cannot = H264, TLS, {}

    def __init__(self, tools, directory, certificate):
        self.tools, self.directory, self.certificate = tools, directory, certificate
        os.makedirs(directory)
        self.process = None

    def path(self, name):
        return os.path.join(self.directory, name)

    def spawn(self, command, stdout=None, **more):
        self.command = command
        log = open(self.path("log"), "w")
        out = open(stdout, "wb") if stdout else log
        self.process = subprocess.Popen(command, stdout=out, stderr=log, **({"stdin": subprocess.DEVNULL} | more))

    def running(self):
        return self.process is not None and self.process.poll() is None

    def stop(self, patience=15):
        """Asks it to end, as Ctrl-C does, until it has."""
        deadline = time.monotonic() + patience
        while self.running() and time.monotonic() < deadline:
            self.process.send_signal(signal.SIGINT)
            try:
                self.process.wait(2)
            except subprocess.TimeoutExpired:
                pass
        self.kill()

    def kill(self):
        if self.running():
            self.process.kill()
            self.process.wait()

    def log(self):
        try:
            with open(self.path("log"), errors="replace") as file:
                return [" ".join(self.command)[:300]] + [line.rstrip()[:300] for line in file][-25:]
        except FileNotFoundError:
            return []


# ---- encoders -----------------------------------------------------------------------------------


class Encoder(Client):
    """Takes FLV on its standard input, but for OBS."""

    paced = True
    # Whether it writes the sequence headers anew, and whether it gives its input other times.
    rewrites_headers, retimes = True, False

    def publish(self, command):
        self.spawn(command, stdin=subprocess.PIPE)


class Ffmpeg(Encoder):
    name = "ffmpeg"
    cannot = {"hevc-12, hevc, av1, vp9, opus": "Debian's ffmpeg 5.1 does not put them into FLV"}

    def program(self):
        return "ffmpeg"

    def trust(self):
        return ["-tls_verify", "1", "-ca_file", self.certificate]

    def start(self, kind, url, _source):
        command = [self.program(), "-nostdin", "-v", "warning", "-nostats", "-copyts", "-i", "pipe:0", "-map", "0"]
        command += ["-c", "copy", "-flvflags", "no_duration_filesize"]
        command += self.trust() if url.startswith("rtmps") else []
        self.publish(command + ["-f", "flv", url])


class Ffmpeg9(Ffmpeg):
    name = "ffmpeg9"
    codecs = H264 + ENHANCED
    cannot = {"hevc-12": "ffmpeg never wrote HEVC under codec id 12"}

    def program(self):
        return self.tools["ffmpeg9"]


class Gstreamer(Encoder):
    retimes = True
    cannot = {"hevc-12, hevc, av1, vp9, opus": "GStreamer 1.22's flvmux does not take them"}

    def start(self, kind, url, _source):
        command = ["gst-launch-1.0", "-e", "fdsrc", "fd=0", "!", "flvdemux", "name=d"]
        if kind != "audio":
            command += "d.video ! queue ! h264parse ! mux.".split()
        if kind != "video":
            command += "d.audio ! queue ! aacparse ! mux.".split()
        self.publish([*command, *"flvmux streamable=true name=mux !".split(), *self.sink(url)])


class Rtmp2Sink(Gstreamer):
    name = "rtmp2sink"

    def sink(self, url):
        return ["rtmp2sink", "location=" + url, *(["tls-validation-flags=0"] if url.startswith("rtmps") else [])]


class RtmpSink(Gstreamer):
    name = "rtmpsink"

    def sink(self, url):
        return ["rtmpsink", f"location={url} live=1"]


class Own(Encoder):
    name, rewrites_headers = "own", False
    codecs, transports = ALL, ("rtmp",)
    cannot = {"rtmps": "the example has no TLS"}

    def start(self, kind, url, _source):
        self.publish([self.tools["own-publish"], "-", url])


class Obs(Encoder):
    # Recording and stream begin at times of their own.
    name, paced, retimes = "obs", False, True
    codecs = ("h264+aac", "b-frames")
    cannot = {
        "hevc-12, hevc, av1, vp9, opus": "OBS 29.0 has H.264 and AAC alone over RTMP",
        "video, audio": "OBS always sends both",
    }

    def start(self, kind, url, source):
        server, key = url.rsplit("/", 1)
        obs.prepare(self.directory, source, (server, key), 2 if kind == "b-frames" else 0)
        certificate = self.certificate if url.startswith("rtmps") else None
        self.spawn(obs.command(self.directory, self.tools["display"], True, certificate))

    def sent(self):
        return flv.frames_of(obs.recording(self.directory))


# ---- players ------------------------------------------------------------------------------------


class Player(Client):
    """Writes what it gets into a file."""

    # It has the first frame if it is there before the encoder, and the last one because it stays.
    from_start, to_end = True, True
    remuxes = False
    clock = True
    # Frames of each track that it writes only when the stream ends.
    holds_back = 0
    # Whether it writes the sequence headers as they came.
    keeps_headers = False

    def frames(self):
        return flv.frames_of(self.path("out.flv"))

    def has_media(self):
        frames = self.frames()
        return len(frames["video"]) + len(frames["audio"]) > 20

    def has_end(self, sent):
        """Whether nothing is missing at the end that it would get if it stayed."""
        got = self.frames()
        for track in ("video", "audio"):
            if sent[track]:
                last = {frame.data for frame in sent[track][-1 - self.holds_back :]}
                if not any(frame.data in last for frame in got[track][-1 - self.holds_back :]):
                    return False
        return True

    def failed(self):
        """Why it counts as failed whatever it has received, after its end."""
        return None

    def verdict(self, run, sent):
        """In a few words what it has received; raises Different."""
        got, exact = self.frames(), run.encoder.paced
        if self.remuxes:
            sent, got = ({track: list(map(flv.slices, part[track])) for track in part} for part in (sent, got))
        if exact:
            self.check_headers(run.pacer.sent_headers(), same=not run.encoder.rewrites_headers)
        else:
            got = compare.overlap(sent, got)
        clock = self.clock and not run.encoder.retimes
        whole = exact and self.from_start and not self.late
        return compare.compare(sent, got, whole=whole, to_end=exact and self.to_end, clock=clock)

    def check_headers(self, sent, same):
        """That no frame came before its track's sequence header; `same`: which is the encoder's."""
        if not self.keeps_headers:
            return
        with open(self.path("out.flv"), "rb") as file:
            got = flv.headers(flv.read(file.read()))
        for track, header in sent.items():
            if track not in got:
                raise compare.Different(f"{track} began without its sequence header")
            if same and got[track] != header:
                raise compare.Different(f"the {track} header is {got[track].hex()}, was {header.hex()}")


class FfmpegPlay(Player):
    name, holds_back = "ffmpeg", 12
    cannot = {"hevc-12, hevc, av1, vp9, opus": 'ffmpeg 5.1 does not read them from FLV ("dimensions not set")'}

    def program(self):
        return "ffmpeg"

    def trust(self):
        return ["-tls_verify", "1", "-ca_file", self.certificate]

    def start(self, kind, url):
        command = [self.program(), "-nostdin", "-v", "warning", "-nostats", "-copyts"]
        command += self.trust() if url.startswith("rtmps") else []
        command += ["-i", url, "-map", "0", "-c", "copy", "-flush_packets", "1"]
        self.spawn([*command, "-flvflags", "no_duration_filesize", "-f", "flv", self.path("out.flv")])


class Ffmpeg9Play(FfmpegPlay):
    name, codecs = "ffmpeg9", H264 + ENHANCED
    cannot = {"hevc-12": "ffmpeg never read HEVC under codec id 12"}

    def program(self):
        return self.tools["ffmpeg9"]


class Ffprobe(Player):
    """Reads two hundred packets and leaves; hashes instead of data."""

    name, to_end = "ffprobe", False
    cannot = FfmpegPlay.cannot

    def start(self, kind, url):
        command = ["ffprobe", "-v", "warning", "-of", "json", "-show_packets", "-show_data_hash", "md5"]
        # Packets and not seconds: of what an encoder sends at once, a relay gives the sound first.
        command += ["-show_streams", "-read_intervals", "%+#200"]
        command += ["-tls_verify", "1", "-ca_file", self.certificate] if url.startswith("rtmps") else []
        self.spawn([*command, url], stdout=self.path("out.json"))

    def has_media(self):
        return not self.running()

    def failed(self):
        return None if self.process.returncode == 0 else f"exit code {self.process.returncode}"

    def verdict(self, run, sent):
        hashed = lambda frames: [frame._replace(data=frame.digest().encode()) for frame in frames]
        return super().verdict(run, {track: hashed(frames) for track, frames in sent.items()})

    def frames(self):
        with open(self.path("out.json")) as file:
            found = json.load(file)
        got = {"video": [], "audio": []}
        for packet in found.get("packets", []):
            dts, pts = (round(float(packet[name]) * 1000) for name in ("dts_time", "pts_time"))
            data = packet["data_hash"].removeprefix("MD5:").encode()
            got.setdefault(packet["codec_type"], []).append(flv.Frame("", dts, pts - dts, "K" in packet["flags"], data))
        return got


class Rtmp2Src(Player):
    name, codecs, keeps_headers = "rtmp2src", ALL, True

    def start(self, kind, url):
        command = ["gst-launch-1.0", "-q", "-e", "rtmp2src", "location=" + url]
        command += ["tls-validation-flags=0"] if url.startswith("rtmps") else []
        self.spawn([*command, "!", "filesink", "buffer-mode=unbuffered", "location=" + self.path("out.flv")])


class Rtmpdump(Player):
    name, codecs, keeps_headers = "rtmpdump", ALL, True

    def start(self, kind, url):
        # Its own buffer would hide the last frames.
        self.spawn(["stdbuf", "-o0", "rtmpdump", "--live", "--quiet", "-r", url, "-o", "-"], stdout=self.path("out.flv"))


class OwnPlay(Player):
    name, codecs, transports, keeps_headers = "own", ALL, ("rtmp",), True
    cannot = Own.cannot

    def start(self, kind, url):
        self.spawn([self.tools["own-play"], url], stdout=self.path("out.flv"))


class Mpv(Player):
    """Decodes and shows, and records the packets that it showed."""

    name, to_end, remuxes, clock = "mpv", False, True, False
    cannot = FfmpegPlay.cannot

    def start(self, kind, url):
        command = ["mpv", "--no-config", "--vo=null", "--ao=null", "--no-input-terminal", "--msg-level=all=warn"]
        command += ["--frames=30"] if kind != "audio" else ["--length=2"]
        command += ["--tls-verify=yes", "--tls-ca-file=" + self.certificate] if url.startswith("rtmps") else []
        self.spawn([*command, "--stream-record=" + self.path("out.flv"), url])

    has_media = Ffprobe.has_media
    failed = Ffprobe.failed


class Vlc(Player):
    """Shows, and writes what it shows into a file."""

    name, remuxes, clock = "vlc", True, False
    cannot = FfmpegPlay.cannot
    # It may begin a GOP later, and leaves out the last second, which it has not shown yet.
    from_start, to_end = False, False

    def start(self, kind, url):
        os.chmod(self.directory, 0o777)
        out = "std{access=file,mux=ts,dst=" + self.path("out.ts") + "}"
        # VLC refuses root.
        somebody = {"user": "nobody", "group": "nogroup", "extra_groups": []} if os.getuid() == 0 else {}
        command = ["cvlc", "-I", "dummy", "--vout=vdummy", "--aout=adummy", url, "vlc://quit"]
        home = {"env": os.environ | {"HOME": self.directory}}
        self.spawn([*command, "--sout", "#duplicate{dst=display,dst=" + out + "}"], **home, **somebody)

    def has_media(self):
        return os.path.exists(self.path("out.ts")) and os.path.getsize(self.path("out.ts")) > 8_000

    def frames(self):
        command = ["ffmpeg", "-nostdin", "-v", "error", "-y", "-i", self.path("out.ts")]
        command += ["-map", "0:v?", "-map", "0:a?", "-c", "copy"]
        done = subprocess.run([*command, self.path("out.flv")], capture_output=True, text=True)
        if done.returncode:
            raise compare.Different(f"what it wrote cannot be read: {done.stderr.strip()}")
        # It ends its file where it is, inside a frame.
        return {track: frames[:-1] for track, frames in super().frames().items()}


class ObsPlay(Player):
    """OBS's media source: picture and sound of the stream are in what OBS records."""

    name, to_end = "obs", False
    cannot = FfmpegPlay.cannot | {"audio": "its picture is what is looked for"}
    codecs = ("h264+aac", "b-frames", "video")

    def start(self, kind, url):
        obs.prepare(self.directory, url)
        self.kind, self.looked, self.seen = kind, 0.0, False
        self.spawn(obs.command(self.directory, self.tools["display"], False))

    def has_media(self):
        # Looking costs more than other players' answers.
        if not self.seen and time.monotonic() > self.looked + 1:
            recording = obs.recording(self.directory)
            shown = obs.matching(obs.pictures(recording), obs.pictures(self.source))
            self.seen = shown >= 10 and (self.kind == "video" or obs.loudness(recording) > 100)
            self.looked = time.monotonic()
        return self.seen

    def verdict(self, run, sent):
        shown = obs.matching(obs.pictures(obs.recording(self.directory)), obs.pictures(self.source))
        return f"{shown} pictures shown"


ENCODERS = (Ffmpeg, Ffmpeg9, Rtmp2Sink, RtmpSink, Obs, Own)
PLAYERS = (FfmpegPlay, Ffmpeg9Play, Ffprobe, Mpv, Vlc, Rtmp2Src, Rtmpdump, ObsPlay, OwnPlay)
