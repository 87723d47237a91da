"""Write the JSON Schema files of the package from the types that read the documents.

    python scripts/build_schemas.py

Run it after a change in ``moeplace/base/documents.py`` or ``moeplace/base/result.py``; a test says when it is needed.
"""

from __future__ import annotations

import json
from pathlib import Path

import moeplace.schemas
from moeplace.base.files import write_bytes
from moeplace.schemas import DOCUMENTS, file_name, generate_schema


def main() -> None:
    """Write every schema."""
    folder = Path(moeplace.schemas.__file__).parent
    for name in DOCUMENTS:
        path = folder / file_name(name)
        write_bytes(path, (json.dumps(generate_schema(name), indent=2, ensure_ascii=False) + "\n").encode())
        print(path.name)


if __name__ == "__main__":
    main()
