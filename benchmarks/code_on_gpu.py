"""Which code a GPU executes, and its fingerprint: measurements on a GPU say which code they are of.

Comments, docstrings and layout do not count; annotations do (a kernel has failed over them).
"""

from __future__ import annotations

import ast
import hashlib
import io
import tokenize
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
PATHS = (
    "transformers-openvla-oft/transformers_openvla_oft/*.py",
    "transformers-openvla-oft/transformers_openvla_oft/*/*.py",
    "rlinf/algorithms/*.py",
    "rlinf/engines/*.py",
    "rlinf/models/*.py",
    "rlinf/workers/*.py",
)


def fingerprint(root: Path = REPOSITORY) -> str:
    """Twelve digits that change with the code."""
    digest = hashlib.sha256()
    files = sorted(file for pattern in PATHS for file in root.glob(pattern))
    for file in files:
        digest.update(f"{file.relative_to(root).as_posix()}\n{code(file.read_text(encoding='utf-8'))}\n".encode())
    return digest.hexdigest()[:12]


def code(source: str) -> str:
    """Its lines without comments, docstrings and what is empty; the same whatever version of Python reads it."""
    lines = source.splitlines()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            lines[token.start[0] - 1] = lines[token.start[0] - 1][: token.start[1]]
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            lines[node.lineno - 1 : node.end_lineno] = [""] * ((node.end_lineno or 0) - node.lineno + 1)
    return "\n".join(line.rstrip() for line in lines if line.strip())
