"""Cutting a picture into tiles of the trunk's own size. Pure integer arithmetic, the same on every rank."""


def choose_tiles(height: int, width: int, *, tile: int, max_tiles: int) -> tuple[int, int]:
    """(rows, columns) of tiles for a picture: the grid whose aspect ratio is closest to its own.

    Among grids of equally close ratio the largest one wins that the picture fills to more than half
    (InternVL's and NVILA's rule). A picture that one tile shows best gets (1, 1).

    Args:
        height: of the picture in pixels.
        width: of the picture in pixels.
        tile: side of a tile in pixels.
        max_tiles: most tiles of a grid.
    """
    grids = sorted(
        (rows * columns, columns, rows)
        for columns in range(1, max_tiles + 1)
        for rows in range(1, max_tiles // columns + 1)
    )
    best, best_gap = (1, 1), float("inf")
    for count, columns, rows in grids:
        gap = abs(width / height - columns / rows)
        if gap < best_gap or (gap == best_gap and 2 * height * width > tile**2 * count):
            best, best_gap = (rows, columns), gap
    return best
