"""How many scenarios run at once."""

import threading


class Places:
    """For so many scenarios. Of those that wait, the first of the list goes first, whether it has begun or not."""

    def __init__(self, places):
        self.places = places
        self.change = threading.Condition()
        self.waiting = []

    def take(self, rank):
        with self.change:
            self.waiting.append(rank)
            self.change.wait_for(lambda: self.places and rank == min(self.waiting))
            self.waiting.remove(rank)
            self.places -= 1
            self.change.notify_all()

    def give(self):
        with self.change:
            self.places += 1
            self.change.notify_all()


class Place:
    """What one scenario has of them."""

    def __init__(self, places, rank):
        self.places, self.rank, self.taken = places, rank, False

    def take(self):
        if not self.taken:
            self.places.take(self.rank)
            self.taken = True

    def give(self):
        if self.taken:
            self.taken = False
            self.places.give()
