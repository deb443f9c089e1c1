"""JSON files that hold an object, read with errors that name the file."""

import json
from pathlib import Path
from typing import Any


def read_object(file: Path) -> dict[str, Any]:
    """The object in a file.

    Raises:
        ValueError: the file cannot be read, is no JSON, or holds something else.
    """
    try:
        stored = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(
            f"{file} cannot be read as JSON ({error}): it is cut off or corrupt; write it again"
        ) from error
    if not isinstance(stored, dict):
        raise ValueError(f"{file} holds {type(stored).__name__}, expected a JSON object; write it again")
    return stored
