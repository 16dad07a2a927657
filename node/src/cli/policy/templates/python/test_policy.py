import unittest
from types import SimpleNamespace

from policy import NOTHING_WANTED, plan


def node(capacity_bytes=250, window_bytes=250):
    return SimpleNamespace(
        region=1, capacity_bytes=capacity_bytes, window_bytes=window_bytes, window_seconds=3600, seed=0
    )


def item(demand_near, held=0):
    """100 bytes, asked for so often in an hour, in thousandths."""
    return SimpleNamespace(
        size_bytes=100,
        demand_near=demand_near,
        demand_far=0,
        copies_near=0,
        copies_far=0,
        held=held,
        listed_seconds=0,
        age_seconds=0,
    )


class Host:
    """The node's part: what was counted."""

    def __init__(self):
        self.counted = []

    def count(self, counter, by):
        self.counted.append((counter, by))


class Plan(unittest.TestCase):
    def test_the_most_wanted_come_until_the_node_is_full(self):
        self.assertEqual(plan(node(), [item(2000), item(9000), item(3000)], Host()), [1, 2])

    def test_what_takes_longer_than_the_window_waits(self):
        items = [item(9000), item(8000), item(5000, held=1000)]
        self.assertEqual(plan(node(1000, 150), items, Host()), [0, 2])

    def test_the_list_stays_when_nothing_is_wanted(self):
        host = Host()
        self.assertIsNone(plan(node(), [item(999)], host))
        self.assertEqual(host.counted, [(NOTHING_WANTED, 1)])
