"""OBS Studio without a screen: a profile and a scene written by hand, started under Xvfb.

It records what it encodes into an FLV file, from the encoder that also serves the stream, so the
recording says what was sent; and as a player it records what its media source shows.
"""

import glob
import json
import os
import shutil
import subprocess

GLOBAL = """[General]
FirstRun=true
LastVersion=486539266
Pre19Defaults=false
Pre21Defaults=false
Pre23Defaults=false
Pre24.1Defaults=false
EnableAutoUpdates=false
ConfirmOnExit=false
[Basic]
Profile=T
ProfileDir=T
SceneCollection=T
SceneCollectionFile=T
[BasicWindow]
SysTrayEnabled=true
SysTrayWhenStarted=true
WarnBeforeStartingStream=false
WarnBeforeStoppingStream=false
"""

PROFILE = """[General]
Name=T
[Output]
Mode=Simple
Reconnect=false
[SimpleOutput]
FilePath={directory}
RecFormat=flv
RecQuality=Stream
StreamEncoder=x264
VBitrate=300
ABitrate=96
Preset=ultrafast
UseAdvanced=true
x264Settings=keyint=15 bframes={b_frames} b-adapt=0
[Video]
BaseCX=320
BaseCY=180
OutputCX=320
OutputCY=180
FPSType=1
FPSInt=15
[Audio]
SampleRate=44100
ChannelSetup=Stereo
"""


def prepare(directory, media, publish=None, b_frames=0):
    """Writes OBS's files; `media` is a file or an rtmp:// address to show, `publish` (server, key)."""
    root = os.path.join(directory, "config", "obs-studio")
    profile, scenes = (os.path.join(root, "basic", *where) for where in (["profiles", "T"], ["scenes"]))
    for path in (profile, scenes, os.path.join(directory, "home")):
        os.makedirs(path)
    os.makedirs(os.path.join(directory, "run"), mode=0o700)
    write = lambda path, text: open(path, "w").write(text)
    write(os.path.join(root, "global.ini"), GLOBAL)
    write(os.path.join(profile, "basic.ini"), PROFILE.format(directory=directory, b_frames=b_frames))
    server, key = publish or ("", "")
    service = {"type": "rtmp_custom", "settings": {"server": server, "key": key, "use_auth": False, "bwtest": False}}
    write(os.path.join(profile, "service.json"), json.dumps(service))
    if "://" in media:
        settings = {"is_local_file": False, "input": media, "input_format": "", "buffering_mb": 1}
        settings |= {"reconnect_delay_sec": 2, "hw_decode": False}
    else:
        settings = {"is_local_file": True, "local_file": media, "looping": True}
    settings |= {"restart_on_activate": True, "close_when_inactive": False, "clear_on_media_end": False}
    common = {"enabled": True, "muted": False, "volume": 1.0, "mixers": 255}
    source = common | {"id": "ffmpeg_source", "versioned_id": "ffmpeg_source", "name": "in", "settings": settings}
    item = {"name": "in", "id": 1, "visible": True, "pos": {"x": 0.0, "y": 0.0}, "scale": {"x": 1.0, "y": 1.0}}
    scene = {"id": "scene", "versioned_id": "scene", "name": "S", "enabled": True}
    scene["settings"] = {"custom_size": False, "id_counter": 1, "items": [item]}
    collection = {"name": "T", "current_scene": "S", "current_program_scene": "S", "scene_order": [{"name": "S"}]}
    collection |= {"sources": [source, scene], "transitions": [], "current_transition": "Cut"}
    collection |= {"transition_duration": 300, "groups": [], "quick_transitions": []}
    write(os.path.join(scenes, "T.json"), json.dumps(collection))


def command(directory, display, publish, certificate=None):
    places = {"HOME": "home", "XDG_CONFIG_HOME": "config", "XDG_RUNTIME_DIR": "run"}
    places = [f"{name}={os.path.join(directory, place)}" for name, place in places.items()]
    start = ["env", f"DISPLAY={display}", *places, "obs", "--startrecording", "--minimize-to-tray", "--multi"]
    if publish:
        start.append("--startstreaming")
    if certificate:
        # OBS trusts what is in /etc/ssl/certs and nothing else: it gets one of its own.
        store = os.path.join(directory, "certs")
        os.makedirs(store)
        shutil.copyfile("/etc/ssl/certs/ca-certificates.crt", os.path.join(store, "ca-certificates.crt"))
        shutil.copyfile(certificate, os.path.join(store, "test.pem"))
        script = 'mount --bind "$0" /etc/ssl/certs && exec "$@"'
        start = ["unshare", "-m", "sh", "-c", script, store, *start]
    return start


def recording(directory):
    """The file that it records into, once there is one."""
    found = glob.glob(os.path.join(directory, "*.flv"))
    return found[0] if found else os.path.join(directory, "none.flv")


# Small, and in grey: what matters is which picture it is.
WIDTH, HEIGHT = 32, 18
# The mean difference of a pixel, of 255: encoding twice makes about 2, another picture 20 and more.
SAME_PICTURE = 6


def decode(path, *arguments):
    command = ["ffmpeg", "-nostdin", "-v", "quiet", "-i", path, *arguments, "-"]
    return subprocess.run(command, capture_output=True).stdout


def pictures(path):
    """The pictures of a file, which may still grow."""
    size = WIDTH * HEIGHT
    raw = decode(path, "-an", "-vf", f"scale={WIDTH}:{HEIGHT}", "-pix_fmt", "gray", "-f", "rawvideo")
    return [raw[at : at + size] for at in range(0, len(raw) - size + 1, size)]


def matching(shown, sent):
    """How many of the pictures shown are among those sent."""
    limit = SAME_PICTURE * WIDTH * HEIGHT
    same = lambda a, b: sum(abs(x - y) for x, y in zip(a, b)) < limit
    return sum(any(same(picture, other) for other in sent) for picture in set(shown))


def loudness(path):
    """The highest sample, of 32,767."""
    raw = memoryview(decode(path, "-vn", "-ac", "1", "-f", "s16le"))
    return max(raw[: len(raw) // 2 * 2].cast("h"), default=0)
