"""Run every code block of a Markdown file: all Python blocks in one process, in order, and each shell block with bash.

python tests/support/run_readme.py README.md
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

# .ci/run runs the tests in another step.
LEFT_OUT = "make test"

# Data that must not be redistributed. Continuous integration has it.
DATA = "../shared/data"

BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def main(path: Path) -> None:
    text = path.read_text()
    namespace: dict[str, object] = {"__name__": "readme"}
    blocks = list(BLOCK.finditer(text))
    if not blocks or text.count("\n```") != 2 * len(blocks):
        sys.exit(f"{path}: every code block must name its language")
    for block in blocks:
        language, code = block.groups()
        line = text[: block.start()].count("\n") + 2
        print(f"-- {path}:{line} ({language})", flush=True)
        if language == "python":
            exec(compile("\n" * (line - 1) + code, str(path), "exec"), namespace)
        elif DATA in code and not Path(DATA).is_dir():
            print(f"skipped: directory not found: {DATA}")
        elif language == "sh":
            commands = "\n".join(command for command in code.splitlines() if command != LEFT_OUT)
            subprocess.run(["bash", "-euo", "pipefail", "-c", commands], check=True)
        else:
            sys.exit(f"{path}:{line}: the language must be python or sh, not {language}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
