"""FLV files: their tags, and the coded frames in them whatever header a client wrote in front.

A frame's data is what an encoder made, without the FLV header, so that clients that write another
header around the same frame (Enhanced RTMP's CodedFrames for CodedFramesX) compare equal, as they
do in ffmpeg's framemd5.
"""

import hashlib
from typing import NamedTuple

AUDIO, VIDEO, DATA = 8, 9, 18

# Video with a composition time in front of CodedFrames (Enhanced RTMP v2, ExVideoTagHeader).
WITH_COMPOSITION_TIME = (b"avc1", b"hvc1", b"vvc1")
AVC, HEVC = 7, 12


class Tag(NamedTuple):
    kind: int
    timestamp: int
    body: bytes


class Frame(NamedTuple):
    """One coded frame: decoding and composition time in milliseconds, and its bytes."""

    codec: str
    dts: int
    cts: int
    key: bool
    data: bytes

    def digest(self):
        return hashlib.md5(self.data).hexdigest()


def read(data):
    """All whole tags; a file that still grows may end inside one."""
    tags, at = [], 9 + 4
    if data[:3] != b"FLV":
        return tags
    while at + 11 <= len(data):
        size = int.from_bytes(data[at + 1 : at + 4], "big")
        if at + 11 + size > len(data):
            break
        timestamp = data[at + 7] << 24 | int.from_bytes(data[at + 4 : at + 7], "big")
        tags.append(Tag(data[at] & 31, timestamp, data[at + 11 : at + 11 + size]))
        at += 11 + size + 4
    return tags


def header(tags):
    """A file header that promises the tracks that there are: readers wait for those."""
    kinds = {tag.kind for tag in tags}
    flags = (4 if AUDIO in kinds else 0) | (1 if VIDEO in kinds else 0)
    return b"FLV\x01" + bytes([flags]) + b"\x00\x00\x00\x09\x00\x00\x00\x00"


def write(tag):
    size = len(tag.body)
    head = bytes([tag.kind]) + size.to_bytes(3, "big") + (tag.timestamp & 0xFFFFFF).to_bytes(3, "big")
    return head + bytes([tag.timestamp >> 24 & 255, 0, 0, 0]) + tag.body + (size + 11).to_bytes(4, "big")


def signed24(data):
    value = int.from_bytes(data, "big")
    return value - (1 << 24) if value >> 23 else value


def video(tag):
    """Codec, role ("header", "frame" or None), keyframe, composition time, data."""
    body = tag.body
    if len(body) < 5:
        return None
    key = body[0] >> 4 & 7 == 1
    if body[0] & 0x80:
        packet, codec = body[0] & 15, body[1:5]
        name = codec.decode("ascii", "replace")
        if packet == 1 and codec in WITH_COMPOSITION_TIME:
            return name, "frame", key, signed24(body[5:8]), body[8:]
        role = {0: "header", 1: "frame", 3: "frame"}.get(packet)
        return name, role, key, 0, body[5:]
    codec = body[0] & 15
    if codec not in (AVC, HEVC):
        return f"video{codec}", "frame", key, 0, body[1:]
    name = "avc1" if codec == AVC else "hvc1"
    return name, {0: "header", 1: "frame"}.get(body[1]), key, signed24(body[2:5]), body[5:]


def audio(tag):
    body = tag.body
    if len(body) < 2:
        return None
    if body[0] >> 4 == 9:
        role = {0: "header", 1: "frame"}.get(body[0] & 15)
        return body[1:5].decode("ascii", "replace"), role, True, 0, body[5:]
    if body[0] >> 4 == 10:
        return "mp4a", "header" if body[1] == 0 else "frame", True, 0, body[2:]
    return f"audio{body[0] >> 4}", "frame", True, 0, body[1:]


def is_header(tag):
    """Whether a tag is a sequence header, metadata or another that belongs to no time."""
    if tag.kind == DATA:
        return True
    parsed = (video if tag.kind == VIDEO else audio)(tag)
    return parsed is not None and parsed[1] != "frame"


def frames(tags):
    """The coded frames: {"video": [Frame], "audio": [Frame]}."""
    found = {"video": [], "audio": []}
    for tag in tags:
        if tag.kind not in (AUDIO, VIDEO):
            continue
        track = "video" if tag.kind == VIDEO else "audio"
        parsed = (video if tag.kind == VIDEO else audio)(tag)
        if parsed and parsed[1] == "frame" and parsed[4]:
            codec, _, key, cts, data = parsed
            found[track].append(Frame(codec, tag.timestamp, cts, key, data))
    return found


def headers(tags):
    """Each track's sequence header in front of its first frame: {track: bytes}."""
    found, begun = {}, set()
    for tag in tags:
        parsed = tag.kind != DATA and (video if tag.kind == VIDEO else audio)(tag)
        if not parsed or tag.kind in begun:
            continue
        if parsed[1] == "header":
            found["video" if tag.kind == VIDEO else "audio"] = parsed[4]
        elif parsed[1] == "frame":
            begun.add(tag.kind)
    return found


def frames_of(path):
    try:
        with open(path, "rb") as file:
            return frames(read(file.read()))
    except FileNotFoundError:
        return {"video": [], "audio": []}


def slices(frame):
    """An H.264 frame with its slices alone: remuxers add and drop what stands between them."""
    if frame.codec != "avc1":
        return frame
    data, kept, at = frame.data, [], 0
    while at + 4 <= len(data):
        size = int.from_bytes(data[at : at + 4], "big")
        unit = data[at + 4 : at + 4 + size]
        if unit and 1 <= unit[0] & 31 <= 5:
            # Annex B's trailing zeroes are no part of a slice.
            kept.append(unit.rstrip(b"\0"))
        at += 4 + size
    return frame._replace(data=b"\0\0\1".join(kept))


def legacy_hevc(tags):
    """The same HEVC under codec id 12, as encoders sent it before Enhanced RTMP."""
    out = []
    for tag in tags:
        if tag.kind == VIDEO and tag.body[0] & 0x80:
            name, role, key, cts, data = video(tag)
            if name != "hvc1" or role is None:
                continue
            head = bytes([(1 if key else 2) << 4 | HEVC, 0 if role == "header" else 1])
            tag = tag._replace(body=head + (cts & 0xFFFFFF).to_bytes(3, "big") + data)
        elif tag.kind == DATA:
            continue
        out.append(tag)
    return out
