"""Joins policy.py to the contract; there is nothing to change here."""

import policy
from wit_world import exports
from wit_world.exports.preload_planning import Verdict_Abstain, Verdict_Ranked
from wit_world.imports import host
from wit_world.imports.types import Choice


class PreloadPlanning(exports.PreloadPlanning):
    def plan(self, request, items):
        try:
            rows = policy.plan(request, items, host)
            if rows is None:
                return Verdict_Abstain()
            return Verdict_Ranked([choice(row, items) for row in rows])
        except Exception as error:
            # The node sees only that it failed.
            host.log(host.Level.WARN, f"{error!r} {places(error.__traceback__)}")
            raise


def choice(row, items):
    if not isinstance(row, int) or not 0 <= row < len(items):
        raise IndexError(f"{row!r} is no row")
    return Choice(row, 1)


def places(frame):
    """Where an error came from, innermost first. The module `traceback` would open files."""
    lines = []
    while frame is not None:
        code = frame.tb_frame.f_code
        lines.append(f"at {code.co_name} ({code.co_filename}:{frame.tb_lineno})")
        frame = frame.tb_next
    return " ".join(reversed(lines))
