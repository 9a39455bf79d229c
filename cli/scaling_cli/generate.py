"""`python -m scaling_cli.generate`: write the CRD and the field reference anew from the models.

A maintainer's tool, run in the repository's root. A unit test fails while either file is stale.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import yaml

from scaling_api.crd import crd
from scaling_cli.reference import reference

_HEADER = "# Generated from the models in api/scaling_api by `make generate`; do not edit.\n"


def crd_yaml() -> str:
    """The CRD as manifests/ carries it; what holds no further level stands on one line, for indentation adds up."""
    return _HEADER + yaml.safe_dump(crd(), sort_keys=False, width=120, allow_unicode=True, default_flow_style=None)


FILES: dict[str, Callable[[], str]] = {
    "manifests/crd.yaml": crd_yaml,
    "docs/api-reference.md": reference,
}


def main() -> int:
    """Write every file that has changed, and say so."""
    for name, text in FILES.items():
        path, content = Path(name), text()
        if not path.exists() or path.read_text() != content:
            path.write_text(content)
            print(f"wrote {name}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
