import unittest
from types import SimpleNamespace

from policy import FADES, NOTHING_WORTHY, UNKNOWN_AGE, newness, plan


def node(capacity_bytes=1000, window_bytes=1000):
    return SimpleNamespace(
        region=1, capacity_bytes=capacity_bytes, window_bytes=window_bytes, window_seconds=3600, seed=0
    )


def item(demand_near, **fields):
    """100 bytes of unknown age that nobody holds, asked for so often in an hour, in thousandths."""
    known = dict(
        size_bytes=100,
        demand_near=demand_near,
        demand_far=0,
        copies_near=0,
        copies_far=0,
        held=0,
        listed_seconds=0,
        age_seconds=UNKNOWN_AGE,
    )
    return SimpleNamespace(**(known | fields))


class Host:
    """The node's part: what was counted."""

    def __init__(self):
        self.counted = []

    def count(self, counter, by):
        self.counted.append((counter, by))


def rows(request, items):
    return plan(request, items, Host())


class Plan(unittest.TestCase):
    def test_what_came_out_today_counts_four_times(self):
        self.assertEqual(newness(0), 4)
        self.assertEqual(newness(FADES), 2.5)
        self.assertAlmostEqual(newness(30 * FADES), 1)
        self.assertEqual(rows(node(), [item(3900), item(1000, age_seconds=0), item(4100)]), [2, 1, 0])

    def test_copies_of_the_region_share_its_demand(self):
        self.assertEqual(rows(node(), [item(4000, copies_near=3), item(1100)]), [1, 0])

    def test_demand_elsewhere_counts_a_tenth(self):
        self.assertEqual(rows(node(), [item(0, demand_far=20_000), item(2001), item(1999)]), [1, 0, 2])

    def test_what_is_listed_goes_only_for_what_is_clearly_better(self):
        full = node(capacity_bytes=100)
        listed = item(2000, held=1000, listed_seconds=60)
        self.assertEqual(rows(full, [listed, item(2499)]), [0])
        self.assertEqual(rows(full, [listed, item(2501)]), [1])

    def test_what_is_moved_fits_into_the_window(self):
        partly = item(2000, held=300)
        self.assertEqual(rows(node(1000, 150), [item(9000), item(8000), partly]), [0, 2])
        self.assertEqual(rows(node(1000, 0), [item(9000), partly]), [1])

    def test_the_list_stays_when_nothing_is_worthy(self):
        host = Host()
        self.assertIsNone(plan(node(), [item(999)], host))
        self.assertEqual(host.counted, [(NOTHING_WORTHY, 1)])
