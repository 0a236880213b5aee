"""Which items of two sequences belong together: the pairing of greatest similarity that keeps both orders."""

from collections.abc import Callable

Pair = tuple[int | None, int | None]


def align(first: int, second: int, similarity: Callable[[int, int], float], least: float = 0.0) -> list[Pair]:
    """Pairs of indices in order; None where an item has no partner. Only items more alike than `least` are paired."""
    best = [[0.0] * (second + 1) for _ in range(first + 1)]
    for i in range(first - 1, -1, -1):
        for j in range(second - 1, -1, -1):
            alike = similarity(i, j)
            paired = alike + best[i + 1][j + 1] if alike > least else 0.0
            best[i][j] = max(paired, best[i + 1][j], best[i][j + 1])
    pairs, i, j = list[Pair](), 0, 0
    while i < first and j < second:
        alike = similarity(i, j)
        if alike > least and best[i][j] <= alike + best[i + 1][j + 1] + 1e-9:
            pairs.append((i, j))
            i, j = i + 1, j + 1
        elif best[i + 1][j] >= best[i][j + 1]:
            pairs.append((i, None))
            i += 1
        else:
            pairs.append((None, j))
            j += 1
    return [*pairs, *((k, None) for k in range(i, first)), *((None, k) for k in range(j, second))]
