"""The comparison finds what it is for: python3 -m unittest discover -s benches -t benches"""

import unittest

from clients import compare, flv


def frames(numbers, codec="avc1", shift=0):
    return [flv.Frame(codec, 67 * n + shift, 0, n % 15 == 0, b"frame %d" % n) for n in numbers]


def media(video, audio, shift=0):
    return {"video": frames(video, shift=shift), "audio": [f._replace(key=True) for f in frames(audio, "mp4a", shift)]}


SENT = media(range(90), range(90))


class Compare(unittest.TestCase):
    def same(self, got, whole=True, to_end=True):
        return compare.compare(SENT, got, whole=whole, to_end=to_end)

    def different(self, words, got, whole=True, to_end=True):
        with self.assertRaisesRegex(compare.Different, words):
            self.same(got, whole, to_end)

    def test_equal(self):
        self.assertEqual(self.same(SENT), "v 90/90, a 90/90")
        self.same(media(range(90), range(90), shift=-500))
        self.same(media(range(75, 90), range(80, 90)), whole=False)
        self.same(media(range(0, 45), range(0, 40)), to_end=False)

    def test_parts_missing(self):
        self.different("the first 60 of 90", media(range(60, 90), range(60, 90)))
        self.different("the last 1 of 90", media(range(90), range(89)))
        self.different("not a keyframe", media(range(76, 90), range(76, 90)), whole=False)
        self.different("audio begins", media(range(45, 90), range(80, 90)), whole=False)
        self.different("no audio came", media(range(90), []))

    def test_a_hole_and_a_changed_frame(self):
        self.different("30 equal from frame 0", media([n for n in range(90) if n != 30], range(90)))
        changed = media(range(90), range(90))
        changed["audio"][7] = changed["audio"][7]._replace(data=b"another")
        self.different("7 equal from frame 0", changed)

    def test_the_clock(self):
        self.different("clock is not kept", SENT | {"audio": media([], range(90), shift=40)["audio"]})
        late = SENT["video"][5]._replace(cts=40)
        self.different("composition time", SENT | {"video": SENT["video"][:5] + [late] + SENT["video"][6:]})

    def test_a_track_too_many(self):
        with self.assertRaisesRegex(compare.Different, "none were sent"):
            compare.compare(media(range(90), []), SENT, whole=True, to_end=True)

    def test_overlap(self):
        recorded = media(range(10, 50), range(10, 50))
        cut = compare.overlap(recorded, media(range(20, 60), range(5, 45)))
        self.assertEqual([len(cut[track]) for track in ("video", "audio")], [30, 35])


class Flv(unittest.TestCase):
    def test_headers_around_a_frame_make_no_difference(self):
        enhanced = flv.Tag(flv.VIDEO, 0, b"\x93hvc1data")
        with_time = flv.Tag(flv.VIDEO, 0, b"\x91hvc1\0\0\0data")
        self.assertEqual(flv.frames([enhanced]), flv.frames([with_time]))
        self.assertEqual(flv.frames(flv.legacy_hevc([enhanced])), flv.frames([enhanced]))

    def test_reads_what_it_wrote_and_a_file_that_grows(self):
        tags = [flv.Tag(flv.AUDIO, 0x01020304, b"\xaf\x01sound"), flv.Tag(flv.VIDEO, 5, b"\x17\x01\0\0\0picture")]
        data = flv.header(tags) + b"".join(map(flv.write, tags))
        self.assertEqual(flv.read(data), tags)
        self.assertEqual(flv.read(data[:-8]), tags[:1])


if __name__ == "__main__":
    unittest.main()
