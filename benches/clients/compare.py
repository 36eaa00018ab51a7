"""What equal means: a player's frames are the encoder's, bit for bit, without a hole."""

# Clients round their clocks to milliseconds, some twice.
TOLERANCE_MS = 2
# A player that joins late gets the pictures of the GOP, and sound from now on: a GOP is a second.
AUDIO_GAP_MS = 2_000


class Different(Exception):
    """Why what a player got is not what the encoder sent."""


def alignment(sent, got, first=False):
    """Where in `sent` all of `got` is, or the place of the longest common run, and its length.

    A looped source has equal frames in several places: the last is meant, which reaches the end, or
    the first.
    """
    best = (0, 0)
    for start in range(len(sent)):
        if sent[start] != got[0]:
            continue
        length = 0
        while length < len(got) and start + length < len(sent) and sent[start + length] == got[length]:
            length += 1
        if length > best[1] or length == best[1] and not first:
            best = (start, length)
    return best


def describe(sent, start, got, index):
    lines = []
    for place in range(max(0, index - 2), index + 3):
        a = sent[start + place] if start + place < len(sent) else None
        b = got[place] if place < len(got) else None
        show = lambda f: "-" if f is None else f"{'K' if f.key else ' '} {f.dts:>7} ms {len(f.data):>6} B {f.digest()[:8]}"
        lines.append(f"    {'>' if place == index else ' '} {place:>4}  {show(a):<36}  {show(b)}")
    return "\n".join(lines)


def overlap(sent, got):
    """The part of `got` that is known to be in `sent`, which began and ended at another time."""
    cut = {}
    for track, frames in got.items():
        cut[track] = frames
        a, b = ([frame.data for frame in part[track]] for part in (sent, got))
        if a and b:
            start, length = alignment(a, b)
            if start + length < len(a) and length < len(b):
                start, length = alignment(b, a)
                cut[track] = frames[start : start + length]
            else:
                cut[track] = frames[:length]
            if length < len(frames) // 2:
                raise Different(f"{track}: only {length} of {len(frames)} frames are known")
    return cut


def compare(sent, got, *, whole, to_end, clock=True):
    """Compares two {"video": [Frame], "audio": [Frame]}; returns a few words, or raises Different.

    whole: the player was there first, so it has the first frame too.
    to_end: the player stayed, so it has the last frame too.
    clock: both tracks keep the encoder's times, but for one shift common to both; of a late player
        from its second keyframe on.
    """
    words, shifts, began, caught_up = [], [], {}, None
    for track in ("video", "audio"):
        a, b = sent[track], got[track]
        if not a:
            if b:
                raise Different(f"{len(b)} {track} frames came, none were sent")
            continue
        if not b:
            raise Different(f"no {track} came, {len(a)} frames were sent")
        start, length = alignment([f.data for f in a], [f.data for f in b], first=whole)
        if length < len(b):
            raise Different(
                f"{track}: {len(a)} frames sent, {len(b)} received, {length} equal from frame {start} of those sent;\n"
                + describe(a, start, b, length)
            )
        if whole and start:
            raise Different(f"{track}: the first {start} of {len(a)} frames are missing")
        if to_end and start + length < len(a):
            raise Different(f"{track}: the last {len(a) - start - length} of {len(a)} frames are missing")
        if not a[start].key:
            raise Different(f"{track}: starts at frame {start}, which is not a keyframe")
        if clock:
            if caught_up is None:
                # Who joins late gets a GOP at once, its pictures a millisecond apart, up to now.
                keys = [frame.dts for frame in b[1:] if frame.key and track == "video"]
                caught_up = 0 if whole else next(iter(keys), b[-1].dts + 1)
            kept = [i for i in range(length) if b[i].dts >= caught_up]
            # What arrives after the first tag but is older than it, is moved to the start.
            shifts += [(b[i].dts - a[start + i].dts, track, i) for i in kept if b[i].dts > 0]
            for i in kept:
                if abs(b[i].cts - a[start + i].cts) > TOLERANCE_MS:
                    raise Different(f"{track} frame {i}: composition time {b[i].cts} ms, was {a[start + i].cts} ms")
        began[track] = a[start].dts
        words.append(f"{track[0]} {length}/{len(a)}")
    if len(began) == 2 and not whole and abs(began["audio"] - began["video"]) > AUDIO_GAP_MS:
        raise Different(f"audio begins {began['audio'] - began['video']} ms after the video")
    if shifts and max(shifts)[0] - min(shifts)[0] > TOLERANCE_MS:
        raise Different(f"the clock is not kept: shifted by {min(shifts)} to {max(shifts)} (ms, track, frame)")
    return ", ".join(words)
