"""What a node should hold before anybody asks for it.

What each field means, and what a node does with each verdict, stands in wit/preload-planner.wit; names
with hyphens have underscores here (size_bytes).
"""

# Requests an hour, in thousandths, from which on a copy is worth its place.
WORTH = 1000
# Place of `nothing-wanted` among the counters of the manifest.
NOTHING_WANTED = 0


def plan(request, items, host):
    """The rows to hold, most urgent first; None for no opinion."""
    wanted = [row for row, item in enumerate(items) if item.demand_near >= WORTH]
    wanted.sort(key=lambda row: -items[row].demand_near)

    room, window = request.capacity_bytes, request.window_bytes
    rows = []
    for row in wanted:
        item = items[row]
        # What is here in part stays, and is filled when there is time.
        moved = 0 if item.held > 0 else item.size_bytes
        if item.size_bytes <= room and moved <= window:
            room -= item.size_bytes
            window -= moved
            rows.append(row)
    if not rows:
        # Without an opinion the node's list stays as it is; an empty list would empty it.
        host.count(NOTHING_WANTED, 1)
        return None
    return rows
