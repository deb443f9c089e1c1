"""Coarser meshes that look the same: vertices in a cell of a grid are merged where their faces lie in common planes.

Cells are tried from large to small. In each, vertices whose normals point to the same side are one cluster, and one of
its own vertices stands for it: the one nearest to the planes of the cluster's faces and of those that meet it there
(quadric errors after Garland and Heckbert 1997, on a grid as in Lindstrom 2000). So edges stay where they are, both
sides of a thin wall stay apart, and flat parts become few large triangles. Texture coordinates are kept for each piece
of the texture that a cluster has a part of.

V vertices, F faces, E edges, N rows of any kind.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

Floats32 = NDArray[np.float32]
Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

_SIDES = 6  # directions along the axes that normals are sorted into
_TERMS = ((0, 0), (0, 1), (0, 2), (0, 3), (1, 1), (1, 2), (1, 3), (2, 2), (2, 3), (3, 3))  # of a symmetric 4 x 4 matrix
_BENT = 0.02  # 1 - length of the mean normal, from which a cluster is too round for one normal: 11 degrees (RMS)
_STIFF = 0.1  # of the spread of places, by which texture coordinates found between or beside them are held back
_FEWEST = 4  # vertices and faces of a mesh, for MuJoCo
_TOWARDS_MEAN = 1e-4  # of vertices equally near to the planes, the one in the middle stands for the cluster


@dataclass(frozen=True)
class Mesh:
    """A triangle mesh; `uv_V2` has no columns where there is no texture."""

    vertices_V3: Floats32
    normals_V3: Floats32
    uv_V2: Floats32
    faces_F3: Ints


@dataclass(frozen=True)
class Coarseness:
    """tolerance: distance (RMS) to merged faces' planes. cells: edges of the grid's cells, descending; the last one
    merges whatever is in it. All in the mesh's own unit."""

    tolerance: float
    cells: tuple[float, ...]

    def scaled(self, scale: float) -> Coarseness:
        """For a mesh that is shown `scale` times as large."""
        return Coarseness(self.tolerance / scale, tuple(cell / scale for cell in self.cells))


def read_msh(path: Path) -> Mesh:
    """Read MuJoCo's binary format. Raises ValueError if the file is cut off or of another layout."""
    content = path.read_bytes()
    counts = np.frombuffer(content[:16], dtype="<i4").tolist()
    if len(counts) != 4 or len(content) != 4 * (4 + 3 * counts[0] + 3 * counts[1] + 2 * counts[2] + 3 * counts[3]):
        raise ValueError(f"{path} is no whole MuJoCo mesh: {len(content)} bytes, counts {counts}")
    num_vertices, num_normals, num_uv, _ = counts
    floats = np.frombuffer(content, "<f4", offset=16, count=3 * num_vertices + 3 * num_normals + 2 * num_uv)
    vertices, normals, uv = np.split(floats, [3 * num_vertices, 3 * (num_vertices + num_normals)])
    faces_F3 = np.frombuffer(content, "<i4", offset=16 + floats.nbytes).reshape(-1, 3).astype(np.int64)
    return with_normals(
        vertices.reshape(-1, 3),
        faces_F3,
        normals_V3=normals.reshape(-1, 3) if num_normals else None,
        uv_V2=uv.reshape(num_vertices, -1) if num_uv else None,
    )


def msh_bytes(mesh: Mesh) -> bytes:
    """A mesh in MuJoCo's binary format."""
    num_uv = len(mesh.uv_V2) if mesh.uv_V2.size else 0
    counts = [len(mesh.vertices_V3), len(mesh.normals_V3), num_uv, len(mesh.faces_F3)]
    floats = (mesh.vertices_V3, mesh.normals_V3, mesh.uv_V2)
    parts = [np.array(counts, "<i4"), *(array.astype("<f4") for array in floats), mesh.faces_F3.astype("<i4")]
    return b"".join(part.tobytes() for part in parts)


def with_normals(
    vertices_V3: Floats32, faces_F3: Ints, *, normals_V3: Floats32 | None = None, uv_V2: Floats32 | None = None
) -> Mesh:
    """A mesh; normals that are not given are the means of the faces', by area."""
    if normals_V3 is None:
        sums_V3 = _sum_by(faces_F3.ravel(), np.repeat(_area_normals(vertices_V3, faces_F3), 3, 0), len(vertices_V3))
        normals_V3 = (sums_V3 / np.maximum(np.linalg.norm(sums_V3, axis=1, keepdims=True), 1e-30)).astype(np.float32)
    return Mesh(
        vertices_V3, normals_V3, np.empty((len(vertices_V3), 0), np.float32) if uv_V2 is None else uv_V2, faces_F3
    )


def coarser(mesh: Mesh, coarseness: Coarseness) -> Mesh:
    """A mesh of fewer triangles; some vertices of the original, with their normals and texture coordinates."""
    cluster_V, stands_for = _clusters(mesh, coarseness)
    corners_F3 = cluster_V[mesh.faces_F3]
    a, b, c = corners_F3.T
    kept = np.flatnonzero((a != b) & (b != c) & (c != a))
    # The same three corners may come in any rotation: start each face at its smallest corner (orientation is kept).
    turn_F3 = (corners_F3[kept].argmin(axis=1)[:, None] + np.arange(3)) % 3
    corners_F3 = np.take_along_axis(corners_F3[kept], turn_F3, axis=1)
    first, _ = _groups(corners_F3)
    faces_F3 = np.take_along_axis(mesh.faces_F3[kept], turn_F3, axis=1)[first]
    if len(np.unique(cluster_V[faces_F3])) < _FEWEST or len(faces_F3) < _FEWEST:
        return mesh  # smaller than a cell: it would vanish
    piece_V, cluster_of = _pieces(mesh, cluster_V)
    place = stands_for[cluster_of]
    uv = _uv_at(mesh, piece_V, place) if mesh.uv_V2.size else mesh.uv_V2[place]
    used, faces = np.unique(piece_V[faces_F3], return_inverse=True)
    place = place[used]
    return Mesh(mesh.vertices_V3[place], mesh.normals_V3[place], uv[used], faces.reshape(-1, 3).astype(np.int64))


def _clusters(mesh: Mesh, coarseness: Coarseness) -> tuple[Ints, Ints]:
    """The cluster of each vertex, and the vertex that stands for each cluster."""
    points_V3 = mesh.vertices_V3.astype(np.float64)
    quadrics_VK, sides_V, edges_E2 = _quadrics(mesh), _sides(mesh.normals_V3), _edges(mesh)
    cluster_V, bucket_V = (np.full(len(points_V3), -1, np.int64) for _ in range(2))
    stands_for: list[Ints] = []
    count, left = 0, np.arange(len(points_V3))
    for cell in coarseness.cells:
        is_last = cell == coarseness.cells[-1]
        grid = np.floor((points_V3[left] - points_V3.min(axis=0)) / cell + 1e-6).astype(np.int64)
        _, cell_of = _groups(grid)
        bucket_V[left] = bucket = _SIDES * cell_of + sides_V[left]
        sums = _sum_by(bucket, quadrics_VK[left], _SIDES * (int(cell_of.max()) + 1))
        together = _meet(bucket_V[edges_E2], len(sums) // _SIDES)
        planes = (together @ sums.reshape(len(together), _SIDES, -1)).reshape(sums.shape)
        used, best, error = _nearest_to_planes(points_V3[left], bucket, planes)
        straight = np.linalg.norm(_mean_by(bucket, mesh.normals_V3[left], len(sums)), axis=1) >= 1.0 - _BENT
        # All sides of a cell are merged, or none: so that edges stay closed.
        fits = np.ones(len(sums), bool)
        fits[used] = is_last | ((error <= coarseness.tolerance) & straight[used])
        merged = np.repeat(fits.reshape(-1, _SIDES).all(axis=1), _SIDES)
        numbers = np.full(len(sums), -1, np.int64)
        numbers[used[merged[used]]] = count + np.arange(np.count_nonzero(merged[used]))
        stands_for.append(left[best[merged[used]]])
        count += len(stands_for[-1])
        cluster_V[left] = numbers[bucket]
        bucket_V[left] = -1
        left = left[~merged[bucket]]
        if not len(left):
            break
    return cluster_V, np.concatenate(stands_for)


def _nearest_to_planes(points_N3: Floats, bucket_N: Ints, planes: Floats) -> tuple[Ints, Ints, Floats]:
    """The buckets with points, the point of each that is nearest to its planes, and its distance to them (RMS)."""
    square = _square_distance(planes[bucket_N, :-1], points_N3) / np.maximum(planes[bucket_N, -1], 1e-30)
    means = _mean_by(bucket_N, points_N3, len(planes))
    spread = ((points_N3 - means[bucket_N]) ** 2).sum(axis=1)
    order = np.lexsort((square + _TOWARDS_MEAN * spread, bucket_N))
    used, first = np.unique(bucket_N[order], return_index=True)
    best = order[first]
    return used, best, np.sqrt(np.maximum(square[best], 0.0))


def _meet(buckets_E2: Ints, num_cells: int) -> Floats:
    """Which sides of a cell have vertices that an edge joins, (cells, 6, 6) of 0 and 1: not those behind each other."""
    together = np.zeros((num_cells, _SIDES, _SIDES))
    together[:, np.arange(_SIDES), np.arange(_SIDES)] = 1.0
    start, end = buckets_E2[(buckets_E2 >= 0).all(axis=1)].T
    inside = start // _SIDES == end // _SIDES
    cell, start, end = start[inside] // _SIDES, start[inside] % _SIDES, end[inside] % _SIDES
    together[cell, start, end] = together[cell, end, start] = 1.0
    return together


def _pieces(mesh: Mesh, cluster_V: Ints) -> tuple[Ints, Ints]:
    """Clusters parted where the texture is cut: the part of each vertex, and the cluster of each part."""
    keys = np.stack([cluster_V, _charts(mesh, cluster_V)], axis=1) if mesh.uv_V2.size else cluster_V[:, None]
    first, piece_V = _groups(keys)
    return piece_V, cluster_V[first]


def _uv_at(mesh: Mesh, piece_V: Ints, place: Ints) -> Floats32:
    """Texture coordinates of each piece at its cluster's place: a linear fit to those of the piece's vertices."""
    num_pieces = len(place)
    known = np.concatenate([mesh.vertices_V3, mesh.uv_V2], axis=1).astype(np.float64)
    means = _mean_by(piece_V, known, num_pieces)
    offsets = known - means[piece_V]
    products = (offsets[:, :3, None] * offsets[:, None, :]).reshape(-1, 15)
    covariances = _mean_by(piece_V, products, num_pieces).reshape(-1, 3, 5)
    asked = mesh.vertices_V3[place] - means[:, :3]
    spread = np.trace(covariances[:, :, :3], axis1=1, axis2=2) + (asked**2).sum(axis=1) + 1e-30
    stiff = covariances[:, :, :3] + (_STIFF**2 * spread)[:, None, None] * np.eye(3)
    slopes = np.linalg.solve(stiff, covariances[:, :, 3:])
    uv = means[:, 3:] + (asked[:, None, :] @ slopes)[:, 0]
    own = piece_V[place] == np.arange(num_pieces)
    uv[own] = mesh.uv_V2[place[own]]
    return uv.astype(np.float32)


def _charts(mesh: Mesh, cluster_V: Ints) -> Ints:
    """The piece of the texture that each vertex is in: of those that are connected inside its cluster."""
    _, welded = _groups(np.concatenate([mesh.vertices_V3, mesh.uv_V2], axis=1))
    corners_F3, size = welded[mesh.faces_F3], int(welded.max()) + 1
    cluster = np.empty(size, np.int64)
    cluster[welded] = cluster_V  # one place and texture coordinate, but two clusters at sharp edges: either will do
    edges = np.concatenate([corners_F3[:, [0, 1]], corners_F3[:, [1, 2]], corners_F3[:, [2, 0]]])
    edges = edges[cluster[edges[:, 0]] == cluster[edges[:, 1]]]
    graph = coo_array((np.ones(len(edges), np.int8), (edges[:, 0], edges[:, 1])), shape=(size, size))
    pieces: Ints = connected_components(graph, directed=False)[1].astype(np.int64)
    return pieces[welded]


def _edges(mesh: Mesh) -> Ints:
    """Pairs of vertices (E, 2) that a face joins, or that are at the same point."""
    first, point_V = _groups(mesh.vertices_V3)
    doubles = np.stack([np.arange(len(point_V)), first[point_V]], axis=1)
    return np.concatenate([mesh.faces_F3[:, [0, 1]], mesh.faces_F3[:, [1, 2]], doubles])


def _sides(normals_V3: Floats32) -> Ints:
    """The direction along an axis that each normal is nearest to, 0 to 5."""
    axis_V: Ints = np.abs(normals_V3).argmax(axis=1)
    side_V: Ints = axis_V + 3 * (np.take_along_axis(normals_V3, axis_V[:, None], axis=1)[:, 0] < 0.0)
    return side_V


def _area_normals(vertices_V3: Floats32, faces_F3: Ints) -> Floats:
    """The faces' normals, as long as twice their areas."""
    a, b, c = (vertices_V3[faces_F3[:, corner]].astype(np.float64) for corner in range(3))
    return np.cross(b - a, c - a)


def _quadrics(mesh: Mesh) -> Floats:
    """Of each vertex (V, 11): ten terms of the squared distance to its faces' planes, by area, and the area."""
    crosses_F3 = _area_normals(mesh.vertices_V3, mesh.faces_F3)
    area_F = np.linalg.norm(crosses_F3, axis=1)
    normals_F3 = crosses_F3 / np.maximum(area_F, 1e-30)[:, None]
    offsets_F = -(normals_F3 * mesh.vertices_V3[mesh.faces_F3[:, 0]]).sum(axis=1)
    planes_F4 = np.concatenate([normals_F3, offsets_F[:, None]], axis=1)
    terms_FK = np.stack([planes_F4[:, i] * planes_F4[:, j] * area_F for i, j in _TERMS] + [area_F], axis=1)
    return _sum_by(mesh.faces_F3.ravel(), np.repeat(terms_FK, 3, axis=0), len(mesh.vertices_V3))


def _square_distance(quadrics_NK: Floats, points_N3: Floats) -> Floats:
    points_N4 = np.concatenate([points_N3, np.ones((len(points_N3), 1))], axis=1)
    terms = [
        quadrics_NK[:, k] * points_N4[:, i] * points_N4[:, j] * (1.0 if i == j else 2.0)
        for k, (i, j) in enumerate(_TERMS)
    ]
    return np.asarray(np.sum(terms, axis=0))


def _groups(keys: NDArray[np.generic]) -> tuple[Ints, Ints]:
    """Rows of the same content: the first row of each group, and each row's group."""
    _, first, inverse = np.unique(keys, axis=0, return_index=True, return_inverse=True)
    return first, inverse.ravel()


def _sum_by(group_N: Ints, values: Floats | Floats32, num_groups: int) -> Floats:
    return np.stack([np.bincount(group_N, column, num_groups) for column in values.T], axis=1)


def _mean_by(group_N: Ints, values: Floats | Floats32, num_groups: int) -> Floats:
    counts = np.bincount(group_N, minlength=num_groups)
    return _sum_by(group_N, values, num_groups) / np.maximum(counts, 1)[:, None]

