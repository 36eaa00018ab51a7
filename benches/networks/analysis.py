"""What the lines of `feed` say: latency, stalls, what is missing, and when it was normal again.

Moments are nanoseconds of one clock. Lines are those of crates/testkit/src/bin/feed.rs.
"""

import statistics
from collections import namedtuple

# One frame at a player or in a recording.
Got = namedtuple("Got", "number captured arrived")

SECOND = 1_000_000_000
# A picture that does not move for longer is a stall.
STALL = SECOND
# What is added to the quiet time's median to have the latency that counts as normal.
MARGIN_MS = 50
# Frames in a row, half a second of them, whose median has to be normal.
STEADY = 15


def parse(text):
    """The frames of each track in the order of arrival, and the events (moment, what)."""
    frames = {"video": [], "audio": []}
    events = []
    for line in text.splitlines():
        words = line.split(" ", 4)
        if words[0] in ("got", "sent") and len(words) == 5:
            frames[words[1]].append(Got(int(words[2]), int(words[3]), int(words[4])))
        elif words[0] == "at" and len(words) > 2:
            events.append((int(words[1]), " ".join(words[2:])))
    return frames, events


def percentile(values, part):
    ordered = sorted(values)
    return ordered[min(int(len(ordered) * part), len(ordered) - 1)] if ordered else None


def latencies_ms(frames):
    return [(frame.arrived - frame.captured) / 1e6 for frame in frames]


def order(frames):
    """Frames that came twice, and frames that came after a later one."""
    doubled, reordered, seen, last = 0, 0, set(), -1
    for frame in frames:
        if frame.number in seen:
            doubled += 1
        elif frame.number < last:
            reordered += 1
        seen.add(frame.number)
        last = max(last, frame.number)
    return doubled, reordered


def missing(captured, frames):
    """How many of the frames numbered from 0 to `captured` are not there."""
    return captured - len({frame.number for frame in frames if frame.number < captured})


def stalls(frames, until=None):
    """The lengths, in seconds, of the times without a new picture; `until`: there should have been one."""
    moments = sorted(frame.arrived for frame in frames)
    if until and moments and until > moments[-1]:
        moments.append(until)
    gaps = (later - earlier for earlier, later in zip(moments, moments[1:]))
    return [gap / SECOND for gap in gaps if gap > STALL]


def normal_ms(frames, before):
    """The latency that counts as normal: the median of what arrived before the first trouble, and a margin."""
    quiet = [frame for frame in frames if frame.arrived < before]
    return statistics.median(latencies_ms(quiet)) + MARGIN_MS if quiet else None


def recovery_s(frames, over, limit_ms):
    """Seconds from the moment `over` until latency is normal and stays so for a while; None if it never is."""
    after = [frame for frame in frames if frame.arrived >= over]
    delays = latencies_ms(after)
    for index, delay in enumerate(delays):
        steady = delays[index : index + STEADY]
        if len(steady) == STEADY and delay <= limit_ms and statistics.median(steady) <= limit_ms:
            return (after[index].arrived - over) / SECOND
    return None


def report(sent, got, captured, troubles):
    """One run. `captured`: frames of each track that the encoder made; `troubles`: (from, to), in order."""
    video, audio = got["video"], got["audio"]
    delays, sound = latencies_ms(video), latencies_ms(audio)
    first = troubles[0][0] if troubles else None
    limit = normal_ms(video, first) if troubles else None
    still = stalls(video)
    checked = [order(frames) for frames in (video, audio)]
    last = max((frame.captured for frame in sent["video"]), default=0)
    recovered = [recovery_s(video, over, limit) if limit else None for _, over in troubles if over < last]
    return {
        "frames": len(video),
        "p50_ms": percentile(delays, 0.5),
        "p99_ms": percentile(delays, 0.99),
        "max_ms": max(delays, default=None),
        "audio_p50_ms": percentile(sound, 0.5),
        "audio_p99_ms": percentile(sound, 0.99),
        "audio_max_ms": max(sound, default=None),
        "stalls": len(still),
        "stalled_s": sum(still),
        "unsent": sum(missing(captured[track], sent[track]) for track in captured),
        "missing": sum(missing(captured[track], got[track]) for track in captured),
        "doubled": sum(doubled for doubled, _ in checked),
        "reordered": sum(reordered for _, reordered in checked),
        "normal_ms": limit,
        "recovery_s": recovered,
    }
