"""What is new first: a plan for sites whose films are watched in their first days.

Past requests say little about a film that came out this morning. So the demand of an item counts up to four
times, three times more on the first day of its life and half of that with each further day. To that comes
a tenth of the demand of other regions. Both are shared by the copies that are there to answer it.

The list is filled in the order of what an item is expected to be asked for, until the node is full.

- What is expected to be asked for less than once an hour is not worth its place.
- What is on the list already counts a quarter more, or lists would change with every count.
- What must be moved has to fit into the window. What is here in part stays on the list when it does not,
  and is filled in a later window.

When nothing is worth holding the policy has no opinion, and the list stays as it is.
"""

# What the first day of an item adds to its demand, in parts of it.
PREMIERE = 3
# Seconds after which that is half.
FADES = 24 * 3600
# Of the demand of other regions, one request in so many is expected here.
FAR = 10
# Expected requests an hour, in thousandths, from which on a copy is worth its place.
WORTH = 1000
# What is on the list counts so much more.
STAY = 1.25
# When nobody knows when an item was published.
UNKNOWN_AGE = 4_294_967_295
# Place of `nothing-worthy` among the counters of the manifest.
NOTHING_WORTHY = 0


def plan(request, items, host):
    """The rows to hold, most urgent first; None for no opinion."""
    expected = [demand(item) for item in items]
    worthy = [row for row, requests in enumerate(expected) if requests >= WORTH]
    # `sort` keeps the order of rows that come out equal, so that equal rows give an equal plan.
    worthy.sort(key=lambda row: -expected[row])

    room, window = request.capacity_bytes, request.window_bytes
    rows = []
    for row in worthy:
        item = items[row]
        missing = item.size_bytes * (1000 - min(item.held, 1000)) // 1000
        if item.size_bytes > room or (missing > window and item.held == 0):
            continue
        room -= item.size_bytes
        window = max(window - missing, 0)
        rows.append(row)
    if not rows:
        host.count(NOTHING_WORTHY, 1)
        return None
    return rows


def demand(item):
    """What an item is expected to be asked for here, in thousandths of a request an hour."""
    near = item.demand_near * newness(item.age_seconds) / (item.copies_near + 1)
    far = item.demand_far / FAR / (item.copies_near + item.copies_far + 1)
    return (near + far) * (STAY if item.listed_seconds > 0 else 1)


def newness(age_seconds):
    """How much more demand counts at this age: from 4 down to 1."""
    if age_seconds == UNKNOWN_AGE:
        return 1
    return 1 + PREMIERE * 0.5 ** (age_seconds / FADES)
