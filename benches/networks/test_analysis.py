import unittest

from networks.analysis import Got, missing, normal_ms, order, parse, recovery_s, report, stalls

MS = 1_000_000


def run(delays, step=33):
    """Frames captured `step` ms apart, each with its delay in ms."""
    return [Got(n, n * step * MS, (n * step + delay) * MS) for n, delay in enumerate(delays)]


class Analysis(unittest.TestCase):
    def test_lines_are_read(self):
        text = "at 5 accepted\ngot video 0 10 30\ngot audio 0 11 31\nat 40 lost by accident\nat 50\ngot video"
        frames, events = parse(text)
        self.assertEqual(frames, {"video": [Got(0, 10, 30)], "audio": [Got(0, 11, 31)]})
        self.assertEqual(events, [(5, "accepted"), (40, "lost by accident")])

    def test_order_is_counted(self):
        frames = [Got(number, 0, 0) for number in (0, 1, 1, 4, 3, 5, 3)]
        self.assertEqual(order(frames), (2, 1))
        self.assertEqual(missing(8, frames), 3)

    def test_stalls_are_gaps_of_more_than_a_second(self):
        frames = [Got(0, 0, at * MS) for at in (0, 900, 2000, 5000)]
        self.assertEqual(stalls(frames), [1.1, 3.0])
        self.assertEqual(stalls(frames, 7000 * MS), [1.1, 3.0, 2.0])

    def test_recovery_is_when_it_stays_normal(self):
        # One good frame among late ones is not yet normal.
        delays = [40] * 100 + [3000] + [500] * 10 + [60] + [500] * 20 + [60] * 40
        frames = run(delays)
        limit = normal_ms(frames, 100 * 33 * MS)
        self.assertEqual(limit, 90)
        over = 100 * 33 * MS
        back = recovery_s(frames, over, limit)
        self.assertAlmostEqual(back, (32 * 33 + 60) / 1000)
        self.assertIsNone(recovery_s(frames[:-38], over, limit))

    def test_a_report_of_a_quiet_run(self):
        frames = run([40] * 100)
        result = report({"video": frames, "audio": []}, {"video": frames, "audio": []}, {"video": 101, "audio": 0}, [])
        self.assertEqual((result["p50_ms"], result["missing"], result["unsent"]), (40, 1, 1))
        self.assertEqual((result["stalls"], result["recovery_s"]), (0, []))


if __name__ == "__main__":
    unittest.main()
