"""The greatest flow through a network with capacities (Dinic 1970)."""

from __future__ import annotations

from collections import deque

TINY = 1e-12  # capacity below which an edge is full


class Network:
    """Directed edges with capacities. `greatest(s, t)` may be asked for again and again: the capacities are kept."""

    def __init__(self) -> None:
        self.edges: list[list[int]] = []  # of each node, those that leave it
        self.to: list[int] = []
        self.capacity: list[float] = []

    def node(self) -> int:
        """A new node."""
        self.edges.append([])
        return len(self.edges) - 1

    def add(self, a: int, b: int, capacity: float) -> None:
        """An edge, and at the next number its way back, empty."""
        for start, end, room in ((a, b, capacity), (b, a, 0.0)):
            self.edges[start].append(len(self.to))
            self.to.append(end)
            self.capacity.append(room)

    def greatest(self, source: int, sink: int) -> float:
        """The most that can pass from `source` to `sink`, each edge carrying at most its capacity."""
        room, total = list(self.capacity), 0.0
        while (level := self._levels(room, source, sink)) is not None:
            at = [0] * len(self.edges)
            while (sent := self._send(room, level, at, source, sink)) > 0.0:
                total += sent
        return total

    def _levels(self, room: list[float], source: int, sink: int) -> list[int] | None:
        """How many edges with room each node is from the sink; None where the source has no way left."""
        level = [-1] * len(self.edges)
        level[sink] = 0
        waiting = deque([sink])
        while waiting:
            node = waiting.popleft()
            for edge in self.edges[node]:
                before = self.to[edge]
                if level[before] < 0 and room[edge ^ 1] > TINY:
                    level[before] = level[node] + 1
                    if before == source:
                        return level
                    waiting.append(before)
        return None

    def _send(self, room: list[float], level: list[int], at: list[int], source: int, sink: int) -> float:
        """One path that steps down the levels, filled; 0.0 where there is none. `at` skips edges found useless before."""
        path: list[int] = []
        node = source
        while node != sink:
            edges = self.edges[node]
            while at[node] < len(edges):
                edge = edges[at[node]]
                if room[edge] > TINY and level[self.to[edge]] == level[node] - 1 and level[self.to[edge]] >= 0:
                    break
                at[node] += 1
            else:
                if not path:
                    return 0.0
                node = self.to[path.pop() ^ 1]
                at[node] += 1
                continue
            path.append(edge)
            node = self.to[edge]
        sent = min(room[edge] for edge in path)
        for edge in path:
            room[edge] -= sent
            room[edge ^ 1] += sent
        return sent
